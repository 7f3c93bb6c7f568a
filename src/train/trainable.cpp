#include "train/trainable.h"

#include <functional>
#include <limits>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"

namespace opo {

using nlohmann::ordered_json;

namespace {

template <class Settings>
LearnerConfig LearnerSettings(const Settings& settings) {
  LearnerConfig c;
  c.unit_tokens = settings.optimizer.unit_tokens;
  c.memory_bytes = settings.micro_batch_bytes;
  c.inv_temperature = settings.inv_temperature;
  c.pack = settings.pack;
  return c;
}

}  // namespace

template <class T>
Trainable<T>::Trainable(Settings settings, Weights weights, Comm& comm)
    : settings_(std::move(settings)),
      comm_(comm),
      weights_(std::move(weights)),
      optimizer_(weights_.layout, settings_.optimizer, comm),
      packed_(weights_, true),
      model_(packed_),
      learner_(model_, weights_.layout, LearnerSettings(settings_)),
      gradient_(comm, weights_.layout) {}

template <class T>
LearnResult Trainable<T>::Accumulate(idx step, const std::vector<std::vector<LearnGroup>>& shards,
                                     const ShardDeal& deal, const LossFunction& loss,
                                     Tape<T>* tape) {
  std::vector<LearnResult> results;
  gradient_.Run(deal, [&](idx shard, float* grad, const GradientSum::LayerDone& layer_done) {
    try {
      results.push_back(learner_.Accumulate(shards[static_cast<std::size_t>(shard)], loss, grad,
                                            tape, layer_done));
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kExactness) throw;
      Fail(ErrorCode::kExactness, "step {}: {}", step, error.what());
    }
  });
  LearnResult sum;
  for (const LearnResult& of_shard : comm_.AllGatherValues<LearnResult>(results)) {
    sum.Add(of_shard);
  }
  return sum;
}

template <class T>
void Trainable<T>::CheckPacked(idx step) const {
  const std::string flaw = packed_.FindFlaw();
  if (flaw.empty()) return;
  Fail(ErrorCode::kExactness,
       "step {}: the {}'s packed weights changed in memory after they were packed: {}: {}", step,
       settings_.name, flaw, kContractBroken);
}

// Each rank digests the blocks of its part.
template <class T>
std::string Trainable<T>::GradientDigest() {
  const SlabPart& part = gradient_.part();
  static_assert(kSlabBlock % kDigestBlock == 0);
  const std::vector<BlockDigest> own = DigestBlocks(
      gradient_.sum().span(), CeilDiv(part.begin, kDigestBlock), CeilDiv(part.end, kDigestBlock));
  return JoinDigests(comm_.AllGatherValues<BlockDigest>(own));
}

template <class T>
void Trainable<T>::Update(idx step, const LearnResult& sum, std::span<const RolloutGroup> groups,
                          NonFiniteGuard& guard, ordered_json& metrics) {
  CorruptNumbers("gradient", gradient_.sum().span());
  const double norm = GradientNorm(gradient_.sum(), comm_);
  comm_.Note("update", step);
  const double lr = LearningRate(settings_.optimizer, optimizer_.steps(), settings_.updates);
  const double clip = settings_.optimizer.clip_norm;
  const double scale = clip > 0 && norm > clip ? clip / norm : 1.0;
  const double start = Seconds();
  const std::optional<NonFinite> bad = NonFiniteInUpdate(sum.loss, norm * scale, gradient_.sum(),
                                                         optimizer_, weights_.layout, comm_);
  if (bad) {
    guard.Report(step, *bad, groups, comm_);
  } else {
    optimizer_.Step(weights_.slab, gradient_.sum(), lr, scale);
    gradient_.Share(weights_.slab);
    packed_.Update(weights_);
  }
  metrics["timing_s/optimizer"] = metrics.value("timing_s/optimizer", 0.0) + Seconds() - start;
  metrics[settings_.name + "/grad_norm"] = norm;
  metrics[settings_.name + "/lr"] = lr;
}

template <class T>
void Trainable<T>::PutNoUpdate(ordered_json& metrics) const {
  metrics[settings_.name + "/grad_norm"] = metrics[settings_.name + "/lr"] =
      std::numeric_limits<double>::quiet_NaN();
}

template class Trainable<float>;
template class Trainable<bf16>;

}  // namespace opo
