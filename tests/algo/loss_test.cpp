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
    const auto a = FindAlgorithm(algorithm).advantages(batch).advantages;
    const auto w = TokenWeights(mode, batch.lengths, 0);
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      sum += w[i] * static_cast<double>(batch.lengths[i]) * PolicyGradientLoss(a[i]).loss;
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

double ClipLoss(double ratio, double advantage, const ClipConfig& clip) {
  return PpoClipLoss(std::log(ratio), 0.0, advantage, clip).loss;
}

TEST(PpoClip, WorkedExamples) {
  const ClipConfig no_dual = {.low = 0.2, .high = 0.2, .dual = 0};
  EXPECT_NEAR(ClipLoss(1.3, 1, no_dual), -1.2, 1e-12);
  EXPECT_NEAR(ClipLoss(1.3, -1, no_dual), 1.3, 1e-12);
  EXPECT_NEAR(ClipLoss(0.7, 1, no_dual), -0.7, 1e-12);
  EXPECT_NEAR(ClipLoss(0.7, -1, no_dual), 0.8, 1e-12);
  EXPECT_NEAR(ClipLoss(5, -1, no_dual), 5.0, 1e-12);
  EXPECT_NEAR(ClipLoss(5, -1, ClipConfig{}), 3.0, 1e-12);
  EXPECT_NEAR(ClipLoss(1.3, 1, {.low = 0.2, .high = 0.28, .dual = 3}), -1.28, 1e-12);
}

TEST(PpoClip, SaysWhichClipIsActive) {
  const auto at = [](double ratio, double advantage) {
    return PpoClipLoss(std::log(ratio), 0, advantage, ClipConfig{});
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
    const TokenLoss clip = PpoClipLoss(-2.5, -2.5, advantage, ClipConfig{});
    const TokenLoss plain = PolicyGradientLoss(advantage);
    EXPECT_EQ(clip.loss, plain.loss);
    EXPECT_EQ(clip.dlogprob, plain.dlogprob);
    EXPECT_FALSE(clip.clipped);
  }
}

TEST(PpoClip, DerivativeIsThatOfTheLoss) {
  const double h = 1e-6;
  int moving = 0;
  int still = 0;
  for (const ClipConfig clip : {ClipConfig{}, ClipConfig{.low = 0.1, .high = 0.4, .dual = 0}}) {
    for (const double advantage : {1.3, -0.7, 2.0, -3.0}) {
      for (double d = -21.037; d<21; d += d> - 3 && d < 3 ? 0.0173 : 0.97) {
        const auto loss = [&](double x) { return PpoClipLoss(x, -1.5, advantage, clip).loss; };
        const double lp = d - 1.5;
        const double slope = (loss(lp + h) - loss(lp - h)) / (2 * h);
        const double got = PpoClipLoss(lp, -1.5, advantage, clip).dlogprob;
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
    const TokenLoss got = PolicyGradientLoss(advantage);
    EXPECT_NEAR(got.dlogprob, slope, 1e-9);
    EXPECT_NEAR(got.loss, surrogate(-1.5), 1e-15);
  }
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
    const ClipConfig clip = {.low = c.at("low"), .high = c.at("high"), .dual = c.at("dual")};
    const std::vector<double> w = TokenWeights(mode, lengths, c.at("norm"));
    double loss = 0;
    double tokens = 0;
    idx clipped_here = 0;
    idx lower_here = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      for (std::size_t t = 0; t < static_cast<std::size_t>(lengths[i]); ++t) {
        const TokenLoss token = PpoClipLoss(c.at("policy_logprob")[i][t],
                                            c.at("rollout_logprob")[i][t], advantages[i], clip);
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
