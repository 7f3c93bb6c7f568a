// Algorithms with a critic: generalised advantages, returns, the value loss, APA and AWR, the
// adaptive KL coefficient. Worked numbers, derivatives by complex step, verl and autograd.
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <fstream>
#include <nlohmann/json.hpp>

#include "algo/algorithm.h"
#include "base/error.h"

namespace opo {
namespace {

using nlohmann::json;
using Doubles = std::vector<double>;
using Ragged = std::vector<Doubles>;

json Golden(const char* name, const char* key) {
  std::ifstream file(std::string(OPO_SOURCE_DIR "/tests/algo/golden/") + name);
  return json::parse(file).at(key);
}

void ExpectNear(const Doubles& got, const Doubles& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], expected[i], tolerance) << i;
}

void ExpectNear(const Ragged& got, const Ragged& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) ExpectNear(got[i], expected[i], tolerance);
}

AlgorithmConfig Config(const char* name, double lambda, const char* whiten = "no") {
  AlgorithmConfig config = {.name = name};
  config.gae_lambda = lambda;
  config.whiten_advantages = whiten;
  return Resolved(config);
}

// One answer of three tokens.
const std::vector<float> kValues = {0.5f, 0.6f, 0.7f};
RewardBatch Answer(double reward) {
  RewardBatch batch = {{reward}, {3}, {0}};
  batch.values = {kValues};
  return batch;
}
AdvantageResult Compute(const AlgorithmConfig& config, const RewardBatch& batch) {
  return FindAlgorithm(config.name).advantages(batch, config);
}

// The numbers have six decimals, and the values are floats.
constexpr double kWorked = 1e-6;

TEST(Gae, WorkedExamples) {
  const AdvantageResult result = Compute(Config("ppo", 0.95), Answer(1));
  ExpectNear(result.token_advantages[0], {0.465750, 0.385000, 0.300000}, kWorked);
  ExpectNear(result.returns[0], {0.965750, 0.985000, 1.0}, kWorked);
  EXPECT_NEAR(result.advantages[0], (0.465750 + 0.385000 + 0.300000) / 3, kWorked);
  EXPECT_NEAR(result.baselines[0], 0.6, kWorked);
  ExpectNear(Compute(Config("ppo", 1), Answer(1)).token_advantages[0], {0.5, 0.4, 0.3}, kWorked);
  const AdvantageResult whitened = Compute(Config("ppo", 0.95, "yes"), Answer(1));
  ExpectNear(whitened.token_advantages[0], {0.991344, 0.017092, -1.008436}, 3e-6);
  EXPECT_EQ(whitened.returns, result.returns) << "taken before the whitening";
}

TEST(Gae, AKlPenaltyInTheReward) {
  RewardBatch batch = Answer(1);
  batch.token_penalties = {{0.01 * 0.1, 0.01 * -0.2, 0.01 * 0.3}};
  ExpectNear(Compute(Config("ppo", 0.95), batch).token_advantages[0],
             {0.463942, 0.384150, 0.297000}, kWorked);
}

// With lambda = 1 the values cancel: the return is that of the rewards alone.
TEST(Gae, AtLambdaOneTheReturnIsThatOfTheRewards) {
  RewardBatch batch = Answer(0.3);
  batch.token_penalties = {{0.25, -0.5, 0.125}};
  AlgorithmConfig config = Config("ppo", 1);
  config.gamma = 0.9;
  const double last = 0.3 - 0.125;
  ExpectNear(Compute(config, batch).returns[0],
             {-0.25 + 0.9 * (0.5 + 0.9 * last), 0.5 + 0.9 * last, last}, 1e-12);
}

