// opo compare: several algorithms on the same start, prompts and seeds, and a table.
#include <poll.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>

#include "app/command.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "base/progress.h"
#include "compare/summary.h"
#include "report/report.h"
#include "train/signal_guard.h"

namespace opo {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

struct CompareArguments {
  std::string config;
  std::vector<std::string> set;
  std::string model;
  bool json = false;
  bool dry_run = false;
  bool quiet = false;
};

struct ChildEnd {
  int exit_code = 0;
  std::string err;
};

// One more of this program, in a process of its own: a run that ends badly ends alone, and its
// memory is its own. Its progress is `on_tick`'s business, twice a second.
ChildEnd RunChild(const std::vector<std::string>& arguments, const SignalGuard& signals,
                  const std::function<void()>& on_tick) {
  ProcessSpec spec;
  spec.argv = {fs::read_symlink("/proc/self/exe").string()};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  for (char** variable = environ; *variable != nullptr; ++variable) {
    spec.environment.emplace_back(*variable);
  }
  Process child(spec);
  child.CloseIn();
  std::string out;
  bool told = false;
  for (bool open = true; open;) {
    pollfd ends[] = {{child.out(), POLLIN, 0}, {child.err(), POLLIN, 0}};
    poll(ends, 2, 500);
    if (signals.caught() != 0 && !told) {
      told = true;
      child.Signal(SIGTERM);  // it takes its checkpoint, as far as it has one
    }
    open = child.Read(out, 1 << 20);
    child.DrainErr();
    on_tick();
  }
  child.End(600);
  return {child.exit_code(), child.err_tail()};
}

class Comparer {
 public:
  Comparer(const CompareArguments& args, const CompareConfig& config)
      : args_(args), config_(config), runs_(CompareRuns(config)) {}

  // Returns the signal that stopped it, or 0.
  int Run() {
    MakeFolder(config_.dir);
    const FileLock lock(config_.dir + "/lock", config_.dir);
    Pin();
    const CompareRun start = StartRun(config_);
    progress_.emplace(static_cast<idx>(runs_.size()), "run", 0);
    if (!start.dir.empty() && !Train(start, "start")) return signals_.caught();
    RunNumbers of_start;
    // A fresh [model.init] is no file to evaluate, nor a reference to load.
    const bool from_file = !runs_.front().config.model.path.empty();
    if (from_file &&
        !Evaluate(runs_.front().config.model.path, StartEval(), "", "start", of_start)) {
      return signals_.caught();
    }
    std::vector<FinishedRun> finished;
    for (const CompareRun& run : runs_) {
      FinishedRun done;
      done.run = run;
      const std::string label = fmt::format("{} seed {}", run.arm, run.seed);
      const bool went_on = One(run, label, done);
      if (!went_on) return signals_.caught();
      finished.push_back(std::move(done));
      done_ = static_cast<idx>(finished.size());
      progress_->Update(done_, label);
      Write(finished, of_start);
    }
    progress_.reset();
    const ordered_json all = Comparison(config_, finished, of_start);
    if (!all.at("same_first_rollouts").get<bool>()) {
      fmt::print(stderr,
                 "note: not all arms have the same first rollouts: their settings sample "
                 "otherwise\n");
    }
    if (args_.json) {
      PrintJsonLine(all);
    } else {
      fmt::print("{}", ComparisonTable(all));
    }
    fmt::print(stderr, "{0}/compare.json, {0}/report.html\n", config_.dir);
    return 0;
  }

 private:
  std::string StartEval() const { return config_.dir + "/start-eval.json"; }

  // The claims and arms as they stood when the comparison began: a later look must not change them.
  void Pin() const {
    const std::string path = config_.dir + "/compare.toml";
    const std::string now = PrintCompareConfig(config_);
    if (!fs::exists(path)) return WriteFileAtomically(path, now);
    if (ReadFile(path) == now) return;
    Fail(ErrorCode::kUsage,
         "{}: holds a comparison with other settings (compare.toml there); give another dir, or "
         "remove the folder",
         config_.dir);
  }

