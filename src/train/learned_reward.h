// A reward model that learns beside the policy (aihf): from demonstrations, from pairs, and from
// the policy's own answers, which it scores in the same step.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "data/prompt_order.h"
#include "rollout/prompts.h"
#include "train/config.h"
#include "train/nonfinite.h"
#include "train/trainable.h"

namespace opo {

// Of [learned_reward], and of keys that a reward model has. Throws Error(kUsage).
void CheckLearnedReward(const TrainConfig& config);

// The settings with which `opo rm` would train this reward alone: what it learns by, and from.
TrainConfig LearnedRewardConfig(const TrainConfig& config);

// Its shape, of a policy of shape `policy`.
ModelConfig LearnedRewardShape(const TrainConfig& config, const ModelConfig& policy);

template <class T>
class LearnedReward {
 public:
  // What it works with; all of it outlives this.
  struct Parts {
    const TrainConfig& config;
    const Tokenizer& tokenizer;
    const PromptRenderer& prompts;
    const std::vector<Problem>& problems;  // with demonstrations, unless these weigh nothing
    Comm& comm;
    NonFiniteGuard& guard;
  };
  // Begins as [learned_reward] says. Throws Error(kInput) where its vocabulary is another one.
  LearnedReward(const Parts& parts, idx micro_batch_bytes);

  Trainable<T>& model() { return model_; }
  const std::string& pairs_digest() const { return pairs_digest_; }

  // The rewards of answers, for whatever their rules said: a forward pass over each, on this rank.
  void Score(std::span<RolloutGroup> groups);
  // learned_reward.steps updates, from the batch's answers, the demonstrations of their prompts,
  // and the next pairs. Puts the "reward_model" metrics. Throws Error(kExactness) where the first
  // update finds other scores than Score did.
  void Learn(idx step, std::span<const RolloutGroup> groups, nlohmann::ordered_json& metrics);

 private:
  std::vector<RolloutGroup> Batch(idx update, std::span<const RolloutGroup> groups) const;

  Parts parts_;
  TrainConfig config_;  // LearnedRewardConfig
  Trainable<T> model_;
  std::vector<Problem> pairs_;
  std::optional<PromptOrder> order_;
  std::string pairs_digest_;
};

}  // namespace opo
