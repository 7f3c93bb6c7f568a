// opo soak: whole runs, one after the other in one process, while memory and handles are watched.
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "app/command.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "train/trainer.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr idx kRoundsOfARun = 4;  // one fresh start, then resumes

struct SoakArguments {
  std::string config;
  std::vector<std::string> set;
  std::string model;
  std::string folder;
  double minutes = 10;
  idx rounds = 0;
  idx steps = 2;
  double max_growth_mb = 16;
};

// What the process holds between two rounds.
struct Holdings {
  double seconds = 0;  // since the start
  double rss_mb = 0;
  double handles = 0;
  double threads = 0;
};

// The number behind `name` in /proc/self/status.
double StatusNumber(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double value = 0;
    if (word == name && status >> value) return value;
  }
  Fail(ErrorCode::kWork, "soak: /proc/self/status says nothing of {}", name);
}

Holdings Measure(double seconds) {
  std::error_code error;
  const fs::directory_iterator handles("/proc/self/fd", error);
  if (error) Fail(ErrorCode::kWork, "soak: /proc/self/fd: {}", error.message());
  return {seconds, StatusNumber("VmRSS:") / 1024,
          static_cast<double>(std::distance(begin(handles), end(handles))),
          StatusNumber("Threads:")};
}

// A model of a few weights, with all that a run does between two steps, and a judge that is a
// process.
constexpr char kConfig[] = R"(
[model.init]
max_position = 64
[rollout]
prompts = 4
samples = 4
max_new_tokens = 8
[[reward]]
kind = "regex"
pattern = "[0-9]"
[[reward]]
kind = "program"
command = ["sh", "-c", "while read -r line; do echo 0; done"]
[train]
lr = 1e-3
[eval]
every = 1
prompts = 4
[checkpoint]
every = 1
[monitor]
kl_every = 1
)";

double MedianOf(const std::vector<Holdings>& samples, std::size_t first, std::size_t count,
                double Holdings::*what) {
  std::vector<double> values;
  for (std::size_t i = first; i < first + count; ++i) values.push_back(samples[i].*what);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(count / 2),
                   values.end());
  return values[count / 2];
}

// The first and last value, the largest, the growth (median of the last quarter less that of the
// first, so that one odd value decides nothing), and the least-squares slope.
ordered_json Summary(const std::vector<Holdings>& samples, double Holdings::*what) {
  const auto n = static_cast<double>(samples.size());
  double mean_t = 0;
  double mean = 0;
  double largest = 0;
  for (const Holdings& s : samples) {
    mean_t += s.seconds / n;
    mean += s.*what / n;
    largest = std::max(largest, s.*what);
  }
  double covariance = 0;
  double variance = 0;
  for (const Holdings& s : samples) {
    covariance += (s.seconds - mean_t) * (s.*what - mean);
    variance += (s.seconds - mean_t) * (s.seconds - mean_t);
  }
  const std::size_t quarter = std::max<std::size_t>(1, samples.size() / 4);
  return {{"first", samples.front().*what},
          {"last", samples.back().*what},
          {"largest", largest},
          {"growth", MedianOf(samples, samples.size() - quarter, quarter, what) -
                         MedianOf(samples, 0, quarter, what)},
          {"per_hour", variance > 0 ? covariance / variance * 3600 : 0.0}};
}

