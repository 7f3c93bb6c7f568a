// Losses of reward models, step critics and direct advantages: worked numbers, derivatives by the
// complex step, and TRL's own RewardTrainer (tools/make_reward_goldens.py).
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "algo/algorithm.h"
#include "base/error.h"

namespace opo {
namespace {

using Doubles = std::vector<double>;
using Complex = std::complex<double>;

// Answers of two tokens, the first of which has no say, in groups of these sizes.
LossBatch Scores(const Doubles& scores, const std::vector<idx>& sizes) {
  LossBatch batch;
  for (const double score : scores) batch.policy.push_back({9.5, score});
  batch.rewards.resize(scores.size());
  for (std::size_t g = 0; g < sizes.size(); ++g) {
    batch.groups.insert(batch.groups.end(), static_cast<std::size_t>(sizes[g]),
                        static_cast<idx>(g));
  }
  return batch;
}

// Weighed as in training; REQUIRES that answers have two tokens.
double MeanLoss(const BatchLosses& losses) {
  double sum = 0;
  const auto weights = TokenWeights("seq-mean-token-sum", std::vector<idx>(losses.size(), 2), 0);
  for (std::size_t i = 0; i < losses.size(); ++i) {
    EXPECT_EQ(losses[i][0].loss, 0.0);
    EXPECT_EQ(losses[i][0].dlogprob, 0.0);
    sum += weights[i] * losses[i][1].loss;
  }
  return sum;
}
Doubles Gradient(const BatchLosses& losses) {
  Doubles gradient;
  for (const auto& tokens : losses) {
    gradient.push_back(tokens.back().dlogprob / static_cast<double>(losses.size()));
  }
  return gradient;
}

TEST(RewardModel, WorkedExample) {
  const BatchLosses losses = RewardModelLosses(Scores({1.2, 0.4}, {2}), {.name = "reward_model"});
  EXPECT_NEAR(MeanLoss(losses), 0.371101, 5e-7);
  EXPECT_NEAR(Gradient(losses)[0], -0.310026, 5e-7);
  EXPECT_NEAR(Gradient(losses)[1], 0.310026, 5e-7);
}

TEST(RewardModel, EqualScoresCostLog2AndAMarginMovesThem) {
  LossBatch batch = Scores({0.7, 0.7}, {2});
  const AlgorithmConfig config = {.name = "reward_model"};
  EXPECT_NEAR(MeanLoss(RewardModelLosses(batch, config)), std::log(2.0), 1e-15);
  batch.rewards = {0.8, 0};  // as if the scores were 0.8 apart the other way
  EXPECT_NEAR(MeanLoss(RewardModelLosses(batch, config)), 1.171101, 5e-7);
  const AlgorithmConfig without = {.name = "reward_model", .margin_coef = 0};
  EXPECT_EQ(MeanLoss(RewardModelLosses(batch, without)), std::log(2.0));
}

TEST(RewardModel, FarApartScoresAreFinite) {
  const BatchLosses wrong = RewardModelLosses(Scores({-2000, 2000}, {2}), {});
  EXPECT_EQ(MeanLoss(wrong), 4000.0);
  EXPECT_EQ(Gradient(wrong)[0], -1.0);
  const BatchLosses right = RewardModelLosses(Scores({2000, -2000}, {2}), {});
  EXPECT_EQ(MeanLoss(right), 0.0);
  EXPECT_EQ(Gradient(right)[0], 0.0);
}

TEST(RewardModel, LossAndGradientAreTrls) {
  std::ifstream file(OPO_SOURCE_DIR "/tests/algo/golden/trl_reward.json");
  const auto golden = nlohmann::json::parse(file);
  std::size_t compared = 0;
  for (const auto& c : golden.at("cases")) {
    const Doubles chosen = c.at("chosen");
    const Doubles rejected = c.at("rejected");
    Doubles scores;
    for (std::size_t p = 0; p < chosen.size(); ++p) {
      scores.push_back(chosen[p]);
      scores.push_back(rejected[p]);
    }
    LossBatch batch = Scores(scores, std::vector<idx>(chosen.size(), 2));
    const Doubles margins = c.at("margin");
    for (std::size_t p = 0; p < margins.size(); ++p) batch.rewards[2 * p] = margins[p];
    const BatchLosses losses =
        RewardModelLosses(batch, {.name = "reward_model", .center_coef = c.at("center")});
    // Both are sums of a few doubles of size 10 at most.
    EXPECT_NEAR(MeanLoss(losses), c.at("loss").get<double>(), 1e-14);
    const Doubles gradient = Gradient(losses);
    for (std::size_t p = 0; p < chosen.size(); ++p) {
      EXPECT_NEAR(gradient[2 * p], c.at("dchosen")[p].get<double>(), 1e-15);
      EXPECT_NEAR(gradient[2 * p + 1], c.at("drejected")[p].get<double>(), 1e-15);
      compared += 2;
    }
  }
  EXPECT_EQ(compared, 48U);
}

TEST(Aihf, WorkedExampleOfTheDemonstrationTerm) {
  LossBatch batch = Scores({1.0, 0.6, 0.2}, {3});
  batch.demonstrations = {true};
  const BatchLosses losses = RewardModelLosses(batch, {.name = "aihf"});
  EXPECT_NEAR(MeanLoss(losses), -0.6, 1e-15);
  const Doubles expected = {-1, 0.5, 0.5};
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(Gradient(losses)[i], expected[i], 1e-15);
  // With a pair beside it the two objectives add up.
  LossBatch both = Scores({1.0, 0.6, 0.2, 1.2, 0.4}, {3, 2});
  both.demonstrations = {true, false};
  EXPECT_NEAR(MeanLoss(RewardModelLosses(both, {.name = "aihf", .demo_weight = 0.5})),
              0.5 * -0.6 + 0.371101, 5e-7);
}

TEST(Aihf, ItsAdvantageIsThatOfItsBaseline) {
  const RewardBatch batch = {{0.2, 0.9, -0.5}, {7, 11, 2}, {0, 0, 0}};
  for (const char* baseline : {"opo", "rloo"}) {
    const AlgorithmConfig config = {.name = "aihf", .aihf_baseline = baseline};
    EXPECT_EQ(FindAlgorithm("aihf").advantages(batch, config).advantages,
              FindAlgorithm(baseline).advantages(batch, {}).advantages);
  }
}

Complex LogSigmoid(const Complex& x) { return -std::log(1.0 + std::exp(-x)); }

using Objective = std::function<Complex(const std::vector<Complex>& scores)>;

// The gradient of `losses` against that of the formula, by the complex step.
void ExpectDerivative(const BatchLosses& losses, const Doubles& scores, const Objective& formula) {
  const double h = 1e-30;
  const Doubles gradient = Gradient(losses);
  std::vector<Complex> at(scores.begin(), scores.end());
  EXPECT_NEAR(MeanLoss(losses), formula(at).real(), 1e-14);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    at[i] += Complex(0, h);
    EXPECT_NEAR(gradient[i], formula(at).imag() / h, 1e-14) << i;
    at[i] = scores[i];
  }
}

TEST(Derivatives, OfPairsAndDemonstrationsByTheComplexStep) {
  const Doubles s = {0.3, -1.1, 2.5, 0.4, -0.9, 0.2, 1.7, -0.6, -0.2};
  LossBatch batch = Scores(s, {2, 4, 3});
  batch.rewards = {0.9, 0.2, 5, 6, 7, 8, 9, 10, 11};  // of sampled answers they have no say
  batch.demonstrations = {false, true, true};
  for (const double center : {0.0, 0.03}) {
    const AlgorithmConfig config = {
        .name = "aihf", .margin_coef = 1.5, .center_coef = center, .demo_weight = 0.4};
    ExpectDerivative(RewardModelLosses(batch, config), s, [&](const std::vector<Complex>& x) {
      const Complex first = (x[3] + x[4] + x[5]) / 3.0;
      const Complex second = (x[7] + x[8]) / 2.0;
      const auto squared = [](const Complex& z) { return z * z; };
      return -LogSigmoid(x[0] - x[1] - 1.5 * 0.7) + center * squared(x[0] + x[1]) +
             (-0.4 * (x[2] - first + x[6] - second) +
              center * (squared(x[2] + first) + squared(x[6] + second))) /
                 2.0;
    });
  }
}

TEST(StepCritic, WorkedExample) {
  LossBatch batch = Scores({std::log(0.7 / 0.3)}, {1});
  batch.rewards = {10.0 / 16};
  const BatchLosses losses = StepCriticLosses(batch, {.name = "step_critic"});
  EXPECT_NEAR(MeanLoss(losses), 0.674412, 5e-7);
  EXPECT_NEAR(Gradient(losses)[0], 0.075, 1e-15);
}

TEST(Derivatives, OfTheStepCriticByTheComplexStep) {
  const Doubles s = {0.3, -1.1, 2.5};
  LossBatch batch = Scores(s, {1, 1, 1});
  batch.rewards = {0, 1, 0.375};
  ExpectDerivative(StepCriticLosses(batch, {}), s, [&](const std::vector<Complex>& x) {
    Complex sum = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      const Complex v = 1.0 / (1.0 + std::exp(-x[i]));
      sum -= batch.rewards[i] * std::log(v) + (1 - batch.rewards[i]) * std::log(1.0 - v);
    }
    return sum / 3.0;
  });
}

