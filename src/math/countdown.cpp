#include "math/countdown.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "math/evaluate.h"

namespace opo {
namespace {

bool CollectNumbers(const MathNode& node, std::vector<long>& out) {
  switch (node.op) {
    case MathOp::kNumber:
      if (node.text.empty() || node.text.size() > 9 ||
          node.text.find_first_not_of("0123456789") != std::string::npos) {
        return false;
      }
      out.push_back(std::stol(node.text));
      return out.size() <= 100;
    case MathOp::kAdd:
    case MathOp::kMul:
    case MathOp::kNeg:
    case MathOp::kInverse:
      return std::all_of(node.kids.begin(), node.kids.end(),
                         [&](const MathNode* kid) { return CollectNumbers(*kid, out); });
    default:
      return false;
  }
}

}  // namespace

std::optional<CountdownGoal> ReadCountdown(std::string_view gold) {
  const std::size_t begin = gold.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos || gold[begin] != '{' || gold.size() > 2000 ||
      gold.find("\"target\"") == std::string_view::npos) {
    return std::nullopt;
  }
  const auto json = nlohmann::json::parse(gold, nullptr, false);
  if (!json.is_object() || !json.contains("target") || !json.contains("numbers") ||
      !json["target"].is_number_integer() || !json["numbers"].is_array()) {
    return std::nullopt;
  }
  CountdownGoal goal;
  goal.target = json["target"].get<long>();
  for (const auto& number : json["numbers"]) {
    if (!number.is_number_integer()) return std::nullopt;
    goal.numbers.push_back(number.get<long>());
  }
  std::sort(goal.numbers.begin(), goal.numbers.end());
  return goal;
}

bool ReachesGoal(const MathNode& expression, const CountdownGoal& goal) {
  const MathNode& side = expression.op == MathOp::kRelation ? *expression.kids[0] : expression;
  std::vector<long> used;
  if (!CollectNumbers(side, used)) return false;
  std::sort(used.begin(), used.end());
  if (used != goal.numbers) return false;
  MathWork work;
  const auto value = ExactValue(side, MathSense(), work);
  return value && *value == Rational(goal.target);
}

}  // namespace opo
