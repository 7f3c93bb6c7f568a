// Value heads: alone, as critics and reward models have them, and beside an LM head. Against
// transformers' ...ForSequenceClassification and against a model in double precision, and E1, E2
// and E6 for their bits.
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "reference/golden_gradient.h"
#include "reference/model_reference.h"
#include "reference/tiny_model.h"
#include "train/objective.h"

namespace opo {
namespace {

using nlohmann::json;
using reference::Complex;
using Groups = std::vector<RolloutGroup>;

// For the score after an answer's last token it has one more, which is never fed.
void AddScoreRow(Rollout& rollout, TokenId last) {
  rollout.tokens.push_back(last);
  rollout.learned.assign(rollout.tokens.size(), false);
  rollout.learned.back() = true;
}

std::vector<LearnGroup> WithWeights(const Groups& groups, double weight) {
  std::vector<LearnGroup> learn;
  for (const RolloutGroup& g : groups) {
    learn.push_back({&g, std::vector<double>(g.rollouts.size(), weight), -1, true});
  }
  return learn;
}

// ------------------------------------------------------------------ transformers

class GoldenScores : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = std::string(OPO_SOURCE_DIR) + "/tests/golden/" + GetParam();
    const json expected = json::parse(ReadFile(folder_ + "/expected.json"));
    for (const json& c : expected["cases"]) {
      RolloutGroup& group = groups_.emplace_back();
      group.prompt = c["prompt_ids"].get<std::vector<TokenId>>();
      for (const json& completion : c["completions"]) {
        Rollout& rollout = group.rollouts.emplace_back();
        rollout.tokens = completion["ids"].get<std::vector<TokenId>>();
        AddScoreRow(rollout, rollout.tokens.back());
        scores_.push_back(completion["score"]);
      }
    }
    loss_ = expected["loss"];
  }
  std::string folder_;
  Groups groups_;  // of pairs, the chosen answer first
  std::vector<double> scores_;
  double loss_ = 0;
};

TEST_P(GoldenScores, AgreeWithTransformers) {
  const Weights weights = LoadWeights(folder_);
  EXPECT_TRUE(weights.config.has_values);
  EXPECT_FALSE(weights.config.has_logits);
  TinyModel<float> tiny(weights);
  Score<float>(tiny.model, groups_, 1.0f);
  std::size_t at = 0;
  for (const RolloutGroup& group : groups_) {
    for (const Rollout& rollout : group.rollouts) {
      EXPECT_TRUE(rollout.logprobs.empty());
      // transformers' own f32 is off its f64 by up to 6.5e-7 here (tests/golden/README.md).
      EXPECT_NEAR(rollout.values.back(), scores_[at++], 3e-6);
    }
  }
}

TEST_P(GoldenScores, TheGradientOfAPairsLossAgreesWithTransformers) {
  const Weights weights = LoadWeights(folder_);
  TinyModel<float> tiny(weights, true);
  Score<float>(tiny.model, groups_, 1.0f);
  LearnerConfig config;
  config.unit_tokens = 64;
  Learner<float> learner(tiny.model, weights.layout, config);
  // -log sigmoid(s - s') of each pair.
  const LossFunction loss = [&](const Rollout& rollout, idx t, const HeadOutput& output) {
    EXPECT_EQ(t, rollout.length() - 1) << "only the last row is learned";
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const auto& pair = groups_[g].rollouts;
      if (&rollout != &pair[0] && &rollout != &pair[1]) continue;
      const bool chosen = &rollout == pair.data();
      const double other = scores_[2 * g + (chosen ? 1 : 0)];
      const double margin = chosen ? output.value - other : other - output.value;
      TokenLoss terms;
      terms.loss = std::log1p(std::exp(-margin)) / 2;  // half of it each
      terms.dlogprob = (chosen ? -1 : 1) / (1 + std::exp(margin));
      return TokenTerms(terms);
    }
    ADD_FAILURE();
    return TokenTerms();
  };
  Buffer<float> grad(weights.layout.size);
  const auto learn = WithWeights(groups_, 1.0 / static_cast<double>(groups_.size()));
  const LearnResult result = learner.Accumulate(learn, loss, grad.data());
  EXPECT_EQ(result.tokens, static_cast<idx>(2 * groups_.size()));
  EXPECT_EQ(result.compared_tokens, result.tokens);
  EXPECT_EQ(result.mismatched_tokens, 0);
  EXPECT_NEAR(result.loss, loss_, 3e-6);
  ExpectGradient(weights.layout, grad.data(), folder_ + "/grads.safetensors");
}