// A folder below the one for temporary files, or below `parent`; removed with it.
class Scratch {
 public:
  explicit Scratch(const std::string& parent) {
    std::error_code error;
    const fs::path base = parent.empty() ? fs::temp_directory_path(error) : fs::path(parent);
    if (error) {
      Fail(ErrorCode::kWork, "soak: no folder for temporary files ({}); give --folder",
           error.message());
    }
    std::string name = (base / "opo_soak_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      Fail(ErrorCode::kWork, "{}: cannot be made: {}", name, std::strerror(errno));
    }
    path_ = name;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

TrainConfig ConfigOf(const SoakArguments& args, const Scratch& scratch) {
  std::string path = args.config;
  if (path.empty()) WriteFileAtomically(path = scratch / "soak.toml", kConfig);
  std::vector<std::string> overrides = args.set;
  if (!args.model.empty()) overrides.push_back("model.path=" + args.model);
  TrainConfig config = LoadTrainConfig(path, overrides);
  config.run.dir = scratch / "run";
  return config;
}

void RunSoak(const SoakArguments& args, int& exit_code) {
  const Scratch scratch(args.folder);
  TrainConfig config = ConfigOf(args, scratch);
  TrainOptions options;
  options.progress = false;
  std::vector<Holdings> samples;      // from the end of the warm-up on
  std::optional<std::string> digest;  // of the weights at the end of every run
  idx rounds = 0;
  idx runs = 0;
  int signal = 0;
  // The first run, or where there is not to be a second one, its first round.
  const idx warm_up = args.rounds > 0 && args.rounds <= kRoundsOfARun ? 1 : kRoundsOfARun;
  const double start = Seconds();
  const auto minutes = static_cast<idx>(std::ceil(args.minutes));
  Progress progress(args.rounds > 0 ? args.rounds : minutes, args.rounds > 0 ? "round" : "minute");
  const auto done = [&] {
    return args.rounds > 0 ? rounds >= args.rounds : Seconds() - start >= args.minutes * 60;
  };
  while (signal == 0 && !done()) {
    const idx round_of_run = rounds % kRoundsOfARun;
    if (round_of_run == 0) fs::remove_all(config.run.dir);
    options.resume = round_of_run > 0;
    config.train.steps = (round_of_run + 1) * args.steps;
    const TrainResult result = Train(config, options);
    ++rounds;
    signal = result.signal;
    const Holdings now = Measure(Seconds() - start);
    if (rounds >= warm_up) samples.push_back(now);
    progress.Update(
        args.rounds > 0 ? rounds : std::min(minutes, static_cast<idx>(now.seconds / 60)),
        fmt::format("{:.1f} MB  {} handles  {} threads", now.rss_mb, now.handles, now.threads));
    if (round_of_run + 1 < kRoundsOfARun || signal != 0) continue;
    ++runs;
    if (digest.value_or(result.weights_digest) != result.weights_digest) {
      Fail(ErrorCode::kExactness, "soak: run {} ended with the weights {}, those before with {}",
           runs, result.weights_digest, *digest);
    }
    digest = result.weights_digest;
  }
  if (samples.size() < 2) {
    Fail(ErrorCode::kWork, "soak: ended after {} rounds, before the warm-up did; give it more time",
         rounds);
  }
  ordered_json report = {{"rounds", rounds},
                         {"runs", runs},
                         {"seconds", Seconds() - start},
                         {"rss_mb", Summary(samples, &Holdings::rss_mb)},
                         {"handles", Summary(samples, &Holdings::handles)},
                         {"threads", Summary(samples, &Holdings::threads)}};
  PrintJsonLine(report);
  const auto grew = [&](const char* what, double most) {
    const double growth = report[what]["growth"].get<double>();
    if (growth > most) {
      exit_code = static_cast<int>(ErrorCode::kWork);
      fmt::print(stderr, "soak: {} grew by {:.1f}, at most {:.1f} is allowed\n", what, growth,
                 most);
    }
  };
  grew("handles", 0);
  grew("threads", 0);
  grew("rss_mb", args.max_growth_mb);
  if (signal != 0) exit_code = 128 + signal;
}

}  // namespace

void AddSoak(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<SoakArguments>();
  CLI::App* verb = app.add_subcommand(
      "soak", "whole runs again and again in one process: does memory or do handles grow?");
  verb->add_option("config", args->config, "a run's TOML file; default: a tiny model made here");
  verb->add_option("--model", args->model, "the model to train in place of the config's");
  verb->add_option("--set", args->set, "override a setting (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_option("--minutes", args->minutes, "stop after the round that is then at work")
      ->check(CLI::Range(0.01, 1e5))
      ->capture_default_str();
  verb->add_option("--rounds", args->rounds, "stop after so many rounds instead")
      ->check(CLI::Range(idx{1}, idx{1'000'000}));
  verb->add_option("--steps", args->steps, "steps of a round")
      ->check(CLI::Range(idx{1}, idx{1'000'000}))
      ->capture_default_str();
  verb->add_option("--max-growth-mb", args->max_growth_mb,
                   "how far memory may grow after the warm-up: median of the last quarter of the "
                   "rounds less that of the first")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--folder", args->folder,
                   "where the runs' scratch folder is made; default: that for temporary files");
  verb->footer(
      "A round trains some steps with evaluation and checkpoints; the first of four starts a run "
      "anew,\nthe others resume it. The first run is the warm-up. Every run must end with the same "
      "weights.\nThe last line on stdout is JSON; exit code 1 where handles or threads grow, or "
      "memory beyond\nits bound.");
  verb->callback([args, &exit_code] { RunSoak(*args, exit_code); });
}

}  // namespace opo
