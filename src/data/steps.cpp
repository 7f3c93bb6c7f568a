#include "data/steps.h"

#include <cmath>

#include "base/error.h"
#include "base/json.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

constexpr const char* kCure = "`opo data make-steps` writes such rows";

const ordered_json& List(const ordered_json& row, const char* key, const std::string& where) {
  const auto at = row.find(key);
  if (at == row.end() || !at->is_array()) {
    Fail(ErrorCode::kInput, "{}: `{}` is not a list; {}", where, key, kCure);
  }
  return *at;
}

std::vector<TokenId> Ids(const ordered_json& list, const char* key, const std::string& where) {
  std::vector<TokenId> ids;
  const bool whole = list.is_array() && !list.empty();
  if (whole) ids.reserve(list.size());
  for (std::size_t i = 0; whole && i < list.size(); ++i) {
    const ordered_json& id = list[i];
    if (!id.is_number_unsigned() || !HoldsInteger<TokenId>(id)) {
      Fail(ErrorCode::kInput, "{}: `{}` holds {}, which is no token id; {}", where, key,
           id.dump().substr(0, 100), kCure);
    }
    ids.push_back(id.get<TokenId>());
  }
  if (!whole) {
    Fail(ErrorCode::kInput, "{}: `{}` is not a list of token ids, at least one; {}", where, key,
         kCure);
  }
  return ids;
}

}  // namespace

GivenSteps ReadSteps(const ordered_json& row, const std::string& where) {
  GivenSteps steps;
  steps.state = Ids(List(row, "state_ids", where), "state_ids", where);
  if (row.contains("step_ids")) {
    for (const ordered_json& step : List(row, "step_ids", where)) {
      steps.steps.push_back(Ids(step, "step_ids", where));
    }
    if (steps.steps.size() < 2) {
      Fail(ErrorCode::kInput, "{}: `step_ids` has {} candidates; it takes two to compare; {}",
           where, steps.steps.size(), kCure);
    }
  }
  for (const ordered_json& value : List(row, "values", where)) {
    const double number = value.is_number() ? value.get<double>() : -1;
    if (!(number >= 0 && number <= 1)) {
      Fail(ErrorCode::kInput, "{}: `values` holds {}, which is no rate between 0 and 1; {}", where,
           value.dump().substr(0, 100), kCure);
    }
    steps.values.push_back(number);
  }
  const std::size_t wanted = steps.steps.empty() ? 1 : steps.steps.size();
  if (steps.values.size() != wanted) {
    Fail(ErrorCode::kInput, "{}: `values` has {} numbers for {} {}; {}", where, steps.values.size(),
         wanted, steps.steps.empty() ? "state" : "candidates", kCure);
  }
  return steps;
}

}  // namespace opo
