// Kill torture: runs are killed with SIGKILL, at random instants and at named points, and resumed
// until they are done. Then nothing may tell them from a run that nobody touched: the digest of the
// weights, and every line of metrics.jsonl and samples.jsonl but their times.
//
//   torture [--kills N] [--seconds S] [--seed X] [--launcher "mpirun -n 3"] [--config NAME]
//
// It ends after N kills or S seconds, whichever comes first, with a table and exit code 0; at the
// first difference with code 1, and the folder of that run is left there.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

#include "app/program.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

struct Config {
  const char* name;
  std::vector<std::string> set;
};

// The tiny example, cut short. Every one writes a checkpoint a step or every second one.
const std::vector<Config>& Configs() {
  static const std::vector<Config> configs = {
      {"every-step", {"checkpoint.every=1"}},
      {"no-tape", {"checkpoint.every=2", "run.tape_mb=0", "run.threads=1"}},
      {"bf16-moments", {"checkpoint.every=1", "train.moments=bf16", "checkpoint.keep_last=1"}},
      {"lora", {"checkpoint.every=2", "lora.rank=4", "monitor.kl_every=2"}},
      {"eval",
       {"checkpoint.every=1", "eval.every=2", "eval.prompts=8", "checkpoint.keep_best=true"}},
      {"dynamic",
       {"checkpoint.every=2", "rollout.dynamic_sampling=true", "rollout.max_draws=2",
        "rollout.samples=2"}},
      {"program", {"checkpoint.every=2"}}};
  return configs;
}

// What a kill can be aimed at: OPO_FAULT, and what the table calls it.
struct Point {
  const char* phase;
  const char* fault;  // nth= is appended
  int most;           // largest nth
};
constexpr Point kPoints[] = {
    {"in a line of metrics", "kill:write:path=metrics.jsonl", 5},
    {"in a line of samples", "kill:write:path=samples.jsonl", 20},
    {"in a line of rewards", "kill:write:path=rewards.jsonl", 200},
    {"in an event", "kill:write:path=tfevents", 5},
    {"in a checkpoint's weights", "kill:write:path=safetensors", 12},
    {"in a checkpoint's state", "kill:write:path=state.json", 3},
    {"in a checkpoint's manifest", "kill:write:path=partial/manifest.json", 3},
    {"before a file's rename", "kill:before-rename", 20},
    {"before the checkpoint's rename", "kill:checkpoint-written", 3},
    {"before `model` is linked", "kill:checkpoint-renamed", 3},
    {"before the rotation", "kill:checkpoint-linked", 3},
    {"in the rotation", "kill:checkpoint-removing", 2},
    {"in the report", "kill:write:path=report.html", 8},
    {"in the run's config", "kill:write:path=config.toml", 1},
    {"in the run's manifest", "kill:write:path=run/manifest.json", 1},
};

struct Tally {
  int kills = 0;
  int missed = 0;  // the run was over before
};

class Torture {
 public:
  Torture(const std::string& launcher, unsigned seed) : random_(seed) {
    std::istringstream words(launcher);
    for (std::string word; words >> word;) launcher_.push_back(word);
    // A program as a reward: a point for a digit.
    program_ = scratch_ / "judge.sh";
    std::ofstream(program_) << R"(while read -r line; do
  case $line in
    *'"completion": "'*[0-9]*'", "completion_ids"'*) echo 1 ;;
    *) echo 0 ;;
  esac
