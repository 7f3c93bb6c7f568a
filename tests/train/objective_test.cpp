// Gradients of the algorithms' losses on real models: equal where the field says that two are one,
// and equal to the complex step through a model in double precision, off policy too.
#include "train/objective.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>

#include "base/error.h"
#include "reference/model_reference.h"
#include "reference/tiny_model.h"

namespace opo {
namespace {

using reference::Complex;
using Groups = std::vector<RolloutGroup>;

constexpr double kTemperature = 0.8;

ModelConfig Shape() {
  ModelConfig config = SmallConfig();
  config.num_layers = 2;
  return config;
}
Weights Drawn(double drift) {
  Weights weights = InitWeights(Shape(), 3, 0.4);
  for (idx i = 0; i < weights.slab.size(); ++i) {
    weights.slab[i] += static_cast<float>(drift * Draw(900, i));
  }
  return weights;
}
// Who sampled, who learns some updates later, and who began the run.
const Weights& Sampler() {
  static const Weights weights = Drawn(0);
  return weights;
}
const Weights& Policy() {
  static const Weights weights = Drawn(0.03);
  return weights;
}
const Weights& Start() {
  static const Weights weights = Drawn(-0.05);
  return weights;
}

template <class T>
BatchLogProbs LogProbsUnder(const Weights& weights, const Groups& groups) {
  TinyModel<T> tiny(weights);
  const std::vector<int> owner(groups.size(), 0);
  return ScoreShared(tiny.model, groups, owner, static_cast<float>(1 / kTemperature),
                     Comm::Alone());
}

// Answers of the given lengths to two prompts. Log-probs are those of the sampler, and those of the
// reference of the start.
template <class T>
Groups Batch(const std::vector<std::size_t>& lengths, const std::vector<double>& rewards) {
  Groups groups = MakeGroups({3, 5}, lengths.size(), Shape().vocab_size);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      Rollout& rollout = groups[g].rollouts[s];
      rollout.tokens =
          RandomTokens(static_cast<idx>(lengths[s]), static_cast<std::uint32_t>(300 + 10 * g + s),
                       Shape().vocab_size);
      rollout.reward = rollout.scores.total.value = rewards[(s + g) % rewards.size()];
      rollout.scores.total.verdict = Verdict::kScored;
      for (std::size_t t = 0; t < lengths[s]; ++t) {
        rollout.values.push_back(0.125f * static_cast<float>((2 * g + s + t) % 5));
      }
    }
    groups[g].greedy.emplace();
    groups[g].greedy->reward = 0.25;
    groups[g].greedy->scores.total.verdict = Verdict::kScored;
  }
  TinyModel<T> tiny(Sampler());
  Score(tiny.model, std::span<RolloutGroup>(groups), static_cast<float>(1 / kTemperature));
  const BatchLogProbs start = LogProbsUnder<T>(Start(), groups);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      groups[g].rollouts[s].reference_logprobs = start[g][s];
    }
  }
  return groups;
}

TrainConfig Config(const std::string& algorithm, const std::vector<std::string>& more = {}) {
  std::vector<std::string> all = {"algorithm.name=" + algorithm, "rollout.max_new_tokens=8",
                                  "algorithm.exact=false"};
  all.insert(all.end(), more.begin(), more.end());
  return LoadTrainConfig("", all);
}

std::vector<idx> Lengths(const Groups& groups) {
  std::vector<idx> lengths;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) lengths.push_back(rollout.length());
  }
  return lengths;
}

struct Learned {
  Buffer<float> grad;
  LearnResult result;
};

