// Losses of preferences: worked numbers, derivatives by complex step, and what must be one.
#include "algo/preference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <random>

#include "base/error.h"

namespace opo {
namespace {

using Complex = std::complex<double>;

AlgorithmConfig Config(const char* name) { return Resolved({.name = name}); }

// Answers with their tokens' log-probs, which the batch's spans look into.
struct Answers {
  std::vector<std::vector<double>> policy;
  std::vector<std::vector<float>> reference;
  std::vector<double> rewards;
  std::vector<idx> groups;
  std::vector<double> refined;
  std::vector<std::vector<bool>> learned;

  void Add(idx group, std::vector<double> lp, std::vector<float> ref, double reward = 0,
           double judged = 0) {
    policy.push_back(std::move(lp));
    reference.push_back(std::move(ref));
    groups.push_back(group);
    rewards.push_back(reward);
    refined.push_back(judged);
  }
  LossBatch Batch() const {
    LossBatch batch;
    batch.policy = policy;
    for (const std::vector<float>& tokens : reference) {
      batch.reference.emplace_back(tokens);
      batch.rollout.emplace_back(tokens);
    }
    batch.rewards = rewards;
    batch.advantages.resize(policy.size());
    batch.groups = groups;
    batch.refined = refined;
    batch.learned = learned;
    return batch;
  }
};

// By seq-mean-token-sum: the loss, and each token's derivative with its weight.
struct Weighed {
  double loss = 0;
  std::vector<std::vector<double>> slopes;
};

Weighed Weigh(const LossBatch& batch, const AlgorithmConfig& config) {
  std::vector<idx> lengths;
  for (const auto& tokens : batch.policy) lengths.push_back(static_cast<idx>(tokens.size()));
  const std::vector<double> weights = TokenWeights(config.loss_agg, lengths, 0);
  const BatchLosses losses = FindAlgorithm(config.name).batch_loss(batch, config);
  Weighed result;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    result.slopes.emplace_back();
    for (const TokenLoss& token : losses[i]) {
      result.loss += weights[i] * token.loss;
      result.slopes[i].push_back(weights[i] * token.dlogprob);
    }
  }
  return result;
}

// The pair of the worked numbers: lp(y+) = -10 in 4 tokens, ref -12; lp(y-) = -15 in 5, ref -14.
Answers WorkedPair() {
  Answers pair;
  // The refinement prompt: y+ -9 / ref -10.5, y- -14.5 / ref -14.
  pair.Add(0, {-1, -2, -3, -4}, {-3, -3, -3, -3}, 1, 1.5);
  pair.Add(0, {-3, -3, -3, -3, -3}, {-2, -3, -4, -1, -4}, 0, -0.5);
  return pair;
}

TEST(Preference, WorkedExamples) {
  const Answers pair = WorkedPair();
  const LossBatch batch = pair.Batch();
  EXPECT_EQ(LogRatio(batch, 0), 2);
  EXPECT_EQ(LogRatio(batch, 1), -1);

  const Weighed dpo = Weigh(batch, Config("dpo"));
  EXPECT_NEAR(dpo.loss, 0.554355, 5e-7);
  for (const double slope : dpo.slopes[0]) EXPECT_NEAR(slope, -0.042556, 5e-7);
  for (const double slope : dpo.slopes[1]) EXPECT_NEAR(slope, 0.042556, 5e-7);

  AlgorithmConfig smoothed = Config("dpo");
  smoothed.label_smoothing = 0.1;
  EXPECT_NEAR(Weigh(batch, smoothed).loss, 0.584355, 5e-7);

  AlgorithmConfig ipo = Config("ipo");
  EXPECT_NEAR(Weigh(batch, ipo).loss, 18.49, 1e-12);
  ipo.divide_by_length = false;
  EXPECT_NEAR(Weigh(batch, ipo).loss, 4, 1e-12);
  EXPECT_NEAR(Weigh(batch, ipo).slopes[0][0], -4, 1e-12);
  EXPECT_NEAR(Weigh(batch, ipo).slopes[1][4], 4, 1e-12);

  const Weighed sr_dpo = Weigh(batch, Config("sr_dpo"));
  EXPECT_NEAR(sr_dpo.loss, 0.598139, 5e-7);
  EXPECT_NEAR(sr_dpo.slopes[0][2], -0.045017, 5e-7);
  AlgorithmConfig sr_ipo = Config("sr_ipo");
  sr_ipo.divide_by_length = false;
  EXPECT_NEAR(Weigh(batch, sr_ipo).loss, 4.41, 1e-12);
  // Divided: 0.7 - 0.5 * 0.1 * (1.5 / 4 + 0.5 / 5) - 5.
  sr_ipo.divide_by_length = true;
  EXPECT_NEAR(Weigh(batch, sr_ipo).loss, std::pow(0.7 - 0.05 * 0.475 - 5, 2), 1e-12);

  Answers direct = WorkedPair();
  direct.Add(1, {-4, -6}, {-1, -1}, 1);
  AlgorithmConfig aihf = Config("aihf_direct");
  aihf.demo_weight = 0.5;
  EXPECT_NEAR(Weigh(direct.Batch(), aihf).loss, 5.554355, 5e-7);
}

TEST(Preference, WherePolicyIsReferenceTheLossIsLog2) {
  Answers pair;
  pair.Add(0, {-1.5, -0.25}, {-1.5f, -0.25f}, 1);
  pair.Add(0, {-2.5}, {-2.5f}, 0);
  EXPECT_EQ(Weigh(pair.Batch(), Config("dpo")).loss, std::log(2.0));
  EXPECT_EQ(Weigh(pair.Batch(), Config("online_dpo")).loss, std::log(2.0));
}

TEST(Preference, TheSameAnswerTwiceHasLog2AndNoGradient) {
  for (const char* name : {"dpo", "ipo", "sr_dpo", "sr_ipo", "online_dpo", "aihf_direct"}) {
    Answers pair;
    pair.Add(0, {-1.5, -0.25}, {-1.0f, -0.5f}, 1);
    pair.Add(0, {-1.5, -0.25}, {-1.0f, -0.5f}, 0);
    const Weighed same = Weigh(pair.Batch(), Config(name));
    if (std::string(name).find("ipo") == std::string::npos) {
      EXPECT_NEAR(same.loss, std::log(2.0), 1e-15);
    }
    for (const auto& answer : same.slopes) {
      for (const double slope : answer) EXPECT_EQ(slope, 0) << name;
    }
    pair.policy[1][0] = -1.25;
    EXPECT_NE(Weigh(pair.Batch(), Config(name)).slopes[0][0], 0) << name;
  }
}

TEST(Preference, LargeLogRatiosStayFinite) {
  for (const double lp : {-1e6, 1e6}) {
    Answers pair;
    pair.Add(0, {lp}, {0.0f});
    pair.Add(0, {0.0}, {0.0f});
    const Weighed dpo = Weigh(pair.Batch(), Config("dpo"));
    EXPECT_NEAR(dpo.loss, lp < 0 ? 1e5 : 0, 1e-6);
    EXPECT_NEAR(dpo.slopes[0][0], lp < 0 ? -0.1 : 0, 1e-15);
  }
}

// Three pairs, ragged, with tokens that are not learned, and two demonstrations for those who take
// them.
Answers Ragged(bool demonstrations) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal(-2, 1);
  Answers answers;
  const auto tokens = [&](std::size_t n) {
    std::vector<double> lp(n);
    for (double& x : lp) x = normal(random);
    return lp;
  };
  const std::size_t lengths[] = {3, 5, 1, 4, 2, 6};
  for (std::size_t i = 0; i < 6; ++i) {
    const std::vector<double> ref = tokens(lengths[i]);
    answers.Add(static_cast<idx>(i / 2), tokens(lengths[i]), {ref.begin(), ref.end()},
                i % 2 == 0 ? 1 : 0, normal(random));
  }
  if (demonstrations) {
    for (const idx group : {3, 4}) answers.Add(group, tokens(3), {-1, -1, -1}, 1);
  }
  answers.learned.resize(answers.policy.size());
  answers.learned[1] = {true, false, true, true, false};
  return answers;
}

