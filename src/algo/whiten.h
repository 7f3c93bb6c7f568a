// Whitening over the tokens of a batch, as REINFORCE++ does it.
#pragma once

#include <cmath>

namespace opo {

struct Whitening {
  double mean = 0;
  double scale = 0;  // 0 where all values are equal
  double operator()(double value) const { return scale == 0 ? 0 : (value - mean) * scale; }
};

// Of all values x that each(f) passes to f(x, tokens), so many tokens of the same value: mean over
// tokens, and 1 / sqrt(variance + 1e-8) with the variance over N - 1 (verl's masked_whiten;
// OpenRLHF divides by N and keeps the variance at 1e-8 or more).
template <class Each>
Whitening WhitenTokens(const Each& each) {
  double tokens = 0;
  double sum = 0;
  double first = 0;
  bool all_equal = true;
  each([&](double value, double count) {
    if (count == 0) return;
    if (tokens == 0) first = value;
    all_equal = all_equal && value == first;
    tokens += count;
    sum += count * value;
  });
  if (all_equal) return {.mean = first};
  Whitening whitening{.mean = sum / tokens};
  double squares = 0;
  each([&](double value, double count) {
    squares += count * (value - whitening.mean) * (value - whitening.mean);
  });
  whitening.scale = 1 / std::sqrt(squares / (tokens - 1) + 1e-8);
  return whitening;
}

}  // namespace opo
