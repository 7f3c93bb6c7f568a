#include "train/update.h"

#include <algorithm>
#include <functional>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "model/seals.h"
#include "train/collect.h"
#include "train/given.h"
#include "train/step_metrics.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

// ", first at prompt 3 ..."
std::string FirstMismatch(std::span<const RolloutGroup> groups, const LearnResult& result) {
  for (const RolloutGroup& group : groups) {
    if (group.number != result.mismatched_group) continue;
    return ", first at " + PlaceOf(group, result.mismatched_sample, result.mismatched_token);
  }
  return "";
}

}  // namespace

template <class T>
void Updater<T>::FlipPacked(const char* target) {
  if (!FaultsArmed()) return;
  if (const auto fault = FaultAt("flip", target)) {
    *parts_.policy.packed().ByteAt(fault->index) ^= static_cast<std::byte>(1 << fault->bit % 8);
  }
}

template <class T>
void Updater<T>::FlipSampled(std::span<RolloutGroup> groups) {
  if (!FaultsArmed()) return;
  for (RolloutGroup& group : groups) {
    for (Rollout& rollout : group.rollouts) CorruptNumbers("logprob", std::span(rollout.logprobs));
  }
  const auto flip = [&](const Segment<T>& segment) {
    if (segment.record() == Record::kNone) return;
    const auto fault = FaultAt("flip", "tape");
    if (!fault.has_value()) return;
    *RecordByteAt(segment, parts_.policy.model().pool().activations(), fault->index) ^=
        static_cast<std::byte>(1 << fault->bit % 8);
  };
  for (const auto& group : parts_.tape.groups) {
    flip(group.prefix);
    for (const Segment<T>& sample : group.samples) flip(sample);
  }
}

template <class T>
void Updater<T>::Recheck(idx step, std::span<const RolloutGroup> groups, ordered_json& metrics) {
  const auto result = parts_.policy.learner().Recheck(groups, parts_.tape, parts_.config.train.seed,
                                                      static_cast<std::uint64_t>(step),
                                                      RecheckRows(parts_.tape.rows));
  metrics["exact/taped_rows"] = parts_.tape.rows;
  metrics["exact/rechecked_rows"] = result.rows;
  metrics["exact/mismatched_rows"] = result.mismatched;
  if (result.mismatched == 0) return;
  parts_.policy.CheckPacked(step);
  Fail(ErrorCode::kExactness,
       "step {}: {} of {} rows of the tape differ from what the learner computes, first {}: {}. "
       "run.tape_mb = 0 does without the tape",
       step, result.mismatched, result.rows, result.place, kContractBroken);
}

template <class T>
LearnResult Updater<T>::Update(idx step, std::span<const RolloutGroup> groups,
                               const ShardDeal& deal, ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  const auto batch = static_cast<idx>(groups.size());
  const idx per_epoch = CeilDiv(config.rollout.prompts, MiniBatchPrompts(config));
  // Of rollout.prompts groups train.mini_batch; carried answers are groups of their own.
  const idx mini = CeilDiv(batch, per_epoch);
  const idx updates = UpdatesPerBatch(config);
  LearnResult all;
  for (idx u = 0; u < updates; ++u) {
    const idx first = std::min(batch, u % per_epoch * mini);
    const idx count = std::min(batch - first, mini);
    const LearnResult result =
        Step(step, groups.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
             deal, u, metrics);
    all.Add(result);
    if (u > 0) continue;  // E1 speaks of the batch's first update: the others are off policy
    metrics["exact/compared_tokens"] = result.compared_tokens;
    metrics["exact/mismatched_tokens"] = result.mismatched_tokens;
    metrics["exact/logprob_diff_max"] = result.logprob_diff_max;
  }
  metrics["actor/pg_loss"] = all.loss / static_cast<double>(updates);
  if (KlInLoss(config.algorithm)) {
    metrics["actor/kl_loss"] = all.kl_loss / static_cast<double>(updates);
    metrics["actor/kl_coef"] = config.algorithm.kl_coef;
  }
  if (config.algorithm.ptx_coef > 0) {
    metrics["actor/ptx_loss"] = all.demo_loss / static_cast<double>(updates);
  }
  if (SharesCritic(config)) PutValueLoss(all, updates, metrics);
  metrics["training/optimizer_steps"] = updates;
  return all;
}

template <class T>
LearnResult Updater<T>::Hold(idx step, std::span<const RolloutGroup> groups,
                             ordered_json& metrics) {
  parts_.tape.Clear();
  LearnResult result;
  parts_.policy.CheckPacked(step);
  CheckExact(step, groups, result);
  CheckSeals(step, groups);
  metrics["exact/compared_tokens"] = result.compared_tokens;
  metrics["exact/mismatched_tokens"] = result.mismatched_tokens;
  metrics["exact/logprob_diff_max"] = result.logprob_diff_max;
  metrics["actor/grad_norm"] = metrics["actor/lr"] = 0.0;
  metrics["training/optimizer_steps"] = 0;
  return result;
}

template <class T>
UpdateLoss Updater<T>::LossOf(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                              idx update) {
  const TrainConfig& config = parts_.config;
  BatchLogProbs policy;
  if (NeedsPolicyScores(config) && update > 0) {
    parts_.comm.Note("scoring", step);
    policy = ScoreShared(parts_.policy.model(), groups, OwnersOf(config, deal, groups.size()),
                         TrainingSampling(config, step).inv_temperature(), parts_.comm);
  }
  const ValueTerm value_term = {SharesCritic(config) ? config.critic.value_coef : 0,
                                ValueClip(config)};
  return {config.algorithm, UpdatesPerBatch(config) == 1, groups, policy, value_term};
}

