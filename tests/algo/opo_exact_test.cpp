// OPO with gradient norms: worked numbers and the identities that it shares with opo.
#include <gtest/gtest.h>

#include "algo/algorithm.h"

namespace opo {
namespace {

TEST(OpoExact, WorkedExample) {
  // The softmax toy of the variance tests, each answer once: b = (0.671352 + 0.5 * 0.521868) / sum.
  RewardBatch batch = {{1, 0, 0.5}, {1, 2, 3}, {0, 0, 0}};
  batch.gradient_norms = {0.671352, 0.846343, 0.521868};
  const AdvantageResult result = FindAlgorithm("opo_exact").advantages(batch, {});
  const double b = 0.932286 / 2.039563;  // 0.457101
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(result.baselines[i], b, 1e-6);
    EXPECT_NEAR(result.advantages[i], batch.rewards[i] - b, 1e-6);
  }
}

TEST(OpoExact, NormsThatAreLengthsGiveOpo) {
  RewardBatch batch = {{1, 0, 1, 0, 0, 0, 1}, {10, 30, 20, 40, 5, 15, 30}, {0, 0, 0, 0, 1, 1, 1}};
  for (const idx length : batch.lengths) {
    batch.gradient_norms.push_back(static_cast<double>(length));
  }
  EXPECT_EQ(FindAlgorithm("opo_exact").advantages(batch, {}).advantages,
            FindAlgorithm("opo").advantages(batch, {}).advantages);
}

TEST(OpoExact, EqualRewardsAndZeroNorms) {
  RewardBatch batch = {{1, 1, 1, 0}, {3, 4, 5, 6}, {0, 0, 1, 1}};
  batch.gradient_norms = {0, 0, 0, 0};
  const AdvantageResult result = FindAlgorithm("opo_exact").advantages(batch, {});
  EXPECT_EQ(result.advantages, (std::vector<double>{0, 0, 1, 0}));
  EXPECT_NE(FindAlgorithm("opo_exact").needs & kNeedsGradientNorms, 0U);
}

}  // namespace
}  // namespace opo
