// Advantages: worked numbers, identities, edge cases, and verl's own results.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "algo/algorithm.h"
#include "base/error.h"

namespace opo {
namespace {

using Doubles = std::vector<double>;

const RewardBatch kGroupA = {{1, 0, 1, 0}, {10, 30, 20, 40}, {0, 0, 0, 0}};
const RewardBatch kGroupB = {{0, 0, 1}, {5, 15, 30}, {0, 0, 0}};
const RewardBatch kGroupC = {{0.2, 0.9, -0.5}, {7, 11, 2}, {0, 0, 0}};
const RewardBatch kGroupsAB = {
    {1, 0, 1, 0, 0, 0, 1}, {10, 30, 20, 40, 5, 15, 30}, {0, 0, 0, 0, 1, 1, 1}};

AdvantageResult Compute(std::string_view name, const RewardBatch& batch) {
  return FindAlgorithm(name).advantages(batch);
}

void ExpectNear(const Doubles& got, const Doubles& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], tolerance) << i;
}

// The worked examples are given to six decimals.
void ExpectAdvantages(std::string_view name, const RewardBatch& batch, const Doubles& expected) {
  SCOPED_TRACE(name);
  ExpectNear(Compute(name, batch).advantages, expected, 5e-7);
}

// A deterministic batch of ragged groups with real rewards.
RewardBatch RandomBatch(unsigned seed, idx equal_length = 0) {
  RewardBatch batch;
  std::uint64_t state = seed;
  const auto next = [&state](std::uint64_t bound) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<idx>((state >> 33) % bound);
  };
  const idx groups = 2 + next(4);
  for (idx g = 0; g < groups; ++g) {
    const idx size = 2 + next(6);
    for (idx i = 0; i < size; ++i) {
      batch.rewards.push_back(static_cast<double>(next(2001) - 1000) / 300.0);
      batch.lengths.push_back(equal_length > 0 ? equal_length : 1 + next(50));
      batch.groups.push_back(g);
    }
  }
  return batch;
}

TEST(Opo, WorkedExamples) {
  ExpectAdvantages("opo", kGroupA, {0.7, -0.3, 0.7, -0.3});
  ExpectAdvantages("opo", kGroupC, {-0.315, 0.385, -1.015});
  ExpectAdvantages("opo", kGroupsAB, {0.7, -0.3, 0.7, -0.3, -0.6, -0.6, 0.4});
  ExpectAdvantages("opo", {{1, 0}, {10, 30}, {0, 0}}, {0.75, -0.25});
  ExpectNear(Compute("opo", kGroupsAB).baselines, {0.3, 0.3, 0.3, 0.3, 0.6, 0.6, 0.6}, 1e-15);
}

TEST(Opo, LongTailGroup) {
  const RewardBatch batch = {{1, 0, 0, 1, 0, 0, 0, 1},
                             {1200, 8000, 6400, 900, 7700, 8192, 5000, 1500},
                             {0, 0, 0, 0, 0, 0, 0, 0}};
  const double r = 0.907436;
  const double w = -0.092564;
  ExpectAdvantages("opo", batch, {r, w, w, r, w, w, w, r});
}

TEST(Opo, AResponseWithoutTokensDoesNotMoveTheBaseline) {
  ExpectAdvantages("opo", {{1, 0, 1}, {0, 10, 30}, {0, 0, 0}}, {0.25, -0.75, 0.25});
}

TEST(Opo, WithoutAnyTokenTheBaselineIsZeroAndNothingIsNan) {
  const AdvantageResult result = Compute("opo", {{1, 0}, {0, 0}, {0, 0}});
  ExpectNear(result.baselines, {0, 0}, 0);
  for (const double a : result.advantages) EXPECT_TRUE(std::isfinite(a));
}

TEST(OpoBatch, WorkedExample) {
  ExpectAdvantages("opo_batch", kGroupsAB, {0.6, -0.4, 0.6, -0.4, -0.4, -0.4, 0.6});
}

TEST(Grpo, WorkedExamples) {
  ExpectAdvantages("grpo", kGroupA, {0.866024, -0.866024, 0.866024, -0.866024});
  ExpectAdvantages("grpo", kGroupB, {-0.577349, -0.577349, 1.154699});
  ExpectAdvantages("grpo", kGroupC, {0, 0.999999, -0.999999});
}

TEST(DrGrpo, WorkedExamples) {
  ExpectAdvantages("dr_grpo", kGroupA, {0.5, -0.5, 0.5, -0.5});
  ExpectAdvantages("dr_grpo", kGroupC, {0, 0.7, -0.7});
}

TEST(Rloo, WorkedExamples) {
  ExpectAdvantages("rloo", kGroupA, {0.666667, -0.666667, 0.666667, -0.666667});
  ExpectAdvantages("rloo", kGroupB, {-0.5, -0.5, 1.0});
  ExpectAdvantages("rloo", kGroupC, {0, 1.05, -1.05});
}

