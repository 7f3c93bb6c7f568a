// A small random model and groups of rollouts for the tests of exactness.
#pragma once

#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/load.h"
#include "model/transformer.h"
#include "reference/compare.h"
#include "rollout/rollout.h"

namespace opo {

// An odd vocabulary, three query heads a kv head, widths with and without padding.
inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.vocab_size = 259;  // Tokenizer::Bytes()
  config.hidden_size = 80;
  config.intermediate_size = 144;
  config.num_layers = 3;
  config.num_heads = 3;
  config.num_kv_heads = 1;
  config.head_dim = 32;
  config.max_position = 4096;
  return config;
}

// A few hundred weights, for tests of what is done with weights. 259 is Tokenizer::Bytes()' size.
inline ModelConfig SmallConfig(idx vocab_size = 11) {
  ModelConfig config;
  config.vocab_size = vocab_size;
  config.hidden_size = 8;
  config.intermediate_size = 12;
  config.num_layers = 1;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  config.max_position = 16;
  return config;
}

// Weights large enough that attention and logits are far from uniform.
inline const Weights& TinyWeights() {
  static const Weights weights = InitWeights(TinyConfig(), 5, 0.15);
  return weights;
}

// The switches of the architectures and RoPE's, for sequences beyond the original context. Two
// layers; norms and biases are random too. One is frozen, with an adapter of some matrices.
inline constexpr const char* kVariants[] = {"qwen2", "qwen3", "llama3_rope", "qwen3_yarn",
                                            "qwen3_lora"};

inline const Weights& VariantWeights(const std::string& name) {
  static std::map<std::string, Weights> all;
  const auto found = all.find(name);
  if (found != all.end()) return found->second;
  ModelConfig config = TinyConfig();
  config.num_layers = 2;
  SetArchitecture(config, name.substr(0, 5), "a test");
  if (name == "llama3_rope") SetRopeScaling(config, "llama3", 4, 32);
  if (name == "qwen3_yarn") {
    config.num_heads = 4;
    config.num_kv_heads = 2;
    config.head_dim = 24;  // heads that are no whole vectors
    SetRopeScaling(config, "yarn", 4, 32);
  }
  if (name == "qwen3_lora") {
    config.lora.rank = 5;
    config.lora.targets = {"q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"};
  }
  Weights weights = InitWeights(config, 5, 0.15);
  for (const TensorSpec& t : weights.layout.tensors) {
    if (!t.name.ends_with("lora_B.weight")) continue;
    for (idx j = 0; j < t.size(); ++j) {
      weights.slab[t.offset + j] = static_cast<float>(0.1 * Draw(499, t.offset + j));
    }
  }
  for (std::size_t i = 0; i < weights.layout.tensors.size(); ++i) {
    const TensorSpec& t = weights.layout.tensors[i];
    if (!t.is_vector) continue;
    for (idx j = 0; j < t.size(); ++j) {
      weights.slab[t.offset + j] +=
          static_cast<float>(0.3 * Draw(static_cast<std::uint32_t>(500 + i), j));
    }
  }
  return all.emplace(name, std::move(weights)).first->second;
}

template <class T>
struct TinyModel {
  PackedWeights<T> packed;
  Transformer<T> model;
  explicit TinyModel(const Weights& weights, bool backward = false)
      : packed(weights, backward), model(packed) {}
};

inline std::vector<TokenId> RandomTokens(idx n, std::uint32_t stream, idx vocab) {
  std::vector<TokenId> tokens;
  for (idx i = 0; i < n; ++i) {
    tokens.push_back(static_cast<TokenId>((Draw(stream, i) + 1) / 2 * static_cast<double>(vocab)));
  }
  return tokens;
}

// What a model reads to say an answer's tokens: the first by the prompt's last.
inline std::vector<TokenId> InputTokens(const RolloutGroup& group, const Rollout& rollout) {
  std::vector<TokenId> tokens = group.prompt;
  tokens.insert(tokens.end(), rollout.tokens.begin(), rollout.tokens.end() - 1);
  return tokens;
}

// Groups with prompts of the given lengths and `samples` empty rollouts each.
inline std::vector<RolloutGroup> MakeGroups(const std::vector<idx>& prompts, std::size_t samples,
                                            idx vocab) {
  std::vector<RolloutGroup> groups;
  for (std::size_t g = 0; g < prompts.size(); ++g) {
    RolloutGroup group;
    group.prompt = RandomTokens(prompts[g], static_cast<std::uint32_t>(100 + g), vocab);
    group.key = PromptKey("", group.prompt, 0);
    group.rollouts.resize(samples);
    groups.push_back(std::move(group));
  }
  return groups;
}

// The real model of the tests, from the environment; "" where there is none.
inline std::string SmolLm2Path() {
  const char* path = std::getenv("OPO_SMOLLM2_GGUF");
  return path == nullptr ? "" : path;
}
#define OPO_NEEDS_SMOLLM2()                                                                \
  if (SmolLm2Path().empty()) {                                                             \
    GTEST_SKIP() << "set OPO_SMOLLM2_GGUF to the path of SmolLM2-135M-Instruct.Q4_1.gguf"; \
  }

// Everything that a rollout records, tolerance 0.
inline bool SameRollout(const Rollout& a, const Rollout& b) {
  return a.tokens == b.tokens && SameBits(a.logprobs, b.logprobs) &&
         SameBits(a.entropies, b.entropies) && SameBits(a.sum_sqs, b.sum_sqs) &&
         a.finish == b.finish;
}
inline bool SameGroup(const RolloutGroup& a, const RolloutGroup& b) {
  if (a.rollouts.size() != b.rollouts.size()) return false;
  for (std::size_t s = 0; s < a.rollouts.size(); ++s) {
    if (!SameRollout(a.rollouts[s], b.rollouts[s])) return false;
  }
  return true;
}

}  // namespace opo
