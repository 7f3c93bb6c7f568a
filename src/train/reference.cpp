#include "train/reference.h"

#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "train/collect.h"
#include "train/exchange.h"
#include "train/policy.h"

namespace opo {

template <class T>
BatchLogProbs ScoreAgain(Transformer<T>& model, std::span<const RolloutGroup* const> groups,
                         float inv_temperature) {
  std::vector<RolloutGroup> copies;
  for (const RolloutGroup* group : groups) {
    RolloutGroup& copy = copies.emplace_back();
    copy.prompt = group->prompt;
    for (const Rollout& rollout : group->rollouts) {
      copy.rollouts.emplace_back().tokens = rollout.tokens;
    }
  }
  Score(model, std::span<RolloutGroup>(copies), inv_temperature);
  BatchLogProbs result(groups.size());
  for (std::size_t g = 0; g < copies.size(); ++g) {
    for (Rollout& rollout : copies[g].rollouts) {
      auto& outputs = model.config().has_logits ? rollout.logprobs : rollout.values;
      result[g].push_back(std::move(outputs));
    }
  }
  return result;
}

template <class T>
BatchLogProbs ScoreShared(Transformer<T>& model, std::span<const RolloutGroup> groups,
                          std::span<const int> owner, float inv_temperature, Comm& comm) {
  OPO_CHECK(owner.size() == groups.size());
  std::vector<const RolloutGroup*> own;
  std::vector<idx> tokens;  // of each group
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (owner[g] == comm.rank()) own.push_back(&groups[g]);
    idx& count = tokens.emplace_back();
    for (const Rollout& rollout : groups[g].rollouts) count += rollout.length();
  }
  std::vector<float> mine;
  for (const auto& group : ScoreAgain(model, own, inv_temperature)) {
    for (const auto& logprobs : group) mine.insert(mine.end(), logprobs.begin(), logprobs.end());
  }
  const std::vector<float> all = JoinByGroup<float>(comm, mine, tokens, owner);
  BatchLogProbs result(groups.size());
  auto at = all.begin();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (const Rollout& rollout : groups[g].rollouts) {
      result[g].emplace_back(at, at + rollout.length());
      at += rollout.length();
    }
  }
  return result;
}

template <class T>
Reference<T>::Reference(const TrainConfig& config, const Weights& start,
                        const PackedWeights<T>& policy)
    : inv_temperature_(TrainingSampling(config, 0).inv_temperature()),
      packed_(BeginsAsItsBase(config, start.config)
                  ? nullptr
                  : std::make_unique<PackedWeights<T>>(start, false)),
      model_(packed_ == nullptr ? policy : *packed_, packed_ != nullptr) {
  if (packed_ != nullptr) packed_->Seal();
}

template <class T>
void Reference<T>::Score(idx step, std::span<RolloutGroup> groups, std::span<const int> owner,
                         Comm& comm) {
  BatchLogProbs logprobs = ScoreShared(model_, groups, owner, inv_temperature_, comm);
  // A base that is the policy's too is looked at before each update.
  const std::string flaw = packed_ == nullptr ? "" : packed_->FindFlaw();
  if (!flaw.empty()) {
    Fail(ErrorCode::kExactness,
         "step {}: the reference's packed weights changed in memory after they were packed: {}: {}",
         step, flaw, kContractBroken);
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      Rollout& rollout = groups[g].rollouts[s];
      rollout.reference_logprobs = std::move(logprobs[g][s]);
      rollout.reference_seal = SealOfReference(rollout);
      CorruptNumbers("reference", std::span(rollout.reference_logprobs));
    }
  }
}

std::uint64_t SealOfReference(const Rollout& rollout) {
  return Hash64(std::as_bytes(std::span(rollout.reference_logprobs)));
}

template BatchLogProbs ScoreAgain(Transformer<float>&, std::span<const RolloutGroup* const>, float);
template BatchLogProbs ScoreAgain(Transformer<bf16>&, std::span<const RolloutGroup* const>, float);
template BatchLogProbs ScoreShared(Transformer<float>&, std::span<const RolloutGroup>,
                                   std::span<const int>, float, Comm&);
template BatchLogProbs ScoreShared(Transformer<bf16>&, std::span<const RolloutGroup>,
                                   std::span<const int>, float, Comm&);
template class Reference<float>;
template class Reference<bf16>;

}  // namespace opo