TEST(StepCritic, SureScoresAreFinite) {
  LossBatch batch = Scores({1000, -1000}, {1, 1});
  batch.rewards = {0, 0};
  const BatchLosses losses = StepCriticLosses(batch, {});
  EXPECT_EQ(losses[0][1].loss, 1000.0);
  EXPECT_EQ(losses[0][1].dlogprob, 1.0);
  EXPECT_EQ(losses[1][1].loss, 0.0);
  EXPECT_EQ(losses[1][1].dlogprob, 0.0);
}

struct Candidates {
  // One state; an answer's log-ratio is spread over `tokens` tokens.
  Candidates(const Doubles& q, const Doubles& log_ratios, std::size_t tokens) {
    const RewardBatch rewards = {q, std::vector<idx>(q.size(), static_cast<idx>(tokens)),
                                 std::vector<idx>(q.size(), 0)};
    const AdvantageResult result = FindAlgorithm("direct_advantage").advantages(rewards, {});
    batch.advantages = result.advantages;
    reference.assign(tokens, -1.5f);
    for (const double u : log_ratios) {
      batch.policy.emplace_back(tokens, -1.5 + u / static_cast<double>(tokens));
      batch.reference.emplace_back(reference);
    }
  }
  std::vector<float> reference;
  LossBatch batch;
};