TEST(Reinforce, WorkedExample) {
  const double r = 0.571429;
  const double w = -0.428571;
  ExpectAdvantages("reinforce", kGroupsAB, {r, w, r, w, w, w, r});
}

TEST(Advantages, EqualRewardsGiveExactlyZero) {
  // 0.1 is not a binary fraction: without care the length-weighted mean would be off by a rounding.
  for (const double reward : {1.0, 0.0, 0.1, -0.7}) {
    const RewardBatch batch = {Doubles(5, reward), {3, 7, 11, 13, 17}, {0, 0, 0, 1, 1}};
    for (const Algorithm& algorithm : Algorithms()) {
      for (const double a : algorithm.advantages(batch).advantages) {
        EXPECT_EQ(a, 0.0) << algorithm.name << " reward " << reward;
      }
    }
  }
}

TEST(Advantages, AGroupOfOneHasNoSignalInGroupMethods) {
  const RewardBatch batch = {{1, 0, 1}, {4, 5, 6}, {0, 1, 1}};
  for (const char* name : {"opo", "grpo", "dr_grpo", "rloo"}) {
    const AdvantageResult result = Compute(name, batch);
    EXPECT_EQ(result.advantages[0], 0.0) << name;
    EXPECT_NE(result.advantages[1], 0.0) << name;
  }
}

TEST(Advantages, AnEmptyBatchGivesNothing) {
  for (const Algorithm& algorithm : Algorithms()) {
    EXPECT_TRUE(algorithm.advantages({}).advantages.empty()) << algorithm.name;
  }
}

TEST(Identity, LengthWeightedAdvantagesSumToZero) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const RewardBatch batch = RandomBatch(seed);
    for (const char* name : {"opo", "opo_batch"}) {
      const Doubles a = Compute(name, batch).advantages;
      std::vector<double> sums(static_cast<std::size_t>(batch.groups.back()) + 1);
      double total = 0;
      for (std::size_t i = 0; i < a.size(); ++i) {
        const double term = static_cast<double>(batch.lengths[i]) * a[i];
        sums[static_cast<std::size_t>(batch.groups[i])] += term;
        total += term;
      }
      EXPECT_NEAR(total, 0, 1e-11) << name;
      if (std::string_view(name) == "opo_batch") continue;
      for (const double sum : sums) EXPECT_NEAR(sum, 0, 1e-11);
    }
  }
}

TEST(Identity, EqualLengthsMakeOpoTheGroupMeanBaseline) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const RewardBatch batch = RandomBatch(seed, 17);
    ExpectNear(Compute("opo", batch).advantages, Compute("dr_grpo", batch).advantages, 1e-13);
    ExpectNear(Compute("opo_batch", batch).advantages, Compute("reinforce", batch).advantages,
               1e-13);
  }
}

TEST(Identity, TwoResponsesHaveTheClosedForm) {
  const double r1 = 0.8;
  const double r2 = -1.3;
  ExpectNear(Compute("opo", {{r1, r2}, {12, 30}, {0, 0}}).advantages,
             {(r1 - r2) * 30 / 42, (r2 - r1) * 12 / 42}, 1e-15);
}

TEST(Identity, ShiftLeavesAdvantagesAndScaleScalesThem) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const RewardBatch batch = RandomBatch(seed);
    RewardBatch shifted = batch;
    RewardBatch scaled = batch;
    RewardBatch longer = batch;
    for (std::size_t i = 0; i < batch.rewards.size(); ++i) {
      shifted.rewards[i] += 2.5;
      scaled.rewards[i] *= 3;
      longer.lengths[i] *= 7;
    }
    const Doubles a = Compute("opo", batch).advantages;
    ExpectNear(Compute("opo", shifted).advantages, a, 1e-13);
    ExpectNear(Compute("opo", longer).advantages, a, 1e-13);
    Doubles tripled = a;
    for (double& x : tripled) x *= 3;
    ExpectNear(Compute("opo", scaled).advantages, tripled, 1e-13);
  }
}

TEST(Identity, BinaryRewardsMakeTheBaselineTheShareOfCorrectTokens) {
  const RewardBatch batch = {{1, 0, 0, 1}, {3, 50, 7, 40}, {0, 0, 0, 0}};
  ExpectNear(Compute("opo", batch).baselines, Doubles(4, 43.0 / 100.0), 1e-15);
}

