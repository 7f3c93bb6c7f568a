// What the updates of a batch minimise: the advantages of its answers, and the loss of an update,
// which is the algorithm's, a KL term and an entropy term.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <unordered_map>
#include <vector>

#include "train/config.h"
#include "train/learner.h"
#include "train/reference.h"

namespace opo {

// Fills advantage and token_advantages of all answers; `gradient_norms`, |grad log pi|^2 of each
// answer in order, may be empty where the algorithm does not ask for them. They are 0 for those
// that are not scored, or have no greedy answer where the algorithm compares with one. Puts
// "critic/advantages", over tokens where these differ, "critic/baseline", and of a KL term in the
// reward "actor/reward_kl_penalty" and "actor/reward_kl_penalty_coeff". With a critic it looks at
// the answers' values, and fills what the critic is to learn of them (returns).
void SetAdvantages(const TrainConfig& config, std::span<RolloutGroup> groups,
                   std::span<const double> gradient_norms, nlohmann::ordered_json& metrics);

// Puts "monitor/kl_k1" and "monitor/kl_k3": means over the tokens of answers with
// reference_logprobs, log-probs being those of sampling.
void PutKlToStart(std::span<const RolloutGroup> groups, nlohmann::ordered_json& metrics);

// What a loss that joins tokens sees of the scored answers of `groups`, in order; `policy` as in
// UpdateLoss, empty: those of sampling. CHECKs that what the algorithm needs is there.
LossBatch LossBatchOf(const AlgorithmConfig& config, std::span<const RolloutGroup> groups,
                      const BatchLogProbs& policy = {});

// Of a loss of preferences, under TRL's names: means over the pairs of beta times the log-ratios
// ("rewards/chosen", "rewards/rejected"), their difference ("rewards/margins"), how often it is
// above 0 ("rewards/accuracies"), the answers' log-probs ("logps/chosen", "logps/rejected"), and
// the pairs themselves ("rewards/pairs"); of self-refinement "rewards/refined_margins", Delta; with
// demonstrations "logps/demonstrations". All names begin with `prefix`. Nothing for other losses.
void PutPreferenceMetrics(const AlgorithmConfig& config, const LossBatch& batch,
                          const std::string& prefix, nlohmann::ordered_json& metrics);
// Fills the returns of scored answers with those of the reward alone, discounted: what a critic
// learns of whole answers (T-PPO).
void SetReturns(const AlgorithmConfig& config, std::span<RolloutGroup> groups);

// The mean over answers of their tokens' mean KL estimate, by the log-probs of sampling: what an
// adaptive kl_coef looks at.
double MeanKl(const AlgorithmConfig& config, std::span<const RolloutGroup> groups);

// What a shared critic adds to the policy's loss of a token, times `coef`.
struct ValueTerm {
  double coef = 0;  // 0: nothing
  double clip = 0;
};

// The loss of one update.
class UpdateLoss {
 public:
  // `groups`, those of the update, outlive it. `policy` are their log-probs by the weights that
  // learn, if these are no longer the samplers'; only a loss that joins tokens asks for them.
  // `on_policy`: the batch has this update alone.
  UpdateLoss(const AlgorithmConfig& config, bool on_policy, std::span<const RolloutGroup> groups,
             const BatchLogProbs& policy = {}, const ValueTerm& value_term = {});

  // Of token t, whose log-prob is `policy`, and for which a shared critic says `value`; of a
  // demonstration beside the sampled answers (ptx_coef) its negative log-likelihood. Throws
  // Error(kExactness) where `policy` is not what it was made with.
  TokenTerms operator()(const Rollout& rollout, idx t, double policy, double value = 0) const;
  // PutPreferenceMetrics() of the update's answers.
  void PutMetrics(nlohmann::ordered_json& metrics, const std::string& prefix = "") const {
    PutPreferenceMetrics(config_, batch_, prefix, metrics);
  }
  // LearnGroup::more_terms of a group.
  bool HasMoreTerms(const RolloutGroup& group) const;

 private:
  struct Place {
    const RolloutGroup* group;
    std::size_t response;  // of the batch
  };
  AlgorithmConfig config_;
  const Algorithm& algorithm_;
  bool on_policy_;
  bool kl_in_loss_;
  ValueTerm value_term_;
  LossBatch batch_;     // of a loss that joins tokens
  BatchLosses losses_;  // of its tokens
  std::unordered_map<const Rollout*, Place> places_;
};

}  // namespace opo