// The formulas once more, for complex numbers.
Complex LossOf(const std::string& name, const AlgorithmConfig& config,
               const std::vector<std::vector<Complex>>& policy, const Answers& answers) {
  const bool squares = name.find("ipo") != std::string::npos;
  const bool refined = name.starts_with("sr_");
  Complex pairs = 0;
  Complex demonstrations = 0;
  double num_pairs = 0;
  double num_demonstrations = 0;
  const auto log_ratio = [&](std::size_t i) {
    Complex sum = 0;
    double length = 0;
    for (std::size_t t = 0; t < policy[i].size(); ++t) {
      if (!answers.learned[i].empty() && !answers.learned[i][t]) continue;
      sum += policy[i][t] - double{answers.reference[i][t]};
      ++length;
    }
    const bool divide = squares && config.divide_by_length;
    return std::pair(divide ? sum / length : sum, divide ? length : 1.0);
  };
  for (std::size_t i = 0; i < policy.size(); ++i) {
    const bool alone = (i == 0 || answers.groups[i - 1] != answers.groups[i]) &&
                       (i + 1 == policy.size() || answers.groups[i + 1] != answers.groups[i]);
    if (alone) {
      for (const Complex& lp : policy[i]) demonstrations -= lp;
      ++num_demonstrations;
    } else if (i + 1 < policy.size() && answers.groups[i + 1] == answers.groups[i]) {
      const auto [chosen, chosen_length] = log_ratio(i);
      const auto [rejected, rejected_length] = log_ratio(i + 1);
      const double margin =
          refined
              ? config.sr_lambda * config.beta *
                    (answers.refined[i] / chosen_length - answers.refined[i + 1] / rejected_length)
              : 0.0;
      const Complex h = chosen - rejected;
      if (squares) {
        const Complex d = h - margin - 1 / (2 * config.beta);
        pairs += d * d;
      } else {
        const Complex z = config.beta * h - margin;
        const double e = config.label_smoothing;
        pairs += -(1 - e) * std::log(1.0 / (1.0 + std::exp(-z))) -
                 e * std::log(1.0 / (1.0 + std::exp(z)));
      }
      ++num_pairs;
    }
  }
  Complex loss = pairs / num_pairs;
  if (num_demonstrations > 0) loss += config.demo_weight * demonstrations / num_demonstrations;
  return loss;
}