TEST(Identity, RlooIsDrGrpoTimesKOverKMinusOne) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const RewardBatch batch = RandomBatch(seed);
    std::vector<double> sizes(static_cast<std::size_t>(batch.groups.back()) + 1);
    for (const idx g : batch.groups) ++sizes[static_cast<std::size_t>(g)];
    Doubles expected = Compute("dr_grpo", batch).advantages;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double k = sizes[static_cast<std::size_t>(batch.groups[i])];
      expected[i] *= k / (k - 1);
    }
    ExpectNear(Compute("rloo", batch).advantages, expected, 1e-12);
  }
}

// Three Bernoulli(1/2) tokens, length 1 or 3, reward 1 where all sampled tokens are 1. The squared
// norm of a score is 0.25 l, so OPO's baseline is the variance-optimal one exactly.
TEST(Opo, BaselineMinimisesTheGradientVarianceOfAToyPolicy) {
  RewardBatch all;  // every outcome, equally likely (the longer ones repeated once per unused bit)
  std::vector<std::array<double, 3>> scores;
  for (const idx length : {1, 3}) {
    for (int bits = 0; bits < 8; ++bits) {
      std::array<double, 3> score = {0, 0, 0};
      double reward = 1;
      for (idx t = 0; t < length; ++t) {
        const double x = (bits >> t) & 1;
        score[static_cast<std::size_t>(t)] = x - 0.5;
        reward *= x;
      }
      all.rewards.push_back(reward);
      all.lengths.push_back(length);
      all.groups.push_back(0);
      scores.push_back(score);
    }
  }
  const auto variance = [&](double baseline, std::array<double, 3>* mean_gradient) {
    const auto n = static_cast<double>(scores.size());
    double square = 0;
    std::array<double, 3> mean = {0, 0, 0};
    for (std::size_t i = 0; i < scores.size(); ++i) {
      for (std::size_t t = 0; t < 3; ++t) {
        const double g = (all.rewards[i] - baseline) * scores[i][t];
        square += g * g / n;
        mean[t] += g / n;
      }
    }
    if (mean_gradient) *mean_gradient = mean;
    return square - mean[0] * mean[0] - mean[1] * mean[1] - mean[2] * mean[2];
  };
  const double optimal = Compute("opo", all).baselines[0];
  const double mean_reward = Compute("dr_grpo", all).baselines[0];
  EXPECT_NEAR(optimal, 0.218750, 1e-12);
  EXPECT_NEAR(mean_reward, 0.312500, 1e-12);
  std::array<double, 3> gradient = {};
  EXPECT_NEAR(variance(optimal, &gradient), 0.059082, 5e-7);
  EXPECT_NEAR(gradient[0], 0.156250, 1e-12);
  EXPECT_NEAR(gradient[1], 0.031250, 1e-12);
  EXPECT_NEAR(variance(0, nullptr), 0.083008, 5e-7);
  EXPECT_NEAR(variance(mean_reward, nullptr), 0.063477, 5e-7);
  // The excess of any other baseline is (b - b*)^2 E||g||^2 = (b - b*)^2 * 0.25 * 2.
  for (const double b : {-1.0, 0.1, 0.5, 2.0}) {
    const double excess = (b - optimal) * (b - optimal) * 0.5;
    EXPECT_NEAR(variance(b, nullptr) - variance(optimal, nullptr), excess, 1e-12);
  }
}

TEST(Verl, AdvantagesAgree) {
  std::ifstream file(OPO_SOURCE_DIR "/tests/algo/golden/verl.json");
  const auto golden = nlohmann::json::parse(file);
  std::size_t compared = 0;
  for (const auto& c : golden.at("advantages")) {
    const RewardBatch batch = {c.at("rewards"), c.at("lengths"), c.at("groups")};
    for (const auto& [name, expected] : c.at("advantages").items()) {
      SCOPED_TRACE(name);
      ExpectNear(Compute(name, batch).advantages, expected.get<Doubles>(), 1e-12);
      compared += expected.size();
    }
  }
  EXPECT_GT(compared, 200U);
}

TEST(Table, NamesAreKnownAndMistypedOnesGetASuggestion) {
  EXPECT_EQ(Algorithms().size(), 6U);
  EXPECT_EQ(Algorithms()[0].name, "opo");
  for (const Algorithm& algorithm : Algorithms()) {
    EXPECT_EQ(&FindAlgorithm(algorithm.name), &algorithm);
    EXPECT_NO_THROW(TokenWeights(algorithm.default_aggregation, std::vector<idx>{1}, 1));
  }
  try {
    FindAlgorithm("dr_gpro");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("did you mean 'dr_grpo'"), std::string::npos);
  }
}

TEST(AdvantagesDeathTest, GroupsThatDoNotStandTogetherAreABug) {
  EXPECT_DEATH(Compute("opo", {{1, 0, 1}, {1, 1, 1}, {0, 1, 0}}), "CHECK failed");
  EXPECT_DEATH(Compute("opo", {{1, 0}, {1}, {0, 0}}), "CHECK failed");
}

}  // namespace
}  // namespace opo
