// The reference of given answers: numbers on disk instead of a model (train/reference_cache.h), and
// what self-refinement asks of it and of the policy (arXiv 2405.21040).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rollout/prompts.h"
#include "train/config.h"
#include "train/reference_cache.h"

namespace opo {

// The problem's prompt with algorithm.sr_prompt before its last message of the user, or before its
// last message where the user says nothing.
std::vector<TokenId> RefinedPrompt(const AlgorithmConfig& config, const PromptRenderer& prompts,
                                   const Problem& problem);

template <class T>
class GivenReference {
 public:
  struct Parts {
    const TrainConfig& config;
    Transformer<T>& model;  // the policy's, of the weights that the run began with
    std::string weights_digest;
    const std::vector<Problem>& problems;  // these two outlive the reference
    const PromptRenderer& prompts;
    std::function<RolloutGroup(idx)> group;  // of each problem
    std::string what;                        // "training", for the progress on stderr
    bool writes = true;
    bool progress = true;
  };
  // Computes what is not on disk. Throws Error(kInput) where a refinement prompt and an answer to
  // it are longer than the model has positions for.
  GivenReference(const Parts& parts, Comm& comm);

  // Fills reference_logprobs of groups, by RolloutGroup::problem, and, where the algorithm asks for
  // it, refined_log_ratio with the log-probs of `policy`; owner[g] is the rank that runs groups[g].
  void Score(Transformer<T>& policy, std::span<RolloutGroup> groups, std::span<const int> owner,
             Comm& comm) const;

  idx computed() const;  // groups that were not on disk

 private:
  RolloutGroup Refined(const RolloutGroup& group) const;
  const TrainConfig& config_;
  const std::vector<Problem>& problems_;
  const PromptRenderer& prompts_;
  float inv_temperature_;
  std::unique_ptr<CachedReference<T>> plain_, refined_;
};

// Where they are kept: run.reference_dir, or a folder of the run's own.
std::string ReferenceFolder(const TrainConfig& config);

}  // namespace opo
