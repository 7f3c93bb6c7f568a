#include "reward/code_cases.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <system_error>

#include "base/error.h"
#include "base/json.h"
#include "reward/kinds.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// A text, or lines of it.
std::string Text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string text;
  for (const Json& line : value) text += line.get<std::string>() + "\n";
  return text;
}

bool IsText(const Json& value) {
  return value.is_string() ||
         (value.is_array() && std::all_of(value.begin(), value.end(),
                                          [](const Json& line) { return line.is_string(); }));
}

bool IsTexts(const Json& value) {
  return value.is_array() &&
         std::all_of(value.begin(), value.end(), [](const Json& text) { return text.is_string(); });
}

void ReadPairs(const Json& gold, CodeCases& cases, std::string& fault) {
  const Json& inputs = gold["inputs"];
  const Json& outputs = gold["outputs"];
  if (!inputs.is_array() || !outputs.is_array() || inputs.size() != outputs.size()) {
    fault = "\"inputs\" and \"outputs\" must be lists of one length";
    return;
  }
  const auto name = gold.find("fn_name");
  if (name != gold.end() && !name->is_null()) {
    if (!name->is_string()) {
      fault = "\"fn_name\" must be text";
      return;
    }
    cases.form = CodeCases::Form::kCall;
    cases.fn_name = name->get<std::string>();
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (cases.form == CodeCases::Form::kCall) {
      if (!inputs[i].is_array() && !inputs[i].is_string()) {
        fault = fmt::format("inputs[{}] must be the list of arguments", i);
        return;
      }
      cases.inputs.push_back(inputs[i]);
      cases.outputs.push_back(outputs[i]);
    } else if (IsText(inputs[i]) && IsText(outputs[i])) {
      cases.inputs.emplace_back(Text(inputs[i]));
      cases.outputs.emplace_back(Text(outputs[i]));
    } else {
      fault = fmt::format(
          "inputs[{}] and outputs[{}] must be texts; with \"fn_name\" they may be "
          "lists of arguments and values",
          i, i);
      return;
    }
  }
}

void ReadAsserts(const Json& asserts, const Json& setup, CodeCases& cases, std::string& fault) {
  if (!IsTexts(asserts) || !(setup.is_null() || setup.is_string())) {
    fault = "asserts must be a list of texts, and their setup a text";
    return;
  }
  cases.form = CodeCases::Form::kAssert;
  const std::string before = setup.is_string() ? setup.get<std::string>() + "\n" : "";
  for (const Json& test : asserts) cases.inputs.emplace_back(before + test.get<std::string>());
}

// Lines from one "assert" at the start of a line to the next are a case.
void ReadPlain(std::string_view text, CodeCases& cases, std::string& fault) {
  cases.form = CodeCases::Form::kAssert;
  std::string setup;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string line(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    const bool starts = line.starts_with("assert") && line.size() > 6 &&
                        (line[6] == ' ' || line[6] == '(' || line[6] == '\t');
    if (starts) {
      cases.inputs.emplace_back(setup + line + "\n");
    } else if (cases.inputs.empty()) {
      setup += line + "\n";
    } else {
      cases.inputs.back().get_ref<std::string&>() += line + "\n";
    }
  }
  if (cases.inputs.empty()) fault = "neither JSON nor lines that start with assert";
}

bool FromObject(const Json& gold, CodeCases& cases, std::string& fault) {
  const auto get = [&](const char* name) { return gold.contains(name) ? gold[name] : Json(); };
  if (gold.contains("inputs") && gold.contains("outputs")) {
    ReadPairs(gold, cases, fault);
  } else if (gold.contains("asserts")) {
    ReadAsserts(gold["asserts"], get("setup"), cases, fault);
  } else if (gold.contains("test_list")) {
    ReadAsserts(gold["test_list"], get("test_setup_code"), cases, fault);
  } else {
    return false;
  }
  if (fault.empty() && cases.inputs.empty()) fault = "there is no case";
  return true;
}

struct Block {
  std::string_view code;
  bool is_python = false;
};

