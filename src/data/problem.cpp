#include "data/problem.h"

#include <cctype>
#include <filesystem>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/fields.h"
#include "base/file.h"
#include "data/built_in.h"
#include "data/given.h"
#include "format/quote.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

class RowReader {
 public:
  RowReader(Json row, const std::string& where, const ProblemKeys& keys, GivenAnswers given)
      : row_(std::move(row)), where_(where), keys_(keys), given_(given) {}

  Problem Read(const std::string& source) {
    Problem problem;
    problem.answer = Answer();
    problem.id = Id();
    std::vector<std::string> columns = {PromptKeyName()};
    if (given_ == GivenAnswers::kNothing) {
      problem.messages =
          MessagesOf(Require(PromptKeyName(), "data.prompt_key"), "user", where_, PromptKeyName());
    } else if (given_ == GivenAnswers::kSteps) {
      problem.steps = ReadSteps(row_, where_);
      problem.messages =
          MessagesOf(Require(PromptKeyName(), "data.prompt_key"), "user", where_, PromptKeyName());
      columns.insert(columns.end(), {"state_ids", "step_ids", "values"});
    } else {
      GivenRow given = ReadGiven(row_, where_, keys_, given_);
      problem.messages = std::move(given.prompt);
      problem.answers = std::move(given.answers);
      problem.margin = given.margin;
      columns = std::move(given.columns);
    }
    if (!keys_.template_text.empty()) PutTemplate(problem.messages, columns.front());
    const auto data_source = row_.find("data_source");
    if (data_source != row_.end()) problem.data_source = Text(*data_source, "data_source");
    if (problem.data_source.empty()) problem.data_source = source;
    // What has a place of its own.
    for (const std::string& column : columns) row_.erase(column);
    row_.erase("data_source");
    if (keys_.id.empty()) row_.erase("id");
    problem.extra = std::move(row_);
    return problem;
  }

 private:
  std::string PromptKeyName() const { return keys_.prompt.empty() ? "prompt" : keys_.prompt; }

  const Json& Require(const std::string& key, const char* setting) const {
    return RequireKey(row_, key, where_, setting);
  }

  // Names of rows and sets: numbers as they would be written; "" for null.
  std::string Text(const Json& value, const std::string& key) const {
    if (value.is_null()) return "";
    if (value.is_string()) return value.get<std::string>();
    if (value.is_number()) return value.dump();
    Fail(ErrorCode::kInput, "{}: '{}' must be text or a number", where_, key);
  }

  static std::string GoldText(const Json& value) {
    if (value.is_null()) return "";
    return value.is_string() ? value.get<std::string>() : value.dump();
  }

  std::string Answer() const {
    if (!keys_.answer.empty()) return GoldText(Require(keys_.answer, "data.answer_key"));
    for (const char* key : {"reward_model.ground_truth", "answer", "solution", "ground_truth"}) {
      if (const Json* value = FindKey(row_, key)) return GoldText(*value);
    }
    return "";
  }

  std::string Id() const {
    if (!keys_.id.empty()) return Text(Require(keys_.id, "data.id_key"), keys_.id);
    for (const char* key : {"id", "extra_info.index"}) {
      if (const Json* value = FindKey(row_, key)) return Text(*value, key);
    }
    return "";
  }

  void PutTemplate(Json& messages, const std::string& key) const {
    for (std::size_t i = messages.size(); i-- > 0;) {
      if (messages[i]["role"] != "user") continue;
      std::string text = keys_.template_text;
      const std::size_t hole = text.find("{}");
      OPO_CHECK(hole != std::string::npos);
      text.replace(hole, 2, messages[i]["content"].get_ref<const std::string&>());
      messages[i]["content"] = std::move(text);
      return;
    }
    Fail(ErrorCode::kInput, "{}: '{}' has no user message for data.template", where_, key);
  }

  Json row_;
  const std::string& where_;
  const ProblemKeys& keys_;
  GivenAnswers given_;
};

bool IsTie(const Problem& problem) {
  if (problem.answers.size() != 2 || problem.answers[0].size() != problem.answers[1].size()) {
    return false;
  }
  for (std::size_t i = 0; i < problem.answers[0].size(); ++i) {
    for (const char* name : {"role", "content"}) {
      if (problem.answers[0][i][name] != problem.answers[1][i][name]) return false;
    }
  }
  return true;
}

// What a built-in set has for demonstrations.
void DemonstrateBuiltIn(std::vector<Problem>& problems) {
  for (Problem& problem : problems) {
    const Json* solution = FindKey(problem.extra, "extra_info.solution");
    const Json answer = solution != nullptr ? *solution : Json(problem.answer);
    problem.answers = {MessagesOf(answer, "assistant", problem.id, "answer")};
  }
}

