// Token losses and their weights: worked numbers, derivatives, and verl's own results.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "algo/algorithm.h"
#include "base/error.h"

namespace opo {
namespace {

nlohmann::json Golden() {
  std::ifstream file(OPO_SOURCE_DIR "/tests/algo/golden/verl.json");
  return nlohmann::json::parse(file);
}

// seq1 = [1, 2], seq2 = [3, 4, 5, 6].
double Aggregate(std::string_view mode, double norm) {
  const std::vector<double> w = TokenWeights(mode, std::vector<idx>{2, 4}, norm);
  return w[0] * (1 + 2) + w[1] * (3 + 4 + 5 + 6);
}

TEST(TokenWeights, WorkedExamples) {
  EXPECT_NEAR(Aggregate("token-mean", 0), 3.5, 1e-12);
  EXPECT_NEAR(Aggregate("seq-mean-token-sum", 0), 10.5, 1e-12);
  EXPECT_NEAR(Aggregate("seq-mean-token-mean", 0), 3.0, 1e-12);
  EXPECT_NEAR(Aggregate("seq-mean-token-sum-norm", 10), 1.05, 1e-12);
}

TEST(TokenWeights, GroupA) {
  const std::vector<idx> lengths = {10, 30, 20, 40};
  for (const double w : TokenWeights("token-mean", lengths, 0)) EXPECT_NEAR(w, 0.01, 1e-15);
  const std::vector<double> expected = {0.025, 0.25 / 30, 0.0125, 0.00625};
  const std::vector<double> w = TokenWeights("seq-mean-token-mean", lengths, 0);
  for (std::size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(w[i], expected[i], 1e-15);
}

TEST(TokenWeights, ReportedLossAtRatioOneOnGroupA) {
  const RewardBatch batch = {{1, 0, 1, 0}, {10, 30, 20, 40}, {0, 0, 0, 0}};
  const auto loss = [&](const char* algorithm, const char* mode) {
    const auto a = FindAlgorithm(algorithm).advantages(batch, {}).advantages;
    const auto w = TokenWeights(mode, batch.lengths, 0);
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      sum += w[i] * static_cast<double>(batch.lengths[i]) *
             PolicyGradientLoss({.advantage = a[i]}).loss;
    }
    return sum;
  };
  EXPECT_NEAR(loss("opo", "token-mean"), 0.0, 1e-15);
  EXPECT_NEAR(loss("opo", "seq-mean-token-mean"), -0.2, 1e-15);
  EXPECT_NEAR(loss("dr_grpo", "token-mean"), 0.2, 1e-15);
}

TEST(TokenWeights, EmptyResponsesWeighNothingAndDoNotCount) {
  for (const std::string_view mode : AggregationModes()) {
    const auto with = TokenWeights(mode, std::vector<idx>{2, 0, 4}, 5);
    const auto without = TokenWeights(mode, std::vector<idx>{2, 4}, 5);
    EXPECT_EQ(with[1], 0.0) << mode;
    EXPECT_EQ(with[0], without[0]) << mode;
    EXPECT_EQ(with[2], without[1]) << mode;
    EXPECT_EQ(TokenWeights(mode, std::vector<idx>{0, 0}, 5), std::vector<double>(2, 0.0)) << mode;
  }
}

TEST(TokenWeights, AnUnknownModeIsRefused) {
  try {
    TokenWeights("token-sum", std::vector<idx>{1}, 0);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("seq-mean-token-mean"), std::string::npos);
  }
}

double ClipLoss(double ratio, double advantage, const AlgorithmConfig& clip) {
  return PpoClipLoss({std::log(ratio), 0.0, advantage}, Resolved(clip)).loss;
}

TEST(PpoClip, WorkedExamples) {
  const AlgorithmConfig no_dual = {.clip_dual = 0};
  EXPECT_NEAR(ClipLoss(1.3, 1, no_dual), -1.2, 1e-12);
  EXPECT_NEAR(ClipLoss(1.3, -1, no_dual), 1.3, 1e-12);
  EXPECT_NEAR(ClipLoss(0.7, 1, no_dual), -0.7, 1e-12);
  EXPECT_NEAR(ClipLoss(0.7, -1, no_dual), 0.8, 1e-12);
  EXPECT_NEAR(ClipLoss(5, -1, no_dual), 5.0, 1e-12);
  EXPECT_NEAR(ClipLoss(5, -1, AlgorithmConfig{}), 3.0, 1e-12);
  EXPECT_NEAR(ClipLoss(1.3, 1, {.clip_high = 0.28}), -1.28, 1e-12);
}

TEST(PpoClip, SaysWhichClipIsActive) {
  const auto at = [](double ratio, double advantage) {
    return PpoClipLoss({std::log(ratio), 0, advantage}, Resolved({}));
  };
  EXPECT_TRUE(at(1.3, 1).clipped);
  EXPECT_FALSE(at(1.3, -1).clipped);
  EXPECT_TRUE(at(0.7, -1).clipped);
  EXPECT_FALSE(at(1.0, 1).clipped);
  EXPECT_TRUE(at(5, -1).clipped_lower);
  EXPECT_FALSE(at(5, 1).clipped_lower);
  EXPECT_EQ(at(5, -1).dlogprob, 0.0);
  EXPECT_EQ(at(1.3, 1).dlogprob, 0.0);
}

TEST(PpoClip, AtRatioOneTheLossAndGradientAreThoseOfThePolicyGradient) {
  for (const double advantage : {1.5, -0.5, 0.0}) {
    const TokenLoss clip = PpoClipLoss({-2.5, -2.5, advantage}, Resolved({}));
    const TokenLoss plain = PolicyGradientLoss({.advantage = advantage});
    EXPECT_EQ(clip.loss, plain.loss);
    EXPECT_EQ(clip.dlogprob, plain.dlogprob);
    EXPECT_FALSE(clip.clipped);
  }
}

TEST(PpoClip, DerivativeIsThatOfTheLoss) {
  const double h = 1e-6;
  int moving = 0;
  int still = 0;
  for (const AlgorithmConfig& clip :
       {Resolved({}), AlgorithmConfig{.clip_low = 0.1, .clip_high = 0.4, .clip_dual = 0}}) {
    for (const double advantage : {1.3, -0.7, 2.0, -3.0}) {
      for (double d = -21.037; d<21; d += d> - 3 && d < 3 ? 0.0173 : 0.97) {
        const auto loss = [&](double x) { return PpoClipLoss({x, -1.5, advantage}, clip).loss; };
        const double lp = d - 1.5;
        const double slope = (loss(lp + h) - loss(lp - h)) / (2 * h);
        const double got = PpoClipLoss({lp, -1.5, advantage}, clip).dlogprob;
        EXPECT_NEAR(got, slope, 1e-5 * (1 + std::abs(slope))) << "d " << d << " A " << advantage;
        ++(got == 0 ? still : moving);
      }
    }
  }
  EXPECT_GT(moving, 100);
  EXPECT_GT(still, 100);
}

// The loss of the exact on-policy step is -A * exp(lp - sg(lp)): its value is -A, its slope too.
TEST(PolicyGradient, DerivativeIsThatOfTheSurrogateAtRatioOne) {
  const double h = 1e-6;
  for (const double advantage : {1.3, -0.7, 0.0}) {
    const auto surrogate = [&](double lp) { return -advantage * std::exp(lp - (-1.5)); };
    const double slope = (surrogate(-1.5 + h) - surrogate(-1.5 - h)) / (2 * h);
    const TokenLoss got = PolicyGradientLoss({.advantage = advantage});
    EXPECT_NEAR(got.dlogprob, slope, 1e-9);
    EXPECT_NEAR(got.loss, surrogate(-1.5), 1e-15);
  }
}

TEST(TokenWeights, PartsOfABatchAddUpButTheirMeansDoNot) {
  // The step's weights on each part alone: 1.5 * 2 and 4.5 * 4 tokens.
  const std::vector<double> w = TokenWeights("token-mean", std::vector<idx>{2, 4}, 0);
  EXPECT_NEAR(w[0] * 3 + w[1] * 18, 3.5, 1e-12);
  const double first = TokenWeights("token-mean", std::vector<idx>{2}, 0)[0] * 3;
  const double second = TokenWeights("token-mean", std::vector<idx>{4}, 0)[0] * 18;
  EXPECT_NEAR((first + second) / 2, 3.0, 1e-12);
  // Two ranks that average gradients, each with twice its part: 1.0 and 6.0.
  EXPECT_NEAR(2 * w[0] * 3, 1.0, 1e-12);
  EXPECT_NEAR(2 * w[1] * 18, 6.0, 1e-12);
}

TEST(Losses, AtRatioOneEveryDerivativeIsThePolicyGradientsToTheBit) {
  for (const Algorithm& algorithm : Algorithms()) {
    SCOPED_TRACE(algorithm.name);
    const AlgorithmConfig config = Resolved({.name = std::string(algorithm.name)});
    for (const double advantage : {1.3, -0.7, 0.0, 1e-9}) {
      const float rollout = -2.3f;
      const LossToken token = {static_cast<double>(rollout), static_cast<double>(rollout),
                               advantage};
      TokenLoss got;
      // A regression, pairs, scores, a reference: in tests of their own.
      constexpr unsigned kOther = kNeedsValueHead | kNeedsSteps | kNeedsReference;
      if (algorithm.name == "rebel" || (algorithm.needs & kOther) != 0) continue;
      if (algorithm.batch_loss != nullptr) {
        const LossBatch batch = {{{token.policy}}, {{&rollout, 1}}, {1.0}, {advantage}, {0}};
        got = algorithm.batch_loss(batch, config)[0][0];
      } else {
        got = algorithm.token_loss(token, config);
      }
      EXPECT_EQ(got.dlogprob, PolicyGradientLoss(token).dlogprob);
      EXPECT_FALSE(got.clipped);
      // A log-likelihood reports itself; the others the surrogate, as PolicyGradientLoss.
      const bool likelihood =
          algorithm.token_loss == LikelihoodLoss || algorithm.token_loss == CispoLoss;
      EXPECT_EQ(got.loss, likelihood ? -advantage * token.policy : -advantage);
    }
  }
}

TEST(Gspo, WorkedExamples) {
  const std::vector<float> rollout = {-1.0f, -1.0f, -1.0f};
  const auto at = [&](double advantage) {
    const LossBatch batch = {{{-0.9, -1.2, -0.7}}, {rollout}, {1.0}, {advantage}, {0}};
    return GspoLosses(batch, Resolved({.name = "gspo"}))[0];
  };
  const double weight = TokenWeights("seq-mean-token-mean", std::vector<idx>{3}, 0)[0];
  for (const TokenLoss& token : at(1)) {
    EXPECT_NEAR(token.loss, -1.0004, 1e-12);
    EXPECT_EQ(token.dlogprob, 0.0);
    EXPECT_TRUE(token.clipped);
  }
  for (const TokenLoss& token : at(-1)) {
    EXPECT_NEAR(token.loss, 1.068939, 5e-7);
    EXPECT_NEAR(weight * token.dlogprob, 0.356313, 5e-7);
    EXPECT_FALSE(token.clipped);
  }
}

TEST(Cispo, WorkedExamples) {
  const auto loss = [](AlgorithmConfig config, double expected) {
    config.name = "cispo";
    config = Resolved(config);
    const TokenLoss first = CispoLoss({-1, -1 - std::log(1.3), 1}, config);
    const TokenLoss second = CispoLoss({-2, -2 - std::log(0.5), 1}, config);
    EXPECT_NEAR((first.loss + second.loss) / 2, expected, 1e-12);
    return std::pair(first, second);
  };
  const auto [first, second] = loss({.is_weight_cap = 1.28}, 1.14);
  EXPECT_NEAR(first.dlogprob / 2, -0.64, 1e-12);
  EXPECT_NEAR(second.dlogprob / 2, -0.25, 1e-12);
  EXPECT_TRUE(first.clipped);
  EXPECT_FALSE(second.clipped);
  loss({.clip_low = 0.2, .is_weight_cap = 1.28}, 1.44);
  loss({}, 1.15);
}

TEST(Likelihood, WorkedExamplesOfRaftAndReinforceRej) {
  const std::vector<std::vector<double>> lp = {{-0.1, -0.2}, {-0.3}, {-0.4, -0.5}, {-0.6}};
  const RewardBatch batch = {{1, -1, 1, -1}, {2, 1, 2, 1}, {0, 0, 0, 0}};
  const auto mean = [&](const char* name, const std::vector<idx>& counted) {
    const auto a = FindAlgorithm(name).advantages(batch, {}).advantages;
    const auto w = TokenWeights("token-mean", counted, 0);
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      for (const double x : lp[i]) sum += w[i] * LikelihoodLoss({x, x, a[i]}, {}).loss;
    }
    return sum;
  };
  EXPECT_NEAR(mean("raft", batch.lengths), 0.2, 1e-12);
  EXPECT_NEAR(mean("raft", {2, 0, 2, 0}), 0.3, 1e-12);  // had the others left the batch
  EXPECT_NEAR(mean("reinforce_rej", batch.lengths), 0.05, 1e-12);
}

