// opo replay: steps of a run taken once more, and their digests beside those that were recorded.
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "app/command.h"
#include "base/error.h"
#include "comm/comm.h"
#include "train/replay.h"

namespace opo {
namespace {

struct ReplayArguments {
  std::string run;
  std::string steps;
  int threads = -1;
  int ranks = 1;
  idx memory_mb = -1;
  idx tape_mb = -2;
  std::string isa;
  std::vector<std::string> set;
  bool json = false;
  bool quiet = false;
};

// All of a file whose size the kernel does not tell.
std::string ReadProcFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// "7", or "3..7".
std::pair<idx, idx> StepsOf(const std::string& text) {
  const auto number = [&](std::string_view part) {
    idx value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < 1) {
      Fail(ErrorCode::kUsage, "--step {}: give a step as 7, or some as 3..7", text);
    }
    return value;
  };
  const std::string_view view = text;
  const std::size_t dots = view.find("..");
  if (dots == std::string_view::npos) return {number(view), number(view)};
  return {number(view.substr(0, dots)), number(view.substr(dots + 2))};
}

void PrintStep(const ReplayedStep& step) {
  for (const ReplayedDigest& d : step.digests) {
    const char* verdict = d.recorded.empty() ? "-" : d.equal() ? "equal" : "DIFFERS";
    fmt::print("{:>6}  {:<8}  {:<32}  {:<32}  {}\n", step.step, d.name,
               d.recorded.empty() ? "not recorded" : d.recorded, d.replayed, verdict);
  }
  std::fflush(stdout);
}

nlohmann::ordered_json JsonOf(const ReplayArguments& args, const ReplayResult& result) {
  nlohmann::ordered_json out;
  out["run_dir"] = args.run;
  out["from_step"] = result.begin;
  out["steps"] = nlohmann::ordered_json::array();
  for (const ReplayedStep& step : result.steps) {
    nlohmann::ordered_json line;
    line["step"] = step.step;
    for (const ReplayedDigest& d : step.digests) {
      line[d.name] = {{"recorded", d.recorded}, {"replayed", d.replayed}, {"equal", d.equal()}};
    }
    out["steps"].push_back(line);
  }
  out["equal"] = result.difference.empty();
  out["difference"] = result.difference;
  return out;
}

// This very command once more, under mpirun.
[[noreturn]] void StartRanks(int ranks) {
  std::vector<std::string> command = {"mpirun", "-n", std::to_string(ranks)};
  const std::string own = ReadProcFile("/proc/self/cmdline");
  for (std::size_t at = 0; at < own.size(); at += command.back().size() + 1) {
    command.emplace_back(own.c_str() + at);
  }
  command[3] = std::filesystem::read_symlink("/proc/self/exe").string();
  // Open MPI's: more ranks than cores are wanted here, and each may use all of them.
  ::setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
  ::setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 0);
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::fflush(nullptr);
  ::execvp(argv.front(), argv.data());
  Fail(ErrorCode::kUsage, "--ranks {}: mpirun cannot be started: {}; install openmpi-bin", ranks,
       std::strerror(errno));
}

void RunReplay(const ReplayArguments& args, int& exit_code) {
  ReplayOptions options;
  options.run_dir = args.run;
  std::tie(options.first, options.last) = StepsOf(args.steps);
  options.set = args.set;
  const auto set = [&](const char* key, const auto& value) {
    options.set.push_back(fmt::format("{}={}", key, value));
  };
  if (args.threads >= 0) set("run.threads", args.threads);
  if (args.memory_mb >= 0) set("run.memory_mb", args.memory_mb);
  if (args.tape_mb >= -1) set("run.tape_mb", args.tape_mb);
  if (!args.isa.empty()) set("run.isa", args.isa);
  options.progress = !args.quiet;
  if (!args.json) {
    options.on_step = [header = true](const ReplayedStep& step) mutable {
      if (header) {
        fmt::print("{:>6}  {:<8}  {:<32}  {:<32}\n", "step", "digest", "recorded", "replayed");
      }
      header = false;
      PrintStep(step);
    };
  }
  Comm& comm = Comm::World();
  if (args.ranks > 1 && comm.alone()) StartRanks(args.ranks);
  const ReplayResult result = Replay(options, comm);
  exit_code = comm.Max(result.difference.empty() ? 0 : static_cast<int>(ErrorCode::kExactness));
  if (!comm.root()) return;
  if (args.json) PrintJsonLine(JsonOf(args, result));
  if (!result.difference.empty()) {
    fmt::print(stderr, "opo: {}\n", result.difference);
  } else if (result.signal != 0) {
    exit_code = 128 + result.signal;
  }
}

}  // namespace

void AddReplay(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<ReplayArguments>();
  CLI::App* verb = app.add_subcommand(
      "replay", "take a step of a run once more and compare its bits with what was recorded");
  verb->add_option("run", args->run,
                   "the run's folder; it is only read, and may be of a run that goes on")
      ->required();
  verb->add_option("--step", args->steps, "the step, or some: 3..7")->required();
  verb->add_option("--threads", args->threads, "run.threads: must change nothing")
      ->check(CLI::Range(0, 4096));
  verb->add_option("--ranks", args->ranks, "starts itself under mpirun: must change nothing")
      ->check(CLI::Range(1, 4096));
  verb->add_option("--memory", args->memory_mb, "run.memory_mb: must change nothing")
      ->check(CLI::Range(idx{0}, idx{1} << 40));
  verb->add_option("--tape-mb", args->tape_mb, "run.tape_mb: must change nothing")
      ->check(CLI::Range(idx{-1}, idx{1} << 40));
  verb->add_option("--isa", args->isa,
                   "run.isa: refused unless its fingerprint is the run's, since other paths round "
                   "otherwise");
  verb->add_option("--set", args->set, "a setting that a resume of the run was given (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  verb->add_flag("--json", args->json, "an object on stdout instead of the table");
  verb->add_flag("--quiet", args->quiet, "no progress line");
  verb->footer(
      "It begins at the newest good checkpoint before the step, or at the first step, and "
      "compares\n"
      "all steps on the way. Rewards are taken from RUN/rewards.jsonl: no judge is asked.\n"
      "Under a launcher (mpirun -n N opo replay ...) it takes the steps on those ranks.\n"
      "Exit code 0: all digests agree; 4: one differs, or an exactness check failed on the way.");
  verb->callback([args, &exit_code] { RunReplay(*args, exit_code); });
}

}  // namespace opo
