// opo train, opo plan: from a config to a better model.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "app/command.h"
#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "base/utf8.h"
#include "model/load.h"
#include "train/floor.h"
#include "train/given.h"
#include "train/plan.h"
#include "train/policy.h"
#include "train/scale.h"
#include "train/trainer.h"

namespace opo {
namespace {

// A verb that trains: which algorithms are its own.
struct TrainVerb {
  const char* name;
  const char* help;
  bool (*takes)(const TrainConfig& config);
  const char* what;     // its algorithms have in common
  const char* example;  // a config
};

bool Scores(const TrainConfig& config) {
  return (FindAlgorithm(config.algorithm.name).needs & kNeedsValueHead) != 0;
}
bool Samples(const TrainConfig& config) {
  const GivenAnswers given = GivenOf(config);
  return given == GivenAnswers::kNothing || (given == GivenAnswers::kSteps && !Scores(config));
}
bool Imitates(const TrainConfig& config) {
  return GivenOf(config) == GivenAnswers::kDemonstrations;
}

bool Prefers(const TrainConfig& config) {
  constexpr unsigned kPrefers = kNeedsPairs | kNeedsReference;
  return (FindAlgorithm(config.algorithm.name).needs & kPrefers) == kPrefers;
}

constexpr TrainVerb kTrainVerbs[] = {
    {"train", "RL from a config; the last line on stdout is JSON", Samples, "learn from rewards",
     "examples/tiny.toml"},
    {"sft", "supervised fine-tuning on demonstrations; the last line on stdout is JSON", Imitates,
     "learn from demonstrations", "examples/sft.toml"},
    {"rm", "a reward model from pairs, or a critic of steps; the last line on stdout is JSON",
     Scores, "learn a score", "examples/rm.toml"},
    {"dpo", "preferences: learns from pairs of answers; the last line on stdout is JSON", Prefers,
     "learn from pairs against a reference", "examples/dpo.toml"},
};

const TrainVerb* VerbThatTakes(const TrainConfig& config) {
  const auto* verb = std::find_if(std::begin(kTrainVerbs), std::end(kTrainVerbs),
                                  [&](const TrainVerb& of) { return of.takes(config); });
  return verb == std::end(kTrainVerbs) ? nullptr : verb;
}

// The verb's own algorithms, and no others: what another learns from is another thing.
void CheckVerb(const TrainVerb& verb, const TrainConfig& config) {
  if (verb.takes(config)) return;
  std::vector<std::string_view> own;
  for (const Algorithm& algorithm : Algorithms()) {
    TrainConfig other;
    other.algorithm.name = algorithm.name;
    if (verb.takes(other)) own.push_back(algorithm.name);
  }
  const TrainVerb* cure = VerbThatTakes(config);
  Fail(ErrorCode::kUsage,
       "opo {}: is for algorithms that {} ({}), and algorithm.name = \"{}\" does not; {}",
       verb.name, verb.what, fmt::join(own, ", "), config.algorithm.name,
       cure == nullptr ? std::string("choose one of them")
                       : fmt::format("run `opo {}`", cure->name));
}

struct TrainArguments {
  const TrainVerb* verb = nullptr;
  std::string config;
  std::vector<std::string> set;
  std::string resume;
  bool print_config = false;
  bool demo = false;
  bool quiet = false;
};

std::string OneLine(const std::string& text) {
  std::string out;
  for (const char c : Printable(text)) out += c == '\n' ? std::string("\\n") : std::string(1, c);
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
    fmt::print(stderr, "\n  {}   (answer: {})\n    before: {}\n    after:  {}\n",
               Printable(before.prompt), Printable(before.gold), OneLine(before.text),
               OneLine(after.text));
  }
  fmt::print(stderr,
             "\nThe run is in {}: metrics.jsonl, report.html, model/ (loads in transformers).\n",
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
    Fail(ErrorCode::kUsage, "{}: give a CONFIG ({}), or --resume RUN_DIR", args.verb->name,
         args.verb->example);
  }
  Comm& comm = Comm::World();
  // The root's: the others need not see the file, nor the run's folder.
  const auto load = [&] {
    const TrainConfig config = LoadTrainConfig(path, overrides);
    CheckVerb(*args.verb, config);
    return PrintTrainConfig(config);
  };
  const std::string printed = comm.Broadcast(comm.root() ? load() : std::string());
  if (args.print_config) {
    if (comm.root()) fmt::print("{}", printed);
    return;
  }
  options.progress = !args.quiet;
  const TrainConfig config = ParseTrainConfig(printed);
  const TrainResult result = Train(config, options, comm);
  if (result.signal != 0) exit_code = 128 + result.signal;
  if (!comm.root()) return;
  if (args.demo) PrintDemo(result);
  nlohmann::ordered_json last;
  last["run_dir"] = result.run_dir;
  last["steps"] = result.steps;
  if (IsGiven(config)) {
    last["loss"] = result.loss;
    last["weights_digest"] = result.weights_digest;
    if (!result.before.metrics.empty()) last["eval_before"] = result.before.metrics;
    if (!result.after.metrics.empty()) last["eval_after"] = result.after.metrics;
    return PrintJsonLine(last);
  }
  last["reward"] = result.reward;
  last["weights_digest"] = result.weights_digest;
  last["eval_before"] = result.before.pass_rate;
  last["eval_after"] = result.after.pass_rate;
  PrintJsonLine(last);
}

struct PlanArguments {
  std::string config;
  std::vector<std::string> set;
  idx prompt_tokens = 64;
  idx completion_tokens = 0;  // 0: rollout.max_new_tokens
  idx ranks = 1;
  std::string net = "10Gbit";
  double latency_us = 50;
  double length_cv = 0;
  bool json = false;
};

// "25Gbit" or "800Mbit", a second.
double BytesPerSecond(const std::string& net) {
  std::size_t end = 0;
  double number = 0;
  try {
    number = std::stod(net, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  const std::string unit = net.substr(end);
  const double bits = unit == "Gbit" ? 1e9 : unit == "Mbit" ? 1e6 : 0;
  if (end == 0 || bits == 0 || !(number > 0) || !std::isfinite(number)) {
    Fail(ErrorCode::kUsage, "--net {}: give a rate such as 25Gbit or 800Mbit", net);
  }
  return number * bits / 8;
}

void RunPlan(const PlanArguments& args) {
  const TrainConfig given = LoadTrainConfig(args.config, args.set);
  SelectIsa(given.run.isa);
  SetNumThreads(static_cast<int>(given.run.threads));
  const ModelConfig model = PolicyShape(given, PolicyTokenizer(given), PolicyHeads(given));
  const TrainConfig config = AsSampled(given, model);
  const idx tokens =
      args.completion_tokens > 0 ? args.completion_tokens : config.rollout.max_new_tokens;
  const MemoryPlan plan = PlanStepMemory(given, model, args.prompt_tokens, tokens,
                                         PlanMemory(given, model, args.prompt_tokens));
  StepWork work;
  const idx samples = config.rollout.prompts * config.rollout.samples;
  work.tokens_sampled = work.tokens_learned = samples * tokens;
  work.rows_sampled = work.tokens_sampled + config.rollout.prompts * (args.prompt_tokens - 1);
  work.rows_learned = work.rows_sampled;
  work.rows_recomputed = work.rows_sampled - plan.taped_rows;
  const double rate =
      MeasureGemmRate(model, config.model.dtype == "f32" ? DType::kF32 : DType::kBf16, 0.4);
  const double floor = FloorFlops(model, work) / rate;
  const StepTimePlan time = PlanStepTime(given, model, args.prompt_tokens, tokens, plan);
  nlohmann::ordered_json out;
  const std::vector<std::pair<const char*, idx>> bytes = {
      {"process_bytes", plan.process},     {"weights_bytes", plan.weights},
      {"optimizer_bytes", plan.optimizer}, {"gradient_bytes", plan.gradient},
      {"packed_bytes", plan.packed},       {"frozen_bytes", plan.frozen},
      {"head_bytes", plan.head},           {"rollout_bytes", plan.rollout},
      {"tape_bytes", plan.tape},           {"micro_batch_bytes", plan.micro_batch},
      {"total_bytes", plan.total()},       {"budget_bytes", plan.budget}};
  const std::vector<std::pair<const char*, double>> seconds = {
      {"prefill_s", time.prefill},   {"decode_s", time.decode},
      {"recheck_s", time.recheck},   {"score_s", time.score},
      {"forward_s", time.forward},   {"head_s", time.head},
      {"backward_s", time.backward}, {"update_s", time.update},
      {"total_s", time.total()},     {"floor_s", floor}};
  for (const auto& [name, value] : bytes) out[name] = value;
  out["row_bytes"] = plan.row_bytes;
  out["micro_batch_rows"] = plan.micro_batch_rows;
  out["taped_rows"] = plan.taped_rows;
  for (const auto& [name, value] : seconds) out[name] = value;
  out["gemm_rate"] = rate;
  const Network net{args.latency_us * 1e-6, BytesPerSecond(args.net)};
  const auto ranked = [&](idx ranks, bool weak) {
    return PlanRankedStep(time, config, model, tokens, ranks, net, args.length_cv, weak);
  };
  const RankedStep strong = ranked(args.ranks, false);
  const RankedStep weak = ranked(args.ranks, true);
  const double run_hours = strong.total() * static_cast<double>(config.train.steps) / 3600;
  out["ranks"] = args.ranks;
  for (const auto& [name, cost] : {std::pair{"ranked", &strong}, {"ranked_weak", &weak}}) {
    out[name] = {{"total_s", cost->total()},
                 {"compute_s", cost->compute},
                 {"imbalance_s", cost->imbalance},
                 {"rollouts_s", cost->costs.rollouts},
                 {"reduce_s", cost->costs.reduce - cost->costs.reduce_hidden},
                 {"share_s", cost->costs.share},
                 {"bytes", cost->costs.bytes}};
  }
  out["efficiency"] = time.total() / (strong.total() * static_cast<double>(args.ranks));
  out["weak_efficiency"] = time.total() / weak.total();
  out["run_hours"] = run_hours;
  if (args.json) {
    PrintJsonLine(out);
    return;
  }
  const auto plain = [](const std::string& name) { return name.substr(0, name.rfind('_')); };
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    fmt::print("{:<14} {:>8} MB", plain(bytes[i].first), bytes[i].second >> 20);
    if (i < seconds.size()) {
      fmt::print("      {:<10} {:>9.2f} s", plain(seconds[i].first), seconds[i].second);
    }
    fmt::print("\n");
  }
  fmt::print(
      "{} rows a micro-batch at {} KB; a step of {} samples of {} tokens, {} of its {} rows on the "
      "tape; products at {:.0f} GFLOP/s\n",
      plan.micro_batch_rows, plan.row_bytes >> 10, samples, tokens, plan.taped_rows,
      work.rows_sampled, rate / 1e9);
  if (args.ranks > 1) {
    fmt::print("\n{} ranks, each a machine like this one, joined at {}, {} us:\n", args.ranks,
               args.net, args.latency_us);
    fmt::print("{:<34} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11}\n", "", "step s", "compute",
               "imbalance", "rollouts", "gradient", "weights", "efficiency");
    for (const auto& [name, cost, efficiency] :
         {std::tuple{"this step, dealt out", &strong, "efficiency"},
          {"this step at each rank", &weak, "weak_efficiency"}}) {
      fmt::print("{:<34} {:>9.2f} {:>9.2f} {:>9.3f} {:>9.3f} {:>9.3f} {:>9.3f} {:>10.0f}%\n", name,
                 cost->total(), cost->compute, cost->imbalance, cost->costs.rollouts,
                 cost->costs.reduce - cost->costs.reduce_hidden, cost->costs.share,
                 100 * out[efficiency].get<double>());
    }
  }
  fmt::print("{} steps: {:.4g} hours\n", config.train.steps, run_hours);
}

void AddTrainVerb(CLI::App& app, const TrainVerb& of, int& exit_code) {
  auto args = std::make_shared<TrainArguments>();
  args->verb = &of;
  CLI::App* verb = app.add_subcommand(of.name, of.help);
  verb->add_option("config", args->config, "the run's TOML file (examples/)");
  verb->add_option("--set", args->set, "override a setting: --set train.lr=1e-6 (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--resume", args->resume, "continue the run in this folder, to the same bits");
  verb->add_flag("--print-config", args->print_config,
                 "print the resolved config, commented, and stop");
  if (of.takes == Samples) {
    verb->add_flag("--demo", args->demo, "show held-out pass rates and answers before and after");
  }
  verb->add_flag("--quiet", args->quiet, "no progress line");
  verb->callback([args, &exit_code] { RunTrain(*args, exit_code); });
}

}  // namespace

const char* TrainVerbOf(const TrainConfig& config) {
  const TrainVerb* verb = VerbThatTakes(config);
  OPO_CHECK(verb != nullptr);
  return verb->name;
}

void AddTrain(CLI::App& app, int& exit_code) {
  for (const TrainVerb& verb : kTrainVerbs) AddTrainVerb(app, verb, exit_code);
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
  verb->add_option("--completion-tokens", args->completion_tokens,
                   "tokens of a sample; 0: rollout.max_new_tokens, the longest step")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  verb->add_option("--ranks", args->ranks,
                   "ranks that share the prompts, a machine like this one each")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--net", args->net, "what each sends and receives at a time: 25Gbit, 800Mbit")
      ->capture_default_str();
  verb->add_option("--latency-us", args->latency_us, "microseconds of a small message")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--length-cv", args->length_cv,
                   "how much answers differ in length: standard deviation by mean")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  verb->add_flag("--json", args->json, "an object on stdout");
  verb->callback([args] { RunPlan(*args); });
}

}  // namespace opo
