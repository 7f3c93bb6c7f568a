// Faults on purpose: the test hook of the program. The environment variable OPO_FAULT names them,
//
//   OPO_FAULT=KIND:TARGET[:KEY=VALUE]...[;KIND:TARGET...]
//
//   nan, inf, flip   a number of TARGET becomes NaN or infinite, or one of its bits flips
//   write, fsync     the system call fails with the error TARGET (ENOSPC, EIO, ...)
//   short            write:short and short:write: a write takes a part of what it was given
//   kill, stop       SIGKILL or SIGSTOP where the program passes the point TARGET
//   throw            an Error(kWork) there
//
// and KEY is
//
//   step=N    only in this step of a run           rank=R   only on this MPI rank
//   nth=N     the first N - 1 occasions pass       count=N  it strikes N times (1; 0: for ever)
//   after=N   of write, short: N bytes pass before; then it strikes for ever
//   path=TEXT of write, fsync, kill: only files whose path contains TEXT
//   index=N   which number (0); it wraps around    bit=N    of flip: which bit (0)
//
// Unset, a hook costs one load. docs/reliability.md lists targets and points.
//
//   if (FaultsArmed()) CorruptNumbers("gradient", grad.span());      // nan, inf, flip
//   FaultPoint("checkpoint-renamed");                                // kill, stop, throw
//   if (const auto fault = FaultAt("nan", "reward")) ...             // anything else
#pragma once

#include <atomic>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/types.h"

namespace opo {

struct Fault {
  std::string kind, target;
  idx step = -1;  // -1: any
  int rank = -1;  // -1: any
  idx nth = 1;
  idx count = 1;
  idx after = -1;
  int error = 0;  // errno of write and fsync
  std::string path;
  idx index = 0;
  int bit = 0;
};

namespace internal {
inline std::atomic<bool> faults_armed{false};
}

// Is any fault set? All hooks ask this first.
inline bool FaultsArmed() { return internal::faults_armed.load(std::memory_order_relaxed); }

// Takes the faults of `text`, in the form above, in place of those before; "": none. Says on stderr
// what it took. Throws Error(kUsage) where it cannot be read.
void SetFaults(const std::string& text);
// The same from OPO_FAULT, where it is set. main() calls it; a library's user need not.
void SetFaultsFromEnvironment();
// Where the process is: what step= and rank= compare with.
void SetFaultStep(idx step);
void SetFaultRank(int rank);

// The fault of this kind and target that strikes now, if there is one; each call is an occasion
// (nth, count). An empty target is any. Says on stderr that it strikes. From any thread.
// `bytes` is what a write takes; a fault with after= strikes where they reach it, and its `after`
// is then how many of them pass.
std::optional<Fault> FaultAt(std::string_view kind, std::string_view target,
                             std::string_view path = {}, std::size_t bytes = 0);

// nan, inf and flip of `target`, in one of `values`. Returns whether one struck.
bool CorruptNumbers(std::string_view target, std::span<float> values);
bool CorruptNumbers(std::string_view target, std::span<bf16> values);
bool CorruptNumbers(std::string_view target, std::span<double> values);

// A point that kill, stop and throw can name.
void FaultPointReached(std::string_view point, std::string_view path);
inline void FaultPoint(std::string_view point, std::string_view path = {}) {
  if (FaultsArmed()) FaultPointReached(point, path);
}

}  // namespace opo
