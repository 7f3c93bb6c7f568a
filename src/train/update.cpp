#include "train/update.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/pack.h"
#include "model/seals.h"
#include "train/collect.h"

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
  for (const RolloutGroup& group : groups) {
    if (group.number != result.mismatched_group) continue;
    return ", first at " + PlaceOf(group, result.mismatched_sample, result.mismatched_token);
  }
  return "";
}

}  // namespace

template <class T>
Updater<T>::Updater(const Parts& parts, idx micro_batch_bytes)
    : parts_(parts),
      learner_(parts.model, parts.weights.layout, LearnerSettings(parts.config, micro_batch_bytes)),
      gradient_(parts.comm, parts.weights.layout) {}

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
                               const ShardDeal& deal, ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  const idx mini = MiniBatchPrompts(config);
  const idx per_epoch = CeilDiv(config.rollout.prompts, mini);
  const idx updates = per_epoch * config.train.epochs;
  const LossFunction loss = LossOf(config.algorithm, updates);
  LearnResult all;
  for (idx u = 0; u < updates; ++u) {
    const idx first = u % per_epoch * mini;
    const idx count = std::min(config.rollout.prompts - first, mini);
    const LearnResult result =
        Step(step, groups.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
             deal, loss, u, config.train.steps * updates, metrics);
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
LearnResult Updater<T>::Step(idx step, std::span<const RolloutGroup> groups, const ShardDeal& deal,
                             const LossFunction& loss, idx update, idx total_updates,
                             ordered_json& metrics) {
  const TrainConfig& config = parts_.config;
  Comm& comm = parts_.comm;
  comm.Note("learning", step);
  std::vector<idx> lengths;
  for (const RolloutGroup& group : groups) {
    for (const Rollout& r : group.rollouts) lengths.push_back(r.scored() ? r.length() : 0);
  }
  const std::vector<double> weights =
      TokenWeights(LossAggregation(config), lengths, LossNorm(config));
  std::vector<std::vector<LearnGroup>> shards(static_cast<std::size_t>(NumShards(config)));
  std::size_t at = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    LearnGroup learn{&groups[g], {}, update == 0 ? groups[g].tape_group : -1};
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      learn.weights.push_back(weights[at++]);
    }
    shards[static_cast<std::size_t>(ShardOf(config, static_cast<idx>(g)))].push_back(
        std::move(learn));
  }
  // All ranks have the whole batch, so all find the same.
  std::optional<NonFinite> bad = NonFiniteInBatch(groups, parts_.weights);
  if (bad) parts_.guard.Report(step, *bad, groups, comm);
  LearnResult sum;
  if (!bad) {
    Packer results;
    gradient_.Run(deal, [&](idx shard, float* grad, const GradientSum::LayerDone& layer_done) {
      results.Put(
          Accumulate(step, shards[static_cast<std::size_t>(shard)], loss, grad, layer_done));
    });
    for (const std::string& of_rank : comm.AllGather(results.Take())) {
      for (Unpacker in(of_rank); !in.done();) sum.Add(in.Get<LearnResult>());
    }
  }
  parts_.tape.Clear();  // the weights change now
  const double check_start = Seconds();
  CheckPacked(step);
  if (update == 0) CheckExact(step, groups, sum);
  CheckSeals(step, groups);
  if (bad) {
    metrics["actor/grad_norm"] = metrics["actor/lr"] = std::numeric_limits<double>::quiet_NaN();
    return sum;
  }
  PutGradientDigest(metrics);
  metrics["timing_s/check"] = metrics.value("timing_s/check", 0.0) + Seconds() - check_start;

  CorruptNumbers("gradient", gradient_.sum().span());
  const double norm = GradientNorm(gradient_.sum(), comm);
  comm.Note("update", step);
  const double lr = LearningRate(config.train, parts_.optimizer.steps(), total_updates);
  const double clip = config.train.clip_norm;
  const double scale = clip > 0 && norm > clip ? clip / norm : 1.0;
  const double start = Seconds();
  bad = NonFiniteInUpdate(sum.loss, norm * scale, gradient_.sum(), parts_.optimizer,
                          parts_.weights.layout, comm);
  if (bad) {
    parts_.guard.Report(step, *bad, groups, comm);
  } else {
    parts_.optimizer.Step(parts_.weights.slab, gradient_.sum(), lr, scale);
    gradient_.Share(parts_.weights.slab);
    parts_.packed.Update(parts_.weights);
  }
  metrics["timing_s/optimizer"] = metrics.value("timing_s/optimizer", 0.0) + Seconds() - start;
  metrics["actor/grad_norm"] = norm;
  metrics["actor/lr"] = lr;
  return sum;
}

template <class T>
LearnResult Updater<T>::Accumulate(idx step, std::span<const LearnGroup> groups,
                                   const LossFunction& loss, float* grad,
                                   const GradientSum::LayerDone& layer_done) {
  try {
    return learner_.Accumulate(groups, loss, grad, &parts_.tape, layer_done);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kExactness) throw;
    Fail(ErrorCode::kExactness, "step {}: {}", step, error.what());
  }
}

// Each rank digests the blocks of its part. Of a step's updates one after the other.
template <class T>
void Updater<T>::PutGradientDigest(ordered_json& metrics) {
  const SlabPart& part = gradient_.part();
  static_assert(kSlabBlock % kDigestBlock == 0);
  const std::vector<BlockDigest> own = DigestBlocks(
      gradient_.sum().span(), CeilDiv(part.begin, kDigestBlock), CeilDiv(part.end, kDigestBlock));
  const auto bytes = std::as_bytes(std::span(own));
  std::vector<BlockDigest> blocks;
  for (const std::string& of_rank :
       parts_.comm.AllGather({reinterpret_cast<const char*>(bytes.data()), bytes.size()})) {
    const std::size_t first = blocks.size();
    blocks.resize(first + of_rank.size() / sizeof(BlockDigest));
    std::memcpy(blocks.data() + first, of_rank.data(), of_rank.size());
  }
  const std::string digest = JoinDigests(blocks);
  const auto before = metrics.find("exact/gradient_digest");
  metrics["exact/gradient_digest"] =
      before == metrics.end() ? digest : HexDigest(before->get<std::string>() + digest);
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
  for (const RolloutGroup& group : groups) {
    for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
      const idx token = FirstBrokenToken(group.rollouts[s]);
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
    const LearnResult check = learner_.Compare(groups.front());
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
