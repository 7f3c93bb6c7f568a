// A model that a run trains: the policy, a critic, a reward model. Its masters and moments, the
// packed weights that forward and backward read, and one optimizer step in two halves: a gradient
// that is proven, and the update that it makes.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "train/config.h"
#include "train/learner.h"
#include "train/nonfinite.h"
#include "train/optimizer.h"
#include "train/shards.h"

namespace opo {

template <class T>
class Trainable {
 public:
  struct Settings {
    std::string name;           // "actor", "critic", ...: what its metrics begin with
    std::string base;           // what an adapter's folder names as its base
    OptimizerConfig optimizer;  // learning rate, schedule, moments, clipping
    idx updates = 0;            // of the whole run, which the schedule is laid out over
    idx micro_batch_bytes = 0;
    float inv_temperature = 1;
    bool pack = false;  // LearnerConfig::pack: of given answers
  };
  // Packs the weights. Of several ranks all make it from the same weights.
  Trainable(Settings settings, Weights weights, Comm& comm);

  const std::string& name() const { return settings_.name; }
  const std::string& base() const { return settings_.base; }
  Weights& weights() { return weights_; }
  const Weights& weights() const { return weights_; }
  AdamW& optimizer() { return optimizer_; }
  PackedWeights<T>& packed() { return packed_; }
  const PackedWeights<T>& packed() const { return packed_; }
  Transformer<T>& model() { return model_; }
  Learner<T>& learner() { return learner_; }
  // After a change of the masters that was not Update()'s.
  void Repack() { packed_.Update(weights_); }

  // The gradient of sum over tokens of weight * loss, over all ranks: those of a rank learn its
  // shards of `deal`. shards[s] are the groups of shard s. Returns the sum over shards. Throws
  // Error(kExactness) naming the step where what is on `tape` is no longer what the sampler wrote.
  LearnResult Accumulate(idx step, const std::vector<std::vector<LearnGroup>>& shards,
                         const ShardDeal& deal, const LossFunction& loss, Tape<T>* tape = nullptr);
  // Throws Error(kExactness) where the packed weights are no longer what was packed.
  void CheckPacked(idx step) const;
  // XXH3-128 of the gradient, the same at all ranks.
  std::string GradientDigest();
  // Clips the gradient, takes AdamW's step and packs the weights, which are then the same at all
  // ranks. Puts NAME/grad_norm and NAME/lr, adds to "timing_s/optimizer". Of non-finite numbers,
  // `sum.loss` among them, it tells the guard: the weights stay as they were.
  void Update(idx step, const LearnResult& sum, std::span<const RolloutGroup> groups,
              NonFiniteGuard& guard, nlohmann::ordered_json& metrics);
  // Puts the same metrics, as not a number, for an update that was left out before its gradient.
  void PutNoUpdate(nlohmann::ordered_json& metrics) const;

 private:
  Settings settings_;
  Comm& comm_;
  Weights weights_;
  AdamW optimizer_;
  PackedWeights<T> packed_;
  Transformer<T> model_;
  Learner<T> learner_;
  GradientSum gradient_;
};

}  // namespace opo