TEST(EmPg, WorkedExampleAndWhatPpoHasBeside) {
  const std::vector<double> lp = {-12, -9, -10, -11};
  const RewardBatch batch = {{1, 0, 0, 1}, {1, 1, 1, 1}, {0, 0, 0, 0}};
  const AlgorithmConfig config = {.name = "em_pg", .em_pg_weight = "centred"};
  const auto a = FindAlgorithm("em_pg").advantages(batch, config).advantages;
  const auto w = TokenWeights(Resolved(config).loss_agg, batch.lengths, 0);
  AlgorithmConfig ppo = Resolved({.name = "reinforce"});
  ppo.clip_low = ppo.clip_high = 0.9;
  double loss = 0;
  for (std::size_t i = 0; i < lp.size(); ++i) {
    loss += w[i] * LikelihoodLoss({lp[i], lp[i], a[i]}, config).loss;
    // After a step: PPO's derivative has the ratio.
    const LossToken moved = {lp[i] + 0.3, lp[i], a[i]};
    EXPECT_NEAR(PpoClipLoss(moved, ppo).dlogprob,
                std::exp(0.3) * LikelihoodLoss(moved, config).dlogprob, 1e-12);
  }
  EXPECT_NEAR(loss, 0.5, 1e-12);
}

// Two answers of one token; their log-ratios differ by D.
BatchLosses RebelPair(double d, double r, double r_other, double eta) {
  static const std::vector<float> zero = {0.0f};
  const LossBatch batch = {{{d}, {0.0}}, {zero, zero}, {r, r_other}, {0, 0}, {0, 0}};
  return RebelLosses(batch, {.name = "rebel", .rebel_eta = eta});
}

