// The learner against PyTorch (tests/golden, f64) and against itself under other memory plans.
#include "train/learner.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/parallel.h"
#include "model/load.h"
#include "reference/golden_gradient.h"

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

INSTANTIATE_TEST_SUITE_P(Goldens, GoldenModel,
                         testing::Values("tiny_llama_tied", "tiny_llama_untied", "tiny_qwen2",
                                         "tiny_qwen3", "tiny_llama3_rope", "tiny_mistral_linear",
                                         "tiny_qwen2_yarn", "tiny_qwen3_yarn", "tiny_lora"));
INSTANTIATE_TEST_SUITE_P(Goldens, GoldenWithScaledRope,
                         testing::Values("tiny_llama3_rope", "tiny_mistral_linear",
                                         "tiny_qwen2_yarn", "tiny_qwen3_yarn"));

}  // namespace
}  // namespace opo