TEST(Preference, EveryDerivativeIsThatOfTheComplexStep) {
  constexpr double kStep = 1e-30;
  for (const char* name : {"dpo", "ipo", "sr_dpo", "sr_ipo", "online_dpo", "aihf_direct"}) {
    for (const bool other : {false, true}) {
      SCOPED_TRACE(name);
      AlgorithmConfig config = Config(name);
      const Algorithm& algorithm = FindAlgorithm(name);
      config.beta = 0.3;
      if (other && algorithm.HasKey("label_smoothing")) config.label_smoothing = 0.2;
      if (other && algorithm.HasKey("divide_by_length")) config.divide_by_length = false;
      if (other && algorithm.HasKey("demo_weight")) config.demo_weight = 0.3;
      const Answers answers = Ragged(algorithm.HasKey("demo_weight"));
      const Weighed got = Weigh(answers.Batch(), config);
      std::vector<std::vector<Complex>> policy;
      for (const auto& tokens : answers.policy) policy.emplace_back(tokens.begin(), tokens.end());
      EXPECT_NEAR(got.loss, LossOf(name, config, policy, answers).real(), 1e-12);
      for (std::size_t i = 0; i < policy.size(); ++i) {
        for (std::size_t t = 0; t < policy[i].size(); ++t) {
          policy[i][t] += Complex(0, kStep);
          const double want = LossOf(name, config, policy, answers).imag() / kStep;
          policy[i][t] -= Complex(0, kStep);
          // A few operations in double.
          EXPECT_NEAR(got.slopes[i][t], want, 1e-13) << i << " " << t;
          const bool learned = answers.learned[i].empty() || answers.learned[i][t];
          EXPECT_EQ(got.slopes[i][t] != 0, learned);
        }
      }
    }
  }
}

void ExpectSameBits(const BatchLosses& a, const BatchLosses& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].size(), b[i].size());
    for (std::size_t t = 0; t < a[i].size(); ++t) {
      EXPECT_EQ(a[i][t].loss, b[i][t].loss);
      EXPECT_EQ(a[i][t].dlogprob, b[i][t].dlogprob);
    }
  }
}

