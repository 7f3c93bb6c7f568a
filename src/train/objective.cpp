#include "train/objective.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "algo/advantages.h"
#include "algo/preference.h"
#include "base/error.h"
#include "base/fault.h"
#include "eval/answer.h"
#include "train/step_metrics.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

// Of each token, in nats and without the coefficient, by the log-probs of sampling.
std::vector<double> KlOfTokens(const AlgorithmConfig& config, const Rollout& rollout) {
  OPO_CHECK(rollout.reference_logprobs.size() == rollout.logprobs.size());
  const std::string estimator = KlEstimator(config);
  std::vector<double> kl;
  for (std::size_t t = 0; t < rollout.logprobs.size(); ++t) {
    kl.push_back(KlPenalty(estimator, static_cast<double>(rollout.logprobs[t]),
                           static_cast<double>(rollout.reference_logprobs[t]))
                     .value);
  }
  return kl;
}

// What a KL term in the reward takes from each token.
std::vector<double> TokenPenalties(const AlgorithmConfig& config, const Rollout& rollout) {
  std::vector<double> penalties = KlOfTokens(config, rollout);
  for (double& penalty : penalties) penalty *= config.kl_coef;
  return penalties;
}

}  // namespace

void SetAdvantages(const TrainConfig& config, std::span<RolloutGroup> groups,
                   std::span<const double> gradient_norms, ordered_json& metrics) {
  const Algorithm& algorithm = FindAlgorithm(config.algorithm.name);
  const bool greedy = NeedsGreedy(config);
  const bool token_stats = (algorithm.needs & kNeedsTokenStats) != 0;
  const bool critic = NeedsCritic(config);
  const bool penalties = KlInReward(config.algorithm);
  RewardBatch batch;
  std::vector<Rollout*> scored;
  Spread kl;
  idx group_number = 0;
  std::size_t place = 0;
  for (RolloutGroup& group : groups) {
    bool any = false;
    const bool comparable = !greedy || (group.greedy.has_value() && group.greedy->scored());
    for (Rollout& rollout : group.rollouts) {
      rollout.advantage = rollout.baseline = 0;
      rollout.token_advantages.clear();
      rollout.returns.clear();
      const std::size_t at = place++;
      if (!rollout.counts() || !comparable) continue;
      if (!gradient_norms.empty()) batch.gradient_norms.push_back(gradient_norms[at]);
      batch.rewards.push_back(rollout.reward);
      batch.lengths.push_back(rollout.length());
      batch.groups.push_back(group_number);
      if (greedy) batch.greedy_rewards.push_back(group.greedy->reward);
      if (token_stats) {
        batch.logprobs.emplace_back(rollout.logprobs);
        batch.sum_sqs.emplace_back(rollout.sum_sqs);
      }
      if (critic) {
        batch.values.emplace_back(rollout.values);
        batch.unfinished.push_back(rollout.unfinished);
      }
      if (penalties) {
        batch.token_penalties.push_back(TokenPenalties(config.algorithm, rollout));
        Spread tokens;
        for (const double value : KlOfTokens(config.algorithm, rollout)) tokens.Add(value);
        kl.Add(tokens.mean());
      }
      scored.push_back(&rollout);
      any = true;
    }
    if (any) ++group_number;
  }
  AdvantageResult result = algorithm.advantages(batch, Resolved(config.algorithm));
  if (result.token_advantages.empty()) CorruptNumbers("advantage", std::span(result.advantages));
  for (std::vector<double>& tokens : result.token_advantages) {
    CorruptNumbers("advantage", std::span(tokens));
  }
  Spread advantages;
  Spread baselines;
  for (std::size_t i = 0; i < scored.size(); ++i) {
    scored[i]->advantage = result.advantages[i];
    scored[i]->baseline = result.baselines[i];
    baselines.Add(result.baselines[i]);
    if (!result.returns.empty()) scored[i]->returns = std::move(result.returns[i]);
    if (result.token_advantages.empty()) {
      advantages.Add(result.advantages[i]);
      continue;
    }
    scored[i]->token_advantages = std::move(result.token_advantages[i]);
    for (const double a : scored[i]->token_advantages) advantages.Add(a);
  }
  advantages.Put(metrics, "critic/advantages");
  metrics["critic/baseline/mean"] = baselines.mean();
  if (penalties) {
    metrics["actor/reward_kl_penalty"] = kl.mean();
    metrics["actor/reward_kl_penalty_coeff"] = config.algorithm.kl_coef;
  }
}

void PutKlToStart(std::span<const RolloutGroup> groups, ordered_json& metrics) {
  KlSums kl;
  idx tokens = 0;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) {
      for (std::size_t t = 0; t < rollout.logprobs.size(); ++t, ++tokens) {
        kl.Add(rollout.logprobs[t], rollout.reference_logprobs[t]);
      }
    }
  }
  metrics["monitor/kl_k1"] = kl.k1 / static_cast<double>(tokens);
  metrics["monitor/kl_k3"] = kl.k3 / static_cast<double>(tokens);
}

