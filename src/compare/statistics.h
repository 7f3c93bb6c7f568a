// Means over seeds and what they allow to say.
#pragma once

#include <span>
#include <string_view>

namespace opo {

struct SeedMean {
  double mean = 0, low = 0, high = 0;  // low and high are NaN for fewer than two numbers
  int count = 0;
};

// Mean and its 95% interval by Student's t with n - 1 degrees of freedom. Numbers that are NaN (a
// quantity that a run does not have) are left out; without any the mean is NaN.
SeedMean MeanOverSeeds(std::span<const double> values);

// The interval of the differences a[i] - b[i], of the same seed each; pairs with a NaN are left
// out.
SeedMean PairedMean(std::span<const double> a, std::span<const double> b);

// The rule: three pairs or more, and an interval that excludes 0. On the claimed side it is
// "confirmed", on the other "not confirmed"; else "undecided".
std::string_view VerdictOf(const SeedMean& difference, bool claimed_higher);

double Median(std::span<const double> values);  // NaN for none

}  // namespace opo
