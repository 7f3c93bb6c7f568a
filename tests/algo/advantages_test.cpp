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
  return FindAlgorithm(name).advantages(batch, {});
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

// Those that compare answers with each other; remax compares with the greedy one.
bool Compares(const Algorithm& algorithm) {
  // They look at the answers' order, or at no advantage.
  if ((algorithm.needs & (kNeedsPairs | kNeedsValueHead)) != 0) return false;
  for (const char* name : {"raft", "raft_pp", "em_pg", "remax", "sft"}) {
    if (algorithm.name == name) return false;
  }
  return (algorithm.needs & kNeedsCritic) == 0;
}

// Fills in what the algorithms need beside rewards and lengths; the numbers must outlive it.
struct FullBatch {
  explicit FullBatch(RewardBatch rewards) : batch(std::move(rewards)) {
    for (std::size_t i = 0; i < batch.rewards.size(); ++i) {
      const auto length = static_cast<std::size_t>(batch.lengths[i]);
      logprobs.emplace_back(length, -0.5f - 0.1f * static_cast<float>(i));
      sum_sqs.emplace_back(length, 0.4f);
    }
    for (const auto& values : logprobs) batch.logprobs.emplace_back(values);
    for (const auto& values : sum_sqs) batch.sum_sqs.emplace_back(values);
    batch.greedy_rewards = batch.rewards;
    batch.gradient_norms.assign(batch.rewards.size(), 1.0);
  }
  FullBatch(const FullBatch&) = delete;
  FullBatch& operator=(const FullBatch&) = delete;
  RewardBatch batch;
  std::vector<std::vector<float>> logprobs, sum_sqs;
};

TEST(Advantages, EqualRewardsGiveExactlyZero) {
  // 0.1 is not a binary fraction: without care the length-weighted mean would be off by a rounding.
  for (const double reward : {1.0, 0.0, 0.1, -0.7}) {
    const FullBatch full({Doubles(5, reward), {3, 7, 11, 13, 17}, {0, 0, 0, 1, 1}});
    for (const Algorithm& algorithm : Algorithms()) {
      if (!Compares(algorithm)) continue;
      const AdvantageResult result = algorithm.advantages(full.batch, {});
      for (const double a : result.advantages) {
        EXPECT_EQ(a, 0.0) << algorithm.name << " reward " << reward;
      }
      for (const auto& tokens : result.token_advantages) {
        for (const double a : tokens) EXPECT_EQ(a, 0.0) << algorithm.name << " reward " << reward;
      }
    }
  }
}

AdvantageResult ComputeWith(const AlgorithmConfig& config, const RewardBatch& batch) {
  return FindAlgorithm(config.name).advantages(batch, config);
}

TEST(Opo, TheExponentOfTheLengthIsASetting) {
  const auto baseline = [](double exponent) {
    const AlgorithmConfig config = {.name = "opo", .length_exponent = exponent};
    return ComputeWith(config, kGroupA).baselines[0];
  };
  EXPECT_NEAR(baseline(1.6), 0.211951, 5e-7);
  EXPECT_NEAR(baseline(-1), 0.72, 1e-12);
  EXPECT_NEAR(baseline(0), 0.5, 1e-12);
  EXPECT_EQ(baseline(1), 30.0 / 100.0);
  // Without tokens there is no weight, whatever the exponent.
  const AlgorithmConfig config = {.name = "opo", .length_exponent = -1};
  ExpectNear(ComputeWith(config, {{1, 0, 1}, {0, 10, 30}, {0, 0, 0}}).baselines, Doubles(3, 0.25),
             1e-15);
}

TEST(OpoLoo, WorkedExample) {
  ExpectAdvantages("opo_loo", kGroupA, {0.777778, -0.428571, 0.875, -0.5});
  // No other answer has tokens.
  ExpectAdvantages("opo_loo", {{1, 0}, {5, 0}, {0, 0}}, {1, -1});
}

