// Numbers that are not finite: found before they reach a weight, and written out for study.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "comm/comm.h"
#include "data/problem.h"
#include "rollout/prompts.h"
#include "rollout/rollout.h"
#include "train/config.h"
#include "train/optimizer.h"

namespace opo {

struct NonFinite {
  // "reward", "log-prob", "reference log-prob", "value", "advantage", "gradient", "loss", "moment"
  std::string what;
  std::string where;     // the answer, or the tensor and the place in it; may be empty
  double value = 0;      // what stands there
  bool lasting = false;  // it is in the policy or the optimizer: leaving a batch out cures nothing
};

// The first one of a batch: log-probs, the reference's too, and rewards and advantages of answers
// that are scored. Where a log-prob is, `where` names the first weight that is not finite too, if
// one is.
std::optional<NonFinite> NonFiniteInBatch(std::span<const RolloutGroup> groups,
                                          const Weights& weights);

// The first one that AdamW would take: loss, gradient (`norm` is its 2-norm times what it is
// scaled with), moments. With finite weights and none of these, and a norm below 1e18, whose square
// f32 holds, the new weights and moments are finite.
// Of several ranks, each looks at its part of the slab, and all find the same.
std::optional<NonFinite> NonFiniteInUpdate(double loss, double norm, const Buffer<float>& grad,
                                           AdamW& optimizer, const SlabLayout& layout,
                                           Comm& comm = Comm::Alone());

// What a run does about them (train.on_nonfinite).
class NonFiniteGuard {
 public:
  // All of it outlives the guard.
  NonFiniteGuard(const TrainConfig& config, const std::vector<Problem>& problems,
                 const PromptRenderer& prompts)
      : config_(config), problems_(problems), prompts_(prompts) {}

  // Writes the batch to RUN/nonfinite/step_000012.json: `what`, `where` and `value`, and each
  // answer with its prompt, tokens, log-probs, reward and advantage; numbers that are not finite
  // are the texts "nan", "inf" and "-inf". Then throws Error(kWork); or, with
  // train.on_nonfinite = "skip" and where that can help, counts the update as left out and returns.
  // All ranks call it; the root writes.
  void Report(idx step, const NonFinite& found, std::span<const RolloutGroup> groups,
              Comm& comm = Comm::Alone());

  // Updates left out since the run began; a checkpoint keeps it.
  idx skipped() const { return skipped_; }
  void SetSkipped(idx skipped) { skipped_ = skipped; }

 private:
  // Returns what to say of it.
  std::string WriteBatch(idx step, const NonFinite& found,
                         std::span<const RolloutGroup> groups) const;
  const TrainConfig& config_;
  const std::vector<Problem>& problems_;
  const PromptRenderer& prompts_;
  idx skipped_ = 0;
};

}  // namespace opo
