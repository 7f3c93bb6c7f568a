// Rows of steps: what is read, and what is refused by name.
#include "data/steps.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

TEST(Steps, RowsOfBothKindsAreRead) {
  const GivenSteps state =
      ReadSteps(ordered_json::parse(R"({"state_ids":[5,7],"values":[0.25],"more":1})"), "row 1");
  EXPECT_EQ(state.state, (std::vector<TokenId>{5, 7}));
  EXPECT_TRUE(state.steps.empty());
  EXPECT_EQ(state.values, std::vector<double>{0.25});
  const GivenSteps candidates = ReadSteps(
      ordered_json::parse(R"({"state_ids":[5],"step_ids":[[1,2],[3]],"values":[0,1]})"), "row 1");
  EXPECT_EQ(candidates.steps, (std::vector<std::vector<TokenId>>{{1, 2}, {3}}));
  EXPECT_EQ(candidates.values, (std::vector<double>{0, 1}));
}

TEST(Steps, WhatIsNoneIsRefusedWithItsField) {
  const std::pair<const char*, const char*> refused[] = {
      {R"({})", "`state_ids` is not a list"},
      {R"({"state_ids":7,"values":[0]})", "`state_ids` is not a list"},
      {R"({"state_ids":[],"values":[0]})", "at least one"},
      {R"({"state_ids":[-1],"values":[0]})", "holds -1, which is no token id"},
      {R"({"state_ids":[1.5],"values":[0]})", "holds 1.5"},
      {R"({"state_ids":[2147483648],"values":[0]})", "holds 2147483648"},
      {R"({"state_ids":["a"],"values":[0]})", "holds \"a\""},
      {R"({"state_ids":[1]})", "`values` is not a list"},
      {R"({"state_ids":[1],"values":[]})", "`values` has 0 numbers for 1 state"},
      {R"({"state_ids":[1],"values":[0,1]})", "`values` has 2 numbers for 1 state"},
      {R"({"state_ids":[1],"values":[1.1]})", "no rate between 0 and 1"},
      {R"({"state_ids":[1],"values":[null]})", "no rate between 0 and 1"},
      {R"({"state_ids":[1],"values":[0],"step_ids":7})", "`step_ids` is not a list"},
      {R"({"state_ids":[1],"values":[0],"step_ids":[[1]]})", "it takes two"},
      {R"({"state_ids":[1],"values":[0,0],"step_ids":[[1],[]]})", "`step_ids` is not a list of"},
      {R"({"state_ids":[1],"values":[0],"step_ids":[[1],[2]]})", "1 numbers for 2 candidates"},
  };
  for (const auto& [row, says] : refused) {
    try {
      ReadSteps(ordered_json::parse(row), "f.jsonl: line 3");
      ADD_FAILURE() << row;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInput);
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
      EXPECT_EQ(std::string(error.what()).find("f.jsonl: line 3: "), 0U);
    }
  }
}

}  // namespace
}  // namespace opo
