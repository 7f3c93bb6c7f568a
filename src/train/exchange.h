// Rollouts between ranks: each rank samples and scores its own groups of a batch, then all have
// all.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "comm/comm.h"
#include "rollout/rollout.h"

namespace opo {

// Runs work(own) on the groups that belong to this rank, in order, and fills in the rollouts of all
// `groups`: tokens, what was recorded with them, text, scores. owner[i] is the rank
// of groups[i]. A group's tape_group stays at its owner.
void ShareGroups(Comm& comm, std::span<RolloutGroup> groups, std::span<const int> owner,
                 const std::function<void(std::span<RolloutGroup> own)>& work);

}  // namespace opo
