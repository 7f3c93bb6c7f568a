// Rollouts between ranks: each rank samples and scores its own groups of a batch, then all have
// all.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "base/error.h"
#include "comm/comm.h"
#include "rollout/rollout.h"

namespace opo {

// The owners of groups that are dealt to the ranks in turn.
std::vector<int> InTurn(const Comm& comm, std::size_t groups);

// Runs work(own) on the groups that belong to this rank, in order, and fills in the rollouts of all
// `groups`: tokens, what was recorded with them, text, scores. owner[i] is the rank
// of groups[i]. A group's tape_group stays at its owner.
void ShareGroups(Comm& comm, std::span<RolloutGroup> groups, std::span<const int> owner,
                 const std::function<void(std::span<RolloutGroup> own)>& work);

// Where the counts[g] values of each group g stand among those of all ranks, rank by rank: the
// place of the first of each group.
std::vector<std::size_t> PlacesOfGroups(std::span<const idx> counts, std::span<const int> owner,
                                        int ranks);

// What each rank has of its groups, counts[g] values of group g, in the order of all groups, for
// all ranks.
template <class V>
std::vector<V> JoinByGroup(Comm& comm, std::span<const V> own, std::span<const idx> counts,
                           std::span<const int> owner) {
  const std::vector<V> all = comm.AllGatherValues<V>(own);
  const std::vector<std::size_t> places = PlacesOfGroups(counts, owner, comm.size());
  std::vector<V> values;
  values.reserve(all.size());
  for (std::size_t g = 0; g < counts.size(); ++g) {
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(places[g]);
    values.insert(values.end(), first, first + counts[g]);
  }
  OPO_CHECK(values.size() == all.size());
  return values;
}

// All ranks have the root's program path, data and weights, which their manifests name. Throws
// Error(kUsage) with the first that differs.
void AgreeOn(Comm& comm, const nlohmann::ordered_json& manifest);

}  // namespace opo
