// The prompts of a run: rows of a file, or of a built-in set, as problems.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"
#include "data/rows.h"
#include "data/steps.h"

namespace opo {

// Which answers are wanted of a row: none, since they will be sampled, or those that it gives.
// kSteps: states and steps as token ids (data/steps.h).
enum class GivenAnswers { kNothing, kDemonstrations, kPairs, kBoth, kSteps };

struct Problem {
  std::string id;                   // the row's own id ("" where it has none)
  nlohmann::ordered_json messages;  // [{"role": "user", "content": ...}, ...]
  std::string answer;               // the gold answer; "" where there is none
  std::string data_source;          // the row's own, else the name of its file or set
  // Of offline data: what follows `messages`, each a list of messages that begins and ends with the
  // assistant's. A demonstration has one, a pair two, the chosen one first.
  std::vector<nlohmann::ordered_json> answers;
  double margin = 0;  // of a pair: by how much the chosen answer is better, if it says so
  GivenSteps steps;   // of kSteps, instead of answers
  nlohmann::ordered_json extra;  // the row without prompt, id and data_source, for rewards
};

// Where a row has what. A key may be dotted: "reward_model.ground_truth".
struct ProblemKeys {
  std::string prompt;           // text or messages; "": prompt
  std::string answer;           // "": reward_model.ground_truth, answer, solution or ground_truth
  std::string id;               // "": id or extra_info.index
  std::string template_text;    // put around the last user message, which takes the place of {}
  std::string completion = {};  // what follows the prompt of a demonstration; "": completion
};

// Whether a template has exactly one {}, or is empty.
bool IsTemplate(std::string_view text);

// A row in the schema of verl (`prompt` as messages, `reward_model.ground_truth`, `data_source`,
// `extra_info`), of TRL (`prompt`, other columns for the rewards) or, with `keys`, any other. Gold
// answers that are neither text nor null become compact JSON. `where` begins messages; a row
// without `data_source` takes `source`. Throws Error(kInput) naming the field and the cure.
//
// Of offline data, texts or messages everywhere:
// - demonstrations: `messages`, where what comes before the first of the assistant's is the prompt,
//   or `prompt` and `completion`;
// - pairs: `prompt`, `chosen`, `rejected`; or the last two alone, as whole conversations that begin
//   alike, also in Anthropic's form of one text ("\n\nHuman: ...\n\nAssistant: ..."); and `margin`.
// With kBoth a row that has `rejected` is a pair.
Problem ProblemFromRow(nlohmann::ordered_json row, const std::string& where,
                       const std::string& source, const ProblemKeys& keys = {},
                       GivenAnswers given = GivenAnswers::kNothing);

struct LoadOptions {
  ProblemKeys keys;
  GivenAnswers given = GivenAnswers::kNothing;
  bool skip_bad = false;  // count rows that are bad instead of failing
  // Of built-in sets (data/built_in.h).
  bool held_out = false;
  idx size = 2000;
  std::uint64_t seed = 0;
};

struct LoadReport {
  idx rows = 0;  // bad ones too
  idx bad = 0;
  std::string first_bad;  // the message of the first bad row
  idx ties = 0;           // pairs of two equal answers, which are left out
};

// The problems of a data file (data/rows.h), or of a built-in set, whose gold answers (countdown's
// solutions) are its demonstrations. Throws Error(kInput) naming the
// file, and the row; also where no row is left.
std::vector<Problem> LoadProblems(const std::string& source, const LoadOptions& options = {},
                                  LoadReport* report = nullptr);
// The same of a file in memory; `where` names it.
std::vector<Problem> ParseProblems(std::string_view bytes, DataFormat format,
                                   const std::string& where, const LoadOptions& options = {},
                                   LoadReport* report = nullptr);

// The contents of the messages, a line each.
std::string PromptText(const Problem& problem);

// A text to recognise a question by that was copied with other spaces, letters' cases or
// punctuation: words of lower-case letters and digits, and operators, with one space between.
std::string Normalised(std::string_view text);

}  // namespace opo
