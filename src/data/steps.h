// Rows of `opo data make-steps`: states of answers as token ids, with what they are worth.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/types.h"

namespace opo {

// A text could be cut into other tokens than those that were sampled, so ids are what counts.
struct GivenSteps {
  std::vector<TokenId> state;               // prompt and steps so far; at least one
  std::vector<std::vector<TokenId>> steps;  // candidates for the next one; none: of a critic's data
  std::vector<double> values;  // of each candidate; without candidates one, the state's
};

// Of a row {"state_ids": [...], "step_ids": [[...], ...], "values": [...]}; values are rates in [0,
// 1]. Throws Error(kInput) naming row, field and cure. Whether a model has such ids is not known
// here.
GivenSteps ReadSteps(const nlohmann::ordered_json& row, const std::string& where);

}  // namespace opo