INSTANTIATE_TEST_SUITE_P(Goldens, GoldenScores,
                         testing::Values("tiny_score_llama", "tiny_score_mistral",
                                         "tiny_score_qwen2", "tiny_score_qwen3"));

// ------------------------------------------------------------------ verl and transformers

class GoldenPpo : public testing::TestWithParam<const char*> {};

// A whole update, from the models and the rewards to the gradient of all weights.
TEST_P(GoldenPpo, AnUpdateAgreesWithVerlAndTransformers) {
  const std::string goldens = std::string(OPO_SOURCE_DIR) + "/tests/golden/";
  const json golden = json::parse(ReadFile(goldens + "ppo/cases.json"));
  const json& want = golden["cases"][GetParam()];
  const json& settings = golden["settings"];
  const auto model = [&](double factor) {
    Weights weights = LoadWeights(goldens + golden["model"].get<std::string>(), SlabOf::kTrained,
                                  Heads{.values = true});
    const auto score = golden["score"].get<std::vector<float>>();
    std::copy(score.begin(), score.end(), weights.slab.data() + weights.layout.score);
    for (float& w : weights.slab.span()) w *= static_cast<float>(factor);
    return weights;
  };
  Groups groups;
  std::vector<idx> lengths;
  for (const json& g : golden["groups"]) {
    RolloutGroup& group = groups.emplace_back();
    group.prompt = g["prompt"].get<std::vector<TokenId>>();
    for (const json& answer : g["answers"]) {
      Rollout& rollout = group.rollouts.emplace_back();
      rollout.tokens = answer.get<std::vector<TokenId>>();
      rollout.reward = golden["rewards"][lengths.size()];
      rollout.scores.total.verdict = Verdict::kScored;
      lengths.push_back(rollout.length());
    }
  }
  TinyModel<float> sampler(model(1));
  Score<float>(sampler.model, groups, 1.0f);
  Groups of_reference = groups;
  TinyModel<float> reference(model(golden["reference_factor"]));
  Score<float>(reference.model, of_reference, 1.0f);

  TrainConfig config;
  config.algorithm = {.name = "ppo",
                      .clip_low = settings["clip"],
                      .clip_high = settings["clip"],
                      .clip_dual = settings["dual"],
                      .gamma = settings["gamma"],
                      .kl_coef = settings["kl_coef"],
                      .kl_in = "reward",
                      .gae_lambda = settings["gae_lambda"]};
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      groups[g].rollouts[s].reference_logprobs = of_reference[g].rollouts[s].logprobs;
    }
  }
  nlohmann::ordered_json metrics;
  SetAdvantages(config, groups, {}, metrics);
  // Values and log-probs are f32, of a size up to 10; the whitening divides by a deviation of 1.
  constexpr double kTolerance = 2e-5;
  std::size_t at = 0;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) {
      for (idx t = 0; t < rollout.length(); ++t) {
        const auto token = static_cast<std::size_t>(t);
        EXPECT_NEAR(rollout.advantage_at(t), want["advantages"][at][token], kTolerance);
        EXPECT_NEAR(rollout.returns[token], want["returns"][at][token], kTolerance);
      }
      ++at;
    }
  }

  const UpdateLoss update(config.algorithm, /*on_policy=*/false, groups, {},
                          {.coef = settings["value_coef"], .clip = settings["value_clip"]});
  const std::vector<double> token_weights = TokenWeights("token-mean", lengths, 0);
  std::vector<LearnGroup> learn;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    learn.push_back({&groups[g], {token_weights[2 * g], token_weights[2 * g + 1]}, -1, true});
  }
  const Weights weights = model(want["factor"]);
  TinyModel<float> policy(weights, true);
  Learner<float> learner(policy.model, weights.layout, LearnerConfig{.unit_tokens = 32});
  Buffer<float> grad(weights.layout.size);
  const LearnResult result = learner.Accumulate(
      learn,
      [&](const Rollout& rollout, idx t, const HeadOutput& output) {
        return update(rollout, t, output.policy, output.value);
      },
      grad.data());
  EXPECT_EQ(result.mismatched_tokens > 0, want["factor"] != 1.0);
  EXPECT_NEAR(result.loss, want["pg_loss"], kTolerance);
  EXPECT_NEAR(result.value_loss, want["vf_loss"], kTolerance);
  const auto tokens = static_cast<double>(result.tokens);
  EXPECT_NEAR(static_cast<double>(result.clipped) / tokens, want["pg_clipfrac"], 1e-9);
  EXPECT_NEAR(static_cast<double>(result.value_clipped) / tokens, want["vf_clipfrac"], 1e-9);
  ExpectGradient(weights.layout, grad.data(), goldens + "ppo/grads.safetensors",
                 std::string(GetParam()) + "/");
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenPpo, testing::Values("first", "later"),
                         [](const auto& name) { return name.param; });

