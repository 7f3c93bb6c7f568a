#include "train/learned_reward.h"

#include <functional>

#include "base/error.h"
#include "train/collect.h"
#include "train/exchange.h"
#include "train/given.h"
#include "train/objective.h"
#include "train/policy.h"
#include "train/reward_model.h"
#include "train/step_metrics.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

template <class T>
typename Trainable<T>::Settings SettingsOf(const TrainConfig& config, idx micro_batch_bytes) {
  return {.name = "reward_model",
          .base = BasePath(config),
          .optimizer = config.train,
          .updates = config.train.steps,
          .micro_batch_bytes = micro_batch_bytes,
          .pack = true};
}

// A sampled answer as the reward model reads it.
Rollout WithScore(const Tokenizer& tokenizer, const RolloutGroup& group, const Rollout& answer) {
  Rollout scored;
  scored.tokens = answer.tokens;
  scored.scores.total.verdict = Verdict::kScored;
  EndInScore(tokenizer, group.prompt, scored);
  return scored;
}

}  // namespace

void CheckLearnedReward(const TrainConfig& c) {
  const auto usage = ErrorCode::kUsage;
  const LearnedRewardSettings standard;
  const LearnedRewardSettings& own = c.learned_reward;
  if (c.checkpoint.best_by == "accuracy" && c.algorithm.name != "reward_model") {
    Fail(usage, "checkpoint.best_by = \"accuracy\": is of \"reward_model\" alone; remove it");
  }
  if (!LearnsReward(c)) {
    const char* key = own.path != standard.path                       ? "path"
                      : own.pairs != standard.pairs                   ? "pairs"
                      : own.pairs_per_step != standard.pairs_per_step ? "pairs_per_step"
                      : own.steps != standard.steps                   ? "steps"
                      : own.lr != standard.lr                         ? "lr"
                      : own.weight_decay != standard.weight_decay     ? "weight_decay"
                                                                      : nullptr;
    if (key == nullptr) return;
    Fail(usage, "learned_reward.{}: \"{}\" has no reward model that learns; remove it", key,
         c.algorithm.name);
  }
  if (own.pairs.empty() && c.algorithm.demo_weight == 0) {
    Fail(usage,
         "learned_reward.pairs is empty and algorithm.demo_weight 0: the reward would learn from "
         "nothing; name pairs, or weigh the demonstrations of data.train");
  }
  if (c.algorithm.multi_objective_aggregation == "normalize_then_sum") {
    Fail(
        usage,
        "algorithm.multi_objective_aggregation: the reward of \"{}\" is one learned number; set it "
        "to sum_then_normalize",
        c.algorithm.name);
  }
  for (const RewardConfig& term : c.reward) {
    if (term.normalize == "none" && term.clip == 0) continue;
    Fail(
        usage,
        "reward.{}: the terms of [[reward]] are only watched here, and the learned reward is taken "
        "as it is; remove it",
        term.normalize != "none" ? "normalize" : "clip");
  }
  if (c.rollout.dynamic_sampling) {
    Fail(usage, "rollout.dynamic_sampling: answers never have the same learned reward; remove it");
  }
}

TrainConfig LearnedRewardConfig(const TrainConfig& config) {
  const LearnedRewardSettings& own = config.learned_reward;
  TrainConfig reward = config;
  reward.algorithm = {};
  reward.algorithm.name = "reward_model";
  reward.algorithm.margin_coef = config.algorithm.margin_coef;
  reward.algorithm.center_coef = config.algorithm.center_coef;
  reward.algorithm.demo_weight = config.algorithm.demo_weight;
  if (!own.path.empty()) reward.model.path = own.path;
  reward.data.train = own.pairs;
  reward.data.mix.clear();
  reward.data.eval.clear();
  reward.data.held_out = 0;
  reward.data.pass_rates.clear();
  reward.rollout = {};
  reward.rollout.prompts = std::max<idx>(1, own.pairs_per_step);
  reward.train.steps = config.train.steps * own.steps;
  reward.train.mini_batch = 0;
  reward.train.epochs = 1;
  reward.train.lr = own.lr;
  reward.train.weight_decay = own.weight_decay;
  return reward;
}

ModelConfig LearnedRewardShape(const TrainConfig& config, const ModelConfig& policy) {
  ModelConfig shape = policy;
  if (!config.learned_reward.path.empty()) {
    const TrainConfig own = LearnedRewardConfig(config);
    shape = PolicyShape(own, PolicyTokenizer(own), PolicyHeads(own));
  }
  shape.has_logits = false;
  shape.has_values = true;
  return shape;
}

template <class T>
LearnedReward<T>::LearnedReward(const Parts& parts, idx micro_batch_bytes)
    : parts_(parts),
      config_(LearnedRewardConfig(parts.config)),
      model_(SettingsOf<T>(config_, micro_batch_bytes),
             PolicyWeights(config_, parts.tokenizer, PolicyHeads(config_)), parts.comm) {
  if (parts.tokenizer.vocab_size() > model_.weights().config.vocab_size) {
    Fail(ErrorCode::kInput,
         "learned_reward.path = \"{}\": its vocabulary of {} is smaller than the policy's "
         "tokenizer, {}; begin from a model of the same family",
         config_.model.path, model_.weights().config.vocab_size, parts.tokenizer.vocab_size());
  }
  if (config_.data.train.empty()) return;
  DataSets data = LoadDataSets(config_.data, GivenAnswers::kPairs);
  FitPrompts(parts.prompts, config_, model_.weights().config.max_position, data);
  for (const std::string& note : data.notes) {
    if (parts.comm.root()) fmt::print(stderr, "{}\n", note);
  }
  pairs_digest_ = DataDigest(data);
  pairs_ = std::move(data.train);
  order_.emplace(std::move(data.sizes), data.weights, config_.train.seed, config_.data.shuffle);
}