void SetReturns(const AlgorithmConfig& config, std::span<RolloutGroup> groups) {
  for (RolloutGroup& group : groups) {
    for (Rollout& rollout : group.rollouts) {
      rollout.returns.clear();
      if (!rollout.scored()) continue;
      rollout.returns = Returns({{rollout.reward}, {rollout.length()}, {0}}, config.gamma).front();
    }
  }
}

double MeanKl(const AlgorithmConfig& config, std::span<const RolloutGroup> groups) {
  Spread answers;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) {
      Spread tokens;
      for (const double value : KlOfTokens(config, rollout)) tokens.Add(value);
      if (tokens.count > 0) answers.Add(tokens.mean());
    }
  }
  return answers.mean();
}

LossBatch LossBatchOf(const AlgorithmConfig& config, std::span<const RolloutGroup> groups,
                      const BatchLogProbs& policy) {
  OPO_CHECK(policy.empty() || policy.size() == groups.size());
  const unsigned needs = FindAlgorithm(config.name).needs;
  LossBatch batch;
  idx group_number = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    bool any = false;
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      const Rollout& rollout = groups[g].rollouts[s];
      if (!rollout.scored()) continue;
      // Of a model that has nothing else, the values.
      const std::vector<float>& then = rollout.logprobs.empty() ? rollout.values : rollout.logprobs;
      const std::vector<float>& now = policy.empty() ? then : policy[g][s];
      batch.policy.emplace_back(now.begin(), now.end());
      batch.rollout.emplace_back(then);
      double reward = rollout.reward;
      if (KlInReward(config)) {
        for (const double penalty : TokenPenalties(config, rollout)) reward -= penalty;
      }
      batch.rewards.push_back(reward);
      batch.advantages.push_back(rollout.advantage);
      batch.groups.push_back(group_number);
      if ((needs & kNeedsReference) != 0) {
        OPO_CHECK(rollout.reference_logprobs.size() == rollout.tokens.size());
        batch.reference.emplace_back(rollout.reference_logprobs);
      }
      batch.learned.push_back(rollout.learned);
      batch.refined.push_back(rollout.refined_log_ratio);
      any = true;
    }
    if (!any) continue;
    batch.demonstrations.push_back(groups[g].demonstration);
    ++group_number;
  }
  return batch;
}

void PutPreferenceMetrics(const AlgorithmConfig& config, const LossBatch& batch,
                          const std::string& prefix, ordered_json& metrics) {
  const Algorithm& algorithm = FindAlgorithm(config.name);
  if (algorithm.pairs == nullptr) return;
  const auto log_prob = [&](std::size_t i) {
    double sum = 0;
    for (std::size_t t = 0; t < batch.policy[i].size(); ++t) {
      if (IsLearned(batch, i, t)) sum += batch.policy[i][t];
    }
    return sum;
  };
  const std::vector<AnswerPair> pairs = algorithm.pairs(batch.rewards, batch.groups);
  Spread chosen_reward, rejected_reward, margin, accuracy, chosen_logp, rejected_logp, refined;
  for (const AnswerPair& pair : pairs) {
    const double chosen_ratio = LogRatio(batch, pair.chosen);
    const double rejected_ratio = LogRatio(batch, pair.rejected);
    chosen_reward.Add(config.beta * chosen_ratio);
    rejected_reward.Add(config.beta * rejected_ratio);
    margin.Add(config.beta * chosen_ratio - config.beta * rejected_ratio);
    accuracy.Add(config.beta * chosen_ratio > config.beta * rejected_ratio ? 1 : 0);
    chosen_logp.Add(log_prob(pair.chosen));
    rejected_logp.Add(log_prob(pair.rejected));
    refined.Add(config.beta * (batch.refined[pair.chosen] - batch.refined[pair.rejected]));
  }
  metrics[prefix + "rewards/pairs"] = pairs.size();
  if (!pairs.empty()) {
    metrics[prefix + "rewards/chosen"] = chosen_reward.mean();
    metrics[prefix + "rewards/rejected"] = rejected_reward.mean();
    metrics[prefix + "rewards/accuracies"] = accuracy.mean();
    metrics[prefix + "rewards/margins"] = margin.mean();
    metrics[prefix + "logps/chosen"] = chosen_logp.mean();
    metrics[prefix + "logps/rejected"] = rejected_logp.mean();
    if ((algorithm.needs & kNeedsRefinement) != 0) {
      metrics[prefix + "rewards/refined_margins"] = refined.mean();
    }
  }
  if ((algorithm.needs & kNeedsDemonstrations) == 0) return;
  Spread demonstrations;
  for (std::size_t i = 0; i < batch.groups.size(); ++i) {
    const bool before = i > 0 && batch.groups[i - 1] == batch.groups[i];
    const bool behind = i + 1 < batch.groups.size() && batch.groups[i + 1] == batch.groups[i];
    if (!before && !behind) demonstrations.Add(log_prob(i));
  }
  if (demonstrations.count > 0) {
    metrics[prefix + "logps/demonstrations"] = demonstrations.mean();
  }
}

