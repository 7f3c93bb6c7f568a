// The learning half of a step: the batch's optimizer steps, each proven before it changes a weight.
#pragma once

#include <nlohmann/json.hpp>
#include <span>

#include "rollout/prompts.h"
#include "train/config.h"
#include "train/nonfinite.h"
#include "train/objective.h"
#include "train/shards.h"
#include "train/trainable.h"

namespace opo {

template <class T>
class Updater {
 public:
  // What it works with; all of it outlives the updater.
  struct Parts {
    const TrainConfig& config;
    Trainable<T>& policy;
    Tape<T>& tape;  // of the batch at hand; empty after its first update
    Comm& comm;
    NonFiniteGuard& guard;
    // Of the demonstrations that algorithm.ptx_coef asks for.
    const Tokenizer& tokenizer;
    const PromptRenderer& prompts;
    const std::vector<Problem>& problems;
  };
  explicit Updater(const Parts& parts) : parts_(parts) {}

  // Planted faults: flip:packed (before sampling) and flip:packed_learn, of the packed weights;
  // flip:logprob, where every rollout is an occasion; flip:tape, where every taped segment is.
  void FlipPacked(const char* target);
  void FlipSampled(std::span<RolloutGroup> groups);

  // The tape's part of E1: what is on it is what the learner would compute. Puts
  // "exact/taped_rows", "exact/rechecked_rows" and "exact/mismatched_rows". Throws
  // Error(kExactness) where a row differs.
  void Recheck(idx step, std::span<const RolloutGroup> groups, nlohmann::ordered_json& metrics);

  // The batch's updates: train.epochs passes in mini-batches, of groups with advantages. Each rank
  // learns its shards of `deal`, and the weights are the same at all of them afterwards. Returns
  // the updates' sum; puts the "actor", "exact" and "training/optimizer_steps" metrics. Throws
  // Error(kExactness) where a log-prob differs from the sampler's, Error(kWork) for non-finite
  // numbers, or leaves their update out (train.on_nonfinite): the weights are then those of before
  // the update.
  LearnResult Update(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                     nlohmann::ordered_json& metrics);
  // Instead, where the policy waits for its critic: the weights stay. E1 of one group.
  LearnResult Hold(idx step, std::span<const RolloutGroup> groups, nlohmann::ordered_json& metrics);

 private:
  LearnResult Step(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                   idx update, nlohmann::ordered_json& metrics);
  UpdateLoss LossOf(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                    idx update);
  // The groups' demonstrations, put behind them on their shards.
  std::vector<RolloutGroup> Demonstrate(std::span<const RolloutGroup> groups,
                                        std::vector<std::vector<LearnGroup>>& shards);
  void CheckExact(idx step, std::span<const RolloutGroup> groups, LearnResult& result);
  // Nothing that the update came from may have changed in memory since it was made.
  void CheckSeals(idx step, std::span<const RolloutGroup> groups);

  Parts parts_;
};

}  // namespace opo
