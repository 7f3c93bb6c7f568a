#include "train/exchange.h"

#include <utility>

#include "base/pack.h"

namespace opo {
namespace {

void PackResult(Packer& out, const RewardResult& result) {
  out.Put(result.verdict);
  out.Put(result.value);
  out.Put(result.note);
  out.Put(result.reason);
  out.Put(static_cast<idx>(result.logged.size()));
  for (const auto& [name, value] : result.logged) {
    out.Put(name);
    out.Put(value);
  }
}

RewardResult UnpackResult(Unpacker& in) {
  RewardResult result;
  in.Get(result.verdict);
  in.Get(result.value);
  in.Get(result.note);
  in.Get(result.reason);
  for (auto count = in.Get<idx>(); count > 0; --count) {
    auto& [name, value] = result.logged.emplace_back();
    in.Get(name);
    in.Get(value);
  }
  return result;
}

void PackRollout(Packer& out, const Rollout& r) {
  out.Put(r.tokens);
  out.Put(r.logprobs);
  out.Put(r.entropies);
  out.Put(r.sum_sqs);
  out.Put(r.seals);
  out.Put(r.finish);
  out.Put(r.text);
  out.Put(r.reward);
  out.Put(static_cast<idx>(r.scores.terms.size()));
  for (const auto& term : r.scores.terms) PackResult(out, term.value_or(RewardResult{}));
  out.Put(static_cast<idx>(r.scores.values.size()));
  for (const auto& value : r.scores.values) {
    out.Put(value.has_value());
    out.Put(value.value_or(0));
  }
  PackResult(out, r.scores.total);
}

void UnpackRollout(Unpacker& in, Rollout& r) {
  in.Get(r.tokens);
  in.Get(r.logprobs);
  in.Get(r.entropies);
  in.Get(r.sum_sqs);
  in.Get(r.seals);
  in.Get(r.finish);
  in.Get(r.text);
  in.Get(r.reward);
  r.scores = {};
  for (auto count = in.Get<idx>(); count > 0; --count) r.scores.terms.push_back(UnpackResult(in));
  for (auto count = in.Get<idx>(); count > 0; --count) {
    const bool has = in.Get<bool>();
    const auto value = in.Get<double>();
    r.scores.values.push_back(has ? std::optional(value) : std::nullopt);
  }
  r.scores.total = UnpackResult(in);
}

}  // namespace

void ShareGroups(Comm& comm, std::span<RolloutGroup> groups, std::span<const int> owner,
                 const std::function<void(std::span<RolloutGroup>)>& work) {
  if (comm.alone()) return work(groups);
  std::vector<RolloutGroup> own;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (owner[i] == comm.rank()) own.push_back(std::move(groups[i]));
  }
  work(own);
  Packer out;
  for (const RolloutGroup& group : own) {
    for (const Rollout& rollout : group.rollouts) PackRollout(out, rollout);
  }
  const std::vector<std::string> all = comm.AllGather(out.Take());
  std::vector<Unpacker> in(all.begin(), all.end());
  std::size_t next = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (owner[i] == comm.rank()) {
      groups[i] = std::move(own[next++]);
      continue;
    }
    for (Rollout& rollout : groups[i].rollouts) {
      UnpackRollout(in[static_cast<std::size_t>(owner[i])], rollout);
    }
  }
}

}  // namespace opo