UpdateLoss::UpdateLoss(const AlgorithmConfig& config, bool on_policy,
                       std::span<const RolloutGroup> groups, const BatchLogProbs& policy,
                       const ValueTerm& value_term)
    : config_(Resolved(config)),
      algorithm_(FindAlgorithm(config.name)),
      on_policy_(on_policy &&
                 (algorithm_.needs & (kNeedsDemonstrations | kNeedsPairs | kNeedsSteps)) == 0),
      kl_in_loss_(KlInLoss(config)),
      value_term_(value_term) {
  config_.kl_estimator = KlEstimator(config);
  if (algorithm_.batch_loss == nullptr) return;
  batch_ = LossBatchOf(config_, groups, policy);
  std::size_t response = 0;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) {
      if (rollout.scored()) places_[&rollout] = {&group, response++};
    }
  }
  losses_ = algorithm_.batch_loss(batch_, config_);
}

TokenTerms UpdateLoss::operator()(const Rollout& rollout, idx t, double policy,
                                  double value) const {
  const auto at = static_cast<std::size_t>(t);
  TokenTerms terms;
  if (config_.ptx_coef > 0 && rollout.logprobs.empty()) {  // no answer of the policy's own
    terms.loss = {.loss = -policy, .dlogprob = -config_.ptx_coef};
    terms.demonstrated = true;
    return terms;
  }
  if (algorithm_.batch_loss != nullptr) {
    const auto place = places_.find(&rollout);
    if (place == places_.end()) return terms;  // not scored: its tokens weigh nothing
    const auto& [group, response] = place->second;
    if (std::bit_cast<std::uint64_t>(batch_.policy[response][at]) !=
        std::bit_cast<std::uint64_t>(policy)) {
      Fail(ErrorCode::kExactness,
           "{}: the learner's log-prob is {}, and that of the pass before it, which the loss was "
           "made with, {}: {}",
           PlaceOf(*group, &rollout - group->rollouts.data(), t), policy,
           batch_.policy[response][at], kContractBroken);
    }
    terms.loss = losses_[response][at];
  } else {
    const LossToken token{
        .policy = policy,
        // Given answers need not have been scored.
        .rollout = rollout.logprobs.empty() ? policy : static_cast<double>(rollout.logprobs[at]),
        .advantage = rollout.advantage_at(t),
        .reference = rollout.reference_logprobs.empty()
                         ? 0.0
                         : static_cast<double>(rollout.reference_logprobs[at])};
    // A loss against a reference has another gradient at ratio 1 than the plain one.
    const bool plain = on_policy_ && (algorithm_.needs & kNeedsReference) == 0;
    terms.loss = plain ? PolicyGradientLoss(token) : algorithm_.token_loss(token, config_);
  }
  if (kl_in_loss_) {
    const KlTerm kl = KlPenalty(config_.kl_estimator, policy,
                                static_cast<double>(rollout.reference_logprobs[at]));
    terms.kl = kl.value;
    terms.loss.dlogprob += config_.kl_coef * kl.dlogprob;
  }
  terms.dentropy = -config_.entropy_coef;
  if (value_term_.coef != 0 && !rollout.returns.empty()) {
    const TokenLoss loss = ValueLoss(value, static_cast<double>(rollout.values[at]),
                                     rollout.returns[at], value_term_.clip);
    terms.value_loss = loss.loss;
    terms.value_clipped = loss.clipped;
    terms.dvalue = value_term_.coef * loss.dlogprob;
  }
  return terms;
}

bool UpdateLoss::HasMoreTerms(const RolloutGroup& group) const {
  if (kl_in_loss_ || config_.entropy_coef != 0 || value_term_.coef != 0) return true;
  if (algorithm_.batch_loss == nullptr) return (algorithm_.needs & kNeedsReference) != 0;
  return std::any_of(group.rollouts.begin(), group.rollouts.end(), [&](const Rollout& rollout) {
    const auto place = places_.find(&rollout);
    if (place == places_.end()) return false;
    const std::vector<TokenLoss>& tokens = losses_[place->second.response];
    return std::any_of(tokens.begin(), tokens.end(),
                       [](const TokenLoss& token) { return token.dlogprob != 0; });
  });
}

}  // namespace opo
