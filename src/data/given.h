// The answers that rows of offline data give: demonstrations and preferences, in the forms that
// they come in. Part of problem.cpp.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/problem.h"

namespace opo {

// The value at a dotted key, or at a column of that very name; null where there is none.
const nlohmann::ordered_json* FindKey(const nlohmann::ordered_json& row, const std::string& key);
// The same; throws Error(kInput) with the row's keys and the nearest one where there is none.
// `setting` names what chooses the key.
const nlohmann::ordered_json& RequireKey(const nlohmann::ordered_json& row, const std::string& key,
                                         const std::string& where, const std::string& setting);

// Text as one message of `role`, or a list of messages, checked. Throws Error(kInput) naming the
// field.
nlohmann::ordered_json MessagesOf(const nlohmann::ordered_json& value, const char* role,
                                  const std::string& where, const std::string& key);

struct GivenRow {
  nlohmann::ordered_json prompt;                // messages, at least one
  std::vector<nlohmann::ordered_json> answers;  // as Problem::answers
  double margin = 0;
  std::vector<std::string> columns;  // what prompt and answers were read from
};
// REQUIRES `given` != kNothing. Throws Error(kInput) naming row, field and cure.
GivenRow ReadGiven(const nlohmann::ordered_json& row, const std::string& where,
                   const ProblemKeys& keys, GivenAnswers given);

}  // namespace opo
