// Rational functions over the rationals, exactly (FLINT).
#pragma once

#include <optional>

#include "math/evaluate.h"
#include "math/number.h"
#include "math/tree.h"

namespace opo {

// Whether a and b are the same rational function of their symbols; nothing where one is none, or is
// beyond the bounds (8 symbols, degree 100, 1000 terms).
std::optional<bool> SameRationalFunction(const MathNode& a, const MathNode& b,
                                         const MathSense& sense, MathWork& work);

// Whether a = 0 and b = 0 are the same equation: their numerators are multiples of each other by a
// rational. Its sign, or 0 where they are not.
std::optional<int> ProportionalNumerators(const MathNode& a, const MathNode& b,
                                          const MathSense& sense, MathWork& work);

}  // namespace opo