// ------------------------------------------------------------------ in double precision

ModelConfig Shape(bool logits) {
  ModelConfig config = SmallConfig();
  config.num_layers = 2;
  config.has_logits = logits;
  config.has_values = true;
  return config;
}

constexpr double kTemperature = 0.8;

// Two prompts with answers of 5 and 3 tokens; the second token of each first answer is not learned.
template <class T>
Groups SmallBatch(const Weights& weights) {
  Groups groups = MakeGroups({3, 5}, 2, weights.config.vocab_size);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < 2; ++s) {
      Rollout& rollout = groups[g].rollouts[s];
      rollout.tokens = RandomTokens(s == 0 ? 5 : 3, static_cast<std::uint32_t>(300 + 10 * g + s),
                                    weights.config.vocab_size);
      rollout.advantage = std::sin(1.0 + static_cast<double>(2 * g + s));
    }
    groups[g].rollouts[0].learned = {true, false, true, true, true};
  }
  TinyModel<T> tiny(weights);
  Score(tiny.model, std::span<RolloutGroup>(groups), static_cast<float>(1 / kTemperature));
  return groups;
}

double Target(const Rollout& rollout, idx t) {
  return rollout.advantage + 0.1 * static_cast<double>(t);
}

// (V - target)^2 / 2, and of a policy -A log pi besides.
TokenTerms SharedLoss(const Rollout& rollout, idx t, const HeadOutput& output) {
  TokenTerms terms(PolicyGradientLoss({.advantage = rollout.advantage}));
  terms.dvalue = output.value - Target(rollout, t);
  return terms;
}
TokenTerms CriticLoss(const Rollout& rollout, idx t, const HeadOutput& output) {
  TokenLoss loss;
  loss.dlogprob = output.value - Target(rollout, t);
  loss.loss = loss.dlogprob * loss.dlogprob / 2;
  return loss;
}

// The same loss of a model with complex weights.
Complex ReferenceLoss(const ModelConfig& config, const SlabLayout& layout,
                      const std::vector<Complex>& w, const Groups& groups) {
  Complex sum = 0;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) {
      const std::vector<TokenId> tokens = InputTokens(group, rollout);
      const std::size_t first = group.prompt.size() - 1;
      const auto values = reference::ModelValues(config, layout, w, tokens);
      std::vector<std::vector<Complex>> logits;
      if (config.has_logits) logits = reference::ModelLogits(config, layout, w, tokens);
      for (idx t = 0; t < rollout.length(); ++t) {
        const auto at = static_cast<std::size_t>(t);
        if (!rollout.learned.empty() && !rollout.learned[at]) continue;
        const Complex d = values[first + at][0] - Target(rollout, t);
        sum += d * d / 2.0;
        if (!config.has_logits) continue;
        Complex total = 0;
        for (const Complex& z : logits[first + at]) total += std::exp(z / kTemperature);
        const Complex chosen =
            logits[first + at][static_cast<std::size_t>(rollout.tokens[at])] / kTemperature;
        sum += -rollout.advantage * (chosen - std::log(total));
      }
    }
  }
  return sum;
}