// With the advantages that the groups have.
template <class T>
Learned Learn(const TrainConfig& config, const Groups& groups, bool on_policy,
              const Weights& weights) {
  TinyModel<T> tiny(weights, true);
  LearnerConfig settings;
  settings.inv_temperature = static_cast<float>(1 / kTemperature);
  Learner<T> learner(tiny.model, weights.layout, settings);
  const UpdateLoss loss(config.algorithm, on_policy, groups, LogProbsUnder<T>(weights, groups));
  const std::vector<double> token_weights =
      TokenWeights(LossAggregation(config), Lengths(groups), LossNorm(config));
  std::vector<LearnGroup> learn;
  std::size_t at = 0;
  for (const RolloutGroup& group : groups) {
    LearnGroup& one = learn.emplace_back();
    one.group = &group;
    one.more_terms = loss.HasMoreTerms(group);
    for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
      one.weights.push_back(token_weights[at++]);
    }
  }
  Learned out{Buffer<float>(weights.layout.size), {}};
  out.result = learner.Accumulate(learn, std::cref(loss), out.grad.data());
  return out;
}

template <class T>
Learned Learn(const TrainConfig& config, Groups groups, bool on_policy = true) {
  nlohmann::ordered_json metrics;
  SetAdvantages(config, groups, {}, metrics);
  return Learn<T>(config, groups, on_policy, on_policy ? Sampler() : Policy());
}

double Norm(const Buffer<float>& x) {
  double sum = 0;
  for (const float v : x.span()) sum += double{v} * double{v};
  return std::sqrt(sum);
}

// |a - factor b| / |a|
double Distance(const Buffer<float>& a, const Buffer<float>& b, double factor = 1) {
  double sum = 0;
  for (idx i = 0; i < a.size(); ++i) {
    const double d = double{a[i]} - factor * double{b[i]};
    sum += d * d;
  }
  return std::sqrt(sum) / Norm(a);
}

// What rounding leaves between two ways to the same gradient: logits' gradients are rounded to T,
// and what follows adds up such numbers, most errors against each other.
template <class T>
constexpr double kRounding = sizeof(T) == 2 ? 2e-2 : 1e-5;

template <class T>
class Equivalences : public testing::Test {};
using Types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(Equivalences, Types);

const std::vector<double> kRewards = {1, 0, 0, 1};
const std::vector<std::size_t> kEqual = {4, 4, 4, 4};
const std::vector<std::size_t> kRagged = {2, 6, 3, 5};
const std::string kTokenMean = "algorithm.loss_agg=token-mean";

TYPED_TEST(Equivalences, WithEqualLengthsOpoIsDrGrpoBitForBit) {
  using T = TypeParam;
  const Groups equal = Batch<T>(kEqual, kRewards);
  const Learned opo = Learn<T>(Config("opo"), equal);
  EXPECT_GT(Norm(opo.grad), 0);
  EXPECT_EQ(opo.result.mismatched_tokens, 0);
  EXPECT_TRUE(SameBits(opo.grad, Learn<T>(Config("dr_grpo", {kTokenMean}), equal).grad));
  // With its own aggregation and the lengths as its constant, too.
  EXPECT_TRUE(SameBits(opo.grad, Learn<T>(Config("dr_grpo", {"algorithm.norm=4"}), equal).grad));
  const Groups ragged = Batch<T>(kRagged, kRewards);
  EXPECT_GT(Distance(Learn<T>(Config("opo"), ragged).grad,
                     Learn<T>(Config("dr_grpo", {kTokenMean}), ragged).grad),
            0.05)
      << "with other lengths they are two";
}

TYPED_TEST(Equivalences, RlooIsDrGrpoTimesKByKMinusOne) {
  using T = TypeParam;
  // K = 2: twice as much, which rounds alike.
  const Groups two = Batch<T>({5, 3}, {1, 0});
  const Learned rloo = Learn<T>(Config("rloo", {kTokenMean}), two);
  const Learned dr_grpo = Learn<T>(Config("dr_grpo", {kTokenMean}), two);
  EXPECT_GT(Norm(rloo.grad), 0);
  for (idx i = 0; i < rloo.grad.size(); ++i) ASSERT_EQ(rloo.grad[i], 2 * dr_grpo.grad[i]) << i;
  const Groups four = Batch<T>(kRagged, kRewards);
  EXPECT_LT(Distance(Learn<T>(Config("rloo", {kTokenMean}), four).grad,
                     Learn<T>(Config("dr_grpo", {kTokenMean}), four).grad, 4.0 / 3),
            kRounding<T>);
}

