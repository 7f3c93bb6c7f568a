// Sets of real numbers: unions of intervals and points with certified ends.
#pragma once

#include <optional>
#include <vector>

#include "math/evaluate.h"
#include "math/number.h"
#include "math/tree.h"

namespace opo {

struct RealPiece {
  Ball low;
  Ball high;
  bool low_infinite = false;
  bool high_infinite = false;
  bool low_closed = false;
  bool high_closed = false;
};

// Sorted, disjoint, not touching.
using RealSet = std::vector<RealPiece>;

// The set that a tree denotes: intervals, finite sets, unions, R, x in S, and inequalities of
// degree one or two in one symbol or its absolute value; nothing where it is another thing.
std::optional<RealSet> ToRealSet(const MathNode& node, MathWork& work);

bool SameRealSet(const RealSet& a, const RealSet& b);

}  // namespace opo
