// The learner against PyTorch (tests/golden, f64) and against complex steps in double precision.
#include "train/learner.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/parallel.h"
#include "model/load.h"
#include "reference/golden_gradient.h"
#include "reference/model_reference.h"
#include "reference/tiny_model.h"

namespace opo {
namespace {

using nlohmann::json;

std::string Golden(const std::string& name) {
  return std::string(OPO_SOURCE_DIR) + "/tests/golden/" + name;
}

struct Case {
  std::vector<RolloutGroup> groups;  // log-probs as PyTorch gives them
  float inv_temperature = 1;
  double normalizer = 1;
};

Case LoadCase(const std::string& folder) {
  const json expected = json::parse(ReadFile(folder + "/expected.json"));
  Case out;
  out.inv_temperature = static_cast<float>(1.0 / expected["temperature"].get<double>());
  out.normalizer = expected["normalizer"];
  for (const json& c : expected["cases"]) {
    RolloutGroup group;
    group.prompt = c["prompt_ids"].get<std::vector<TokenId>>();
    for (const json& completion : c["completions"]) {
      Rollout rollout;
      rollout.tokens = completion["ids"].get<std::vector<TokenId>>();
      rollout.logprobs = completion["logprobs"].get<std::vector<float>>();
      rollout.entropies = completion["entropy"].get<std::vector<float>>();
      rollout.sum_sqs = completion["sum_sq"].get<std::vector<float>>();
      rollout.advantage = completion["advantage"];
      group.rollouts.push_back(rollout);
    }
    out.groups.push_back(group);
  }
  return out;
}

std::vector<LearnGroup> WithWeights(const Case& c) {
  std::vector<LearnGroup> learn;
  for (const RolloutGroup& group : c.groups) {
    learn.push_back({&group, std::vector<double>(group.rollouts.size(), 1.0 / c.normalizer)});
  }
  return learn;
}

class GoldenModel : public testing::TestWithParam<const char*> {};
class GoldenWithScaledRope : public GoldenModel {};

TEST_P(GoldenModel, LogProbsAgreeWithPyTorch) {
  const std::string folder = Golden(GetParam());
  const Weights weights = LoadWeights(folder);
  const PackedWeights<float> packed(weights, false);
  Transformer<float> model(packed);
  const Case want = LoadCase(folder);
  Case got = want;
  Score<float>(model, got.groups, got.inv_temperature);
  for (std::size_t g = 0; g < want.groups.size(); ++g) {
    for (std::size_t s = 0; s < want.groups[g].rollouts.size(); ++s) {
      const Rollout& a = want.groups[g].rollouts[s];
      const Rollout& b = got.groups[g].rollouts[s];
      for (std::size_t t = 0; t < a.tokens.size(); ++t) {
        // transformers' own f32 is off its f64 by up to 1.7e-5 here (tests/golden/README.md).
        ASSERT_NEAR(a.logprobs[t], b.logprobs[t], 5e-5)
            << "group " << g << " sample " << s << " token " << t;
        ASSERT_NEAR(a.entropies[t], b.entropies[t], 5e-5);
        ASSERT_NEAR(a.sum_sqs[t], b.sum_sqs[t], 5e-5);
      }
    }
  }
}

// The control: the numbers of a stretched RoPE are not those of a plain one.
TEST_P(GoldenWithScaledRope, IsNotThatOfPlainRope) {
  const std::string folder = Golden(GetParam());
  Weights weights = LoadWeights(folder);
  ASSERT_NE(weights.config.rope_scaling, RopeScaling());
  weights.config.rope_scaling = RopeScaling();
  const PackedWeights<float> packed(weights, false);
  Transformer<float> model(packed);
  const Case want = LoadCase(folder);
  Case got = want;
  Score<float>(model, got.groups, got.inv_temperature);
  double most = 0;
  for (std::size_t g = 0; g < want.groups.size(); ++g) {
    for (std::size_t s = 0; s < want.groups[g].rollouts.size(); ++s) {
      const auto& a = want.groups[g].rollouts[s].logprobs;
      const auto& b = got.groups[g].rollouts[s].logprobs;
      for (std::size_t t = 0; t < a.size(); ++t) {
        most = std::max(most, std::abs(static_cast<double>(a[t]) - static_cast<double>(b[t])));
      }
    }
  }
  EXPECT_GT(most, 1e-3);
}

TEST_P(GoldenModel, GradientAgreesWithPyTorch) {
  const std::string folder = Golden(GetParam());
  const Weights weights = LoadWeights(folder);
  const PackedWeights<float> packed(weights, true);
  Transformer<float> model(packed);
  const Case c = LoadCase(folder);
  LearnerConfig config;
  config.unit_tokens = 64;  // several units a group
  config.inv_temperature = c.inv_temperature;
  Learner<float> learner(model, weights.layout, config);
  Buffer<float> grad(weights.layout.size);
  const std::vector<LearnGroup> learn = WithWeights(c);
  const LearnResult result = learner.Accumulate(learn, OnPolicyLoss, grad.data());
  EXPECT_GT(result.tokens, 0);
  ExpectGradient(weights.layout, grad.data(), folder + "/grads.safetensors");
}

// Losses of log-prob and entropy through a vocabulary that the learner takes in parts.
TEST(LogitsInParts, HaveTheGradientOfTheComplexStep) {
  const ModelConfig shape = SmallConfig(kHeadColumns + 37);
  const Weights weights = InitWeights(shape, 3, 0.4);
  constexpr double kDentropy = 0.375;
  std::vector<RolloutGroup> groups = MakeGroups({3, 5}, 2, shape.vocab_size);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < 2; ++s) {
      groups[g].rollouts[s].tokens =
          RandomTokens(4, static_cast<std::uint32_t>(40 + 2 * g + s), shape.vocab_size);
      groups[g].rollouts[s].tokens[s] = static_cast<TokenId>(kHeadColumns - 1 + 2 * idx(s));
      groups[g].rollouts[s].advantage = s == 0 ? 0.5 : -0.75;
    }
  }
  TinyModel<float> tiny(weights, true);
  Learner<float> learner(tiny.model, weights.layout, LearnerConfig{});
  std::vector<LearnGroup> learn;
  for (const RolloutGroup& group : groups) learn.push_back({&group, {0.25, 0.125}});
  Buffer<float> grad(weights.layout.size);
  const auto loss_of = [&](const Rollout& rollout, idx t, const HeadOutput&) {
    TokenTerms terms = PolicyGradientLoss({.advantage = rollout.advantage});
    if (t % 2 == 1) terms.dentropy = kDentropy;
    return terms;
  };
  EXPECT_EQ(learner.Accumulate(learn, loss_of, grad.data()).tokens, 16);

