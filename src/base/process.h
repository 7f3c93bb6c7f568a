// Programs that run beside this one: spoken to through pipes that never block, and ended together
// with all that they started in their process group.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/types.h"

namespace opo {

struct ProcessSpec {
  std::vector<std::string> argv;         // argv[0]: a path, or a name to look up in PATH
  std::vector<std::string> environment;  // "NAME=value"; the program gets these and no others
  std::string directory;                 // where it runs; "": where we do
  std::vector<int> pass;                 // descriptors that it finds as 3, 4, ...; ours stay open
  std::vector<std::pair<int, std::uint64_t>> limits;  // RLIMIT_..., value (soft and hard)
  bool drop_root = false;  // user and group 65534 (nobody) where we are root
};

// What a program needs of our environment to find its files: PATH, HOME, LANG, LC_ALL, TMPDIR and
// PYTHONPATH, as far as they are set. Secrets in other variables stay here.
std::vector<std::string> CleanEnvironment();

// The path of the program `name`: looked up in PATH where it has no '/'. Throws Error(kWork) with
// the cure where it cannot be started.
std::string FindProgram(const std::string& name);

// One running program in a process group of its own. It finds pipes as its standard streams and no
// other descriptor of ours. It dies when we do, if it was started by the main thread (the kernel
// ties that to the starting thread, which may end earlier than the process in other cases). What it
// moves into another group or session is out of our reach. For one thread at a time.
class Process {
 public:
  // Throws Error(kWork) with the program's name and the system's reason where it cannot start.
  explicit Process(const ProcessSpec& spec);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();  // kills what is left

  // Our ends, for poll(); -1 once closed.
  int in() const { return in_; }
  int out() const { return out_; }
  int err() const { return err_; }

  // Hands over as much as the pipe takes, from the front of `text`, and removes it there. False
  // where nobody reads any more. Raises no SIGPIPE.
  bool Write(std::string_view& text);
  void CloseIn();

  // Appends what is there, at most about `most` bytes; false at the end of the stream.
  bool Read(std::string& text, std::size_t most);

  // Takes what is there of stderr; only the last 2000 bytes are kept.
  void DrainErr();
  const std::string& err_tail() const { return err_tail_; }

  // CPU time that the group used up to now, children that ended and were waited for included. Reads
  // all of /proc: some milliseconds on a machine with many processes.
  double CpuSeconds() const;

  // To the whole group, while the program has not been reaped.
  void Signal(int signal) const;

  // Kills the whole group, reaps the program, and says how it ended: "exit code 1", "signal 9
  // (Killed)", or "" where it was we who ended it. It gets `grace_s` seconds to end by itself
  // first.
  std::string End(double grace_s);
  // After End(), as a shell has it: the exit code, or 128 + the signal's number, ours included.
  int exit_code() const { return exit_code_; }

 private:
  void Close(int& fd);
  bool HasEnded() const;

  pid_t pid_ = -1;  // the group's id as well; -1 once reaped
  int exit_code_ = -1;
  int in_ = -1;
  int out_ = -1;
  int err_ = -1;
  std::string err_tail_;
};

// Keeps SIGPIPE from this thread while it lives: a write to a closed pipe or socket is an error
// code.
class SigpipeBlock {
 public:
  SigpipeBlock();
  SigpipeBlock(const SigpipeBlock&) = delete;
  SigpipeBlock& operator=(const SigpipeBlock&) = delete;
  ~SigpipeBlock();

 private:
  bool was_pending_ = false;
  bool was_blocked_ = false;
};

}  // namespace opo
