// The test cases of the kind "code": how problems state them, and how outputs are compared.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/problem.h"

namespace opo {

struct CodeCases {
  enum class Form { kStdin, kCall, kAssert };
  Form form = Form::kStdin;
  std::string fn_name;                          // kCall
  std::vector<nlohmann::ordered_json> inputs;   // stdin's text; arguments; asserts with setup
  std::vector<nlohmann::ordered_json> outputs;  // text; values; none for kAssert
};

// The cases of the gold answer, or where there is none of the row's other columns:
// {"inputs": [...], "outputs": [...]} (texts of stdin and stdout), the same with "fn_name" (lists
// of arguments, and values), {"asserts": [...], "setup": text}, MBPP's names for that ("test_list",
// "test_setup_code"), a list of asserts, or plain text: asserts at the start of a line, after what
// sets them up. No inputs where the problem has no cases; `fault` says what is wrong with bad ones.
CodeCases ReadCodeCases(const Problem& problem, std::string& fault);

// What the driver says of one case, see code_driver.inc.
struct CodeOutcome {
  std::string_view status;
  std::string_view output;
  std::string_view err;
};

// The outcome at the front of `bytes`, which it removes there; no value where it is not whole yet.
// Throws no Error: anything else than an outcome sets `bad`.
std::optional<CodeOutcome> TakeOutcome(std::string_view& bytes, bool& bad);

// A discarded value where the text is no JSON, or nested too deep.
nlohmann::ordered_json JsonOrDiscarded(std::string_view text);

// The last block of the text that is fenced as Python, else its last fenced block, else all of it.
// A block that is not closed reaches to the end.
std::string_view FindCode(std::string_view completion);

// Equal but for white space at the ends of lines, and empty lines at the end.
bool SameOutput(std::string_view output, std::string_view expected);

// Equal as JSON values (1 is 1.0), or to the one entry of a list (APPS), or to what a text says.
bool SameValue(const nlohmann::ordered_json& value, const nlohmann::ordered_json& expected);

}  // namespace opo