TEST(Rebel, WorkedExamples) {
  const auto loss = [](double d, double r, double r_other, double eta) {
    const BatchLosses losses = RebelPair(d, r, r_other, eta);
    return (losses[0][0].loss + losses[1][0].loss) / 2;  // seq-mean-token-sum
  };
  EXPECT_NEAR(loss(0.7, 1, 0, 1), 0.09, 1e-12);
  EXPECT_NEAR(loss(0.7, 1, 0, 2), 1.69, 1e-12);
  EXPECT_NEAR(loss(0.7, 1, 0, 0.5), 0.04, 1e-12);
  EXPECT_NEAR(loss(0.7, 3.5, 2.5, 2), 1.69, 1e-12);
  EXPECT_NEAR(loss(-0.7, 0, 1, 2), 1.69, 1e-12);
  const BatchLosses still = RebelPair(0, 1, 0, 1);  // dL/dD = -2
  EXPECT_NEAR(still[0][0].dlogprob / 2, -2, 1e-12);
  EXPECT_NEAR(still[1][0].dlogprob / 2, 2, 1e-12);
}

TEST(Rebel, WhereNothingMovedItsDerivativeIsThatOfItsAdvantages) {
  const std::vector<float> rollout = {-1.5f, -0.25f};
  const RewardBatch rewards = {{0.2, 0.9, -0.5, 1, 0}, {2, 2, 2, 2, 2}, {0, 0, 0, 1, 1}};
  LossBatch batch;
  batch.rewards = rewards.rewards;
  batch.groups = rewards.groups;
  for (int i = 0; i < 5; ++i) {
    batch.policy.push_back({-1.5, -0.25});
    batch.rollout.emplace_back(rollout);
  }
  const AlgorithmConfig config = {.name = "rebel", .rebel_eta = 0.7};
  const auto a = FindAlgorithm("rebel").advantages(rewards, config).advantages;
  const BatchLosses losses = RebelLosses(batch, config);
  for (std::size_t i = 0; i < a.size(); ++i) {
    for (const TokenLoss& token : losses[i]) EXPECT_NEAR(token.dlogprob, -a[i], 1e-12);
  }
}