TEST(ValueHead, GradientsAreThoseOfTheComplexStep) {
  for (const bool logits : {false, true}) {
    for (const bool tied : {true, false}) {
      ModelConfig config = Shape(logits);
      config.tied_embeddings = tied;
      const Weights weights = InitWeights(config, 3, 0.4);
      const Groups groups = SmallBatch<float>(weights);
      TinyModel<float> tiny(weights, true);
      LearnerConfig settings;
      settings.inv_temperature = static_cast<float>(1 / kTemperature);
      Learner<float> learner(tiny.model, weights.layout, settings);
      Buffer<float> grad(weights.layout.size);
      const LearnResult result = learner.Accumulate(WithWeights(groups, 1.0),
                                                    logits ? SharedLoss : CriticLoss, grad.data());
      EXPECT_EQ(result.tokens, 14);
      EXPECT_EQ(result.mismatched_tokens, 0);
      std::vector<Complex> w(weights.slab.span().begin(), weights.slab.span().end());
      for (const TensorSpec& t : weights.layout.tensors) {
        double diff = 0;
        double norm = 0;
        for (idx i = 0; i < t.size(); ++i) {
          Complex& weight = w[static_cast<std::size_t>(t.offset + i)];
          const Complex real = weight;
          weight += Complex(0, 1e-50);
          const double want = ReferenceLoss(config, weights.layout, w, groups).imag() / 1e-50;
          weight = real;
          diff += std::pow(static_cast<double>(grad[t.offset + i]) - want, 2);
          norm += want * want;
        }
        EXPECT_GT(norm, 0) << t.name;
        // f32 against f64, as for the other losses (objective_test).
        EXPECT_LT(std::sqrt(diff), 2e-5 * std::sqrt(norm)) << t.name << " logits " << logits;
      }
    }
  }
}

// ------------------------------------------------------------------ bits

template <class T>
class ValueBits : public testing::Test {
 protected:
  void TearDown() override { SetNumThreads(0); }
};
using Types = testing::Types<bf16, float>;
TYPED_TEST_SUITE(ValueBits, Types);

Weights ShapeOfTiny(bool logits) {
  ModelConfig config = TinyConfig();
  config.has_logits = logits;
  config.has_values = true;
  return InitWeights(config, 5, 0.15);
}

template <class T>
Groups Sampled(TinyModel<T>& tiny, Tape<T>* tape = nullptr) {
  Groups groups = MakeGroups({33, 5, 1, 70}, 4, 259);
  SamplingConfig config;
  config.temperature = kTemperature;
  config.max_new_tokens = 100;
  const Tokenizer tokenizer = Tokenizer::Bytes();
  Generate(tiny.model, tokenizer, std::span<RolloutGroup>(groups), config, {}, tape);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      groups[g].rollouts[s].advantage = std::sin(1.0 + static_cast<double>(4 * g + s));
    }
  }
  return groups;
}

struct Learned {
  Buffer<float> grad;
  LearnResult result;
};

template <class T>
Learned Learn(const Weights& weights, const Groups& groups, idx memory = idx{1} << 30,
              Tape<T>* tape = nullptr, TinyModel<T>* sampler = nullptr) {
  TinyModel<T> own(weights, true);
  TinyModel<T>& tiny = sampler != nullptr ? *sampler : own;
  LearnerConfig config;
  config.unit_tokens = 200;
  config.memory_bytes = memory;
  config.inv_temperature = static_cast<float>(1 / kTemperature);
  Learner<T> learner(tiny.model, weights.layout, config);
  Learned out{Buffer<float>(weights.layout.size), {}};
  auto learn = WithWeights(groups, 0.01);
  for (std::size_t g = 0; g < learn.size() && tape != nullptr; ++g) {
    learn[g].tape_group = static_cast<idx>(g);
  }
  out.result = learner.Accumulate(learn, weights.config.has_logits ? SharedLoss : CriticLoss,
                                  out.grad.data(), tape);
  return out;
}

