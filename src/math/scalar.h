// Whether two trees have the same value.
#pragma once

#include "math/evaluate.h"
#include "math/number.h"
#include "math/tree.h"

namespace opo {

// Exact where both are rational or rational functions; else by certified balls: equal where they
// overlap at 100 digits at every point where both are real, different where they are apart.
bool SameValue(const MathNode& a, const MathNode& b, const MathSense& sense, MathWork& work);

// The same with everything that notation leaves open: percents as numbers, "log" of either base,
// degrees as radians, and decimals that are roundings of the other side's exact value.
bool SameScalar(const MathNode& gold, const MathNode& answer, MathWork& work);

// Whether `op` (or a call of `function`) occurs.
bool Contains(const MathNode& node, MathOp op, std::string_view function = {});

}  // namespace opo