std::vector<Problem> Collect(const std::string& where, const LoadOptions& options,
                             LoadReport* report,
                             const std::function<void(const RowVisitor&)>& visit) {
  const std::string source = std::filesystem::path(where).stem().string();
  std::vector<Problem> problems;
  LoadReport here;
  RowVisitor visitor;
  visitor.row = [&](Json&& row, const std::string& at) {
    problems.push_back(ProblemFromRow(std::move(row), at, source, options.keys, options.given));
    if (!IsTie(problems.back())) return;
    problems.pop_back();
    ++here.ties;
  };
  if (options.skip_bad) {
    visitor.bad = [&](const Error& error) {
      if (here.bad++ == 0) here.first_bad = error.what();
    };
  }
  visit(visitor);
  here.rows = static_cast<idx>(problems.size()) + here.bad + here.ties;
  if (problems.empty()) {
    Fail(ErrorCode::kInput, "{}: has no rows{}{}", where,
         here.ties > 0 ? fmt::format(" but {} pairs of equal answers", here.ties) : "",
         here.bad > 0
             ? fmt::format(" that can be read; the first of {}: {}", here.bad, here.first_bad)
             : "");
  }
  if (report) *report = std::move(here);
  return problems;
}

}  // namespace

bool IsTemplate(std::string_view text) {
  const std::size_t hole = text.find("{}");
  if (hole == std::string_view::npos) return text.empty();
  return text.find("{}", hole + 2) == std::string_view::npos;
}

Problem ProblemFromRow(Json row, const std::string& where, const std::string& source,
                       const ProblemKeys& keys, GivenAnswers given) {
  return RowReader(std::move(row), where, keys, given).Read(source);
}

std::vector<Problem> LoadProblems(const std::string& source, const LoadOptions& options,
                                  LoadReport* report) {
  if (IsBuiltIn(source)) {
    std::vector<Problem> problems =
        BuiltInProblems(source, options.size, options.seed, options.held_out);
    if (options.given == GivenAnswers::kSteps) {
      Fail(ErrorCode::kInput,
           "{}: is a built-in set, which has no steps; make a file of them with `opo data "
           "make-steps`",
           source);
    }
    if (options.given == GivenAnswers::kPairs) {
      Fail(ErrorCode::kInput,
           "{}: is a built-in set, which has no pairs of a chosen and a rejected answer; name a "
           "file of such rows, or make one with `opo data make-pairs`",
           source);
    }
    if (options.given != GivenAnswers::kNothing) DemonstrateBuiltIn(problems);
    if (report) {
      *report = {};
      report->rows = static_cast<idx>(problems.size());
    }
    return problems;
  }
  if (!Exists(source) && std::filesystem::path(source).extension().empty()) {
    const std::string near = NearestName(source, BuiltInNames());
    Fail(ErrorCode::kInput, "{}: is neither a file nor a built-in set; {}those are: {}", source,
         near.empty() ? "" : fmt::format("did you mean {}? ", near),
         fmt::join(BuiltInNames(), ", "));
  }
  return Collect(source, options, report,
                 [&](const RowVisitor& visitor) { VisitRows(source, visitor); });
}

std::vector<Problem> ParseProblems(std::string_view bytes, DataFormat format,
                                   const std::string& where, const LoadOptions& options,
                                   LoadReport* report) {
  return Collect(where, options, report,
                 [&](const RowVisitor& visitor) { VisitRows(bytes, format, where, visitor); });
}

std::string PromptText(const Problem& problem) {
  std::string text;
  for (const Json& message : problem.messages) {
    if (!text.empty()) text += '\n';
    text += message["content"].get_ref<const std::string&>();
  }
  return text;
}

std::string Normalised(std::string_view text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  std::string out;
  bool gap = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const bool between_digits =
        i > 0 && i + 1 < text.size() && is_digit(text[i - 1]) && is_digit(text[i + 1]);
    const bool is_operator =
        std::string_view("+-*/=<>^%|&").find(text[i]) != std::string_view::npos;
    if (std::isspace(c)) gap = true;
    if (c < 0x80 && !std::isalnum(c) && !is_operator && !(c == '.' && between_digits)) continue;
    if (gap && !out.empty()) out += ' ';
    gap = false;
    out += c < 0x80 ? static_cast<char>(std::tolower(c)) : text[i];
  }
  return out;
}

}  // namespace opo