// At ratio 1: PPO's clip, CISPO, GSPO and the plain policy gradient.
TYPED_TEST(Equivalences, OnPolicyTheLossesOfAnAdvantageAreOneBitForBit) {
  using T = TypeParam;
  for (const auto& lengths : {kEqual, kRagged}) {
    Groups groups = Batch<T>(lengths, {1, 0, 0.5, 0.25});
    nlohmann::ordered_json metrics;
    SetAdvantages(Config("grpo"), groups, {}, metrics);
    for (const char* mode : {"token-mean", "seq-mean-token-mean"}) {
      const std::string aggregation = std::string("algorithm.loss_agg=") + mode;
      const auto learn = [&](const char* name, bool on_policy) {
        return Learn<T>(Config(name, {aggregation}), groups, on_policy, Sampler());
      };
      const Learned reinforce = learn("reinforce", true);
      EXPECT_GT(Norm(reinforce.grad), 0);
      for (const char* name : {"grpo", "dapo", "cispo", "gspo", "em_pg", "raft", "reinforce_rej"}) {
        const Learned other = learn(name, false);
        EXPECT_TRUE(SameBits(reinforce.grad, other.grad)) << name << " " << mode;
        EXPECT_EQ(other.result.clipped, 0) << name;
      }
    }
  }
}

// REBEL's is 4 eta K / (K - 1) times Dr. GRPO's there.
TYPED_TEST(Equivalences, OnPolicyRebelIsAPolicyGradient) {
  using T = TypeParam;
  const Groups groups = Batch<T>(kRagged, kRewards);
  const std::string sum = "algorithm.loss_agg=seq-mean-token-sum";
  const Learned rebel = Learn<T>(Config("rebel", {sum, "algorithm.rebel_eta=0.5"}), groups);
  EXPECT_LT(Distance(rebel.grad, Learn<T>(Config("dr_grpo", {sum}), groups).grad, 8.0 / 3),
            kRounding<T>);
}

TYPED_TEST(Equivalences, RaftPpIsPpoClipWithAdvantages0And1) {
  using T = TypeParam;
  for (const bool on_policy : {true, false}) {
    Groups groups = Batch<T>(kRagged, {1, -1, -1, 1});
    const Learned raft_pp = Learn<T>(Config("raft_pp", {kTokenMean}), groups, on_policy);
    for (RolloutGroup& group : groups) {
      for (Rollout& rollout : group.rollouts) rollout.advantage = rollout.reward > 0 ? 1 : 0;
    }
    const Learned ppo =
        Learn<T>(Config("grpo", {kTokenMean}), groups, on_policy, on_policy ? Sampler() : Policy());
    EXPECT_GT(Norm(ppo.grad), 0);
    EXPECT_TRUE(SameBits(raft_pp.grad, ppo.grad));
  }
}

// grad E[r]: the rewards themselves are the weights. In later updates there is no ratio.
TYPED_TEST(Equivalences, TheFirstUpdateOfEmPgIsReinforces) {
  using T = TypeParam;
  Groups groups = Batch<T>(kRagged, {1, 0, 0.5, 0.25});
  const Learned own = Learn<T>(Config("em_pg", {kTokenMean}), groups, false);
  for (RolloutGroup& group : groups) {
    for (Rollout& rollout : group.rollouts) rollout.advantage = rollout.reward;
  }
  const Learned em_pg = Learn<T>(Config("em_pg", {kTokenMean}), groups, false, Sampler());
  const Learned reinforce = Learn<T>(Config("reinforce", {kTokenMean}), groups, true, Sampler());
  EXPECT_GT(Norm(reinforce.grad), 0);
  EXPECT_TRUE(SameBits(em_pg.grad, reinforce.grad));
  const Learned later = Learn<T>(Config("em_pg", {kTokenMean}), groups, false, Policy());
  EXPECT_TRUE(SameBits(own.grad, later.grad)) << "the default weights are the rewards";
  EXPECT_GT(Distance(later.grad,
                     Learn<T>(Config("reinforce", {kTokenMean}), groups, false, Policy()).grad),
            1e-3)
      << "PPO has the ratio";
}

