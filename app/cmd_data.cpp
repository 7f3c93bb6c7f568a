// opo data: data sets made, shown, checked and converted.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "app/command.h"
#include "base/error.h"
#include "base/fields.h"
#include "base/file.h"
#include "data/built_in.h"
#include "data/problem.h"
#include "data/rows.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

struct DataArguments {
  std::string source;  // a file or a built-in set
  std::string out;
  std::string eval;
  std::string model;
  std::string system;
  std::string answers = "none";  // which of the rows' are looked at
  LoadOptions load;
  idx rows = 3;
  idx prompt_limit = 0;
  bool json = false;
};

void AddSet(CLI::App& verb, LoadOptions& load) {
  verb.add_option("--size", load.size, "problems of a built-in set")
      ->check(CLI::Range(idx{1}, idx{10'000'000}))
      ->capture_default_str();
  verb.add_option("--seed", load.seed, "seed of a built-in set")->capture_default_str();
  verb.add_flag("--held-out", load.held_out, "its held-out part: a tenth of the size");
}

void AddAnswers(CLI::App& verb, DataArguments& args) {
  verb.add_option("--answers", args.answers, "the answers that rows give are looked at too")
      ->check(CLI::IsMember({"none", "demonstrations", "pairs", "both"}))
      ->capture_default_str();
  verb.add_option("--completion-key", args.load.keys.completion,
                  "of a demonstration, what follows the prompt (default: completion)");
}

// After parsing.
LoadOptions LoadOf(const DataArguments& args) {
  CheckProblemKeys(args.load.keys);
  LoadOptions load = args.load;
  load.given = args.answers == "demonstrations" ? GivenAnswers::kDemonstrations
               : args.answers == "pairs"        ? GivenAnswers::kPairs
               : args.answers == "both"         ? GivenAnswers::kBoth
                                                : GivenAnswers::kNothing;
  return load;
}

// JSON lines to a file, whole or not at all, or to stdout where no file is named.
class LineWriter {
 public:
  explicit LineWriter(const std::string& path) {
    if (!path.empty() && path != "-") file_.emplace(path);
  }
  void Write(const ordered_json& row) {
    if (!file_) return PrintJsonLine(row);
    const std::string line = row.dump() + "\n";
    file_->Write(line.data(), line.size());
  }
  void Commit() {
    if (file_) file_->Commit();
  }

 private:
  std::optional<PartialFile> file_;
};

void RunMake(const DataArguments& args) {
  if (!IsBuiltIn(args.source)) {
    const std::string near = NearestName(args.source, BuiltInNames());
    Fail(ErrorCode::kUsage, "data make {}: no built-in set; {}those are: {}", args.source,
         near.empty() ? "" : fmt::format("did you mean {}? ", near),
         fmt::join(BuiltInNames(), ", "));
  }
  const auto rows = BuiltInRows(args.source, args.load.size, args.load.seed, args.load.held_out);
  LineWriter out(args.out);
  for (const ordered_json& row : rows) out.Write(row);
  out.Commit();
  fmt::print(stderr, "{}: {} rows\n", args.source, rows.size());
}

void RunConvert(const DataArguments& args) {
  std::error_code ignored;
  if (std::filesystem::equivalent(args.source, args.out, ignored)) {
    Fail(ErrorCode::kUsage, "data convert: {} is both what is read and what is written", args.out);
  }
  if (DataFormatOf(args.out) != DataFormat::kJsonLines) {
    Fail(ErrorCode::kUsage, "data convert: {} must end in .jsonl", args.out);
  }
  LineWriter out(args.out);
  idx rows = 0;
  RowVisitor visitor;
  visitor.row = [&](ordered_json&& row, const std::string&) {
    out.Write(row);
    ++rows;
  };
  VisitRows(args.source, visitor);
  out.Commit();
  fmt::print(stderr, "{}: {} rows\n", args.out, rows);
}

// A given answer as the model will see it: its text from the prompt on, tokens and learned ones.
ordered_json ShowAnswer(const Tokenizer& tokenizer, const PromptRenderer& prompts,
                        const Problem& problem, const ordered_json& answer) {
  const GivenTokens given = prompts.RenderAnswer(problem.messages, answer);
  const auto learned =
      given.learned.empty()
          ? given.answer.size()
          : static_cast<std::size_t>(std::count(given.learned.begin(), given.learned.end(), true));
  return {{"text", tokenizer.Decode(given.answer, /*skip_special=*/false)},
          {"tokens", given.answer.size()},
          {"learned", learned}};
}

