// Countdown: an expression over given numbers that reaches a target.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "math/tree.h"

namespace opo {

struct CountdownGoal {
  long target = 0;
  std::vector<long> numbers;  // sorted
};

// A gold answer {"target": 24, "numbers": [4, 6, 1]}.
std::optional<CountdownGoal> ReadCountdown(std::string_view gold);

// Whether the expression (or the left side of an equation) uses each number exactly once, with
// + - * / and brackets only, and has the target's value.
bool ReachesGoal(const MathNode& expression, const CountdownGoal& goal);

}  // namespace opo
