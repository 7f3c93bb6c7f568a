// The learning half of a step: the batch's optimizer steps, each proven before it changes a weight.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <span>

#include "train/config.h"
#include "train/learner.h"
#include "train/nonfinite.h"
#include "train/optimizer.h"
#include "train/shards.h"

namespace opo {

template <class T>
class Updater {
 public:
  // What it works with; all of it outlives the updater.
  struct Parts {
    const TrainConfig& config;
    Weights& weights;
    AdamW& optimizer;
    PackedWeights<T>& packed;
    Transformer<T>& model;
    Tape<T>& tape;  // of the batch at hand; empty after its first update
    Comm& comm;
    NonFiniteGuard& guard;
  };
  Updater(const Parts& parts, idx micro_batch_bytes);

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

 private:
  LearnResult Step(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                   const LossFunction& loss, idx update, idx total_updates,
                   nlohmann::ordered_json& metrics);
  LearnResult Accumulate(idx step, std::span<const LearnGroup> groups, const LossFunction& loss,
                         float* grad, const GradientSum::LayerDone& layer_done);
  void PutGradientDigest(nlohmann::ordered_json& metrics);
  void CheckExact(idx step, std::span<const RolloutGroup> groups, LearnResult& result);
  // Nothing that the update came from may have changed in memory since it was made.
  void CheckSeals(idx step, std::span<const RolloutGroup> groups);
  void CheckPacked(idx step) const;

  Parts parts_;
  Learner<T> learner_;
  GradientSum gradient_;
};

}  // namespace opo
