#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace opo {
namespace {

using Counter = std::array<std::uint32_t, 4>;

// The known answers of Random123 (kat_vectors, philox4x32 10 rounds).
TEST(Philox, AgreesWithTheAuthorsVectors) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(UniformDraw, IsEvenlySpreadAndBelowOne) {
  constexpr int kDraws = 100000;
  double sum = 0;
  double squares = 0;
  for (std::uint32_t t = 0; t < kDraws; ++t) {
    const double u = UniformDraw({1, 2, 3, 4, t});
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  // Four standard deviations: 1 / sqrt(12 n) and sqrt(4 / 45 / n).
  EXPECT_NEAR(sum / kDraws, 0.5, 4 / std::sqrt(12.0 * kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 4 * std::sqrt(4.0 / 45 / kDraws));
}

TEST(UniformDraw, EveryPartOfTheKeyCounts) {
  const DrawKey base{1, 2, 3, 4, 5};
  std::set<double> draws = {UniformDraw(base)};
  // Up to bit 54: 128 bits do not fit into MixBits' 64, and seed + 2^63 is step + 2^63.
  for (int bit = 0; bit < 63; bit += 9) {
    const std::uint64_t flip = std::uint64_t{1} << bit;
    DrawKey key = base;
    key.seed ^= flip;
    draws.insert(UniformDraw(key));
    key = base;
    key.step ^= flip;
    draws.insert(UniformDraw(key));
    key = base;
    key.prompt ^= flip;
    draws.insert(UniformDraw(key));
  }
  for (int bit = 0; bit < 32; bit += 5) {
    DrawKey key = base;
    key.sample ^= 1U << bit;
    draws.insert(UniformDraw(key));
    key = base;
    key.token ^= 1U << bit;
    draws.insert(UniformDraw(key));
  }
  EXPECT_EQ(draws.size(), 1U + 3 * 7 + 2 * 7);
  EXPECT_EQ(UniformDraw(base), UniformDraw(base));
}

TEST(MixBits, SwappedWordsAreOtherWords) {
  EXPECT_NE(MixBits(1, 2), MixBits(2, 1));
  EXPECT_NE(MixBits(0, 1), MixBits(1, 0));
}

}  // namespace
}  // namespace opo