void RunShow(const DataArguments& args) {
  const std::vector<Problem> problems = LoadProblems(args.source, LoadOf(args));
  const Tokenizer tokenizer = Tokenizer::Load(TokenizerPath(args.model));
  const PromptRenderer prompts(tokenizer, args.system);
  idx number = 0;
  for (const Problem& problem : problems) {
    if (number++ == args.rows) break;
    const std::string text = prompts.RenderText(problem.messages);
    const auto tokens = prompts.Render(problem.messages).size();
    ordered_json given = ordered_json::array();
    for (const ordered_json& answer : problem.answers) {
      given.push_back(ShowAnswer(tokenizer, prompts, problem, answer));
    }
    if (args.json) {
      ordered_json line = {
          {"row", number},         {"id", problem.id}, {"data_source", problem.data_source},
          {"text", text},          {"tokens", tokens}, {"answer", problem.answer},
          {"extra", problem.extra}};
      if (!given.empty()) line["answers"] = given;
      PrintJsonLine(line);
      continue;
    }
    fmt::print("--- row {} of {}, {} tokens, {}{}\n{}\n--- answer: {}\n", number, problems.size(),
               tokens, ForStdout(problem.data_source),
               problem.id.empty() ? "" : ", id " + ForStdout(problem.id), ForStdout(text),
               problem.answer.empty() ? "(none)" : ForStdout(problem.answer));
    for (std::size_t a = 0; a < given.size(); ++a) {
      fmt::print("--- {}, {} tokens, {} of them learned\n{}\n",
                 given.size() == 1 ? "demonstration"
                 : a == 0          ? "chosen"
                                   : "rejected",
                 given[a]["tokens"].get<idx>(), given[a]["learned"].get<idx>(),
                 ForStdout(given[a]["text"].get<std::string>()));
    }
    if (!problem.extra.empty()) {
      std::vector<std::string> names;
      for (const auto& [name, value] : problem.extra.items()) names.push_back(ForStdout(name));
      fmt::print("--- for rewards: {}\n", fmt::join(names, ", "));
    }
  }
}

// Nearest-rank percentiles.
ordered_json Percentiles(std::vector<idx> lengths) {
  std::sort(lengths.begin(), lengths.end());
  ordered_json out;
  for (const int percent : {0, 50, 90, 99, 100}) {
    const std::size_t rank = (lengths.size() * static_cast<std::size_t>(percent) + 99) / 100;
    out[percent == 0     ? "min"
        : percent == 100 ? "max"
                         : fmt::format("p{}", percent)] = lengths[rank > 0 ? rank - 1 : 0];
  }
  return out;
}

ordered_json CheckOne(const DataArguments& args, const std::string& source, bool held_out,
                      const PromptRenderer* prompts, std::set<std::string>& questions) {
  LoadOptions options = LoadOf(args);
  options.skip_bad = true;
  options.held_out = held_out;
  LoadReport report;
  const std::vector<Problem> problems = LoadProblems(source, options, &report);
  idx no_answer = 0, duplicates = 0, other_answer = 0, overlong = 0;
  std::map<std::string, std::string> answers;
  std::map<std::string, idx> sources;
  std::vector<idx> lengths, answer_lengths;
  idx pairs = 0;
  std::string first_duplicate;
  for (const Problem& problem : problems) {
    ++sources[problem.data_source];
    if (problem.answer.empty()) ++no_answer;
    const std::string text = PromptText(problem);
    const auto [known, is_new] = answers.emplace(Normalised(text), problem.answer);
    if (!is_new) {
      if (duplicates++ == 0) first_duplicate = text;
      if (known->second != problem.answer) ++other_answer;
    }
    lengths.push_back(prompts ? static_cast<idx>(prompts->Render(problem.messages).size())
                              : static_cast<idx>(text.size()));
    if (args.prompt_limit > 0 && lengths.back() > args.prompt_limit) ++overlong;
    pairs += problem.answers.size() == 2 ? 1 : 0;
    for (const ordered_json& given : problem.answers) {
      idx length = 0;
      if (prompts != nullptr) {
        length = static_cast<idx>(prompts->RenderAnswer(problem.messages, given).answer.size());
      } else {
        for (const ordered_json& message : given) {
          length += static_cast<idx>(message["content"].get_ref<const std::string&>().size());
        }
      }
      answer_lengths.push_back(length);
    }
  }
  for (const auto& [text, answer] : answers) questions.insert(text);
  ordered_json out;
  out["source"] = source;
  out["rows"] = report.rows;
  out["bad"] = report.bad;
  if (report.bad > 0) out["first_bad"] = report.first_bad;
  if (options.given != GivenAnswers::kNothing) {
    out["demonstrations"] = static_cast<idx>(problems.size()) - pairs;
    out["pairs"] = pairs;
    out["equal_answers"] = report.ties;
  }
  out["without_answer"] = no_answer;
  out["duplicates"] = duplicates;
  if (duplicates > 0) {
    out["first_duplicate"] = first_duplicate;
    out["duplicates_with_another_answer"] = other_answer;
  }
  out["data_sources"] = sources;
  out[prompts ? "prompt_tokens" : "prompt_bytes"] = Percentiles(std::move(lengths));
  if (!answer_lengths.empty()) {
    out[prompts ? "answer_tokens" : "answer_bytes"] = Percentiles(std::move(answer_lengths));
  }
  if (args.prompt_limit > 0) out["longer_than_prompt_limit"] = overlong;
  return out;
}

