// Policies small enough to enumerate: the expected gradients of baselines, KL terms, EM policy
// gradient and REBEL, against their closed forms.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "algo/algorithm.h"

namespace opo {
namespace {

using Doubles = std::vector<double>;
constexpr std::size_t kAnswers = 3;
using Vector = std::array<double, kAnswers>;

Vector Softmax(const Vector& logits) {
  Vector p = {};
  double sum = 0;
  for (const double z : logits) sum += std::exp(z);
  for (std::size_t v = 0; v < kAnswers; ++v) p[v] = std::exp(logits[v]) / sum;
  return p;
}

// The gradient of log p(v) by the logits.
Vector Score(const Vector& p, std::size_t v) {
  Vector g = {-p[0], -p[1], -p[2]};
  g[v] += 1;
  return g;
}

void ExpectNear(const Vector& got, const Vector& expected, double tolerance) {
  for (std::size_t v = 0; v < kAnswers; ++v) EXPECT_NEAR(got[v], expected[v], tolerance) << v;
}

// Three Bernoulli(1/2) tokens, length 1 or 3, reward 1 where all that were sampled are 1.
struct Outcome {
  idx length = 0;
  double reward = 0;
  std::array<double, 3> score = {};
};

std::vector<Outcome> Outcomes() {
  std::vector<Outcome> outcomes;
  for (const idx length : {1, 3}) {
    for (int bits = 0; bits < 8; ++bits) {
      Outcome outcome{length, 1, {}};
      for (idx t = 0; t < length; ++t) {
        const double x = (bits >> t) & 1;
        outcome.score[static_cast<std::size_t>(t)] = x - 0.5;
        outcome.reward *= x;
      }
      outcomes.push_back(outcome);
    }
  }
  return outcomes;
}

// The expected gradient under a constant normaliser: the mean over every group of K outcomes.
Vector ExpectedGradient(std::string_view name, int k) {
  const std::vector<Outcome> outcomes = Outcomes();
  std::size_t groups = 1;
  for (int i = 0; i < k; ++i) groups *= outcomes.size();
  Vector mean = {};
  for (std::size_t number = 0; number < groups; ++number) {
    RewardBatch batch;
    std::vector<const Outcome*> members;
    for (std::size_t rest = number; members.size() < static_cast<std::size_t>(k);
         rest /= outcomes.size()) {
      const Outcome& outcome = outcomes[rest % outcomes.size()];
      members.push_back(&outcome);
      batch.rewards.push_back(outcome.reward);
      batch.lengths.push_back(outcome.length);
      batch.groups.push_back(0);
    }
    const Doubles a = FindAlgorithm(name).advantages(batch, {}).advantages;
    for (std::size_t i = 0; i < a.size(); ++i) {
      for (std::size_t v = 0; v < kAnswers; ++v) {
        mean[v] += a[i] * members[i]->score[v] / static_cast<double>(groups * a.size());
      }
    }
  }
  return mean;
}

TEST(Bias, InSampleBaselinesAreBiasedAndLeaveOneOutOnesAreNot) {
  const Vector truth = {0.156250, 0.031250, 0.031250};
  ExpectNear(ExpectedGradient("opo", 2), {0.089844, 0.011719, 0.011719}, 5e-7);
  ExpectNear(ExpectedGradient("opo", 4), {0.126270, 0.020410, 0.020410}, 5e-7);
  ExpectNear(ExpectedGradient("dr_grpo", 2), {0.078125, 0.015625, 0.015625}, 5e-7);
  ExpectNear(ExpectedGradient("rloo", 2), truth, 1e-12);
  ExpectNear(ExpectedGradient("opo_loo", 2), truth, 1e-12);
  ExpectNear(ExpectedGradient("opo_loo", 4), truth, 1e-12);
}

// One-token answers of a softmax: the token baseline's weight is the squared gradient norm itself,
// so its baseline is the optimal one, whatever lengths say.
TEST(Otb, OfOneTokenAnswersIsTheOptimalBaseline) {
  const Vector rewards = {1, 0, 0.5};
  const Vector p = Softmax({0.2, -0.1, 0.4});
  ExpectNear(p, {0.337585, 0.250089, 0.412327}, 5e-7);
  double sum_sq = 0;
  for (const double x : p) sum_sq += x * x;
  Doubles norms;
  Vector gradient = {};
  double mean_reward = 0;
  for (std::size_t v = 0; v < kAnswers; ++v) {
    const Vector g = Score(p, v);
    norms.push_back(g[0] * g[0] + g[1] * g[1] + g[2] * g[2]);
    EXPECT_NEAR(norms[v], 1 - 2 * p[v] + sum_sq, 1e-15);
    for (std::size_t u = 0; u < kAnswers; ++u) gradient[u] += p[v] * rewards[v] * g[u];
    mean_reward += p[v] * rewards[v];
  }
  ExpectNear({norms[0], norms[1], norms[2]}, {0.671352, 0.846343, 0.521868}, 5e-7);
  ExpectNear(gradient, {0.154024, -0.135985, -0.018038}, 1e-6);
  EXPECT_NEAR(mean_reward, 0.543748, 5e-7);

  std::vector<float> logprobs;  // each answer as often as it is likely
  RewardBatch batch;
  for (std::size_t v = 0; v < kAnswers; ++v) {
    for (int i = 0; i < static_cast<int>(std::lround(1e5 * p[v])); ++i) {
      batch.rewards.push_back(rewards[v]);
      batch.lengths.push_back(1);
      batch.groups.push_back(0);
      logprobs.push_back(static_cast<float>(std::log(p[v])));
    }
  }
  const std::vector<float> sums(logprobs.size(), static_cast<float>(sum_sq));
  for (std::size_t i = 0; i < logprobs.size(); ++i) {
    batch.logprobs.emplace_back(&logprobs[i], 1);
    batch.sum_sqs.emplace_back(&sums[i], 1);
  }
  const double optimal = FindAlgorithm("otb").advantages(batch, {}).baselines[0];
  EXPECT_NEAR(optimal, 0.511459, 5e-6);  // the counts round p to 1e-5
  EXPECT_NEAR(FindAlgorithm("opo").advantages(batch, {}).baselines[0], mean_reward, 5e-6);

  const auto variance = [&](double b) {
    double square = 0;
    for (std::size_t v = 0; v < kAnswers; ++v) {
      square += p[v] * (rewards[v] - b) * (rewards[v] - b) * norms[v];
    }
    return square - gradient[0] * gradient[0] - gradient[1] * gradient[1] -
           gradient[2] * gradient[2];
  };
  EXPECT_NEAR(variance(0), 0.237892, 1e-6);
  EXPECT_NEAR(variance(mean_reward), 0.067630, 1e-6);
  EXPECT_NEAR(variance(optimal), 0.066948, 1e-6);
  const double mean_norm = p[0] * norms[0] + p[1] * norms[1] + p[2] * norms[2];
  for (const double b : {-1.0, 0.2, 0.9}) {
    EXPECT_NEAR(variance(b) - variance(optimal), (b - optimal) * (b - optimal) * mean_norm, 2e-5);
  }
}

TEST(Kl, ExpectedValuesAndGradients) {
  const Vector p = {0.5, 0.3, 0.2};
  const Vector q = {0.4, 0.4, 0.2};
  struct Moments {
    double mean = 0;
    double std = 0;
    Vector gradient = {};
  };
  const auto moments = [&](const char* estimator) {
    Moments m;
    double square = 0;
    for (std::size_t v = 0; v < kAnswers; ++v) {
      const KlTerm term = KlPenalty(estimator, std::log(p[v]), std::log(q[v]));
      const Vector g = Score(p, v);
      m.mean += p[v] * term.value;
      square += p[v] * term.value * term.value;
      for (std::size_t u = 0; u < kAnswers; ++u) m.gradient[u] += p[v] * term.dlogprob * g[u];
    }
    m.std = std::sqrt(square - m.mean * m.mean);
    return m;
  };
  const Moments k1 = moments("k1");
  const Moments k2 = moments("k2");
  const Moments k3 = moments("k3");
  EXPECT_NEAR(k1.mean, 0.025267, 5e-7);
  EXPECT_NEAR(k2.mean, 0.024862, 5e-7);
  EXPECT_NEAR(k3.mean, 0.025267, 5e-7);
  EXPECT_NEAR(k1.std, 0.221554, 5e-7);
  EXPECT_NEAR(k2.std, 0.014335, 5e-7);
  EXPECT_NEAR(k3.std, 0.015956, 5e-7);
  ExpectNear(k1.gradient, {0, 0, 0}, 1e-15);
  ExpectNear(k2.gradient, {0.098938, -0.093885, -0.005053}, 5e-7);  // of KL(p || q)
  ExpectNear(k3.gradient, {0.1, -0.1, 0}, 1e-15);                   // p - q: of KL(q || p)
}

// Four answers, as often as p = [1/2, 1/4, 1/4] has them: their mean is the expectation.
const Vector kPolicy = {0.5, 0.25, 0.25};
const std::vector<std::size_t> kDrawn = {0, 0, 1, 2};
const RewardBatch kDrawnRewards = {{1, 1, 0, 0.25}, {1, 1, 1, 1}, {0, 0, 0, 0}};

Vector EmGradient(const char* weight) {
  const AlgorithmConfig config = {.name = "em_pg", .em_pg_weight = weight};
  const Doubles a = FindAlgorithm("em_pg").advantages(kDrawnRewards, config).advantages;
  const Doubles w = TokenWeights(Resolved(config).loss_agg, kDrawnRewards.lengths, 0);
  Vector gradient = {};
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double lp = std::log(kPolicy[kDrawn[i]]);
    const Vector g = Score(kPolicy, kDrawn[i]);
    const TokenLoss loss = LikelihoodLoss({lp, lp, a[i]}, config);
    EXPECT_EQ(loss.dlogprob, PolicyGradientLoss({lp, lp, a[i]}).dlogprob);
    for (std::size_t v = 0; v < kAnswers; ++v) gradient[v] -= w[i] * loss.dlogprob * g[v];
  }
  return gradient;
}

TEST(EmPg, FirstUpdateOfEachWeightingIsAGradientOfTheExpectedReward) {
  const Vector r = {1, 0, 0.25};
  const double mean = 0.5 * 1 + 0.25 * 0.25;
  Vector truth = {};
  for (std::size_t v = 0; v < kAnswers; ++v) truth[v] = kPolicy[v] * (r[v] - mean);
  ExpectNear(EmGradient("reward"), truth, 1e-15);
  ExpectNear(EmGradient("centred"), truth, 1e-15);
  for (double& x : truth) x /= mean;
  ExpectNear(EmGradient("posterior"), truth, 1e-15);  // of log E[r]
}

// What RebelLosses makes of logits: the loss, and its derivative by each answer's log-ratio.
struct RebelPoint {
  double loss = 0;
  Doubles slopes;
};

RebelPoint Rebel(const Vector& logits, double eta, const Doubles& moved = Doubles(4)) {
  static const std::vector<float> rollout = {std::log(0.5f), std::log(0.5f), std::log(0.25f),
                                             std::log(0.25f)};
  const AlgorithmConfig config = {.name = "rebel", .rebel_eta = eta};
  const Vector p = Softmax(logits);
  LossBatch batch;
  batch.rewards = kDrawnRewards.rewards;
  batch.groups = kDrawnRewards.groups;
  for (std::size_t i = 0; i < kDrawn.size(); ++i) {
    batch.policy.push_back({std::log(p[kDrawn[i]]) + moved[i]});
    batch.rollout.emplace_back(&rollout[i], 1);
  }
  const BatchLosses losses = RebelLosses(batch, config);
  const Doubles w = TokenWeights(Resolved(config).loss_agg, kDrawnRewards.lengths, 0);
  RebelPoint point;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    point.loss += w[i] * losses[i][0].loss;
    point.slopes.push_back(w[i] * losses[i][0].dlogprob);
  }
  return point;
}

