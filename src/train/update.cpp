#include "train/update.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "model/seals.h"
#include "train/collect.h"
#include "train/shard_tree.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

LearnerConfig LearnerSettings(const TrainConfig& config, idx micro_batch_bytes) {
  LearnerConfig c;
  c.unit_tokens = config.train.unit_tokens;
  c.memory_bytes = micro_batch_bytes;
  c.inv_temperature = TrainingSampling(config, 0).inv_temperature();
  return c;
}

LossFunction LossOf(const AlgorithmConfig& algorithm, idx updates) {
  if (updates == 1) return [](double, double, double a) { return PolicyGradientLoss(a); };
  const ClipConfig clip{algorithm.clip_low, algorithm.clip_high, algorithm.clip_dual};
  return [clip](double policy, double rollout, double a) {
    return PpoClipLoss(policy, rollout, a, clip);
  };
}

// ", first at prompt 3 ..."
std::string FirstMismatch(std::span<const RolloutGroup> groups, const LearnResult& result) {
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      if (&groups[g].rollouts[s] != result.mismatched_rollout) continue;
      return ", first at " +
             PlaceOf(groups[g], static_cast<idx>(g), static_cast<idx>(s), result.mismatched_token);
    }
  }
  return "";
}

// Of a step's updates one after the other.
void PutGradientDigest(const Buffer<float>& grad, ordered_json& metrics) {
  const std::string digest = SlabDigest(grad.span());
  const auto before = metrics.find("exact/gradient_digest");
  metrics["exact/gradient_digest"] =
      before == metrics.end() ? digest : HexDigest(before->get<std::string>() + digest);
}

}  // namespace

template <class T>
Updater<T>::Updater(const Parts& parts, idx micro_batch_bytes)
    : parts_(parts),
      learner_(parts.model, parts.weights.layout, LearnerSettings(parts.config, micro_batch_bytes)),
      grad_(parts.weights.layout.size) {}

template <class T>
void Updater<T>::FlipPacked(const char* target) {
  if (!FaultsArmed()) return;
  if (const auto fault = FaultAt("flip", target)) {
    *parts_.packed.ByteAt(fault->index) ^= static_cast<std::byte>(1 << fault->bit % 8);
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
    *RecordByteAt(segment, parts_.model.pool().activations(), fault->index) ^=
        static_cast<std::byte>(1 << fault->bit % 8);
  };
  for (const auto& group : parts_.tape.groups) {
    flip(group.prefix);
    for (const Segment<T>& sample : group.samples) flip(sample);
  }
}

template <class T>
void Updater<T>::Recheck(idx step, std::span<const RolloutGroup> groups, ordered_json& metrics) {
  const auto result =
      learner_.Recheck(groups, parts_.tape, parts_.config.train.seed,
                       static_cast<std::uint64_t>(step), RecheckRows(parts_.tape.rows));
  metrics["exact/taped_rows"] = parts_.tape.rows;
  metrics["exact/rechecked_rows"] = result.rows;
  metrics["exact/mismatched_rows"] = result.mismatched;
  if (result.mismatched == 0) return;
  CheckPacked(step);
  Fail(ErrorCode::kExactness,
       "step {}: {} of {} rows of the tape differ from what the learner computes, first {}: {}. "
       "run.tape_mb = 0 does without the tape",
       step, result.mismatched, result.rows, result.place, kContractBroken);
}

template <class T>
LearnResult Updater<T>::Update(idx step, std::span<const RolloutGroup> groups,
                               ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  const idx mini = MiniBatchPrompts(config);
  const idx per_epoch = CeilDiv(config.rollout.prompts, mini);
  const idx updates = per_epoch * config.train.epochs;
  const LossFunction loss = LossOf(config.algorithm, updates);
  LearnResult all;
  for (idx u = 0; u < updates; ++u) {
    const idx first = u % per_epoch * mini;
    const idx count = std::min(config.rollout.prompts - first, mini);
    first_group_ = first;
    const LearnResult result =
        Step(step, groups.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
             loss, u, config.train.steps * updates, metrics);
    all.Add(result);
    if (u > 0) continue;  // E1 speaks of the batch's first update: the others are off policy
    metrics["exact/compared_tokens"] = result.compared_tokens;
    metrics["exact/mismatched_tokens"] = result.mismatched_tokens;
    metrics["exact/logprob_diff_max"] = result.logprob_diff_max;
  }
  metrics["actor/pg_loss"] = all.loss / static_cast<double>(updates);
  metrics["training/optimizer_steps"] = updates;
  return all;
}