idx Tokens(const Groups& groups) {
  idx tokens = 0;
  for (const RolloutGroup& g : groups) {
    for (const Rollout& r : g.rollouts) tokens += r.length();
  }
  return tokens;
}

// E1 and E2 of a shared trunk: what the sampler recorded is what a whole pass and the learner say.
TYPED_TEST(ValueBits, OfSamplerScoreAndLearnerAreTheSame) {
  using T = TypeParam;
  const Weights weights = ShapeOfTiny(true);
  TinyModel<T> tiny(weights);
  const Groups groups = Sampled<T>(tiny);
  Groups scored = groups;
  for (RolloutGroup& g : scored) {
    for (Rollout& r : g.rollouts) r.values.clear();
  }
  SetNumThreads(3);
  Score(tiny.model, std::span<RolloutGroup>(scored), static_cast<float>(1 / kTemperature));
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      const Rollout& rollout = groups[g].rollouts[s];
      ASSERT_EQ(std::ssize(rollout.values), rollout.length());
      EXPECT_TRUE(SameBits(rollout.values, scored[g].rollouts[s].values));
      EXPECT_TRUE(SameBits(rollout.logprobs, scored[g].rollouts[s].logprobs));
    }
  }
  const Learned learned = Learn<T>(weights, groups);
  EXPECT_EQ(learned.result.compared_tokens, Tokens(groups));
  EXPECT_EQ(learned.result.mismatched_tokens, 0);
  // The control: one bit of one value.
  Groups changed = groups;
  float& value = changed[3].rollouts[2].values[1];
  value = std::nextafter(value, 9.0f);
  const LearnResult result = Learn<T>(weights, changed).result;
  EXPECT_EQ(result.mismatched_tokens, 1);
  EXPECT_EQ(result.mismatched_sample, 2);
  EXPECT_EQ(result.mismatched_token, 1);
}

// The policy's own numbers are those of the same model without a value head.
TYPED_TEST(ValueBits, AValueHeadChangesNoLogProbAndNoOtherGradient) {
  using T = TypeParam;
  const Weights with = ShapeOfTiny(true);
  const Weights without = InitWeights(TinyConfig(), 5, 0.15);
  TinyModel<T> tiny(with, true);
  TinyModel<T> plain(without, true);
  const Groups groups = Sampled<T>(tiny);
  EXPECT_EQ(RolloutDigest(groups), RolloutDigest(Sampled<T>(plain)));
  Learner<T> learner(plain.model, without.layout, {200, idx{1} << 30, 1 / 0.8f});
  Learner<T> both(tiny.model, with.layout, {200, idx{1} << 30, 1 / 0.8f});
  Buffer<float> want(without.layout.size);
  Buffer<float> got(with.layout.size);
  learner.Accumulate(WithWeights(groups, 0.01), OnPolicyLoss, want.data());
  both.Accumulate(WithWeights(groups, 0.01), OnPolicyLoss, got.data());
  for (const TensorSpec& t : without.layout.tensors) {
    const auto of = [&](const Buffer<float>& grad) {
      return std::vector<float>(grad.data() + t.offset, grad.data() + t.offset + t.size());
    };
    EXPECT_EQ(of(want), of(got)) << t.name;
  }
}