// The numbers of a token in the complex step.
struct Token {
  Complex policy;
  Complex entropy;
  double rollout = 0, reference = 0;
  double advantage = 0;
};
struct Answer {
  std::vector<Token> tokens;
  double reward = 0, advantage = 0;
  std::size_t group = 0;
};
using Loss = std::function<Complex(const std::vector<Answer>& answers)>;

Complex Min(const Complex& a, const Complex& b) { return a.real() < b.real() ? a : b; }
Complex Clip(const Complex& x, double low, double high) {
  return x.real() < low ? low : x.real() > high ? high : x;
}
idx CountTokens(const std::vector<Answer>& answers) {
  std::size_t tokens = 0;
  for (const Answer& a : answers) tokens += a.tokens.size();
  return static_cast<idx>(tokens);
}
// Mean over all tokens of loss(answer, token).
Loss TokenMean(const std::function<Complex(const Answer&, const Token&)>& loss) {
  return [loss](const std::vector<Answer>& answers) {
    Complex sum = 0;
    for (const Answer& a : answers) {
      for (const Token& t : a.tokens) sum += loss(a, t);
    }
    return sum / static_cast<double>(CountTokens(answers));
  };
}
Complex Ratio(const Token& t) { return std::exp(t.policy - t.rollout); }
Complex PpoClip(const Answer& a, const Token& t, double low, double high) {
  Complex loss = -Min(Ratio(t) * a.advantage, Clip(Ratio(t), 1 - low, 1 + high) * a.advantage);
  if (a.advantage < 0) loss = Min(loss, -3.0 * a.advantage);
  return loss;
}
// -min(s A, clip(s) A) of each answer, s its tokens' mean ratio; the mean over answers.
Complex Gspo(const std::vector<Answer>& answers, double low, double high) {
  Complex sum = 0;
  for (const Answer& a : answers) {
    Complex log_ratio = 0;
    for (const Token& t : a.tokens) log_ratio += t.policy - t.rollout;
    const Complex s = std::exp(log_ratio / static_cast<double>(a.tokens.size()));
    sum += -Min(s * a.advantage, Clip(s, 1 - low, 1 + high) * a.advantage);
  }
  return sum / static_cast<double>(answers.size());
}
// The mean over ordered pairs of a group of (D - eta (r - r'))^2.
Complex Rebel(const std::vector<Answer>& answers, double eta) {
  Complex sum = 0;
  double pairs = 0;
  for (const Answer& a : answers) {
    for (const Answer& b : answers) {
      if (a.group != b.group || &a == &b) continue;
      Complex d = -eta * (a.reward - b.reward);
      for (const Token& t : a.tokens) d += t.policy - t.rollout;
      for (const Token& t : b.tokens) d -= t.policy - t.rollout;
      sum += d * d;
      pairs += 1;
    }
  }
  return sum / pairs;
}

// dpo's loss of the best and the worst answer of each group, the mean over groups that have both.
Complex OnlineDpo(const std::vector<Answer>& answers, double beta, double smoothing) {
  std::map<std::size_t, std::vector<const Answer*>> groups;
  for (const Answer& a : answers) groups[a.group].push_back(&a);
  Complex sum = 0;
  double pairs = 0;
  for (const auto& [number, members] : groups) {
    const auto less = [](const Answer* a, const Answer* b) { return a->reward < b->reward; };
    const Answer& worst = **std::min_element(members.begin(), members.end(), less);
    const Answer& best = **std::max_element(members.begin(), members.end(), less);
    if (best.reward == worst.reward) continue;
    Complex z = 0;
    for (const Token& t : best.tokens) z += beta * (t.policy - t.reference);
    for (const Token& t : worst.tokens) z -= beta * (t.policy - t.reference);
    sum -= (1 - smoothing) * std::log(1.0 / (1.0 + std::exp(-z))) +
           smoothing * std::log(1.0 / (1.0 + std::exp(z)));
    pairs += 1;
  }
  return sum / pairs;
}

struct Case {
  const char* algorithm;
  std::vector<std::string> settings;
  Loss loss;
  bool clips = false;  // some of the tokens, not all
  const char* what = "";
};

