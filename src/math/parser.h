// Tokens to a tree. Bounded: nesting, tokens and nodes; what is outside of the language, or beyond
// the bounds, is no tree.
#pragma once

#include <string>
#include <string_view>

#include "math/tree.h"

namespace opo {

struct MathReading {
  bool group_thousands = true;  // 1,234 is one number; otherwise a list
  bool decimal_comma = false;   // 1,5 is one number
  bool unit_letters = false;    // 5 m/s is 5
  bool capital_e = false;       // E is e, as SymPy prints it
};

struct ParsedAnswer {
  const MathNode* root = nullptr;  // null: not mathematics
  std::string unit;                // words behind the value, as written
};

ParsedAnswer ParseMath(std::string_view normalised, const MathReading& reading, MathTree& tree);

}  // namespace opo
