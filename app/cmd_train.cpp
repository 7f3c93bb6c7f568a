// opo train, opo plan: from a config to a better model.
#include <algorithm>
#include <cstdio>

#include "app/command.h"
#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "model/load.h"
#include "train/floor.h"
#include "train/plan.h"
#include "train/trainer.h"

namespace opo {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> set;
  std::string resume;
  bool print_config = false;
  bool demo = false;
  bool quiet = false;
};

std::string OneLine(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\n' ? std::string("\\n") : std::string(1, c);
  return out.size() > 100 ? out.substr(0, 97) + "..." : out;
}

void PrintDemo(const TrainResult& result) {
  const auto percent = [](double rate) { return fmt::format("{:.0f}%", 100 * rate); };
  fmt::print(stderr, "\nPass rate on {} held-out questions: {} before, {} after.\n",
             result.before.answers.size(), percent(result.before.pass_rate),
             percent(result.after.pass_rate));
  const std::size_t n = std::min<std::size_t>(3, result.before.answers.size());
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t at = i * result.before.answers.size() / n;
    const Answer& before = result.before.answers[at];
    const Answer& after = result.after.answers[at];
    fmt::print(stderr, "\n  {}   (answer: {})\n    before: {}\n    after:  {}\n", before.prompt,
               before.gold, OneLine(before.text), OneLine(after.text));
  }
  fmt::print(stderr,
             "\nThe run is in {}: metrics.jsonl, samples.jsonl, model/ (loads in transformers).\n",
             result.run_dir);
}

void RunTrain(const TrainArguments& args, int& exit_code) {
  std::vector<std::string> overrides = args.set;
  std::string path = args.config;
  TrainOptions options;
  if (!args.resume.empty()) {
    if (!path.empty()) Fail(ErrorCode::kUsage, "--resume takes the run's folder, without a CONFIG");
    path = args.resume + "/config.toml";
    overrides.push_back("run.dir=" + args.resume);
    options.resume = true;
  } else if (path.empty() && !args.print_config) {
    Fail(ErrorCode::kUsage, "train: give a CONFIG (examples/tiny.toml), or --resume RUN_DIR");
  }
  const TrainConfig config = LoadTrainConfig(path, overrides);
  if (args.print_config) {
    fmt::print("{}", PrintTrainConfig(config));
    return;
  }
  options.progress = !args.quiet;
  const TrainResult result = Train(config, options);
  if (args.demo) PrintDemo(result);
  nlohmann::ordered_json last;
  last["run_dir"] = result.run_dir;
  last["steps"] = result.steps;
  last["reward"] = result.reward;
  last["weights_digest"] = result.weights_digest;
  last["eval_before"] = result.before.pass_rate;
  last["eval_after"] = result.after.pass_rate;
  PrintJsonLine(last);
  if (result.signal != 0) exit_code = 128 + result.signal;
}

struct PlanArguments {
  std::string config;
  std::vector<std::string> set;
  idx prompt_tokens = 64;
  bool json = false;
};

void RunPlan(const PlanArguments& args) {
  const TrainConfig config = LoadTrainConfig(args.config, args.set);
  SelectIsa(config.run.isa);
  SetNumThreads(static_cast<int>(config.run.threads));
  const ModelConfig model = config.model.path.empty()
                                ? FreshModel(config.model.init, Tokenizer::Bytes())
                                : OpenModel(config.model.path)->config();
  const MemoryPlan plan = PlanMemory(config, model, args.prompt_tokens);
  StepWork work;
  const idx samples = config.rollout.prompts * config.rollout.samples;
  work.tokens_sampled = work.tokens_learned = samples * config.rollout.max_new_tokens;
  work.rows_sampled = work.tokens_sampled + config.rollout.prompts * (args.prompt_tokens - 1);
  work.rows_recomputed = work.rows_learned = work.rows_sampled;
  const double rate =
      MeasureGemmRate(model, config.model.dtype == "f32" ? DType::kF32 : DType::kBf16, 0.4);
  const double floor = FloorFlops(model, work) / rate;
  nlohmann::ordered_json out;
  const std::vector<std::pair<const char*, idx>> parts = {{"weights_bytes", plan.weights},
                                                          {"optimizer_bytes", plan.optimizer},
                                                          {"gradient_bytes", plan.gradient},
                                                          {"packed_bytes", plan.packed},
                                                          {"head_bytes", plan.head},
                                                          {"rollout_bytes", plan.rollout},
                                                          {"micro_batch_bytes", plan.micro_batch},
                                                          {"total_bytes", plan.total()},
                                                          {"budget_bytes", plan.budget}};
  for (const auto& [name, bytes] : parts) out[name] = bytes;
  out["row_bytes"] = plan.row_bytes;
  out["micro_batch_rows"] = plan.micro_batch_rows;
  out["gemm_rate"] = rate;
  out["floor_s"] = floor;
  if (args.json) {
    PrintJsonLine(out);
    return;
  }
  for (const auto& [name, bytes] : parts) {
    fmt::print("{:<20} {:>8} MB\n", std::string(name).substr(0, std::string(name).rfind('_')),
               bytes >> 20);
  }
  fmt::print(
      "{} rows a micro-batch at {} KB; the longest step takes at least {:.1f} s ({:.0f} GFLOP/s)\n",
      plan.micro_batch_rows, plan.row_bytes >> 10, floor, rate / 1e9);
}

}  // namespace

void AddTrain(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<TrainArguments>();
  CLI::App* verb = app.add_subcommand("train", "RL from a config; the last line on stdout is JSON");
  verb->add_option("config", args->config, "the run's TOML file (examples/)");
  verb->add_option("--set", args->set, "override a setting: --set train.lr=1e-6 (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--resume", args->resume, "continue the run in this folder, to the same bits");
  verb->add_flag("--print-config", args->print_config,
                 "print the resolved config, commented, and stop");
  verb->add_flag("--demo", args->demo, "show held-out pass rates and answers before and after");
  verb->add_flag("--quiet", args->quiet, "no progress line");
  verb->callback([args, &exit_code] { RunTrain(*args, exit_code); });
}

void AddPlan(CLI::App& app, int&) {
  auto args = std::make_shared<PlanArguments>();
  CLI::App* verb =
      app.add_subcommand("plan", "what memory and time a run will take, before it starts");
  verb->add_option("config", args->config, "the run's TOML file")->required();
  verb->add_option("--set", args->set, "override a setting (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--prompt-tokens", args->prompt_tokens, "tokens of a prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_flag("--json", args->json, "an object on stdout");
  verb->callback([args] { RunPlan(*args); });
}

}  // namespace opo