std::vector<Case> Cases() {
  const auto ppo = [](double low, double high) {
    return TokenMean([=](const Answer& a, const Token& t) { return PpoClip(a, t, low, high); });
  };
  const auto with_kl = [](const std::function<Complex(const Complex&)>& kl) {
    return TokenMean([kl](const Answer& a, const Token& t) {
      return PpoClip(a, t, 0.2, 0.2) + 0.7 * kl(t.policy - t.reference);
    });
  };
  const auto k1 = [](const Complex& d) { return d; };
  const auto k2 = [](const Complex& d) { return 0.5 * d * d; };
  const auto k3 = [](const Complex& d) { return std::exp(-d) + d - 1.0; };
  const std::string coef = "algorithm.kl_coef=0.7";
  return {
      {"grpo",
       {kTokenMean, "algorithm.clip_low=0.05", "algorithm.clip_high=0.08"},
       ppo(0.05, 0.08),
       true,
       "ppo clip"},
      {"grpo",
       {kTokenMean, "algorithm.clip_low=0.2", "algorithm.clip_high=0.2", coef},
       with_kl(k3),
       false,
       "k3 in the loss"},
      {"grpo",
       {kTokenMean, "algorithm.clip_low=0.2", "algorithm.clip_high=0.2", coef,
        "algorithm.kl_estimator=k2"},
       with_kl(k2),
       false,
       "k2"},
      {"grpo",
       {kTokenMean, "algorithm.clip_low=0.2", "algorithm.clip_high=0.2", coef,
        "algorithm.kl_estimator=k1"},
       with_kl(k1),
       false,
       "k1"},
      {"dr_grpo",
       {kTokenMean, "algorithm.entropy_coef=0.3"},
       TokenMean([](const Answer& a, const Token& t) {
         return PpoClip(a, t, 0.2, 0.2) - 0.3 * t.entropy;
       }),
       false,
       "entropy"},
      {"cispo",
       {kTokenMean, "algorithm.is_weight_cap=1.05", "algorithm.clip_low=1"},
       TokenMean([](const Answer& a, const Token& t) {
         return -Clip(Ratio(t), 0, 1.05).real() * a.advantage * t.policy;
       }),
       true,
       "cispo"},
      {"em_pg",
       {kTokenMean},
       TokenMean([](const Answer& a, const Token& t) { return -a.reward * t.policy; }),
       false,
       "likelihood"},
      {"gspo",
       {"algorithm.clip_low=0.02", "algorithm.clip_high=0.02"},
       [](const std::vector<Answer>& answers) { return Gspo(answers, 0.02, 0.02); },
       true,
       "gspo"},
      {"online_dpo",
       {"algorithm.beta=0.7", "algorithm.label_smoothing=0.1"},
       [](const std::vector<Answer>& answers) { return OnlineDpo(answers, 0.7, 0.1); },
       false,
       "online dpo"},
      {"rebel",
       {"algorithm.rebel_eta=0.5"},
       [](const std::vector<Answer>& answers) { return Rebel(answers, 0.5); },
       false,
       "rebel"},
      {"rebel",
       {"algorithm.entropy_coef=0.3", coef, "algorithm.kl_estimator=k2"},
       [=](const std::vector<Answer>& answers) {
         Complex sum = 0;  // seq-mean-token-sum
         for (const Answer& a : answers) {
           for (const Token& t : a.tokens)
             sum += 0.7 * k2(t.policy - t.reference) - 0.3 * t.entropy;
         }
         return Rebel(answers, 1) + sum / static_cast<double>(answers.size());
       },
       false,
       "rebel with all terms"},
      {"ppo",
       {kTokenMean},
       TokenMean([](const Answer&, const Token& t) {
         Answer answer;
         answer.advantage = t.advantage;
         return PpoClip(answer, t, 0.2, 0.2);
       }),
       false,
       "ppo"},
      {"apa",
       {kTokenMean, "algorithm.apa_lambda=0.5"},
       TokenMean([](const Answer&, const Token& t) {
         const Complex residual = t.policy - t.reference - t.advantage / 0.5;
         return residual * residual;
       }),
       false,
       "apa"},
      {"awr",
       {kTokenMean},
       TokenMean([](const Answer&, const Token& t) { return -t.advantage * t.policy; }),
       false,
       "awr"},
  };
}

