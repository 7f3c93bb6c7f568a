// Log-probs of a batch's answers under other weights than sampled them: those of a frozen
// reference, or those of the policy after an update.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "comm/comm.h"
#include "rollout/rollout.h"
#include "train/config.h"

namespace opo {

// Of each token of each answer of each group; of a model without logits the values.
using BatchLogProbs = std::vector<std::vector<std::vector<float>>>;

// By a forward pass over the answers: the bits are those that the learner's head has for the same
// weights (E2).
template <class T>
BatchLogProbs ScoreAgain(Transformer<T>& model, std::span<const RolloutGroup* const> groups,
                         float inv_temperature);
// The same over the ranks: owner[g] is the one that runs groups[g], and all get all.
template <class T>
BatchLogProbs ScoreShared(Transformer<T>& model, std::span<const RolloutGroup> groups,
                          std::span<const int> owner, float inv_temperature, Comm& comm);

// The weights that the run began with, in the type of the policy's products. A policy that began as
// the base of its adapter keeps them anyway; else they are packed a second time.
template <class T>
class Reference {
 public:
  // `start` is only read now; `policy`, packed from it, outlives the reference.
  Reference(const TrainConfig& config, const Weights& start, const PackedWeights<T>& policy);

  // Fills the answers' reference_logprobs and their seals, at the temperature of the run. Throws
  // Error(kExactness) where the reference is no longer what was packed.
  void Score(idx step, std::span<RolloutGroup> groups, std::span<const int> owner, Comm& comm);

  idx weights_bytes() const { return packed_ == nullptr ? 0 : packed_->bytes(); }

 private:
  float inv_temperature_;
  std::unique_ptr<PackedWeights<T>> packed_;  // null: the policy's base
  Transformer<T> model_;
};

// The hash of reference_logprobs that Rollout::reference_seal keeps.
std::uint64_t SealOfReference(const Rollout& rollout);

}  // namespace opo
