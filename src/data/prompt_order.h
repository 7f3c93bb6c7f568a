// Which problem comes when: a pure function of a seed and a position, so that a resumed run needs
// no state but the position.
#pragma once

#include <cstdint>
#include <vector>

#include "base/types.h"

namespace opo {

class PromptOrder {
 public:
  // Sets of `sizes` problems (each > 0) that stand one after the other, mixed by `weights` (> 0,
  // as many). Weights count to a thousandth of their sum, and a set has at least that. `shuffle`
  // false: each set in its own order.
  PromptOrder(std::vector<idx> sizes, const std::vector<double>& weights, std::uint64_t seed,
              bool shuffle = true);

  // The problems at `count` positions from `position` (>= 0) on, as indices into all sets together.
  // Within a set they are a sequence of seeded permutations, one an epoch. Every thousand positions
  // hold as many of each set as its weight asks for, in a seeded order.
  std::vector<idx> Take(idx position, idx count) const;

 private:
  std::vector<idx> sizes_;
  std::vector<idx> quotas_;  // of each set, in kBlock positions
  std::uint64_t seed_;
  bool shuffle_;
};

}  // namespace opo
