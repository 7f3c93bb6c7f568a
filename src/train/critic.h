// The critic: a model that says before each token of an answer what reward is still to come. It
// begins as a copy of the policy with a value head of zeros, or as a reward model; it learns the
// returns of the answers that the policy learns from.
#pragma once

#include <nlohmann/json.hpp>
#include <span>

#include "text/tokenizer.h"
#include "train/config.h"
#include "train/nonfinite.h"
#include "train/shards.h"
#include "train/trainable.h"

namespace opo {

// The shape of the critic beside a policy of the given one.
ModelConfig CriticShape(const TrainConfig& config, const ModelConfig& policy);

// A critic with weights of its own; a shared one is the policy's value head (UpdateLoss).
template <class T>
class Critic {
 public:
  // What it works with; all of it outlives the critic.
  struct Parts {
    const TrainConfig& config;
    Comm& comm;
    NonFiniteGuard& guard;
  };
  // Throws Error(kUsage) for one whose tokenizer is not the policy's.
  Critic(const Parts& parts, const Tokenizer& tokenizer, idx micro_batch_bytes);

  Trainable<T>& model() { return model_; }

  // Fills the values of the groups' answers, with the weights as they are now.
  void Score(idx step, std::span<RolloutGroup> groups, std::span<const int> owner);

  // Learns the answers' returns: train.epochs passes in mini-batches, as the policy does. The first
  // update finds the values that Score() found, bit for bit, else throws Error(kExactness). Puts
  // "critic/vf_loss", "critic/vf_clipfrac", "critic/vpred_mean", "critic/grad_norm", "critic/lr",
  // "exact/compared_values", "exact/mismatched_values"; nothing where no answer has returns.
  void Update(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
              nlohmann::ordered_json& metrics);

 private:
  LearnResult Step(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                   idx update, nlohmann::ordered_json& metrics);
  Parts parts_;
  Trainable<T> model_;
};

}  // namespace opo
