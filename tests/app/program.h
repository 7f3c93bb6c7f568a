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

// A program that was started: `prefix` and then opo with these arguments. `input` is what it reads
// from stdin. Killed where its object ends first.
class RunningProgram {
 public:
  explicit RunningProgram(const std::vector<std::string>& arguments, const std::string& input = "",
                          const std::vector<std::string>& prefix = {}) {
    std::vector<std::string> words = prefix;
    words.push_back(Program());
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string in = scratch_ / "in";
    const std::string out = scratch_ / "out";
    const std::string err = scratch_ / "err";
    std::ofstream(in) << input;
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(::open(in.c_str(), O_RDONLY), 0);
      ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT, 0644), 1);
      ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT, 0644), 2);
      ::execvp(argv[0], argv.data());
      ::_exit(127);
    }
  }
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;
  ~RunningProgram() {
    if (child_ < 0) return;
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }

  pid_t pid() const { return child_; }
  void Signal(int signal) const { ::kill(child_, signal); }
  std::string out() const { return ReadText(scratch_ / "out"); }
  std::string err() const { return ReadText(scratch_ / "err"); }
  // Returns once it has stopped itself (SIGSTOP), or ended: false.
  bool WaitUntilStopped() {
    int status = 0;
    ::waitpid(child_, &status, WUNTRACED);
    if (WIFSTOPPED(status)) return true;
    End(status);
    return false;
  }
  ProgramResult Wait() {
    int status = 0;
    if (child_ >= 0 && ::waitpid(child_, &status, 0) >= 0) End(status);
    return result_;
  }

 private:
  void End(int status) {
    child_ = -1;
    result_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result_.out = ReadText(scratch_ / "out");
    result_.err = ReadText(scratch_ / "err");
  }
  ScratchFolder scratch_;
  pid_t child_ = -1;
  ProgramResult result_;
};

// `signal_after`: sends `signal` that many milliseconds after the start (-1: never).
inline ProgramResult RunProgram(const std::vector<std::string>& arguments, int signal_after = -1,
                                int signal = SIGKILL, const std::string& input = "") {
  RunningProgram program(arguments, input);
  if (signal_after >= 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(signal_after));
    program.Signal(signal);
  }
  return program.Wait();
}

// The program on so many ranks of this machine: what to put before it. Open MPI asks a root user to
// say that he means it. Its mpirun (4.1.4) now and then waits for itself for ever when ranks were
// killed and all processes are gone: hence the limit, after which the exit code is 137.
inline std::vector<std::string> OnRanks(int ranks) {
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  if (ranks == 1) return {};
  return {"timeout",         "-s",        "KILL", "120", "mpirun",
          "--oversubscribe", "--bind-to", "none", "-n",  std::to_string(ranks)};
}

// The words of a command, and "--set SETTING" for each setting.
inline std::vector<std::string> WithSettings(std::vector<std::string> words,
                                             const std::vector<std::string>& settings) {
  for (const std::string& setting : settings) {
    words.push_back("--set");
    words.push_back(setting);
  }
  return words;
}

inline ProgramResult RunOnRanks(int ranks, const std::vector<std::string>& arguments) {
  return RunningProgram(arguments, "", OnRanks(ranks)).Wait();
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
