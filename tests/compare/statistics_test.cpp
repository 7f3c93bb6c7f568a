// Intervals over seeds, against numbers worked out with scipy (scipy.stats.t.interval).
#include "compare/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace opo {
namespace {

// >>> x = [0.2, 0.5, 0.9]; t.interval(0.95, 2, mean(x), sem(x))
TEST(MeanOverSeeds, IsStudents) {
  const SeedMean i = MeanOverSeeds(std::vector<double>{0.2, 0.5, 0.9});
  EXPECT_NEAR(i.mean, 0.5333333333, 1e-9);
  // The quantile is tabled with four digits: 4.303.
  EXPECT_NEAR(i.low, -0.3390487, 1e-4);
  EXPECT_NEAR(i.high, 1.4057154, 1e-4);
  EXPECT_EQ(i.count, 3);
}

// >>> t.interval(0.95, 39, 0, 1): the quantile 2.0226909, where the table ends
TEST(MeanOverSeeds, BeyondTheTable) {
  std::vector<double> x;
  for (int k = 0; k < 20; ++k) x.insert(x.end(), {-1.0, 1.0});
  const SeedMean i = MeanOverSeeds(x);
  const double standard_error = std::sqrt(40.0 / 39.0 / 40.0);
  EXPECT_NEAR(i.high / standard_error, 2.0226909, 2e-4);
}

TEST(MeanOverSeeds, OfOneNumberThereIsNone) {
  const SeedMean i = MeanOverSeeds(std::vector<double>{2.0});
  EXPECT_EQ(i.mean, 2.0);
  EXPECT_TRUE(std::isnan(i.low));
  EXPECT_TRUE(std::isnan(MeanOverSeeds({}).mean));
}

TEST(PairedMean, LeavesOutPairsWithoutANumber) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const SeedMean i =
      PairedMean(std::vector<double>{1, 5, 3, nan}, std::vector<double>{0, nan, 1, 2});
  EXPECT_EQ(i.count, 2);
  EXPECT_EQ(i.mean, 1.5);
}

// Pairing takes out what seeds have in common: here the differences are all but equal.
TEST(PairedMean, IsNarrowerThanTheNumbers) {
  const std::vector<double> a = {0.10, 0.50, 0.91};
  const std::vector<double> b = {0.05, 0.46, 0.85};
  const SeedMean i = PairedMean(a, b);
  EXPECT_GT(i.low, 0);
  EXPECT_LT(MeanOverSeeds(a).low, MeanOverSeeds(b).mean);
}

TEST(VerdictOf, NeedsThreePairsAndAnIntervalWithoutZero) {
  EXPECT_EQ(VerdictOf({1, 0.5, 1.5, 3}, true), "confirmed");
  EXPECT_EQ(VerdictOf({1, 0.5, 1.5, 3}, false), "not confirmed");
  EXPECT_EQ(VerdictOf({-1, -1.5, -0.5, 3}, false), "confirmed");
  EXPECT_EQ(VerdictOf({1, -0.5, 2.5, 3}, true), "undecided");
  EXPECT_EQ(VerdictOf({1, 0.5, 1.5, 2}, true), "undecided");
  EXPECT_EQ(VerdictOf(MeanOverSeeds(std::vector<double>{1.0}), true), "undecided");
}

TEST(Median, OfEvenAndOddCounts) {
  EXPECT_EQ(Median(std::vector<double>{3, 1, 2}), 2);
  EXPECT_EQ(Median(std::vector<double>{4, 1, 3, 2}), 2.5);
}

}  // namespace
}  // namespace opo