TEST(DirectAdvantage, WorkedExample) {
  for (const std::size_t tokens : {1U, 4U}) {
    const Candidates c({0.9, 0.5, 0.4}, {0.1, 0, -0.1}, tokens);
    const Doubles advantages = {0.3, -0.1, -0.2};
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(c.batch.advantages[i], advantages[i], 1e-15);
    const AlgorithmConfig config = {.name = "direct_advantage", .step_beta = 0.02};
    const BatchLosses losses = DirectAdvantageLosses(c.batch, config);
    double loss = 0;
    for (const auto& answer : losses) {
      for (const TokenLoss& token : answer) loss += token.loss / 3;
    }
    EXPECT_NEAR(loss, 57.503333, 5e-7);
    const Doubles slopes = {-4.966667, 1.666667, 3.3};
    for (std::size_t i = 0; i < 3; ++i) {
      for (const TokenLoss& token : losses[i]) EXPECT_NEAR(token.dlogprob / 3, slopes[i], 5e-7);
    }
  }
}

TEST(DirectAdvantage, AtTheReferenceItIsAPolicyGradientOverBeta) {
  const Candidates c({1, 0.25, 0.5}, {0, 0, 0}, 3);
  const BatchLosses losses = DirectAdvantageLosses(c.batch, {.step_beta = 0.5});
  for (std::size_t i = 0; i < 3; ++i) {
    for (const TokenLoss& token : losses[i]) {
      EXPECT_EQ(token.dlogprob, -c.batch.advantages[i] / 0.5);
    }
  }
}

TEST(Derivatives, OfDirectAdvantageByTheComplexStep) {
  const Doubles u = {0.13, -0.4, 0.9};
  const Candidates c({0.9, 0.5, 0.1}, u, 2);
  const AlgorithmConfig config = {.step_beta = 0.05};
  const BatchLosses losses = DirectAdvantageLosses(c.batch, config);
  const double h = 1e-30;
  for (std::size_t i = 0; i < 3; ++i) {
    const Complex log_ratio(u[i], h);  // of one of its tokens, so of its sum
    const Complex residual = c.batch.advantages[i] / config.step_beta - log_ratio;
    const Complex loss = residual * residual / 2.0;
    for (const TokenLoss& token : losses[i]) {
      EXPECT_NEAR(token.dlogprob, loss.imag() / h, 1e-13);
      EXPECT_NEAR(token.loss * 2, loss.real(), 1e-13);
    }
  }
}

TEST(RewardModelDeathTest, APairOfThreeIsABug) {
  EXPECT_DEATH(RewardModelLosses(Scores({1, 2, 3}, {3}), {}), "CHECK failed");
  EXPECT_DEATH(RewardModelLosses(Scores({1}, {1}), {}), "CHECK failed");
}

}  // namespace
}  // namespace opo