TEST(Gae, AnAnswerThatGoesOnIsNotTakenForFinished) {
  RewardBatch batch = Answer(0);
  batch.unfinished = {true};
  ExpectNear(Compute(Config("t_ppo", 0.95), batch).token_advantages[0], {0.195, 0.1, 0}, kWorked);
  ExpectNear(Compute(Config("t_ppo", 1), batch).token_advantages[0], {0.2, 0.1, 0}, kWorked);
  AlgorithmConfig discounted = Config("t_ppo", 0.95);
  discounted.gamma = 0.99;
  ExpectNear(Compute(discounted, batch).token_advantages[0], {0.175275, 0.086416, -0.007}, kWorked);
  // A reward that was not asked has no say.
  batch.rewards = {17};
  ExpectNear(Compute(Config("t_ppo", 0.95), batch).token_advantages[0], {0.195, 0.1, 0}, kWorked);
  EXPECT_TRUE(Compute(Config("t_ppo", 0.95), batch).returns[0].empty()) << "the critic waits";
  // Finished it is ordinary GAE, with V = 0 behind the end.
  batch.unfinished = {false};
  batch.rewards = {0};
  ExpectNear(Compute(Config("t_ppo", 0.95), batch).token_advantages[0], {-0.43675, -0.565, -0.7},
             kWorked);
  EXPECT_EQ(Compute(Config("t_ppo", 0.95), Answer(1)).token_advantages,
            Compute(Config("ppo", 0.95), Answer(1)).token_advantages);
  ExpectNear(Compute(Config("t_ppo", 0.95), Answer(1)).returns[0], {1, 1, 1}, 0);
}

TEST(Gae, AnEmptyAnswerAndEqualAdvantages) {
  RewardBatch batch = {{1, 0}, {0, 1}, {0, 0}};
  const std::vector<float> value = {0.25f};
  batch.values = {{}, value};
  for (const char* name : {"ppo", "t_ppo", "apa", "awr"}) {
    const AdvantageResult result = Compute(Config(name, 0.95), batch);
    EXPECT_TRUE(result.token_advantages[0].empty()) << name;
    EXPECT_EQ(result.advantages[0], 0) << name;
  }
  // One token: nothing to compare it with.
  EXPECT_EQ(Compute(Config("ppo", 0.95, "yes"), batch).token_advantages[1][0], 0);
}

TEST(Awr, WeighsByTheExponentialOfTheAdvantage) {
  const AdvantageResult plain = Compute(Config("ppo", 0.95), Answer(1));
  const AdvantageResult weighted = Compute(Config("awr", 0.95), Answer(1));
  for (std::size_t t = 0; t < 3; ++t) {
    EXPECT_DOUBLE_EQ(weighted.token_advantages[0][t], std::exp(0.5 * plain.token_advantages[0][t]));
  }
  EXPECT_EQ(weighted.returns, plain.returns);
  EXPECT_NEAR(LikelihoodLoss({-1, -1, std::exp(0.5 * 0.03)}, {}).loss, 1.015113, 5e-7);
}

TEST(Apa, WorkedExample) {
  const TokenLoss loss = ApaLoss({-1, -5, 0.03, -1.2}, {.name = "apa"});
  EXPECT_NEAR(loss.loss, 0.01, 1e-12);
  EXPECT_NEAR(loss.dlogprob, -0.2, 1e-12);
  const TokenLoss still = ApaLoss({-1, -1, 0, -1}, {.name = "apa"});
  EXPECT_EQ(still.loss, 0);
  EXPECT_EQ(still.dlogprob, 0);
}

// At the reference an exact step of APA is the policy gradient with 2 A / apa_lambda.
TEST(Apa, WhereNothingMovedItIsAPolicyGradient) {
  for (const double advantage : {1.25, -0.5, 0.0}) {
    EXPECT_DOUBLE_EQ(ApaLoss({-2, -2, advantage, -2}, {.name = "apa"}).dlogprob,
                     -2 * advantage / 0.1);
  }
}