TEST(Rebel, AGroupOfOneAndAnEmptyAnswerLearnNothing) {
  const std::vector<float> one = {-1.0f};
  const LossBatch batch = {{{-0.5}, {}, {-2.0}}, {one, {}, one}, {1, 0, 1}, {0, 0, 0}, {0, 1, 1}};
  const BatchLosses losses = RebelLosses(batch, {.name = "rebel"});
  EXPECT_EQ(losses[0][0].dlogprob, 0.0);
  EXPECT_EQ(losses[0][0].loss, 0.0);
  EXPECT_TRUE(losses[1].empty());
  EXPECT_NE(losses[2][0].dlogprob, 0.0);
}

TEST(Kl, WorkedExamples) {
  const auto expect = [](const char* estimator, double policy, double reference, double value,
                         double slope) {
    const KlTerm term = KlPenalty(estimator, policy, reference);
    EXPECT_NEAR(term.value, value, 5e-7) << estimator;
    EXPECT_NEAR(term.dlogprob, slope, 5e-7) << estimator;
  };
  expect("k1", -1, -1.2, 0.2, 1);
  expect("k2", -1, -1.2, 0.02, 0.2);
  expect("k3", -1, -1.2, 0.018731, 0.181269);
  expect("k1", -1.2, -1, -0.2, 1);
  expect("k2", -1.2, -1, 0.02, -0.2);
  expect("k3", -1.2, -1, 0.021403, 1 - std::exp(0.2));
  expect("k3", -6, -1, 10, 0);  // 142.413159 before verl's clamp
  try {
    KlPenalty("k4", 0, 0);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("k1, k2, k3"), std::string::npos);
  }
}