TEST(OpoLoo, WithEqualLengthsItIsRloo) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const RewardBatch batch = RandomBatch(seed, 13);
    ExpectNear(Compute("opo_loo", batch).advantages, Compute("rloo", batch).advantages, 1e-12);
  }
}

TEST(ReinforcePp, SubtractsTheBaselineOfOpoBatch) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const RewardBatch batch = RandomBatch(seed);
    ExpectNear(Compute("reinforce_pp", batch).baselines, Compute("opo_batch", batch).baselines,
               1e-13);
  }
}

TEST(ReinforcePp, WorkedExamples) {
  const double r = 1.220656;
  const double w = -0.813770;
  ExpectAdvantages("reinforce_pp", kGroupsAB, {r, w, r, w, w, w, r});
  EXPECT_NEAR(Compute("reinforce_pp", kGroupsAB).baselines[0], 0.4, 1e-12);
  ExpectAdvantages("reinforce_pp", kGroupA, {1.519868, -0.651372, 1.519868, -0.651372});
  ExpectAdvantages("reinforce_pp_baseline", kGroupsAB,
                   {1.047403, -0.876398, 1.047403, -0.876398, -0.555765, -0.555765, 1.368037});
}

TEST(ReinforcePp, PenaltiesAndDiscountMakeReturnsOfTokens) {
  // Returns with gamma 1: 0.9, 1.0 and -0.3; with gamma 0.5: 0.4 (= 0.5 * 1 - 0.1), 1.0 and -0.3.
  RewardBatch batch = {{1, 0}, {2, 1}, {0, 0}};
  batch.token_penalties = {{0.1, 0}, {0.3}};
  const auto whitened = [](Doubles g) {
    const double mean = (g[0] + g[1] + g[2]) / 3;
    double squares = 0;
    for (const double x : g) squares += (x - mean) * (x - mean);
    for (double& x : g) x = (x - mean) / std::sqrt(squares / 2 + 1e-8);
    return g;
  };
  for (const auto& [gamma, first] : {std::pair{1.0, 0.9}, std::pair{0.5, 0.4}}) {
    const AlgorithmConfig config = {.name = "reinforce_pp", .gamma = gamma};
    const AdvantageResult result = ComputeWith(config, batch);
    const Doubles expected = whitened({first, 1.0, -0.3});
    ExpectNear(result.token_advantages[0], {expected[0], expected[1]}, 1e-12);
    ExpectNear(result.token_advantages[1], {expected[2]}, 1e-12);
    ExpectNear(result.advantages, {(expected[0] + expected[1]) / 2, expected[2]}, 1e-12);
  }
}

TEST(ReinforcePp, OneTokenHasNoVariance) {
  EXPECT_EQ(Compute("reinforce_pp", {{1}, {1}, {0}}).advantages[0], 0.0);
  EXPECT_EQ(Compute("reinforce_pp", {{1, 0}, {0, 0}, {0, 1}}).advantages, Doubles(2));
}

TEST(Remax, SubtractsTheGreedyAnswersReward) {
  RewardBatch batch = {{1, 0}, {2, 1}, {0, 1}};
  batch.greedy_rewards = {1, 1};
  ExpectAdvantages("remax", batch, {0, -1});
  EXPECT_TRUE(Compute("remax", batch).token_advantages.empty());
  batch.token_penalties = {{0.25, 0.5}, {-1}};
  const AdvantageResult result = Compute("remax", batch);
  ExpectNear(result.token_advantages[0], {-0.75, -0.5}, 1e-15);
  ExpectNear(result.token_advantages[1], {0}, 1e-15);
  ExpectNear(result.baselines, {1, 1}, 0);
}