done
)";
  }

  bool Run(int kills, double seconds, const std::string& only) {
    const auto start = std::chrono::steady_clock::now();
    const auto over = [&] {
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      return kills_ >= kills || took.count() > seconds;
    };
    for (int round = 0; !over(); ++round) {
      for (const Config& config : Configs()) {
        if (over()) break;
        if (!only.empty() && only != config.name) continue;
        if (!OneRun(config, round, over)) return false;
      }
    }
    return true;
  }

  void Print() const {
    fmt::print("{:<34} {:>6} {:>13}\n", "killed", "kills", "run over first");
    for (const auto& [phase, tally] : tallies_) {
      fmt::print("{:<34} {:>6} {:>13}\n", phase, tally.kills, tally.missed);
    }
    fmt::print("\n{:<34} {:>6} {:>13}\n", "config", "kills", "runs");
    for (const auto& [name, tally] : configs_) {
      fmt::print("{:<34} {:>6} {:>13}\n", name, tally.kills, tally.missed);
    }
    fmt::print("\n{} kills in {} runs\n", kills_, runs_);
  }

 private:
  std::vector<std::string> Arguments(const Config& config, const std::string& dir) const {
    std::vector<std::string> args = {"train", Example("tiny.toml"), "--quiet"};
    std::vector<std::string> set = {"run.dir=" + dir,    "train.steps=6",     "rollout.prompts=8",
                                    "rollout.samples=4", "run.memory_mb=200", "eval.prompts=4",
                                    "run.threads=2"};
    set.insert(set.end(), config.set.begin(), config.set.end());
    if (std::string(config.name) == "program") {
      set.insert(set.end(), {"reward.0.kind=program", "reward.0.pattern=",
                             "reward.0.command=[\"sh\", \"" + program_ + "\"]"});
    }
    // Ranks need a shard each; the same for the undisturbed run.
    if (!launcher_.empty()) set.insert(set.end(), {"train.shards=4", "run.threads=1"});
    for (const std::string& s : set) args.insert(args.end(), {"--set", s});
    return args;
  }

  int Uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  // The process to kill at random: the program, or one of the ranks that a launcher started. The
  // launcher then ends the others.
  pid_t Victim(pid_t started) {
    std::vector<pid_t> ranks;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      int pid = 0;
      int parent = 0;
      char name[64] = {};
      const std::string stat = ReadText(entry.path().string() + "/stat");
      if (std::sscanf(stat.c_str(), "%d (%63[^)]) %*c %d", &pid, name, &parent) != 3) continue;
      if (parent == started && std::string(name) == "opo") ranks.push_back(pid);
    }
    if (launcher_.empty() || ranks.empty()) return started;
    return ranks[static_cast<std::size_t>(Uniform(0, static_cast<int>(ranks.size()) - 1))];
  }

  // Where the run is, by what is in its folder: which part of a step a random kill hit.
  static std::string PhaseOf(const std::string& dir) {
    if (!fs::exists(dir + "/manifest.json")) return "at random, before the run began";
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(dir + "/checkpoints", error)) {
      if (entry.path().string().ends_with(".partial")) return "at random, in a checkpoint";
    }
    return "at random, elsewhere";
  }

  template <class Over>
  bool OneRun(const Config& config, int round, const Over& over) {
    const std::string want_dir = scratch_ / (std::string(config.name) + "/whole/run");
    if (!wanted_.contains(config.name)) {
      fs::create_directories(fs::path(want_dir).parent_path());
      const auto start = std::chrono::steady_clock::now();
      const ProgramResult whole = RunningProgram(Arguments(config, want_dir), "", launcher_).Wait();
      const std::chrono::duration<double, std::milli> took =
          std::chrono::steady_clock::now() - start;
      if (whole.exit_code != 0)
        return Differs(want_dir, "the undisturbed run failed: " + whole.err);
      wanted_[config.name] = whole.last_line()["weights_digest"];
      milliseconds_[config.name] = static_cast<int>(took.count());
    }
    const std::string dir =
        scratch_ / (std::string(config.name) + "/" + std::to_string(round) + "/run");
    fs::create_directories(fs::path(dir).parent_path());
    ProgramResult result;
    int here = 0;
    // At most so many kills a run, so that each comes to its end.
    for (int attempt = 0; attempt < 200; ++attempt) {
      const bool begun = fs::exists(dir + "/manifest.json");
      const auto args = begun ? std::vector<std::string>{"train", "--resume", dir, "--quiet"}
                              : Arguments(config, dir);
      const bool kill = here < 12 && !over();
      std::string phase;
      if (kill && Uniform(0, 1) == 0) {
        const Point& point = kPoints[static_cast<std::size_t>(Uniform(0, std::size(kPoints) - 1))];
        phase = point.phase;
        ::setenv("OPO_FAULT", fmt::format("{}:nth={}", point.fault, Uniform(1, point.most)).c_str(),
                 1);
        result = RunningProgram(args, "", launcher_).Wait();
        ::unsetenv("OPO_FAULT");
      } else if (kill) {
        RunningProgram program(args, "", launcher_);
        std::this_thread::sleep_for(
            std::chrono::microseconds(Uniform(0, 1000 * milliseconds_[config.name])));
        ::kill(Victim(program.pid()), SIGKILL);
        result = program.Wait();
        phase = PhaseOf(dir);
      } else {
        result = RunningProgram(args, "", launcher_).Wait();
      }
      const bool killed = result.exit_code == 128 + SIGKILL ||
                          (kill && !launcher_.empty() && result.exit_code != 0);
      if (kill) {
        (killed ? tallies_[phase].kills : tallies_[phase].missed) += 1;
        if (killed) ++kills_, ++here, ++configs_[config.name].kills;
      }
      if (!killed && result.exit_code != 0)
        return Differs(dir, "it could not go on: " + result.err);
      if (result.exit_code == 0) break;
    }
    ++runs_;
    ++configs_[config.name].missed;
    if (result.exit_code != 0) return Differs(dir, "it never ended");
    if (result.last_line()["weights_digest"] != wanted_[config.name])
      return Differs(dir, "other weights");
    if (StepsOf(dir) != StepsOf(want_dir)) return Differs(dir, "other lines in metrics.jsonl");
    if (ReadText(dir + "/samples.jsonl") != ReadText(want_dir + "/samples.jsonl")) {
      return Differs(dir, "other lines in samples.jsonl");
    }
    if (fs::canonical(dir + "/model").string().find("step_000006") == std::string::npos) {
      return Differs(dir, "`model` is not the last checkpoint's");
    }
    if (!NoneIsMissingOrTwice(dir, want_dir)) {
      return Differs(dir, "a reward is missing from rewards.jsonl, or stands there twice");
    }
    for (const auto& entry : fs::recursive_directory_iterator(dir)) {
      if (entry.path().string().ends_with(".partial"))
        return Differs(dir, "it left " + entry.path().string());
    }
    fs::remove_all(fs::path(dir).parent_path());
    return true;
  }

  // How often each answer stands in the journal, by term.
  static std::map<std::string, int> Rewards(const std::string& dir) {
    std::map<std::string, int> times;
    std::istringstream lines(ReadText(dir + "/rewards.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto value = nlohmann::json::parse(line);
      ++times[fmt::format("{} {} {} {}", value["training/global_step"].dump(),
                          value["phase"].dump(), value["answer"].dump(), value["term"].dump())];
    }
    return times;
  }

  // No answer was asked for again, and none was left out. A resume evaluates where it begins, too.
  static bool NoneIsMissingOrTwice(const std::string& dir, const std::string& want_dir) {
    std::map<std::string, int> got = Rewards(dir);
    for (const auto& [key, times] : got) {
      if (times != 1) return false;
    }
    const std::map<std::string, int> want = Rewards(want_dir);
    for (const auto& [key, times] : want) {
      if (times != 1 || got.erase(key) == 0) return false;
    }
    for (const auto& [key, times] : got) {
      if (key.find("eval") == std::string::npos) return false;
    }
    return !want.empty();
  }

  static bool Differs(const std::string& dir, const std::string& what) {
    fmt::print(stderr, "torture: {}: {}\n", dir, what);
    const fs::path kept = fs::temp_directory_path() / fmt::format("opo_torture_{}", ::getpid());
    std::error_code error;
    fs::copy(fs::path(dir).parent_path(), kept,
             fs::copy_options::recursive | fs::copy_options::copy_symlinks, error);
    fmt::print(stderr, "torture: a copy of it is in {}\n", kept.string());
    return false;
  }

  ScratchFolder scratch_;
  std::string program_;
  std::vector<std::string> launcher_;
  std::mt19937 random_;
  int kills_ = 0;
  int runs_ = 0;
  std::map<std::string, Tally> tallies_, configs_;
  std::map<std::string, std::string> wanted_;
  std::map<std::string, int> milliseconds_;
};

int Main(int argc, char** argv) {
  int kills = 300;
  double seconds = 1e9;
  unsigned seed = 1;
  std::string launcher;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const char* value = i + 1 < argc ? argv[++i] : "";
    if (word == "--kills") {
      kills = std::atoi(value);
    } else if (word == "--seconds") {
      seconds = std::atof(value);
    } else if (word == "--seed") {
      seed = static_cast<unsigned>(std::atoi(value));
    } else if (word == "--launcher") {
      launcher = value;
    } else if (word == "--config") {
      only = value;
    } else {
      fmt::print(stderr,
                 "usage: torture [--kills N] [--seconds S] [--seed X] [--launcher \"mpirun -n 3\"] "
                 "[--config NAME]\n");
      return 2;
    }
  }
  Torture torture(launcher, seed);
  const bool good = torture.Run(kills, seconds, only);
  torture.Print();
  fmt::print("{}\n", good ? "every run ended with the weights and the lines of the undisturbed one"
                          : "FAILED");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace opo

int main(int argc, char** argv) { return opo::Main(argc, argv); }
