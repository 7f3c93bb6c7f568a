// The numbers of an evaluation: worked ones, brute force, properties.
#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace opo {
namespace {

constexpr double kPrinted = 5e-7;  // worked numbers have six decimals

TEST(PassAtK, WorkedNumbers) {
  const std::vector<idx> ks = {1, 2, 4, 8, 16};
  const std::vector<double> three = {0.187500, 0.350000, 0.607143, 0.900000, 1.000000};
  const std::vector<double> one = {0.0625, 0.125, 0.25, 0.5, 1};
  for (std::size_t i = 0; i < ks.size(); ++i) {
    EXPECT_NEAR(PassAtK(16, 3, ks[i]), three[i], kPrinted);
    EXPECT_NEAR(PassAtK(16, 1, ks[i]), one[i], kPrinted);
    EXPECT_EQ(PassAtK(16, 0, ks[i]), 0);
    EXPECT_EQ(PassAtK(16, 16, ks[i]), 1);
  }
  const auto four = [](idx k) {
    return (PassAtK(16, 3, k) + PassAtK(16, 0, k) + PassAtK(16, 16, k) + PassAtK(16, 1, k)) / 4;
  };
  EXPECT_NEAR(four(1), 0.312500, kPrinted);
  EXPECT_NEAR(four(4), 0.464286, kPrinted);
  EXPECT_NEAR(four(16), 0.750000, kPrinted);
}

// Over all subsets of k of n answers, as bits.
template <class F>
double MeanOverSubsets(idx n, idx k, const F& value) {
  double sum = 0;
  double count = 0;
  for (std::uint32_t bits = 0; bits < 1U << n; ++bits) {
    if (__builtin_popcount(bits) != k) continue;
    sum += value(bits);
    ++count;
  }
  return sum / count;
}

TEST(PassAtK, IsTheMeanOverAllSubsets) {
  for (idx n = 1; n <= 9; ++n) {
    for (idx c = 0; c <= n; ++c) {
      const std::uint32_t right = (1U << c) - 1;
      for (idx k = 1; k <= n; ++k) {
        const double want =
            MeanOverSubsets(n, k, [&](std::uint32_t bits) { return (bits & right) != 0 ? 1 : 0; });
        EXPECT_NEAR(PassAtK(n, c, k), want, 1e-13) << n << " " << c << " " << k;
        if (k > 1) {
          EXPECT_GE(PassAtK(n, c, k) + 1e-15, PassAtK(n, c, k - 1));
        }
      }
      EXPECT_NEAR(PassAtK(n, c, 1), static_cast<double>(c) / static_cast<double>(n), 1e-15);
    }
  }
}

TEST(MajorityAtK, AllAnswersAndTies) {
  const std::vector<VoteClass> clear = {{3, 3}, {2, 0}};
  EXPECT_EQ(MajorityAtK(clear, 5, 5), 1);
  const std::vector<VoteClass> tied = {{2, 2}, {2, 0}, {1, 0}};
  EXPECT_EQ(MajorityAtK(tied, 5, 5), 0.5);
  const std::vector<VoteClass> mixed = {{4, 1}};  // the reward sees more than the answer
  EXPECT_EQ(MajorityAtK(mixed, 6, 6), 0.25);
  EXPECT_EQ(MajorityAtK({}, 3, 3), 0);
  EXPECT_EQ(MajorityAtK({}, 3, 2), 0);
  EXPECT_EQ(MajorityAtK(clear, 1000, 1000), 1);
}

TEST(MajorityAtK, IsTheMeanOverAllSubsets) {
  const std::vector<std::vector<VoteClass>> cases = {{{3, 3}, {2, 0}, {1, 0}},
                                                     {{1, 1}, {1, 0}, {1, 0}, {1, 0}},
                                                     {{2, 2}, {2, 0}, {2, 0}},
                                                     {{5, 0}, {3, 3}, {1, 1}},
                                                     {{4, 2}, {4, 0}},
                                                     {{1, 1}},
                                                     {{2, 2}, {3, 0}, {1, 0}, {2, 1}},
                                                     {{9, 9}},
                                                     {}};
  for (const auto& classes : cases) {
    idx votes = 0;
    for (const VoteClass& c : classes) votes += c.votes;
    for (idx n = std::max<idx>(votes, 1); n <= votes + 3; ++n) {
      for (idx k = 1; k <= n; ++k) {
        const double want = MeanOverSubsets(n, k, [&](std::uint32_t bits) {
          std::vector<int> counts;
          idx at = 0;
          for (const VoteClass& c : classes) {
            counts.push_back(__builtin_popcount(bits >> at & ((1U << c.votes) - 1)));
            at += c.votes;
          }
          const int most = counts.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
          double sum = 0;
          double winners = 0;
          for (std::size_t i = 0; i < counts.size() && most > 0; ++i) {
            if (counts[i] != most) continue;
            sum += classes[i].right / static_cast<double>(classes[i].votes);
            ++winners;
          }
          return winners > 0 ? sum / winners : 0;
        });
        EXPECT_NEAR(MajorityAtK(classes, n, k), want, 1e-12) << n << " " << k;
      }
    }
  }
}

TEST(MajorityAtK, OneVoteIsTheMeanAndALargeGroupStaysExact) {
  std::vector<VoteClass> classes(kMaxVoters, VoteClass{1, 0});
  for (std::size_t i = 0; i < 16; ++i) classes[i].right = 1;
  // All tie, whatever k is: a quarter.
  for (const idx k : {idx{1}, idx{7}, idx{32}, idx{63}, kMaxVoters}) {
    EXPECT_NEAR(MajorityAtK(classes, kMaxVoters, k), 0.25, 1e-12) << k;
  }
  const std::vector<VoteClass> two = {{40, 40}, {24, 0}};
  double before = 0;
  for (idx k = 1; k <= 64; k += 2) {
    const double now = MajorityAtK(two, 64, k);
    EXPECT_GE(now + 1e-12, before);
    before = now;
  }
  EXPECT_NEAR(MajorityAtK(two, 64, 1), 40.0 / 64, 1e-12);
  EXPECT_NEAR(before, 1, 1e-12);
}

TEST(Bootstrap, KnownDistributions) {
  EXPECT_FALSE(BootstrapMean({}, 1));
  const std::vector<double> same(7, 0.25);
  EXPECT_EQ(BootstrapMean(same, 1)->low, 0.25);
  EXPECT_EQ(BootstrapMean(same, 1)->high, 0.25);
  // Of two values the mean is 0, 1/2 or 1, with 1/4, 1/2 and 1/4.
  const std::vector<double> two = {0, 1};
  EXPECT_EQ(BootstrapMean(two, 1)->value, 0.5);
  EXPECT_EQ(BootstrapMean(two, 1)->low, 0);
  EXPECT_EQ(BootstrapMean(two, 1)->high, 1);
  // Of many 0s and 1s it is binomial: normal, with deviation sqrt(p (1 - p) / n). Quantiles of 1000
  // draws have a deviation of sqrt(0.025 * 0.975 / 1000) / density = 0.085 deviations: 4 of these.
  std::vector<double> coin(2500);
  for (std::size_t i = 0; i < coin.size(); ++i) coin[i] = i % 10 < 3 ? 1 : 0;
  const double deviation = std::sqrt(0.3 * 0.7 / 2500);
  const auto interval = *BootstrapMean(coin, 7);
  EXPECT_NEAR(interval.value, 0.3, 1e-15);
  EXPECT_NEAR(interval.low, 0.3 - 1.96 * deviation, 0.34 * deviation);
  EXPECT_NEAR(interval.high, 0.3 + 1.96 * deviation, 0.34 * deviation);
}

TEST(Bootstrap, FollowsFromTheSeed) {
  const std::vector<double> values = {0.1, 0.9, 0.3, 0.7, 0.2, 0.5};
  const auto a = *BootstrapMean(values, 3);
  const auto b = *BootstrapMean(values, 3);
  const auto c = *BootstrapMean(values, 4);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_TRUE(a.low != c.low || a.high != c.high);
  EXPECT_LT(a.low, a.value);
  EXPECT_GT(a.high, a.value);
}

TEST(Statistics, MeansDeviationsCorrelations) {
  const std::vector<double> x = {2, 4, 4, 4, 5, 5, 7, 9};
  const std::vector<double> y = {-4, -8, -8, -8, -10, -10, -14, -18};
  EXPECT_EQ(*MeanOf(x), 5);
  EXPECT_NEAR(*DeviationOf(x), std::sqrt(32.0 / 7), 1e-15);
  EXPECT_NEAR(*CorrelationOf(x, y), -1, 1e-15);
  const std::vector<double> right = {1, 0, 1, 0};
  const std::vector<double> length = {10, 30, 20, 40};
  EXPECT_NEAR(*CorrelationOf(right, length), -10 / std::sqrt(125.0), 1e-15);
  const std::vector<double> flat(4, 1.0);
  EXPECT_FALSE(CorrelationOf(flat, length));
  EXPECT_FALSE(MeanOf({}));
  EXPECT_FALSE(DeviationOf(std::vector<double>{3}));
}

TEST(PowersUpTo, EndWithN) {
  EXPECT_EQ(PowersUpTo(1), (std::vector<idx>{1}));
  EXPECT_EQ(PowersUpTo(16), (std::vector<idx>{1, 2, 4, 8, 16}));
  EXPECT_EQ(PowersUpTo(12), (std::vector<idx>{1, 2, 4, 8, 12}));
}

}  // namespace
}  // namespace opo