TEST(Otb, WorkedExample) {
  const std::vector<std::vector<float>> logprobs = {
      {std::log(0.5f), std::log(0.8f), std::log(0.9f)}, {std::log(0.25f), std::log(0.6f)}};
  const std::vector<std::vector<float>> sum_sqs = {{0.4f, 0.7f, 0.82f}, {0.3f, 0.5f}};
  RewardBatch batch = {{1, 0}, {3, 2}, {0, 0}};
  batch.logprobs = {logprobs[0], logprobs[1]};
  batch.sum_sqs = {sum_sqs[0], sum_sqs[1]};
  // Log-probs are floats: 1e-6.
  const AdvantageResult result = Compute("otb", batch);
  ExpectNear(result.token_advantages[0], {0.666667, 0.6875, 0}, 1e-6);
  ExpectNear(result.token_advantages[1], {-0.333333, -0.3125}, 1e-6);
  EXPECT_NEAR(result.advantages[0], (0.666667 + 0.6875) / 3, 1e-6);
  EXPECT_NEAR(result.baselines[0], (0.333333 + 0.3125 + 1) / 3, 1e-6);
  EXPECT_NEAR(result.baselines[1], (0.333333 + 0.3125) / 2, 1e-6);
  const AdvantageResult tail = ComputeWith({.name = "otb", .handle_zero_tail = true}, batch);
  ExpectNear(tail.token_advantages[0], {0.666667, 0.6875, 1}, 1e-6);
  ExpectNear(tail.token_advantages[1], {-0.333333, -0.3125}, 1e-6);
}

TEST(Dapo, WorkedExampleIsGrposAdvantage) {
  ExpectAdvantages("dapo", {{1, -1, -1, -1}, {1, 2, 3, 4}, {0, 0, 0, 0}},
                   {1.499999, -0.5, -0.5, -0.5});
  for (const char* name : {"dapo", "gspo", "cispo"}) {
    const RewardBatch batch = RandomBatch(3);
    EXPECT_EQ(Compute(name, batch).advantages, Compute("grpo", batch).advantages) << name;
  }
}

TEST(Raft, KeepsPositiveRewards) {
  for (const char* name : {"raft", "raft_pp"}) {
    ExpectAdvantages(name, {{1, -1, 1, -1}, {2, 1, 2, 1}, {0, 0, 0, 0}}, {1, 0, 1, 0});
    ExpectAdvantages(name, kGroupC, {1, 1, 0});
    ExpectAdvantages(name, kGroupA, {1, 0, 1, 0});
  }
}

TEST(ReinforceRej, KeepsRewardsOfMixedGroups) {
  ExpectAdvantages("reinforce_rej", {{1, -1, 1, -1}, {2, 1, 2, 1}, {0, 0, 0, 0}}, {1, -1, 1, -1});
  ExpectAdvantages("reinforce_rej", {{1, 1, -1, -1, 1, -1}, {1, 1, 1, 1, 1, 1}, {0, 0, 1, 1, 2, 2}},
                   {0, 0, 0, 0, 1, -1});
  ExpectAdvantages("reinforce_rej", kGroupC, {0.2, 0.9, -0.5});
  // 0 and 1: wrong answers count as the paper's -1. Where -1 is wrong, 0 stays 0.
  ExpectAdvantages("reinforce_rej", kGroupA, {1, -1, 1, -1});
  ExpectAdvantages("reinforce_rej", {{1, 0, -1}, {1, 1, 1}, {0, 0, 0}}, {1, 0, -1});
  ExpectAdvantages("reinforce_rej", {{0, 0, 1, 1}, {1, 1, 1, 1}, {0, 0, 1, 1}}, {0, 0, 0, 0});
}

TEST(EmPg, Weightings) {
  const auto advantages = [](const char* weight, const RewardBatch& batch) {
    return ComputeWith({.name = "em_pg", .em_pg_weight = weight}, batch).advantages;
  };
  const RewardBatch batch = {{1, 0, 0, 1, 0, 0}, {1, 2, 3, 4, 5, 6}, {0, 0, 0, 0, 1, 1}};
  ExpectNear(advantages("reward", batch), {1, 0, 0, 1, 0, 0}, 0);
  ExpectNear(advantages("posterior", batch), {2, 0, 0, 2, 0, 0}, 1e-15);
  ExpectNear(advantages("centred", batch), {0.5, -0.5, -0.5, 0.5, 0, 0}, 1e-15);
  EXPECT_EQ(Compute("em_pg", batch).advantages, batch.rewards);
  try {
    advantages("posterior", kGroupC);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("a reward of -0.5"), std::string::npos);
  }
}