template <class T>
void LearnedReward<T>::Score(std::span<RolloutGroup> groups) {
  for (RolloutGroup& group : groups) {
    RolloutGroup scored;
    scored.prompt = group.prompt;
    for (const Rollout& rollout : group.rollouts) {
      scored.rollouts.push_back(WithScore(parts_.tokenizer, group, rollout));
    }
    opo::Score(model_.model(), std::span(&scored, 1), 1.0f);
    for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
      Rollout& rollout = group.rollouts[s];
      rollout.reward = ScoreOf(scored.rollouts[s]);
      rollout.scores.total = {};
      rollout.scores.total.value = rollout.reward;
    }
  }
}

// The demonstrations' groups first, then the pairs; not scored yet.
template <class T>
std::vector<RolloutGroup> LearnedReward<T>::Batch(idx update,
                                                  std::span<const RolloutGroup> groups) const {
  const idx max_position = model_.weights().config.max_position;
  std::vector<RolloutGroup> batch;
  if (config_.algorithm.demo_weight > 0) {
    for (const RolloutGroup& group : groups) {
      const Problem& problem = parts_.problems[static_cast<std::size_t>(group.problem)];
      RolloutGroup both =
          DemonstrationGroup(config_, max_position, parts_.tokenizer, parts_.prompts, problem);
      both.prompt = group.prompt;
      both.problem = group.problem;
      for (const Rollout& rollout : group.rollouts) {
        both.rollouts.push_back(WithScore(parts_.tokenizer, group, rollout));
      }
      batch.push_back(std::move(both));
    }
  }
  if (order_.has_value()) {
    const idx count = config_.rollout.prompts;
    for (const idx p : order_->Take(update * count, count)) {
      batch.push_back(GivenGroup(config_, max_position, parts_.tokenizer, parts_.prompts,
                                 pairs_[static_cast<std::size_t>(p)]));
      batch.back().problem = p;
    }
  }
  for (std::size_t g = 0; g < batch.size(); ++g) batch[g].number = static_cast<idx>(g);
  return batch;
}

template <class T>
void LearnedReward<T>::Learn(idx step, std::span<const RolloutGroup> groups,
                             ordered_json& metrics) {
  Comm& comm = parts_.comm;
  const idx updates = parts_.config.learned_reward.steps;
  Spread losses;
  Spread demonstrated;
  Spread sampled;
  for (idx u = 0; u < updates; ++u) {
    std::vector<RolloutGroup> batch = Batch((step - 1) * updates + u, groups);
    const ShardDeal deal = DealGroups(config_, batch, 0, comm.size());
    comm.Note("scoring", step);
    ShareGroups(comm, batch, OwnersOf(config_, deal, batch.size()),
                [&](std::span<RolloutGroup> own) { opo::Score(model_.model(), own, 1.0f); });
    std::vector<idx> lengths;
    std::vector<RolloutGroup> pairs;
    for (const RolloutGroup& group : batch) {
      for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
        lengths.push_back(group.rollouts[s].num_learned());
        if (!group.demonstration) continue;
        const double score = ScoreOf(group.rollouts[s]);
        (s == 0 ? demonstrated : sampled).Add(score);
        // What the policy's step took for a reward is what is learned now.
        if (u > 0 || s == 0) continue;
        const Rollout& answer = groups[static_cast<std::size_t>(group.number)].rollouts[s - 1];
        if (answer.reward == score) continue;
        Fail(ErrorCode::kExactness,
             "step {}: {}: its reward was {}, and the same model scores it as {} now: {}", step,
             PlaceOf(groups[static_cast<std::size_t>(group.number)], static_cast<idx>(s) - 1, 0),
             answer.reward, score, kContractBroken);
      }
      if (!group.demonstration) pairs.push_back(group);
    }
    comm.Note("learning", step);
    const std::vector<double> weights =
        TokenWeights(LossAggregation(config_), lengths, LossNorm(config_));
    const UpdateLoss loss(config_.algorithm, true, batch);
    const auto shards = ByShard(config_, batch, weights, [&](LearnGroup& learn) {
      learn.more_terms = loss.HasMoreTerms(*learn.group);
    });
    const LearnResult sum = model_.Accumulate(step, shards, deal, std::cref(loss));
    model_.CheckPacked(step);
    if (sum.mismatched_tokens > 0) {
      Fail(ErrorCode::kExactness,
           "step {}: {} of {} scores of the reward model differ between its two passes (at most by "
           "{:.3g}): {}",
           step, sum.mismatched_tokens, sum.compared_tokens, sum.logprob_diff_max, kContractBroken);
    }
    metrics["reward_model/gradient_digest"] = model_.GradientDigest();
    model_.Update(step, sum, batch, parts_.guard, metrics);
    losses.Add(sum.loss);
    if (u == 0) PutPairMetrics(pairs, "reward_model/", metrics);
  }
  metrics["reward_model/loss"] = losses.mean();
  if (demonstrated.count > 0) {
    metrics["reward_model/demonstrations"] = demonstrated.mean();
    metrics["reward_model/samples"] = sampled.mean();
  }
  metrics["exact/reward_model_digest"] = model_.weights().DigestHex();
}

template class LearnedReward<float>;
template class LearnedReward<bf16>;

}  // namespace opo
