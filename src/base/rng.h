// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A number is a pure function of its counter and key: no stream that threads,
// ranks or the rest of a batch could share.
#pragma once

#include <array>
#include <cstdint>

namespace opo {

constexpr std::array<std::uint32_t, 4> Philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {
        static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(p1),
        static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(p0)};
    key = {key[0] + 0x9E3779B9U, key[1] + 0xBB67AE85U};
  }
  return counter;
}

// A 64-bit mix of two words (the finaliser of SplitMix64), for building keys.
constexpr std::uint64_t MixBits(std::uint64_t a, std::uint64_t b) {
  std::uint64_t z = a * 0x9E3779B97F4A7C15U + b;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

// The place of one random draw in a run.
struct DrawKey {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint64_t prompt = 0;  // the row's stable id, hashed, plus its occurrence number
  std::uint32_t sample = 0;  // which of the prompt's K samples
  std::uint32_t token = 0;   // position in the completion
};

// Uniform in [0, 1), 53 bits.
constexpr double UniformDraw(const DrawKey& at) {
  const std::uint64_t k = MixBits(at.seed, at.step);
  const auto bits =
      Philox4x32({at.token, at.sample, static_cast<std::uint32_t>(at.prompt),
                  static_cast<std::uint32_t>(at.prompt >> 32)},
                 {static_cast<std::uint32_t>(k), static_cast<std::uint32_t>(k >> 32)});
  const std::uint64_t word = (std::uint64_t{bits[0]} << 32) | bits[1];
  return static_cast<double>(word >> 11) * 0x1.0p-53;
}

}  // namespace opo