TEST(Rebel, AdvantagesAreRloosTimesFourEta) {
  const RewardBatch batch = RandomBatch(5);
  Doubles expected = Compute("rloo", batch).advantages;
  for (double& a : expected) a *= 4 * 0.5;
  ExpectNear(ComputeWith({.name = "rebel", .rebel_eta = 0.5}, batch).advantages, expected, 1e-12);
}

TEST(Penalties, TheirSumComesOffTheRewardOfAWholeAnswer) {
  RewardBatch penalised = kGroupA;
  RewardBatch net = kGroupA;
  penalised.rewards = {1.5, 0.25, 2, 0};
  net.rewards = {1.25, 0, 2.5, 0};
  for (const idx length : kGroupA.lengths) {
    penalised.token_penalties.emplace_back(static_cast<std::size_t>(length));
  }
  penalised.token_penalties[0][3] = 0.125;
  penalised.token_penalties[0][9] = 0.125;
  penalised.token_penalties[1][0] = 0.25;
  penalised.token_penalties[2][7] = -0.5;
  for (const char* name : {"opo", "opo_batch", "opo_loo", "grpo", "dr_grpo", "rloo", "reinforce",
                           "reinforce_pp_baseline", "raft", "reinforce_rej", "em_pg", "rebel"}) {
    const AdvantageResult got = Compute(name, penalised);
    EXPECT_EQ(got.advantages, Compute(name, net).advantages) << name;
    EXPECT_TRUE(got.token_advantages.empty()) << name;
  }
}

TEST(Advantages, AGroupOfOneHasNoSignalInGroupMethods) {
  const RewardBatch batch = {{1, 0, 1}, {4, 5, 6}, {0, 1, 1}};
  for (const char* name : {"opo", "opo_loo", "grpo", "dr_grpo", "rloo", "dapo", "gspo", "cispo",
                           "reinforce_rej", "rebel"}) {
    const AdvantageResult result = Compute(name, batch);
    EXPECT_EQ(result.advantages[0], 0.0) << name;
    EXPECT_NE(result.advantages[1], 0.0) << name;
  }
}