TEST(ValueLoss, WorkedExample) {
  const TokenLoss loss = ValueLoss(0.9, 0.5, 1.0, 0.2);
  EXPECT_NEAR(loss.loss, 0.045, 1e-12);
  EXPECT_EQ(loss.dlogprob, 0);
  EXPECT_TRUE(loss.clipped);
  const TokenLoss free = ValueLoss(0.9, 0.5, 1.0, 0);
  EXPECT_NEAR(free.loss, 0.005, 1e-12);
  EXPECT_NEAR(free.dlogprob, -0.1, 1e-12);
  EXPECT_FALSE(free.clipped);
}

// The losses once more, over complex numbers: branches by the real part.
using Complex = std::complex<double>;

Complex Clamp(Complex x, double low, double high) {
  if (x.real() < low) return low;
  return x.real() > high ? Complex(high) : x;
}

TEST(ValueLoss, DerivativeByComplexStep) {
  constexpr double h = 1e-30;
  int clipped = 0;
  int moving = 0;
  for (const double clip : {0.0, 0.2, 0.5}) {
    for (const double target : {-1.3, 0.1, 2.0}) {
      for (double v = -2; v < 3; v += 0.0371) {
        const Complex value(v, h);
        Complex loss = (value - target) * (value - target) / 2.0;
        if (clip > 0) {
          const Complex bounded = Clamp(value, 0.4 - clip, 0.4 + clip) - target;
          if ((bounded * bounded / 2.0).real() > loss.real()) loss = bounded * bounded / 2.0;
        }
        const TokenLoss got = ValueLoss(v, 0.4, target, clip);
        EXPECT_NEAR(got.loss, loss.real(), 1e-14);
        EXPECT_NEAR(got.dlogprob, loss.imag() / h, 1e-14 * (1 + std::abs(got.dlogprob)));
        ++(got.clipped ? clipped : moving);
      }
    }
  }
  EXPECT_GT(clipped, 100);
  EXPECT_GT(moving, 100);
}

TEST(Apa, DerivativeByComplexStep) {
  constexpr double h = 1e-30;
  for (const double lambda : {0.1, 1.0, 3.0}) {
    AlgorithmConfig config = {.name = "apa"};
    config.apa_lambda = lambda;
    for (const double advantage : {1.7, 0.0, -0.6}) {
      for (double lp = -9; lp < 0; lp += 0.173) {
        const Complex residual = Complex(lp, h) - (-1.5) - advantage / lambda;
        const TokenLoss got = ApaLoss({lp, -4, advantage, -1.5}, config);
        const Complex loss = residual * residual;
        EXPECT_NEAR(got.loss, loss.real(), 1e-12);
        EXPECT_NEAR(got.dlogprob, loss.imag() / h, 1e-12);
      }
    }
  }
}

TEST(KlCoef, WorkedExample) {
  EXPECT_NEAR(AdaptedKlCoef(0.001, 0.15, 0.1, 10000, 256), 0.00100512, 1e-14);
  EXPECT_EQ(AdaptedKlCoef(0.001, 0.1, 0.1, 10000, 256), 0.001);
  EXPECT_NEAR(AdaptedKlCoef(0.001, 0, 0.1, 10000, 256), 0.001 * (1 - 0.2 * 0.0256), 1e-18);
  try {
    AlgorithmConfig config = {.name = "ppo"};
    config.kl_target = 0.1;
    CheckAlgorithmConfig(config);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("algorithm.kl_coef"), std::string::npos);
  }
}

std::vector<std::span<const float>> Spans(const std::vector<std::vector<float>>& rows) {
  return {rows.begin(), rows.end()};
}