TEST(Preference, WithLambda0SelfRefinementIsPlainBitForBit) {
  const Answers answers = Ragged(false);
  for (const bool divide : {true, false}) {
    AlgorithmConfig sr = Config("sr_ipo");
    AlgorithmConfig plain = Config("ipo");
    sr.sr_lambda = 0;
    sr.divide_by_length = plain.divide_by_length = divide;
    ExpectSameBits(SrIpoLosses(answers.Batch(), sr), IpoLosses(answers.Batch(), plain));
    sr.sr_lambda = 0.5;
    EXPECT_NE(SrIpoLosses(answers.Batch(), sr)[0][0].dlogprob,
              IpoLosses(answers.Batch(), plain)[0][0].dlogprob);
  }
  AlgorithmConfig sr = Config("sr_dpo");
  sr.sr_lambda = 0;
  ExpectSameBits(SrDpoLosses(answers.Batch(), sr), DpoLosses(answers.Batch(), Config("dpo")));
}

// Were the margin the loss's own log-ratio, a derivative through it would scale the slope by
// 1 - sr_lambda. It only moves where the slope is taken.
TEST(Preference, NothingComesThroughTheMargin) {
  Answers pair = WorkedPair();
  pair.refined = {LogRatio(pair.Batch(), 0), LogRatio(pair.Batch(), 1)};
  const Weighed got = Weigh(pair.Batch(), Config("sr_dpo"));
  const double z = 0.1 * 3 * (1 - 0.5);
  EXPECT_NEAR(got.slopes[0][0], -0.1 / (1 + std::exp(z)), 1e-15);
}

TEST(Preference, SwappingAPairMirrorsIt) {
  Answers pair = WorkedPair();
  Answers swapped;
  for (const std::size_t i : {1, 0}) {
    swapped.Add(0, pair.policy[i], pair.reference[i], pair.rewards[i], pair.refined[i]);
  }
  // log sigmoid(z) - log sigmoid(-z) = z, and the slopes' sizes add up to beta.
  const Weighed a = Weigh(pair.Batch(), Config("dpo"));
  const Weighed b = Weigh(swapped.Batch(), Config("dpo"));
  EXPECT_NEAR(b.loss - a.loss, 0.3, 1e-15);
  EXPECT_NEAR(std::abs(a.slopes[0][0]) + std::abs(b.slopes[1][0]), 0.1, 1e-15);
  // online_dpo takes its pair from the rewards, wherever the answers stand.
  const Weighed c = Weigh(pair.Batch(), Config("online_dpo"));
  const Weighed d = Weigh(swapped.Batch(), Config("online_dpo"));
  EXPECT_EQ(c.loss, a.loss);
  EXPECT_EQ(d.loss, a.loss);
  EXPECT_EQ(c.slopes[0], d.slopes[1]);
}

TEST(OnlineDpo, TheBestAndTheWorstArePairsAndTiesAreSkipped) {
  const std::vector<double> rewards = {0.2, 0.9, -0.5, 0.9, -0.5, 1, 1, 3};
  const std::vector<idx> groups = {0, 0, 0, 0, 0, 1, 1, 2};
  const std::vector<AnswerPair> pairs = BestAndWorst(rewards, groups);
  ASSERT_EQ(pairs.size(), 1U);
  EXPECT_EQ(pairs[0].chosen, 1U);
  EXPECT_EQ(pairs[0].rejected, 2U);
  EXPECT_TRUE(BestAndWorst({}, {}).empty());

  // The mean is over pairs: answers that are in none do not thin it out.
  Answers alone = WorkedPair();
  Answers among = WorkedPair();
  among.Add(0, {-1, -1}, {-2, -2}, 0.5);
  among.Add(1, {-1, -1}, {-2, -2}, 1);
  among.Add(1, {-1}, {-2}, 1);
  const Weighed a = Weigh(alone.Batch(), Config("online_dpo"));
  const Weighed b = Weigh(among.Batch(), Config("online_dpo"));
  EXPECT_NEAR(a.loss, b.loss, 1e-15);
  EXPECT_NEAR(a.slopes[0][0], b.slopes[0][0], 1e-15);
  for (const std::size_t i : {2, 3, 4}) EXPECT_EQ(b.slopes[i][0], 0);
}