Vector RebelGradient(const Vector& logits, double eta) {
  const RebelPoint point = Rebel(logits, eta);
  const Vector p = Softmax(logits);
  Vector gradient = {};
  for (std::size_t i = 0; i < kDrawn.size(); ++i) {
    const Vector g = Score(p, kDrawn[i]);
    for (std::size_t v = 0; v < kAnswers; ++v) gradient[v] += point.slopes[i] * g[v];
  }
  return gradient;
}

const Vector kStart = {std::log(0.5), std::log(0.25), std::log(0.25)};

TEST(Rebel, ItsMinimiserIsThePolicyTiltedByTheReward) {
  for (const double eta : {0.5, 2.0}) {
    Vector logits = kStart;
    for (int step = 0; step < 2000; ++step) {
      const Vector gradient = RebelGradient(logits, eta);
      for (std::size_t v = 0; v < kAnswers; ++v) logits[v] -= 0.2 * gradient[v];
    }
    ExpectNear(Softmax(logits), Softmax({kStart[0] + eta * 1, kStart[1], kStart[2] + eta * 0.25}),
               1e-7);
    EXPECT_NEAR(Rebel(logits, eta).loss, 0, 1e-12);
  }
}

// Solves m x = y with x[2] = 0: a softmax does not notice a common shift of its logits.
Vector SolveWithoutShift(const std::array<Vector, kAnswers>& m, const Vector& y) {
  const double determinant = m[0][0] * m[1][1] - m[0][1] * m[1][0];
  return {(y[0] * m[1][1] - m[0][1] * y[1]) / determinant,
          (m[0][0] * y[1] - y[0] * m[1][0]) / determinant, 0};
}