TEST(Verl, GaeValueLossClippedLossAndKlController) {
  int clipped_values = 0;
  int clipped_ratios = 0;
  const json cases = Golden("verl.json", "critic");
  ASSERT_EQ(cases.size(), 4U);
  for (const json& c : cases) {
    RewardBatch batch = {c.at("rewards"), c.at("lengths"), c.at("groups")};
    const auto values = c.at("values").get<std::vector<std::vector<float>>>();
    batch.values = Spans(values);
    batch.token_penalties = c.at("penalties").get<Ragged>();
    AlgorithmConfig config = Config("ppo", c.at("gae_lambda"), "yes");
    config.gamma = c.at("gamma");
    const AdvantageResult result = Compute(config, batch);
    // Where it whitens, verl adds 1e-8 to the number of tokens.
    ExpectNear(result.token_advantages, c.at("advantages").get<Ragged>(), 1e-7);
    ExpectNear(result.returns, c.at("returns").get<Ragged>(), 1e-12);

    const auto weights = TokenWeights("token-mean", batch.lengths, 0);
    const Ragged predicted = c.at("predicted");
    const Ragged policy = c.at("policy_logprob");
    double value_loss = 0;
    double loss = 0;
    double tokens = 0;
    int values_here = 0;
    int ratios_here = 0;
    for (std::size_t i = 0; i < predicted.size(); ++i) {
      for (std::size_t t = 0; t < predicted[i].size(); ++t) {
        const TokenLoss value = ValueLoss(predicted[i][t], static_cast<double>(values[i][t]),
                                          result.returns[i][t], c.at("clip"));
        value_loss += weights[i] * value.loss;
        EXPECT_NEAR(weights[i] * value.dlogprob, c.at("value_gradient")[i][t].get<double>(), 1e-12);
        values_here += value.clipped;
        const TokenLoss token =
            PpoClipLoss({policy[i][t], c.at("rollout_logprob")[i][t].get<double>(),
                         result.token_advantages[i][t]},
                        config);
        loss += weights[i] * token.loss;
        EXPECT_NEAR(weights[i] * token.dlogprob, c.at("gradient")[i][t].get<double>(), 1e-7);
        ratios_here += token.clipped;
        ++tokens;
      }
    }
    EXPECT_NEAR(value_loss, c.at("value_loss").get<double>(), 1e-12);
    EXPECT_NEAR(values_here / tokens, c.at("value_clip_fraction").get<double>(), 1e-6);
    EXPECT_NEAR(loss, c.at("loss").get<double>(), 1e-7);
    EXPECT_NEAR(ratios_here / tokens, c.at("clip_fraction").get<double>(), 1e-6);
    clipped_values += values_here;
    clipped_ratios += ratios_here;
    double coef = 0.05;
    for (const double kl : c.at("kl")) coef = AdaptedKlCoef(coef, kl, 0.1, 200, 16);
    EXPECT_NEAR(coef, c.at("kl_coef").get<double>(), 1e-14);
  }
  EXPECT_GT(clipped_values, 5);
  EXPECT_GT(clipped_ratios, 5);
}

TEST(Torch, ApaAndAwrAgreeWithAutograd) {
  const json cases = Golden("torch.json", "critic_losses");
  ASSERT_EQ(cases.size(), 4U);
  for (const json& c : cases) {
    const std::string name = c.at("algorithm");
    SCOPED_TRACE(name);
    const double scale = c.at("scale");
    const std::vector<idx> lengths = c.at("lengths");
    const auto weights = TokenWeights("token-mean", lengths, 0);
    AlgorithmConfig config = Resolved({.name = name});
    config.apa_lambda = scale;
    double loss = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      for (std::size_t t = 0; t < static_cast<std::size_t>(lengths[i]); ++t) {
        LossToken token;
        token.policy = c.at("policy_logprob")[i][t];
        token.reference = c.at("reference_logprob")[i][t];
        const double advantage = c.at("advantages")[i][t];
        token.advantage = name == "awr" ? std::exp(scale * advantage) : advantage;
        const TokenLoss got = FindAlgorithm(name).token_loss(token, config);
        loss += weights[i] * got.loss;
        EXPECT_NEAR(weights[i] * got.dlogprob, c.at("gradient")[i][t].get<double>(), 1e-12);
      }
    }
    EXPECT_NEAR(loss, c.at("loss").get<double>(), 1e-12);
  }
}

}  // namespace
}  // namespace opo