// One optimizer step: a normaliser over all groups, then shard by shard.
template <class T>
LearnResult Updater<T>::Step(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                             idx update, ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  Comm& comm = parts_.comm;
  comm.Note("learning", step);
  std::vector<idx> lengths;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& r : group.rollouts) lengths.push_back(r.counts() ? r.num_learned() : 0);
  }
  const std::vector<double> weights =
      TokenWeights(LossAggregation(config), lengths, LossNorm(config));
  // All ranks have the whole batch, so all find the same.
  std::optional<NonFinite> bad = NonFiniteInBatch(groups, parts_.policy.weights());
  if (bad) parts_.guard.Report(step, *bad, groups, comm);
  const UpdateLoss loss = LossOf(step, groups, deal, update);
  if (update == 0) loss.PutMetrics(metrics);
  auto shards = ByShard(config, groups, weights, [&](LearnGroup& learn) {
    if (update == 0) learn.tape_group = learn.group->tape_group;
    learn.on_policy = LearnsOnPolicy(config, update);
    learn.more_terms = loss.HasMoreTerms(*learn.group);
  });
  std::vector<RolloutGroup> demonstrations;
  if (config.algorithm.ptx_coef > 0) demonstrations = Demonstrate(groups, shards);
  LearnResult sum;
  if (!bad) {
    const auto of_token = [&loss](const Rollout& rollout, idx t, const HeadOutput& output) {
      return loss(rollout, t, output.policy, output.value);
    };
    sum = parts_.policy.Accumulate(step, shards, deal, of_token, &parts_.tape);
  }
  parts_.tape.Clear();  // the weights change now
  const double check_start = Seconds();
  parts_.policy.CheckPacked(step);
  if (update == 0) CheckExact(step, groups, sum);
  CheckSeals(step, groups);
  if (bad) {
    parts_.policy.PutNoUpdate(metrics);
    return sum;
  }
  // Of a step's updates one after the other.
  const std::string digest = parts_.policy.GradientDigest();
  const auto before = metrics.find("exact/gradient_digest");
  metrics["exact/gradient_digest"] =
      before == metrics.end() ? digest : HexDigest(before->template get<std::string>() + digest);
  metrics["timing_s/check"] = metrics.value("timing_s/check", 0.0) + Seconds() - check_start;
  parts_.policy.Update(step, sum, groups, parts_.guard, metrics);
  return sum;
}

// The mean over all their tokens, whatever the aggregation of the answers.
template <class T>
std::vector<RolloutGroup> Updater<T>::Demonstrate(std::span<const RolloutGroup> groups,
                                                  std::vector<std::vector<LearnGroup>>& shards) {
  std::vector<RolloutGroup> demonstrations;
  std::vector<idx> lengths;
  for (const RolloutGroup& group : groups) {
    const Problem& problem = parts_.problems[static_cast<std::size_t>(group.problem)];
    demonstrations.push_back(DemonstrationGroup(parts_.config,
                                                parts_.policy.weights().config.max_position,
                                                parts_.tokenizer, parts_.prompts, problem));
    demonstrations.back().problem = group.problem;
    demonstrations.back().number = group.number;
    lengths.push_back(demonstrations.back().rollouts.front().num_learned());
  }
  const std::vector<double> weights = TokenWeights("token-mean", lengths, 0);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    shards[static_cast<std::size_t>(ShardOf(parts_.config, static_cast<idx>(g)))].push_back(
        {&demonstrations[g], {weights[g]}, -1, /*more_terms=*/true});
  }
  return demonstrations;
}

template <class T>
void Updater<T>::CheckSeals(idx step, std::span<const RolloutGroup> groups) {
  for (const RolloutGroup& group : groups) {
    for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
      const Rollout& rollout = group.rollouts[s];
      if (!rollout.reference_logprobs.empty() &&
          SealOfReference(rollout) != rollout.reference_seal) {
        Fail(ErrorCode::kExactness,
             "step {}: {}: a log-prob of the reference changed in memory after it was computed: {}",
             step, PlaceOf(group, static_cast<idx>(s), 0), kContractBroken);
      }
      const idx token = FirstBrokenToken(rollout);
      if (token < 0) continue;
      Fail(ErrorCode::kExactness,
           "step {}: {}: the token, or a number of it, changed in memory after it was sampled: {}",
           step, PlaceOf(group, static_cast<idx>(s), token), kContractBroken);
    }
  }
}

template <class T>
void Updater<T>::CheckExact(idx step, std::span<const RolloutGroup> groups, LearnResult& result) {
  if (result.compared_tokens == 0) {
    // No group has a gradient: compare one all the same, before momentum moves the weights.
    const auto recorded = std::find_if(groups.begin(), groups.end(), [](const RolloutGroup& group) {
      return !group.rollouts.empty() && !group.rollouts.front().logprobs.empty();
    });
    const LearnResult check =
        parts_.policy.learner().Compare(recorded != groups.end() ? *recorded : groups.front());
    result.compared_tokens = check.compared_tokens;
    result.mismatched_tokens = check.mismatched_tokens;
    result.mismatched_group = check.mismatched_group;
    result.mismatched_sample = check.mismatched_sample;
    result.mismatched_token = check.mismatched_token;
    result.logprob_diff_max = check.logprob_diff_max;
  }
  if (result.mismatched_tokens == 0 && result.compared_tokens > 0) return;
  Fail(ErrorCode::kExactness,
       "step {}: {} of {} log-probs differ between sampler and learner (at most by {:.3g}){}: {}",
       step, result.mismatched_tokens, result.compared_tokens, result.logprob_diff_max,
       FirstMismatch(groups, result), kContractBroken);
}

template class Updater<float>;
template class Updater<bf16>;

}  // namespace opo