// One optimizer step: a normaliser over all groups, then shard by shard.
template <class T>
LearnResult Updater<T>::Step(idx step, std::span<const RolloutGroup> groups,
                             const LossFunction& loss, idx update, idx total_updates,
                             ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  std::vector<idx> lengths;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& r : group.rollouts) lengths.push_back(r.scored() ? r.length() : 0);
  }
  const std::vector<double> weights =
      TokenWeights(LossAggregation(config), lengths, LossNorm(config));
  std::vector<std::vector<LearnGroup>> shards(static_cast<std::size_t>(config.train.shards));
  std::size_t at = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    LearnGroup learn{&groups[g], {}, update == 0 ? static_cast<idx>(g) : -1};
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      learn.weights.push_back(weights[at++]);
    }
    shards[g % shards.size()].push_back(std::move(learn));
  }
  LearnResult sum;
  ShardTree tree(parts_.weights.layout.size);
  ZeroSlab(grad_);
  for (const auto& shard : shards) {
    sum.Add(Accumulate(step, shard, loss));
    if (shards.size() > 1) tree.Push(grad_);
  }
  if (shards.size() > 1) tree.Join(grad_);
  parts_.tape.Clear();  // the weights change now
  const double check_start = Seconds();
  CheckPacked(step);
  if (update == 0) CheckExact(step, groups, sum);
  CheckSeals(step, groups);
  PutGradientDigest(grad_, metrics);
  metrics["timing_s/check"] = metrics.value("timing_s/check", 0.0) + Seconds() - check_start;

  const double norm = GradientNorm(grad_);
  if (!std::isfinite(norm) || !std::isfinite(sum.loss)) {
    Fail(ErrorCode::kWork,
         "step {}: the gradient is not finite, first at {}; the weights were not changed. Try a "
         "smaller train.lr or model.dtype = \"f32\"",
         step, FindNonFinite(parts_.weights.layout, grad_));
  }
  const double lr = LearningRate(config.train, parts_.optimizer.steps(), total_updates);
  const double clip = config.train.clip_norm;
  const double scale = clip > 0 && norm > clip ? clip / norm : 1.0;
  const double start = Seconds();
  parts_.optimizer.Step(parts_.weights.slab, grad_, lr, scale);
  parts_.packed.Update(parts_.weights);
  metrics["timing_s/optimizer"] = metrics.value("timing_s/optimizer", 0.0) + Seconds() - start;
  metrics["actor/grad_norm"] = norm;
  metrics["actor/lr"] = lr;
  return sum;
}

template <class T>
LearnResult Updater<T>::Accumulate(idx step, std::span<const LearnGroup> groups,
                                   const LossFunction& loss) {
  try {
    return learner_.Accumulate(groups, loss, grad_.data(), &parts_.tape);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kExactness) throw;
    Fail(ErrorCode::kExactness, "step {}: {}", step, error.what());
  }
}

template <class T>
void Updater<T>::CheckPacked(idx step) const {
  const std::string flaw = parts_.packed.FindFlaw();
  if (flaw.empty()) return;
  Fail(ErrorCode::kExactness,
       "step {}: the packed weights changed in memory after they were packed: {}: {}", step, flaw,
       kContractBroken);
}

template <class T>
void Updater<T>::CheckSeals(idx step, std::span<const RolloutGroup> groups) {
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      const idx token = FirstBrokenToken(groups[g].rollouts[s]);
      if (token < 0) continue;
      Fail(ErrorCode::kExactness,
           "step {}: {}: the token, or a number of it, changed in memory after it was sampled: {}",
           step, PlaceOf(groups[g], first_group_ + static_cast<idx>(g), static_cast<idx>(s), token),
           kContractBroken);
    }
  }
}

template <class T>
void Updater<T>::CheckExact(idx step, std::span<const RolloutGroup> groups, LearnResult& result) {
  if (result.compared_tokens == 0) {
    // No group has a gradient: compare one all the same, before momentum moves the weights.
    const LearnResult check = learner_.Compare(groups.front());
    result.compared_tokens = check.compared_tokens;
    result.mismatched_tokens = check.mismatched_tokens;
    result.mismatched_rollout = check.mismatched_rollout;
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