  void Write(const std::vector<FinishedRun>& finished, const RunNumbers& start) const {
    // Before a run came to its end, no claim's column can be told from a mistyped one.
    CompareConfig known = config_;
    const bool any = std::any_of(finished.begin(), finished.end(),
                                 [](const FinishedRun& run) { return run.status == "done"; });
    if (!any) known.claim.clear();
    WriteFileAtomically(config_.dir + "/compare.json",
                        Comparison(known, finished, start).dump(1) + "\n");
    WriteFileAtomically(config_.dir + "/report.html", ReportPage(ReadReport({config_.dir})));
  }

  // Trains and evaluates one run, or takes what is there. False: a signal came.
  bool One(const CompareRun& run, const std::string& label, FinishedRun& done) {
    const std::string summary = run.dir + "/summary.json";
    if (fs::exists(summary)) {
      const ordered_json kept = ParseJson<ordered_json>(ReadFile(summary), summary, "file");
      done.status = kept.at("status");
      done.first_rollouts = kept.at("first_rollouts");
      for (const auto& [key, value] : kept.at("numbers").items()) {
        if (value.is_number()) done.numbers[key] = value;
      }
      return true;
    }
    if (!Train(run, label)) {
      if (signals_.caught() != 0) return false;
      done.status = failure_;
      done.numbers["collapsed"] = 1;
    } else {
      SummarizeTraining(config_, done);
      RunNumbers of_eval;
      if (!Evaluate(run.dir + "/model", run.dir + "/eval.json", runs_.front().config.model.path,
                    label, of_eval)) {
        return false;
      }
      done.numbers.insert(of_eval.begin(), of_eval.end());
    }
    ordered_json kept;
    kept["status"] = done.status;
    kept["first_rollouts"] = done.first_rollouts;
    kept["numbers"] = ordered_json::object();
    for (const auto& [key, value] : done.numbers) {
      kept["numbers"][key] = std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
    }
    WriteFileAtomically(summary, kept.dump(1) + "\n");
    if (!config_.keep_models) {
      fs::remove(run.dir + "/model");
      fs::remove_all(run.dir + "/checkpoints");
    }
    return true;
  }

  // Runs to the end of the budget. False: a signal came, or non-finite numbers ended it
  // (failure_).
  bool Train(const CompareRun& run, const std::string& label) {
    // What the run is told is kept here; its own config.toml says what became of it.
    const std::string config = fmt::format("{}/configs/{}-{}.toml", config_.dir,
                                           run.arm.empty() ? "start" : run.arm, run.seed);
    const std::string printed = PrintTrainConfig(run.config);
    MakeFolder(config_.dir + "/configs");
    if (!fs::exists(config)) {
      WriteFileAtomically(config, printed);
    } else if (ReadFile(config) != printed) {
      Fail(ErrorCode::kUsage,
           "{}: was begun with other settings, which {} holds; remove both, or give another dir",
           run.dir, config);
    }
    if (fs::exists(run.dir + "/finished")) return true;
    const char* verb = TrainVerbOf(run.config);
    std::vector<std::string> arguments = {verb, "--quiet"};
    if (fs::exists(run.dir + "/config.toml")) {
      arguments.insert(arguments.end(), {"--resume", run.dir});
    } else {
      arguments.push_back(config);
    }
    const std::string metrics = run.dir + "/metrics.jsonl";
    const ChildEnd end = RunChild(arguments, signals_, [&] { Show(label, metrics); });
    if (signals_.caught() != 0) return false;
    if (end.exit_code == static_cast<int>(ErrorCode::kWork) &&
        end.err.find("non-finite") != std::string::npos) {
      failure_ = "non-finite numbers";
      return false;
    }
    if (end.exit_code != 0) Broken(verb, label, end);
    WriteFileAtomically(run.dir + "/finished", "");
    return true;
  }

