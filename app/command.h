// The verbs of the program: one cmd_*.cpp each, all registered in main.cpp.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/problem.h"
#include "model/transformer.h"
#include "rollout/prompts.h"
#include "rollout/rollout.h"

namespace opo {

// What every verb that runs a model offers.
struct ModelOptions {
  std::string model;
  std::string dtype = "bf16";
  std::string isa;
  int threads = 0;

  void Add(CLI::App& app, bool required = true);
  void Apply() const;  // chooses the instruction-set path and the threads
  bool f32() const { return dtype == "f32"; }
};

// A policy for inference: tokenizer, template and weights.
template <class T>
struct LoadedModel {
  explicit LoadedModel(const std::string& path)
      : tokenizer(Tokenizer::Load(TokenizerPath(path))),
        prompts(tokenizer),
        packed(LoadWeights(path, SlabOf::kNothing), false),
        model(packed) {}
  Tokenizer tokenizer;
  PromptRenderer prompts;
  PackedWeights<T> packed;
  Transformer<T> model;
};

// Applies the options, then runs the bf16 or the f32 instantiation of a verb.
template <class Arguments, class Bf16, class F32>
void RunInDtype(const Arguments& args, const Bf16& bf16_run, const F32& f32_run) {
  args.model.Apply();
  if (args.model.f32()) {
    f32_run(args);
  } else {
    bf16_run(args);
  }
}

// The lines of a JSONL file ("-": standard input) that are not empty. Throws Error(kInput) naming
// file and line where one is no object.
struct JsonLine {
  nlohmann::ordered_json object;
  std::string where;  // "FILE: line N"
};
std::vector<JsonLine> ReadJsonLines(const std::string& path);
// Text of a model or a file for stdout: as it is, but fit for a terminal where stdout is one.
std::string ForStdout(std::string_view text);
// One line of JSON on stdout, numbers with enough digits to read back the same.
void PrintJsonLine(const nlohmann::ordered_json& value);
// The prompt of a line {"messages" | "prompt" | "prompt_ids"}: ids; `prompt` text is one user turn.
std::vector<TokenId> PromptOf(const nlohmann::ordered_json& line, const PromptRenderer& prompts,
                              const std::string& where);

// Where the rows of a data file have what: --prompt-key and so on, and the check after parsing.
void AddProblemKeys(CLI::App& verb, ProblemKeys& keys);
void CheckProblemKeys(const ProblemKeys& keys);

// How answers are scored: --reward and --reward-set, or with another name in place of "reward".
struct RewardOptions {
  std::string kind = "number";
  std::vector<std::string> set;

  void Add(CLI::App& verb, const std::string& name = "reward",
           const std::string& help = "how answers are scored");
  // Throws Error(kUsage) naming the setting.
  RewardConfig Term(idx max_new_tokens) const;
};

// Makes a folder and those above it. Throws Error(kWork).
void MakeFolder(const std::string& path);

struct TrainConfig;
// The verb that trains such a config: train, sft, rm or dpo.
const char* TrainVerbOf(const TrainConfig& config);

// Each adds its subcommand; the callback runs it and sets the exit code.
void AddTrain(CLI::App& app, int& exit_code);
void AddEval(CLI::App& app, int& exit_code);
void AddGenerate(CLI::App& app, int& exit_code);
void AddChat(CLI::App& app, int& exit_code);
void AddTokenize(CLI::App& app, int& exit_code);
void AddRender(CLI::App& app, int& exit_code);
void AddLogprobs(CLI::App& app, int& exit_code);
void AddData(CLI::App& app, int& exit_code);
void AddMakePairs(CLI::App& data, int& exit_code);  // of `opo data`
void AddMakeSteps(CLI::App& data);                  // of `opo data`
void AddInit(CLI::App& app, int& exit_code);
void AddConvert(CLI::App& app, int& exit_code);
void AddReport(CLI::App& app, int& exit_code);
void AddServe(CLI::App& app, int& exit_code);
void AddReplay(CLI::App& app, int& exit_code);
void AddCompare(CLI::App& app, int& exit_code);
void AddPlan(CLI::App& app, int& exit_code);
void AddVerify(CLI::App& app, int& exit_code);
void AddAlgorithms(CLI::App& app, int& exit_code);
void AddExplain(CLI::App& app, int& exit_code);
void AddDoctor(CLI::App& app, int& exit_code);
void AddBench(CLI::App& app, int& exit_code);
void AddSoak(CLI::App& app, int& exit_code);
void AddVariance(CLI::App& app, int& exit_code);

}  // namespace opo
