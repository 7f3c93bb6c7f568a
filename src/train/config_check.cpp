// What the keys of a run must satisfy together, and what follows from several of them.
#include <algorithm>

#include "algo/algorithm.h"
#include "base/error.h"
#include "train/config.h"
#include "train/given.h"
#include "train/learned_reward.h"

namespace opo {

void ValidateTrainConfig(const TrainConfig& c, bool asks) {
  const auto usage = ErrorCode::kUsage;
  ValidateDataConfig(c.data);
  if (c.model.path.empty()) {
    const ModelInitConfig& init = c.model.init;
    if (init.num_heads % init.num_kv_heads != 0) {
      Fail(usage, "model.init.num_kv_heads = {}: must divide model.init.num_heads = {}",
           init.num_kv_heads, init.num_heads);
    }
    if (init.head_dim % 2 != 0) {
      Fail(usage, "model.init.head_dim = {}: must be even", init.head_dim);
    }
    if (c.rollout.max_new_tokens >= init.max_position) {
      Fail(usage,
           "rollout.max_new_tokens = {}: leaves no room for a prompt in "
           "model.init.max_position = {}",
           c.rollout.max_new_tokens, init.max_position);
    }
  }
  if (c.lora.rank > 0) {
    const auto known = LoraTargets();
    if (c.lora.targets.empty()) Fail(usage, "lora.targets: is empty; name at least one matrix");
    for (const std::string& target : c.lora.targets) {
      if (std::find(known.begin(), known.end(), target) != known.end()) continue;
      Fail(usage, "lora.targets: \"{}\" is not one of {}", target, fmt::join(known, ", "));
    }
  }
  for (const std::string& stop : c.rollout.stop) {
    if (stop.empty()) Fail(usage, "rollout.stop: an empty text would end every answer; remove it");
  }
  if (c.eval.temperature > 0 && c.eval.temperature < 0.01) {
    Fail(usage, "eval.temperature = {}: must be 0, for greedy answers, or at least 0.01",
         c.eval.temperature);
  }
  if (c.train.mini_batch > c.rollout.prompts) {
    Fail(usage, "train.mini_batch = {}: there are only rollout.prompts = {} a step",
         c.train.mini_batch, c.rollout.prompts);
  }
  if (c.rollout.prompts % MiniBatchPrompts(c) != 0) {
    Fail(usage, "train.mini_batch = {}: must divide rollout.prompts = {}", c.train.mini_batch,
         c.rollout.prompts);
  }
  if (c.train.warmup_steps > c.train.steps) {
    Fail(usage, "train.warmup_steps = {}: more than train.steps = {}", c.train.warmup_steps,
         c.train.steps);
  }
  if (c.train.max_tokens > 0 && c.train.schedule != "constant") {
    Fail(usage,
         "train.max_tokens = {}: a {} schedule is laid out over train.steps, which such a run need "
         "not take; set train.schedule = \"constant\"",
         c.train.max_tokens, c.train.schedule);
  }
  if ((c.train.shards & (c.train.shards - 1)) != 0) {
    Fail(usage, "train.shards = {}: must be a power of two", c.train.shards);
  }
  if (c.algorithm.exact) {
    constexpr const char* kCure = "or, to train off policy, set algorithm.exact = false";
    if (MiniBatchPrompts(c) != c.rollout.prompts) {
      Fail(usage,
           "train.mini_batch = {}: algorithm.exact takes one optimizer step a batch; set "
           "it to 0 {}",
           c.train.mini_batch, kCure);
    }
    if (c.train.epochs > 1) {
      Fail(usage,
           "train.epochs = {}: algorithm.exact takes one optimizer step a batch; set it to "
           "1 {}",
           c.train.epochs, kCure);
    }
    const char* truncates = c.rollout.top_p < 1   ? "top_p"
                            : c.rollout.top_k > 0 ? "top_k"
                            : c.rollout.min_p > 0 ? "min_p"
                                                  : nullptr;
    if (truncates) {
      Fail(usage,
           "rollout.{}: truncated sampling draws from another policy than is trained, which "
           "algorithm.exact refuses; remove it {}",
           truncates, kCure);
    }
    const char* penalty = c.rollout.repetition_penalty != 1  ? "repetition_penalty"
                          : c.rollout.presence_penalty != 0  ? "presence_penalty"
                          : c.rollout.frequency_penalty != 0 ? "frequency_penalty"
                                                             : nullptr;
    if (penalty) {
      Fail(usage,
           "rollout.{}: changed logits are another policy than is trained, which algorithm.exact "
           "refuses; remove it {}",
           penalty, kCure);
    }
  }
  if (c.algorithm.exact && c.algorithm.name.starts_with("opo")) {
    const char* term = c.algorithm.kl_coef != 0        ? "kl_coef"
                       : c.algorithm.entropy_coef != 0 ? "entropy_coef"
                                                       : nullptr;
    if (term) {
      Fail(usage,
           "algorithm.{}: \"{}\" is the plain policy gradient with the optimal baseline, without "
           "KL or entropy terms, which algorithm.exact refuses to change; set it to 0 or, to add "
           "the term all the same, set algorithm.exact = false",
           term, c.algorithm.name);
    }
  }
  const bool centred = c.algorithm.name == "em_pg" && c.algorithm.em_pg_weight == "centred";
  if (c.rollout.samples == 1 &&
      (centred || (FindAlgorithm(c.algorithm.name).needs & kNeedsGroups) != 0)) {
    Fail(usage,
         "rollout.samples = 1: algorithm.name = \"{}\" compares the answers to one prompt and "
         "needs at least 2; or take \"opo_batch\" or \"reinforce\"",
         c.algorithm.name);
  }
  CheckAlgorithmConfig(c.algorithm);
  CheckLearnedReward(c);
  CheckGiven(c);
  ValidateCritic(c);
  const idx answers = c.rollout.prompts * c.rollout.samples;
  if (c.algorithm.kl_target > 0 && c.algorithm.kl_horizon < static_cast<double>(answers)) {
    Fail(usage,
         "algorithm.kl_horizon = {}: a step has {} answers, so that one could change kl_coef by "
         "more "
         "than a fifth; set it to {} or more",
         c.algorithm.kl_horizon, answers, answers);
  }
  RewardSet(RewardTerms(c), asks);
}

std::vector<RewardConfig> RewardTerms(const TrainConfig& config) {
  std::vector<RewardConfig> terms = config.reward;
  SetMaxTokens(terms, config.rollout.max_new_tokens);
  return terms;
}

std::string LossAggregation(const TrainConfig& config) {
  return Resolved(config.algorithm).loss_agg;
}

double LossNorm(const TrainConfig& config) {
  return config.algorithm.norm > 0 ? config.algorithm.norm
                                   : static_cast<double>(config.rollout.max_new_tokens);
}

idx MiniBatchPrompts(const TrainConfig& config) {
  return config.train.mini_batch > 0 ? config.train.mini_batch : config.rollout.prompts;
}

std::string KlEstimator(const AlgorithmConfig& config) {
  if (!config.kl_estimator.empty()) return config.kl_estimator;
  return KlInReward(config) ? "k1" : "k3";
}

bool KlInLoss(const AlgorithmConfig& config) {
  return config.kl_coef != 0 && config.kl_in == "loss";
}

bool KlInReward(const AlgorithmConfig& config) {
  return config.kl_coef != 0 && config.kl_in == "reward";
}

bool NeedsReference(const TrainConfig& config) {
  return TermsNeedReference(config.algorithm) || config.monitor.kl_every > 0;
}

bool LearnsReward(const TrainConfig& config) {
  return (FindAlgorithm(config.algorithm.name).needs & kNeedsLearnedReward) != 0;
}

bool NeedsDemonstrations(const TrainConfig& config) {
  return config.algorithm.ptx_coef > 0 ||
         (LearnsReward(config) && config.algorithm.demo_weight > 0);
}

bool TermsNeedReference(const AlgorithmConfig& config) {
  return config.kl_coef != 0 || (FindAlgorithm(config.name).needs & kNeedsReference) != 0;
}

bool NeedsGreedy(const TrainConfig& config) {
  return (FindAlgorithm(config.algorithm.name).needs & kNeedsGreedy) != 0;
}

bool NeedsPolicyScores(const TrainConfig& config) {
  return FindAlgorithm(config.algorithm.name).batch_loss != nullptr && UpdatesPerBatch(config) > 1;
}

idx UpdatesPerBatch(const TrainConfig& config) {
  return CeilDiv(config.rollout.prompts, MiniBatchPrompts(config)) * config.train.epochs;
}

bool LearnsOnPolicy(const TrainConfig& config, idx update) {
  return update == 0 && config.algorithm.entropy_coef == 0;
}

idx NumShards(const TrainConfig& config) { return std::max<idx>(1, config.train.shards); }

idx EvalMaxNewTokens(const TrainConfig& config) {
  return config.eval.max_new_tokens > 0 ? config.eval.max_new_tokens
                                        : config.rollout.max_new_tokens;
}

}  // namespace opo