  bool Evaluate(const std::string& model, const std::string& out, const std::string& reference,
                const std::string& label, RunNumbers& numbers) {
    if (config_.eval.args.empty()) return true;
    if (!fs::exists(out)) {
      std::vector<std::string> arguments = {"eval", "--quiet", "--model", model, "--out", out};
      if (!reference.empty()) {
        arguments.insert(arguments.end(), {"--reference", reference});
      }
      if (!config_.eval.judge.empty()) {
        arguments.insert(arguments.end(),
                         {"--judge", "model", "--judge-set", "path=" + config_.eval.judge});
        if (fs::exists(StartEval())) arguments.insert(arguments.end(), {"--against", StartEval()});
      }
      arguments.insert(arguments.end(), config_.eval.args.begin(), config_.eval.args.end());
      const ChildEnd end = RunChild(arguments, signals_, [&] { Show(label + ", evaluation", ""); });
      if (signals_.caught() != 0) return false;
      if (end.exit_code != 0) Broken("eval", label, end);
    }
    numbers = SummarizeEval(ParseJson<ordered_json>(ReadFile(out), out, "file"));
    return true;
  }

  [[noreturn]] static void Broken(const char* verb, const std::string& label, const ChildEnd& end) {
    const bool ours = end.exit_code >= 1 && end.exit_code <= 4;
    Fail(ours ? static_cast<ErrorCode>(end.exit_code) : ErrorCode::kWork,
         "{}: `opo {}` ended with exit code {}: {}", label, verb, end.exit_code, end.err);
  }

  // The run's last step, now and then.
  void Show(const std::string& label, const std::string& metrics) {
    const double now = Seconds();
    if (args_.quiet || now - shown_ < 5) return;
    shown_ = now;
    std::string text = label;
    if (!metrics.empty() && fs::exists(metrics)) {
      const std::string all = ReadFile(metrics);
      const std::size_t end = all.rfind('\n');
      if (end != std::string::npos && end > 0) {
        const std::size_t begin = all.rfind('\n', end - 1);
        const std::size_t from = begin == std::string::npos ? 0 : begin + 1;
        const ordered_json line =
            ParseJson<ordered_json>(all.substr(from, end - from), metrics, "line");
        text += fmt::format("  step {}  reward {:.3f}", line.value("training/global_step", idx{0}),
                            line.value("critic/score/mean", 0.0));
      }
    }
    progress_->Update(done_, text);
  }

  const CompareArguments& args_;
  const CompareConfig& config_;
  std::vector<CompareRun> runs_;
  const SignalGuard signals_;
  std::optional<Progress> progress_;
  std::string failure_;
  idx done_ = 0;      // runs
  double shown_ = 0;  // when the line was drawn last
};

void RunCompare(const CompareArguments& args, int& exit_code) {
  const CompareConfig config = LoadCompareConfig(args.config, args.set, args.model);
  if (args.dry_run) {
    for (const CompareRun& run : CompareRuns(config)) {
      fmt::print("{:<24} seed {}  {} steps  {}  {}\n", run.arm, run.seed, run.config.train.steps,
                 run.config.algorithm.name, run.dir);
    }
    return;
  }
  const int signal = Comparer(args, config).Run();
  if (signal != 0) exit_code = 128 + signal;
}

}  // namespace

void AddCompare(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<CompareArguments>();
  CLI::App* verb = app.add_subcommand(
      "compare", "several algorithms from one start on the same prompts and seeds, and a table");
  verb->add_option("config", args->config, "the comparison's TOML file (examples/compare)")
      ->required();
  verb->add_option("--set", args->set, "override a setting of it: --set seeds=5 (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--model", args->model,
                   "the model that all begin with: model.path of the training config");
  verb->add_flag("--dry-run", args->dry_run, "list the runs and stop");
  verb->add_flag("--json", args->json, "compare.json on stdout instead of the table");
  verb->add_flag("--quiet", args->quiet, "no progress line");
  verb->footer(
      "Stopped or killed, the same command goes on where it was: runs that are done are kept.\n"
      "The folder holds compare.json, report.html, the config as it was when it began, and every "
      "run.");
  verb->callback([args, &exit_code] { RunCompare(*args, exit_code); });
}

}  // namespace opo