TEST(Advantages, AnEmptyBatchGivesNothing) {
  for (const Algorithm& algorithm : Algorithms()) {
    EXPECT_TRUE(algorithm.advantages({}, {}).advantages.empty()) << algorithm.name;
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

TEST(Table, EachHasAFormulaASourceAndOneKindOfLoss) {
  for (const Algorithm& algorithm : Algorithms()) {
    SCOPED_TRACE(algorithm.name);
    EXPECT_FALSE(algorithm.summary.empty());
    EXPECT_FALSE(algorithm.source.empty());
    EXPECT_NE(algorithm.formula.find('='), std::string_view::npos);
    EXPECT_NE(algorithm.token_loss == nullptr, algorithm.batch_loss == nullptr);
    const AlgorithmConfig config = Resolved({.name = std::string(algorithm.name)});
    EXPECT_EQ(config.loss_agg, algorithm.default_aggregation);
    EXPECT_NO_THROW(CheckAlgorithmConfig({.name = std::string(algorithm.name)}));
  }
}

TEST(Table, ClipsAreThoseOfTheSources) {
  const auto resolved = [](const char* name) { return Resolved({.name = name}); };
  EXPECT_EQ(resolved("grpo").clip_low, 0.2);
  EXPECT_EQ(resolved("grpo").clip_high, 0.2);
  EXPECT_EQ(resolved("raft_pp").clip_dual, 3.0);
  EXPECT_EQ(resolved("dapo").clip_high, 0.28);
  EXPECT_EQ(resolved("dapo").clip_dual, 0.0);
  EXPECT_EQ(resolved("gspo").clip_low, 3e-4);
  EXPECT_EQ(resolved("gspo").clip_high, 4e-4);
  EXPECT_EQ(resolved("gspo").loss_agg, "seq-mean-token-mean");
  EXPECT_EQ(resolved("cispo").clip_low, 1.0);
  EXPECT_EQ(resolved("cispo").is_weight_cap, 5.0);
  const AlgorithmConfig set =
      Resolved({.name = "gspo", .loss_agg = "token-mean", .clip_low = 0.1, .clip_high = 0});
  EXPECT_EQ(set.loss_agg, "token-mean");
  EXPECT_EQ(set.clip_low, 0.1);
  EXPECT_EQ(set.clip_high, 0.0);
}

TEST(Settings, OfAnotherAlgorithmAreRefusedByName) {
  const auto refused = [](const AlgorithmConfig& config) -> std::string {
    try {
      CheckAlgorithmConfig(config);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refused({.name = "grpo", .length_exponent = 2}),
            "algorithm.length_exponent: \"grpo\" has no such setting; it is one of opo, opo_batch, "
            "opo_loo: remove it");
  EXPECT_NE(refused({.name = "opo", .handle_zero_tail = true}), "");
  EXPECT_NE(refused({.name = "opo", .gamma = 0.9}), "");
  EXPECT_NE(refused({.name = "opo", .is_weight_cap = 2}), "");
  EXPECT_NE(refused({.name = "opo", .em_pg_weight = "centred"}), "");
  EXPECT_NE(refused({.name = "opo", .rebel_eta = 2}), "");
  EXPECT_EQ(refused({.name = "opo", .margin_coef = 0}),
            "algorithm.margin_coef: \"opo\" has no such setting; it is one of reward_model, aihf: "
            "remove it");
  EXPECT_NE(refused({.name = "step_critic", .center_coef = 1}), "");
  EXPECT_NE(refused({.name = "reward_model", .demo_weight = 2}), "");
  EXPECT_NE(refused({.name = "rloo", .aihf_baseline = "rloo"}), "");
  EXPECT_NE(refused({.name = "reward_model", .step_beta = 2}), "");
  EXPECT_NE(refused({.name = "step_critic", .min_gap = 0}), "");
  EXPECT_NE(refused({.name = "direct_advantage", .loss_agg = "seq-mean-token-mean"}), "");
  EXPECT_EQ(refused({.name = "direct_advantage", .step_beta = 0.02, .min_gap = 0.2}), "");
  EXPECT_EQ(refused({.name = "aihf", .margin_coef = 0, .demo_weight = 0, .aihf_baseline = "rloo"}),
            "");
  EXPECT_EQ(refused({.name = "raft", .clip_low = 0.1}),
            "algorithm.clip_low: the loss of \"raft\" has no such bound: remove it");
  EXPECT_NE(refused({.name = "cispo", .clip_high = 0.1}), "");
  EXPECT_NE(refused({.name = "gspo", .clip_dual = 3}), "");
  EXPECT_NE(refused({.name = "opo", .clip_high = -0.5}).find("-1 for"), std::string::npos);
  EXPECT_NE(refused({.name = "opo", .loss_agg = "seq-mean-token-mean"}).find("token-mean"),
            std::string::npos);
  EXPECT_EQ(refused({.name = "opo", .loss_agg = "seq-mean-token-mean", .length_exponent = -1}), "");
  EXPECT_NE(refused({.name = "rebel", .loss_agg = "seq-mean-token-mean"}), "");
  EXPECT_EQ(refused({.name = "cispo", .clip_low = 0.2, .is_weight_cap = 2}), "");
  EXPECT_EQ(refused({.name = "rebel", .rebel_eta = 2}), "");
}

TEST(AdvantagesDeathTest, GroupsThatDoNotStandTogetherAreABug) {
  EXPECT_DEATH(Compute("opo", {{1, 0, 1}, {1, 1, 1}, {0, 1, 0}}), "CHECK failed");
  EXPECT_DEATH(Compute("opo", {{1, 0}, {1}, {0, 0}}), "CHECK failed");
}

}  // namespace
}  // namespace opo