TYPED_TEST(ValueBits, ThreadsMemoryAndTapeChangeNoBitOfTheGradient) {
  using T = TypeParam;
  for (const bool logits : {true, false}) {
    const Weights weights = ShapeOfTiny(logits);
    const Weights sampler = ShapeOfTiny(true);
    TinyModel<T> tiny(sampler);
    Groups groups = Sampled<T>(tiny);
    if (!logits) {
      TinyModel<T> critic(weights);
      Score(critic.model, std::span<RolloutGroup>(groups), 1.0f);
    }
    SetNumThreads(1);
    const Learned all = Learn<T>(weights, groups);
    EXPECT_EQ(all.result.micro_batches, 1);
    EXPECT_EQ(all.result.compared_tokens, Tokens(groups));
    EXPECT_EQ(all.result.mismatched_tokens, 0);
    EXPECT_GT(std::abs(all.grad[weights.layout.score]), 0);
    TinyModel<T> sizes(weights, true);
    const Learner<T> learner(sizes.model, weights.layout, {200, 1, 1});
    SetNumThreads(3);
    for (const Record record : {Record::kAll, Record::kResiduals}) {
      const Learned part = Learn<T>(weights, groups, 320 * learner.row_bytes(record));
      EXPECT_GT(part.result.micro_batches, 1);
      EXPECT_EQ(part.result.rows_rerun > 0, record == Record::kResiduals);
      EXPECT_TRUE(SameBits(all.grad, part.grad));
      EXPECT_EQ(all.result.loss, part.result.loss);
    }
    if (!logits) continue;
    TinyModel<T> taped(weights, true);
    Tape<T> tape;
    tape.max_bytes = idx{1} << 40;
    const Groups on_tape = Sampled<T>(taped, &tape);
    const Learned from_tape = Learn<T>(weights, on_tape, idx{1} << 30, &tape, &taped);
    EXPECT_EQ(from_tape.result.rows_forward, 0);
    EXPECT_TRUE(SameBits(all.grad, from_tape.grad));
  }
}

// Rows that are not learned count as rows without a weight, and are not run. To the bit in f32; in
// bf16 the head's weight gradient adds up products of two rows at a time, and without the others
// between them these are other pairs: sums of at most a hundred rows, in f32.
TYPED_TEST(ValueBits, RowsThatAreNotLearnedChangeNothing) {
  using T = TypeParam;
  const Weights weights = ShapeOfTiny(true);
  TinyModel<T> tiny(weights);
  Groups groups = Sampled<T>(tiny);
  const auto first = [](const Rollout& r) { return r.length() - std::min<idx>(r.length(), 7); };
  const LossFunction masked = [&](const Rollout& r, idx t, const HeadOutput& output) {
    return t < first(r) ? TokenTerms() : SharedLoss(r, t, output);
  };
  TinyModel<T> model(weights, true);
  Learner<T> learner(model.model, weights.layout, {200, idx{1} << 30, 1 / 0.8f});
  Buffer<float> want(weights.layout.size);
  learner.Accumulate(WithWeights(groups, 0.01), masked, want.data());
  for (RolloutGroup& g : groups) {
    for (Rollout& r : g.rollouts) {
      r.learned.assign(static_cast<std::size_t>(r.length()), true);
      std::fill_n(r.learned.begin(), first(r), false);
    }
  }
  Buffer<float> got(weights.layout.size);
  const LearnResult result = learner.Accumulate(WithWeights(groups, 0.01), SharedLoss, got.data());
  EXPECT_LT(result.tokens, Tokens(groups) / 2);
  EXPECT_EQ(result.compared_tokens, result.tokens);
  if constexpr (std::is_same_v<T, float>) {
    EXPECT_TRUE(SameBits(want, got));
    return;
  }
  float largest = 0;
  float difference = 0;
  for (idx i = 0; i < want.size(); ++i) {
    largest = std::max(largest, std::abs(want[i]));
    difference = std::max(difference, std::abs(want[i] - got[i]));
  }
  EXPECT_LE(difference, 100 * 0x1p-23f * largest);
}

TEST(ValueHead, AModelWithoutAnLmHeadDoesNotAnswer) {
  TinyModel<float> tiny(ShapeOfTiny(false));
  Groups groups = MakeGroups({3}, 1, 259);
  try {
    Generate(tiny.model, Tokenizer::Bytes(), std::span<RolloutGroup>(groups), {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    EXPECT_NE(std::string(error.what()).find("causal language model"), std::string::npos);
  }
}

}  // namespace
}  // namespace opo
