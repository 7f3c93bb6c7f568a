// The value of a tree: exact where it is rational, else as a certified ball at a point.
#pragma once

#include <optional>
#include <string_view>

#include "math/number.h"
#include "math/tree.h"

namespace opo {

// How a tree is read where its notation has two meanings.
struct MathSense {
  bool log_is_natural = true;     // "log x": base e, else base 10
  bool percent_divides = true;    // "5%": 0.05, else 5
  bool degree_is_radian = false;  // "90 deg": pi/2, else 90
  bool upper_sign = true;         // "+-": +, else -
};

// The exact value of a tree without symbols, if it is rational and within the bounds.
std::optional<Rational> ExactValue(const MathNode& node, const MathSense& sense, MathWork& work);

// Symbols have fixed values at each point: 0 in (0, 1), 1 in (1, 4), 2 in (-4, -1), 3 of both
// signs.
inline constexpr int kNumPoints = 4;

struct MathPoint {
  int index = 0;
  slong precision = 64;
  MathSense sense;
  // This symbol has this value, at all points.
  std::string_view symbol;
  const Ball* symbol_value = nullptr;
  // |symbol| has this value too (while an inequality is solved).
  const Ball* abs_value = nullptr;
  // Set where a real argument left the domain of a real function.
  bool left_reals = false;
  bool in_angle = false;  // the argument of a trigonometric function
  // Functions without a definition (f, sums with symbolic bounds) have a value that depends on
  // their name and the values of their arguments alone; it needs precise arguments.
  bool has_opaque = false;
};

// False beyond the bounds, or where the value is not defined.
bool Evaluate(const MathNode& node, MathPoint& point, MathWork& work, Ball& out);

}  // namespace opo