// The fenced block that starts at the fence `at`; moves `at` behind its end.
Block ReadBlock(std::string_view text, std::size_t& at) {
  const std::size_t line_end = std::min(text.find('\n', at), text.size());
  std::string language(Trim(text.substr(at + 3, line_end - at - 3)));
  std::transform(language.begin(), language.end(), language.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const std::size_t begin = std::min(line_end + 1, text.size());
  // The end is a fence at the start of a line.
  std::size_t end = begin;
  while (end < text.size() && !text.substr(end).starts_with("```")) {
    end = std::min(text.find('\n', end), text.size());
    if (end < text.size()) ++end;
  }
  at = std::min(end + 3, text.size());
  return {text.substr(begin, end - begin),
          language == "python" || language == "py" || language == "python3"};
}

}  // namespace

std::optional<CodeOutcome> TakeOutcome(std::string_view& bytes, bool& bad) {
  constexpr std::size_t kLongestHeader = 64;
  constexpr std::size_t kLargestOutput = std::size_t{1} << 30;  // as output_kb's
  const std::size_t line_end = bytes.find('\n');
  if (line_end == std::string_view::npos || line_end > kLongestHeader) {
    bad = bytes.size() > kLongestHeader;
    return std::nullopt;
  }
  const std::string_view header = bytes.substr(0, line_end);
  const std::size_t status_end = std::min(header.find(' '), header.size());
  const char* const end = header.data() + header.size();
  std::size_t sizes[2] = {};
  const char* at = header.data() + status_end;
  for (std::size_t& size : sizes) {
    if (at == end || *at != ' ') bad = true;
    if (bad) return std::nullopt;
    const auto [next, error] = std::from_chars(at + 1, end, size);
    bad = error != std::errc() || size > kLargestOutput;
    at = next;
  }
  bad = bad || at != end;
  const std::string_view rest = bytes.substr(line_end + 1);
  if (bad || rest.size() < sizes[0] + sizes[1]) return std::nullopt;
  bytes = rest.substr(sizes[0] + sizes[1]);
  return CodeOutcome{header.substr(0, status_end), rest.substr(0, sizes[0]),
                     rest.substr(sizes[0], sizes[1])};
}

nlohmann::ordered_json JsonOrDiscarded(std::string_view text) {
  std::string fault;
  return TryParseJson<Json>(text, fault).value_or(Json(Json::value_t::discarded));
}

CodeCases ReadCodeCases(const Problem& problem, std::string& fault) {
  CodeCases cases;
  if (problem.answer.empty()) {
    if (problem.extra.is_object()) FromObject(problem.extra, cases, fault);
    return cases;
  }
  const Json gold = JsonOrDiscarded(problem.answer);
  if (gold.is_object()) {
    if (!FromObject(gold, cases, fault)) {
      fault = "an object without \"inputs\" and \"outputs\", or \"asserts\"";
    }
  } else if (gold.is_array()) {
    ReadAsserts(gold, nullptr, cases, fault);
    if (fault.empty() && cases.inputs.empty()) fault = "there is no case";
  } else {
    ReadPlain(problem.answer, cases, fault);
  }
  return cases;
}

std::string_view FindCode(std::string_view completion) {
  Block best;
  bool found = false;
  for (std::size_t at = completion.find("```"); at != std::string_view::npos;
       at = completion.find("```", at)) {
    const Block block = ReadBlock(completion, at);
    if (!found || block.is_python || !best.is_python) best = block;
    found = true;
  }
  return found ? best.code : completion;
}

bool SameOutput(std::string_view output, std::string_view expected) {
  constexpr std::string_view kSpace = " \t\r\f\v";
  const auto next_line = [&](std::string_view& text) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t last = line.find_last_not_of(kSpace);
    return line.substr(0, last == std::string_view::npos ? 0 : last + 1);
  };
  while (!output.empty() || !expected.empty()) {
    if (next_line(output) != next_line(expected)) return false;
  }
  return true;
}

bool SameValue(const Json& value, const Json& expected) {
  // Sorted keys: the order of an object's keys is of no account.
  const auto same = [](const nlohmann::json& a, const nlohmann::json& b) { return a == b; };
  if (same(value, expected)) return true;
  if (expected.is_array() && expected.size() == 1 && same(value, expected[0])) return true;
  if (!expected.is_string()) return false;
  const Json said = JsonOrDiscarded(expected.get_ref<const std::string&>());
  return !said.is_discarded() && same(value, said);
}

}  // namespace opo