TEST(AihfDirect, OfPairsAloneItIsDpoAndOfDemonstrationsAloneTheirLikelihood) {
  const Answers pairs = Ragged(false);
  for (const double weight : {0.0, 0.5}) {
    AlgorithmConfig config = Config("aihf_direct");
    config.demo_weight = weight;
    ExpectSameBits(AihfDirectLosses(pairs.Batch(), config),
                   DpoLosses(pairs.Batch(), Config("dpo")));
  }
  // With weight 0 demonstrations change nothing of the pairs but a rounding of their scale.
  AlgorithmConfig none = Config("aihf_direct");
  none.demo_weight = 0;
  Answers dpo = Ragged(true);
  const Weighed both = Weigh(dpo.Batch(), none);
  Answers first = dpo;
  for (auto* list : {&first.policy}) list->resize(6);
  first.reference.resize(6);
  first.groups.resize(6);
  first.learned.resize(6);
  const Weighed alone = Weigh(first.Batch(), Config("dpo"));
  EXPECT_NEAR(both.loss, alone.loss, 1e-15);
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t t = 0; t < alone.slopes[i].size(); ++t) {
      EXPECT_NEAR(both.slopes[i][t], alone.slopes[i][t], 1e-16);
    }
  }
  EXPECT_EQ(both.slopes[6][0], 0);

  Answers demonstrations;
  demonstrations.Add(0, {-1, -2, -0.5}, {-1, -1, -1}, 1);
  demonstrations.Add(1, {-3}, {-1}, 1);
  const BatchLosses got = AihfDirectLosses(demonstrations.Batch(), Config("aihf_direct"));
  BatchLosses likelihood;
  for (const auto& tokens : demonstrations.policy) {
    likelihood.emplace_back();
    for (const double lp : tokens) {
      likelihood.back().push_back(LikelihoodLoss({.policy = lp, .advantage = 1}, {}));
    }
  }
  ExpectSameBits(got, likelihood);
}

TEST(Preference, TheirAdvantagesAreTheGradientWherePolicyIsReference) {
  for (const Algorithm& algorithm : Algorithms()) {
    if (algorithm.pairs == nullptr) continue;
    SCOPED_TRACE(algorithm.name);
    const AlgorithmConfig config = Config(std::string(algorithm.name).c_str());
    Answers answers = Ragged(algorithm.HasKey("demo_weight"));
    answers.learned.clear();
    for (double& x : answers.refined) x = 0;
    RewardBatch rewards = {answers.rewards, {}, answers.groups};
    for (std::size_t i = 0; i < answers.policy.size(); ++i) {
      answers.policy[i].assign(answers.reference[i].begin(), answers.reference[i].end());
      rewards.lengths.push_back(static_cast<idx>(answers.policy[i].size()));
    }
    const std::vector<double> a = algorithm.advantages(rewards, config).advantages;
    const BatchLosses losses = algorithm.batch_loss(answers.Batch(), config);
    for (std::size_t i = 0; i < a.size(); ++i) {
      for (const TokenLoss& token : losses[i]) EXPECT_EQ(token.dlogprob, -a[i]);
    }
  }
}

TEST(Preference, OnlyTheMeanOverPairsIsTaken) {
  for (const Algorithm& algorithm : Algorithms()) {
    if (algorithm.pairs == nullptr) continue;
    AlgorithmConfig config = {.name = std::string(algorithm.name)};
    CheckAlgorithmConfig(config);
    config.loss_agg = "token-mean";
    try {
      CheckAlgorithmConfig(config);
      ADD_FAILURE() << algorithm.name << ": accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      EXPECT_NE(std::string(error.what()).find("remove it"), std::string::npos) << error.what();
    }
  }
  try {
    CheckAlgorithmConfig({.name = "opo", .beta = 0.5});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("dpo, ipo, sr_dpo"), std::string::npos);
  }
}

TEST(PreferenceDeathTest, SelfRefinementWithoutItsJudgementIsABug) {
  Answers pair = WorkedPair();
  pair.refined.clear();
  EXPECT_DEATH(SrDpoLosses(pair.Batch(), Config("sr_dpo")), "CHECK failed");
}

}  // namespace
}  // namespace opo