  std::vector<reference::Complex> moved;
  for (const float w : weights.slab.span()) moved.emplace_back(double{w});
  double norm = 0, diff = 0;
  idx compared = 0;
  for (const TensorSpec& tensor : weights.layout.tensors) {
    // Every weight would take minutes.
    const idx step = std::max<idx>(1, tensor.size() / 60);
    for (idx i = tensor.offset; i < tensor.offset + tensor.size(); i += step, ++compared) {
      moved[static_cast<std::size_t>(i)] += reference::Complex(0, reference::kStep);
      reference::Complex loss = 0;
      for (std::size_t g = 0; g < groups.size(); ++g) {
        for (std::size_t s = 0; s < 2; ++s) {
          const Rollout& rollout = groups[g].rollouts[s];
          const std::size_t first = groups[g].prompt.size() - 1;
          const auto logits =
              reference::ModelLogits(shape, weights.layout, moved, InputTokens(groups[g], rollout));
          for (std::size_t t = 0; t < rollout.tokens.size(); ++t) {
            const auto target = static_cast<std::size_t>(rollout.tokens[t]);
            loss += learn[g].weights[s] *
                    (-rollout.advantage * reference::LogProb(logits[first + t], 1.0, target) +
                     (t % 2 == 1 ? kDentropy : 0.0) * reference::Entropy(logits[first + t], 1.0));
          }
        }
      }
      moved[static_cast<std::size_t>(i)] -= reference::Complex(0, reference::kStep);
      const double want = loss.imag() / reference::kStep;
      const double d = double{grad[i]} - want;
      diff += d * d;
      norm += want * want;
    }
  }
  EXPECT_GT(compared, 300);
  EXPECT_GT(norm, 0);
  // f32 sums and log-probs, as against PyTorch.
  EXPECT_LT(std::sqrt(diff), 1e-4 * std::sqrt(norm));
}

INSTANTIATE_TEST_SUITE_P(Goldens, GoldenModel,
                         testing::Values("tiny_llama_tied", "tiny_llama_untied", "tiny_qwen2",
                                         "tiny_qwen3", "tiny_llama3_rope", "tiny_mistral_linear",
                                         "tiny_qwen2_yarn", "tiny_qwen3_yarn", "tiny_lora"));
INSTANTIATE_TEST_SUITE_P(Goldens, GoldenWithScaledRope,
                         testing::Values("tiny_llama3_rope", "tiny_mistral_linear",
                                         "tiny_qwen2_yarn", "tiny_qwen3_yarn"));

}  // namespace
}  // namespace opo