void PrintCheck(const ordered_json& set) {
  fmt::print("{}\n", set["source"].get<std::string>());
  for (const auto& [key, value] : set.items()) {
    if (key == "source") continue;
    std::string name = key;
    std::replace(name.begin(), name.end(), '_', ' ');
    std::string text;
    if (value.is_object()) {
      for (const auto& [inner, number] : value.items()) {
        text += fmt::format("{}{} {}", text.empty() ? "" : ", ", inner, number.dump());
      }
    } else {
      text = value.is_string() ? value.get<std::string>() : value.dump();
    }
    fmt::print("  {}: {}\n", name, ForStdout(text));
  }
}

void RunCheck(const DataArguments& args) {
  if (args.prompt_limit > 0 && args.model.empty()) {
    Fail(ErrorCode::kUsage, "data check: --prompt-limit counts tokens and needs --model");
  }
  std::optional<Tokenizer> tokenizer;
  std::optional<PromptRenderer> prompts;
  if (!args.model.empty()) {
    tokenizer.emplace(Tokenizer::Load(TokenizerPath(args.model)));
    prompts.emplace(*tokenizer, args.system);
  }
  const PromptRenderer* renderer = prompts ? &*prompts : nullptr;
  std::set<std::string> train, eval;
  ordered_json out;
  out["data"] = CheckOne(args, args.source, args.load.held_out, renderer, train);
  if (!args.eval.empty()) {
    out["eval"] = CheckOne(args, args.eval, true, renderer, eval);
    idx overlap = 0;
    std::string first;
    for (const std::string& text : eval) {
      if (train.contains(text) && overlap++ == 0) first = text;
    }
    out["overlap"] = overlap;
    if (overlap > 0) out["first_overlap"] = first;
  }
  if (args.json) return PrintJsonLine(out);
  PrintCheck(out["data"]);
  if (args.eval.empty()) return;
  PrintCheck(out["eval"]);
  fmt::print("in both: {} questions{}\n", out["overlap"].get<idx>(),
             out.contains("first_overlap")
                 ? "; the first: " + out["first_overlap"].get<std::string>()
                 : "");
}

}  // namespace

void AddData(CLI::App& app, int& exit_code) {
  CLI::App* data = app.add_subcommand("data", "make, show, check and convert data sets");
  data->require_subcommand(1);
  data->footer(
      "Data files end in .jsonl, .ndjson, .json, .csv or .parquet. Built-in sets: arithmetic,\n"
      "arithmetic:LEVEL from 1 to 5, arithmetic:A-B (those levels), base, countdown, gcd, sort.");
  const auto verb = [data](const char* name, const char* help, auto run) {
    auto args = std::make_shared<DataArguments>();
    CLI::App* sub = data->add_subcommand(name, help);
    sub->callback([args, run] { run(*args); });
    return std::pair(sub, args.get());
  };
  {
    auto [sub, args] =
        verb("make", "write a built-in set as JSON lines, in verl's schema", RunMake);
    sub->add_option("NAME", args->source, "the set")->required();
    AddSet(*sub, args->load);
    sub->add_option("-o,--out", args->out, "file to write (default: standard output)");
  }
  {
    auto [sub, args] =
        verb("show", "print rows as a model will see them, its chat template applied", RunShow);
    sub->add_option("DATA", args->source, "a data file or a built-in set")->required();
    sub->add_option("--model", args->model, "whose template and tokenizer to take")->required();
    sub->add_option("--system", args->system, "a system message put before each prompt");
    sub->add_option("-n", args->rows, "rows to print")
        ->check(CLI::Range(idx{1}, idx{1'000'000'000}))
        ->capture_default_str();
    AddProblemKeys(*sub, args->load.keys);
    AddAnswers(*sub, *args);
    AddSet(*sub, args->load);
    sub->add_flag("--json", args->json, "a JSON line a row");
  }
  {
    auto [sub, args] = verb("check",
                            "count rows, bad rows, missing answers, duplicates and lengths, and "
                            "what training and evaluation have in common",
                            RunCheck);
    sub->add_option("DATA", args->source, "a data file or a built-in set")->required();
    sub->add_option("--eval", args->eval,
                    "what will be evaluated on: a file, or a built-in set's held-out part");
    sub->add_option("--model", args->model, "measure prompts in its tokens");
    sub->add_option("--system", args->system, "a system message put before each prompt");
    sub->add_option("--prompt-limit", args->prompt_limit, "count prompts with more tokens")
        ->check(CLI::Range(idx{1}, idx{1'000'000'000}));
    AddProblemKeys(*sub, args->load.keys);
    AddAnswers(*sub, *args);
    AddSet(*sub, args->load);
    sub->add_flag("--json", args->json, "all of it as one line of JSON");
  }
  {
    auto [sub, args] =
        verb("convert", "write a data file as JSON lines, rows as they are", RunConvert);
    sub->add_option("IN", args->source, "a data file")->required();
    sub->add_option("OUT", args->out, "a .jsonl file")->required();
  }
  AddMakePairs(*data, exit_code);
  AddMakeSteps(*data);
}

}  // namespace opo
