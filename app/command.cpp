#include "app/command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "base/error.h"
#include "base/fields.h"
#include "base/json.h"
#include "base/parallel.h"
#include "base/utf8.h"
#include "comm/comm.h"

namespace opo {

using nlohmann::ordered_json;

void ModelOptions::Add(CLI::App& app, bool required) {
  auto* option = app.add_option("--model", model,
                                "a .gguf file, a Hugging Face folder, or a PEFT folder (LoRA)");
  if (required) option->required();
  app.add_option("--dtype", dtype, "bf16, or f32 throughout")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  app.add_option("--isa", isa, "instruction-set path to force (see `opo doctor`)");
  app.add_option("--threads", threads, "threads to use; 0: every CPU")->check(CLI::Range(0, 1024));
}

void ModelOptions::Apply() const {
  SelectIsa(isa);
  const int sharing = Comm::Joined() ? Comm::World().sharing_cpus() : 1;
  SetNumThreads(threads > 0 ? threads : std::max(1, AllowedCpus() / sharing));
}

std::vector<JsonLine> ReadJsonLines(const std::string& path) {
  std::ifstream file;
  if (path != "-") {
    file.open(path);
    if (!file) Fail(ErrorCode::kInput, "{}: cannot be opened", path);
  }
  std::istream& in = path == "-" ? std::cin : file;
  std::vector<JsonLine> lines;
  idx number = 0;
  for (std::string text; std::getline(in, text);) {
    ++number;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    JsonLine line;
    line.where = fmt::format("{}: line {}", path == "-" ? "standard input" : path, number);
    line.object = ParseJson<ordered_json>(text, line.where, "line");
    if (!line.object.is_object()) Fail(ErrorCode::kInput, "{}: is not an object", line.where);
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string ForStdout(std::string_view text) {
  static const bool terminal = isatty(STDOUT_FILENO) != 0;
  return terminal ? Printable(text) : std::string(text);
}

void PrintJsonLine(const ordered_json& value) {
  std::string text = value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  // mpirun reads a rank's output through a terminal of its own, whatever it does with it.
  if (Comm::LauncherSize() == 1) text = ForStdout(text);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
  std::fflush(stdout);
}

std::vector<TokenId> PromptOf(const ordered_json& line, const PromptRenderer& prompts,
                              const std::string& where) {
  try {
    if (line.contains("prompt_ids")) return line["prompt_ids"].get<std::vector<TokenId>>();
    if (line.contains("messages")) return prompts.Render(line["messages"]);
    if (line.contains("prompt")) {
      if (line["prompt"].is_array()) return prompts.Render(line["prompt"]);
      return prompts.Render(ordered_json::array(
          {{{"role", "user"}, {"content", line["prompt"].get<std::string>()}}}));
    }
  } catch (const ordered_json::exception& e) {
    Fail(ErrorCode::kInput, "{}: {}", where, e.what());
  }
  Fail(ErrorCode::kInput, "{}: has none of `messages`, `prompt`, `prompt_ids`", where);
}

void AddProblemKeys(CLI::App& verb, ProblemKeys& keys) {
  verb.add_option("--prompt-key", keys.prompt, "a row's prompt, may be dotted (default: prompt)");
  verb.add_option("--answer-key", keys.answer,
                  "its gold answer (default: reward_model.ground_truth, answer, solution or "
                  "ground_truth)");
  verb.add_option("--id-key", keys.id, "its id (default: id or extra_info.index)");
  verb.add_option("--template", keys.template_text,
                  "text around a prompt, which takes the place of {}");
}

void CheckProblemKeys(const ProblemKeys& keys) {
  if (IsTemplate(keys.template_text)) return;
  Fail(ErrorCode::kUsage, "--template: needs one {{}} where the prompt goes");
}

void RewardOptions::Add(CLI::App& verb, const std::string& name, const std::string& help) {
  verb.add_option("--" + name, kind, help)
      ->check(CLI::IsMember(RewardKinds()))
      ->capture_default_str();
  verb.add_option("--" + name + "-set", set,
                  "a setting of the " + name +
                      ", as in a [[reward]] section: pattern=[0-9]+, on_error=skip (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
}

RewardConfig RewardOptions::Term(idx max_new_tokens) const {
  RewardConfig term;
  Fields fields = FieldsOf(term);
  fields.Set("kind=" + kind);
  for (const std::string& assignment : set) fields.Set(assignment);
  SetMaxTokens({&term, 1}, max_new_tokens);
  if (term.normalize != "none" || term.clip > 0) {
    Fail(ErrorCode::kUsage,
         "normalize and clip are for training, whose running moments they follow; here scores are "
         "shown as they are: leave them out");
  }
  return term;
}

void MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) Fail(ErrorCode::kWork, "{}: cannot be made: {}", path, error.message());
}

}  // namespace opo