TEST(Rebel, OneGaussNewtonStepIsTheNaturalGradient) {
  const double eta = 0.7;
  // Residuals are linear in the log-ratios, so the slopes are: their differences are the curvature.
  const RebelPoint here = Rebel(kStart, eta);
  std::array<Vector, kAnswers> curvature = {};
  for (std::size_t k = 0; k < kDrawn.size(); ++k) {
    Doubles moved(kDrawn.size());
    moved[k] = 1;
    const RebelPoint there = Rebel(kStart, eta, moved);
    for (std::size_t i = 0; i < kDrawn.size(); ++i) {
      const double c = there.slopes[i] - here.slopes[i];
      const Vector gi = Score(kPolicy, kDrawn[i]);
      const Vector gk = Score(kPolicy, kDrawn[k]);
      for (std::size_t u = 0; u < kAnswers; ++u) {
        for (std::size_t v = 0; v < kAnswers; ++v) curvature[u][v] += gi[u] * c * gk[v];
      }
    }
  }
  Vector downhill = RebelGradient(kStart, eta);
  for (double& x : downhill) x = -x;
  const Vector step = SolveWithoutShift(curvature, downhill);

  std::array<Vector, kAnswers> fisher = {};
  Vector gradient = {};  // of eta E[r]
  const Vector r = {1, 0, 0.25};
  for (std::size_t v = 0; v < kAnswers; ++v) {
    const Vector g = Score(kPolicy, v);
    for (std::size_t u = 0; u < kAnswers; ++u) {
      gradient[u] += kPolicy[v] * eta * r[v] * g[u];
      for (std::size_t x = 0; x < kAnswers; ++x) fisher[u][x] += kPolicy[v] * g[u] * g[x];
    }
  }
  ExpectNear(step, SolveWithoutShift(fisher, gradient), 1e-7);  // rollout log-probs are floats
  // And it lands on the minimiser.
  ExpectNear(Softmax({kStart[0] + step[0], kStart[1] + step[1], kStart[2] + step[2]}),
             Softmax({kStart[0] + eta, kStart[1], kStart[2] + 0.25 * eta}), 1e-7);
}

}  // namespace
}  // namespace opo
