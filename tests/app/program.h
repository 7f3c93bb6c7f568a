// Runs the built program as a child process.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace opo {

struct ProgramResult {
  int exit_code = -1;  // 128 + n where signal n ended it
  std::string out, err;
  nlohmann::json last_line() const {
    const std::size_t end = out.find_last_not_of('\n');
    const std::size_t start = out.rfind('\n', end);
    return nlohmann::json::parse(out.substr(start == std::string::npos ? 0 : start + 1));
  }
};

// A folder for one test, removed with it.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "opo_test_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline std::string Program() { return std::string(OPO_BUILD_DIR) + "/opo"; }

// `command`: a program, looked up in PATH, and its arguments. `signal_after`: sends `signal` that
// many milliseconds after the start (-1: never). `input` is what it reads from stdin.
inline ProgramResult RunCommand(const std::vector<std::string>& command, int signal_after = -1,
                                int signal = SIGKILL, const std::string& input = "") {
  const ScratchFolder scratch;
  const std::string out = scratch / "out";
  const std::string err = scratch / "err";
  const std::string in = scratch / "in";
  std::ofstream(in) << input;
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open(in.c_str(), O_RDONLY), 0);
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT, 0644), 1);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT, 0644), 2);
    std::vector<char*> argv;
    for (const std::string& a : command) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    ::execvp(argv.front(), argv.data());
    ::_exit(127);
  }
  if (signal_after >= 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(signal_after));
    ::kill(child, signal);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ProgramResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = ReadText(out);
  result.err = ReadText(err);
  return result;
}

inline ProgramResult RunProgram(std::vector<std::string> arguments, int signal_after = -1,
                                int signal = SIGKILL, const std::string& input = "") {
  arguments.insert(arguments.begin(), Program());
  return RunCommand(arguments, signal_after, signal, input);
}

// The program on so many ranks of this machine: what to put before it. Open MPI asks a root user to
// say that he means it.
inline std::vector<std::string> OnRanks(int ranks) {
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  if (ranks == 1) return {};
  return {"mpirun", "--oversubscribe", "--bind-to", "none", "-n", std::to_string(ranks)};
}

inline ProgramResult RunOnRanks(int ranks, const std::vector<std::string>& arguments,
                                int signal_after = -1, int signal = SIGKILL) {
  std::vector<std::string> command = OnRanks(ranks);
  command.push_back(Program());
  command.insert(command.end(), arguments.begin(), arguments.end());
  return RunCommand(command, signal_after, signal);
}

inline std::string Example(const std::string& name) {
  return std::string(OPO_SOURCE_DIR) + "/examples/" + name;
}

// What a run did, without its times: every metric that is not a time, a rate or a memory figure.
inline std::vector<nlohmann::json> StepsOf(const std::string& run_dir) {
  std::vector<nlohmann::json> steps;
  std::istringstream lines(ReadText(run_dir + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto all = nlohmann::json::parse(line);
    nlohmann::json kept;
    for (const auto& [name, value] : all.items()) {
      if (name.starts_with("timing_s/") || name.starts_with("perf/") || name == "step_time" ||
          name == "learn/micro_batches" || name.starts_with("ranks/") ||
          name == "exact/taped_rows" || name == "exact/rechecked_rows") {
        continue;
      }
      kept[name] = value;
    }
    steps.push_back(kept);
  }
  return steps;
}

}  // namespace opo
