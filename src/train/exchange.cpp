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
  out.Put(r.norms);
  out.Put(r.reference_logprobs);
  out.Put(r.values);
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
  in.Get(r.norms);
  in.Get(r.reference_logprobs);
  in.Get(r.values);
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

std::vector<int> InTurn(const Comm& comm, std::size_t groups) {
  std::vector<int> owner(groups);
  for (std::size_t i = 0; i < groups; ++i) owner[i] = static_cast<int>(i) % comm.size();
  return owner;
}

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
    out.Put(group.greedy.has_value());
    if (group.greedy.has_value()) PackRollout(out, *group.greedy);
  }
  const std::vector<std::string> all = comm.AllGather(out.Take());
  std::vector<Unpacker> in(all.begin(), all.end());
  std::size_t next = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (owner[i] == comm.rank()) {
      groups[i] = std::move(own[next++]);
      continue;
    }
    Unpacker& from = in[static_cast<std::size_t>(owner[i])];
    for (Rollout& rollout : groups[i].rollouts) UnpackRollout(from, rollout);
    if (from.Get<bool>()) UnpackRollout(from, groups[i].greedy.emplace());
  }
}

std::vector<std::size_t> PlacesOfGroups(std::span<const idx> counts, std::span<const int> owner,
                                        int ranks) {
  OPO_CHECK(owner.size() == counts.size());
  // next[r]: where what is not placed yet of rank r begins.
  std::vector<std::size_t> next(static_cast<std::size_t>(ranks) + 1);
  for (std::size_t g = 0; g < counts.size(); ++g) {
    next[static_cast<std::size_t>(owner[g]) + 1] += static_cast<std::size_t>(counts[g]);
  }
  for (std::size_t r = 1; r < next.size(); ++r) next[r] += next[r - 1];
  std::vector<std::size_t> places;
  for (std::size_t g = 0; g < counts.size(); ++g) {
    std::size_t& at = next[static_cast<std::size_t>(owner[g])];
    places.push_back(at);
    at += static_cast<std::size_t>(counts[g]);
  }
  return places;
}

void AgreeOn(Comm& comm, const nlohmann::ordered_json& manifest) {
  using nlohmann::ordered_json;
  const std::vector<std::string> all = comm.AllGather(manifest.dump());
  const ordered_json root = ordered_json::parse(all.front());
  for (std::size_t r = 1; r < all.size(); ++r) {
    const ordered_json theirs = ordered_json::parse(all[r]);
    for (const auto& [key, value] : root.items()) {
      if (theirs.value(key, ordered_json()) == value) continue;
      Fail(ErrorCode::kUsage,
           "rank {} ({}): `{}` is {} there and {} at rank 0 ({}); all ranks need the same "
           "program, model and data, and an instruction-set path that all machines have (run.isa)",
           r, comm.host(static_cast<int>(r)), key, theirs.value(key, ordered_json()).dump(),
           value.dump(), comm.host(0));
    }
  }
}

}  // namespace opo