TEST(LossesDeathTest, SettingsThatWereNotResolvedAreABug) {
  EXPECT_DEATH(PpoClipLoss({0, 0, 1}, AlgorithmConfig{}), "CHECK failed");
  EXPECT_DEATH(CispoLoss({0, 0, 1}, {.name = "cispo"}), "CHECK failed");
  EXPECT_DEATH(GspoLosses({}, {.name = "gspo"}), "CHECK failed");
}

TEST(Verl, AggregationAgrees) {
  const auto golden = Golden();
  for (const auto& c : golden.at("aggregation")) {
    const std::vector<idx> lengths = c.at("lengths");
    for (const auto& [mode, expected] : c.at("values").items()) {
      const std::vector<double> w = TokenWeights(mode, lengths, c.at("norm"));
      double sum = 0;
      for (std::size_t i = 0; i < lengths.size(); ++i) {
        for (const double loss : c.at("losses")[i]) sum += w[i] * loss;
      }
      // verl adds 1e-8 to the lengths of seq-mean-token-mean.
      EXPECT_NEAR(sum, expected.get<double>(), mode == "seq-mean-token-mean" ? 1e-7 : 1e-12)
          << mode;
    }
  }
}

TEST(Verl, ClippedLossAndItsGradientAgree) {
  const auto golden = Golden();
  idx clipped = 0;
  idx clipped_lower = 0;
  for (const auto& c : golden.at("policy_loss")) {
    const std::string mode = c.at("mode");
    SCOPED_TRACE(mode);
    const double tolerance = mode == "seq-mean-token-mean" ? 1e-7 : 1e-12;
    const std::vector<idx> lengths = c.at("lengths");
    const std::vector<double> advantages = c.at("advantages");
    const AlgorithmConfig clip = {
        .clip_low = c.at("low"), .clip_high = c.at("high"), .clip_dual = c.at("dual")};
    const std::vector<double> w = TokenWeights(mode, lengths, c.at("norm"));
    double loss = 0;
    double tokens = 0;
    idx clipped_here = 0;
    idx lower_here = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      for (std::size_t t = 0; t < static_cast<std::size_t>(lengths[i]); ++t) {
        const TokenLoss token = PpoClipLoss(
            {c.at("policy_logprob")[i][t], c.at("rollout_logprob")[i][t], advantages[i]}, clip);
        loss += w[i] * token.loss;
        EXPECT_NEAR(w[i] * token.dlogprob, c.at("gradient")[i][t].get<double>(), tolerance);
        ++tokens;
        clipped_here += token.clipped;
        lower_here += token.clipped_lower;
      }
    }
    EXPECT_NEAR(loss, c.at("loss").get<double>(), tolerance);
    EXPECT_NEAR(static_cast<double>(clipped_here) / tokens, c.at("clip_fraction"), 1e-6);
    EXPECT_NEAR(static_cast<double>(lower_here) / tokens, c.at("clip_fraction_lower"), 1e-6);
    clipped += clipped_here;
    clipped_lower += lower_here;
  }
  EXPECT_GT(clipped, 20);
  EXPECT_GT(clipped_lower, 5);
}

}  // namespace
}  // namespace opo