// The complex derivative of every token's log-prob and entropy by one weight.
std::vector<Answer> Answers(const Groups& groups, const std::vector<Complex>& weights) {
  std::vector<Answer> answers;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (const Rollout& rollout : groups[g].rollouts) {
      const std::size_t first = groups[g].prompt.size() - 1;
      const auto logits = reference::ModelLogits(Shape(), Policy().layout, weights,
                                                 InputTokens(groups[g], rollout));
      Answer& answer = answers.emplace_back();
      answer.group = g;
      answer.reward = rollout.reward;
      answer.advantage = rollout.advantage;
      for (std::size_t t = 0; t < rollout.tokens.size(); ++t) {
        const auto target = static_cast<std::size_t>(rollout.tokens[t]);
        answer.tokens.push_back({reference::LogProb(logits[first + t], 1 / kTemperature, target),
                                 reference::Entropy(logits[first + t], 1 / kTemperature),
                                 double{rollout.logprobs[t]},
                                 double{rollout.reference_logprobs[t]}});
      }
    }
  }
  return answers;
}

TEST(OffPolicy, EveryLossHasTheGradientOfTheComplexStep) {
  const std::vector<Case> cases = Cases();
  std::vector<Groups> batches;
  std::vector<Learned> learned;
  for (const Case& c : cases) {
    Groups& groups = batches.emplace_back(Batch<float>(kRagged, {1, 0, 0.5, 0.25}));
    nlohmann::ordered_json metrics;
    const TrainConfig config = Config(c.algorithm, c.settings);
    SetAdvantages(config, groups, {}, metrics);
    learned.push_back(Learn<float>(config, groups, false, Policy()));
    const LearnResult& result = learned.back().result;
    EXPECT_EQ(result.tokens, 32) << c.what;
    EXPECT_GT(result.mismatched_tokens, 0) << "the policy was to have moved";
    if (c.clips) {
      EXPECT_GT(result.clipped, 0) << c.what;
      EXPECT_LT(result.clipped, result.tokens) << c.what;
    }
  }
  std::vector<Complex> weights;
  for (const float w : Policy().slab.span()) weights.emplace_back(double{w});
  std::vector<std::vector<double>> want(cases.size(), std::vector<double>(weights.size()));
  for (const TensorSpec& t : Policy().layout.tensors) {
    for (auto i = static_cast<std::size_t>(t.offset);
         i < static_cast<std::size_t>(t.offset + t.size()); ++i) {
      weights[i] += Complex(0, reference::kStep);
      std::vector<Answer> answers = Answers(batches[0], weights);
      weights[i] -= Complex(0, reference::kStep);
      for (std::size_t c = 0; c < cases.size(); ++c) {
        std::size_t at = 0;
        for (const RolloutGroup& group : batches[c]) {
          for (const Rollout& rollout : group.rollouts) {
            Answer& answer = answers[at++];
            answer.advantage = rollout.advantage;
            for (idx place = 0; place < rollout.length(); ++place) {
              answer.tokens[static_cast<std::size_t>(place)].advantage =
                  rollout.advantage_at(place);
            }
          }
        }
        want[c][i] = cases[c].loss(answers).imag() / reference::kStep;
      }
    }
  }
  for (std::size_t c = 0; c < cases.size(); ++c) {
    double norm = 0;
    double diff = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double d = double{learned[c].grad[static_cast<idx>(i)]} - want[c][i];
      diff += d * d;
      norm += want[c][i] * want[c][i];
    }
    EXPECT_GT(norm, 0);
    // f32 sums and log-probs, as against PyTorch (learner_test.cpp).
    EXPECT_LT(std::sqrt(diff), 1e-4 * std::sqrt(norm)) << cases[c].what;
  }
}

}  // namespace
}  // namespace opo
