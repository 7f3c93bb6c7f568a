// Steps of a run taken once more, to see whether they give the same bits.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "base/types.h"
#include "comm/comm.h"

namespace opo {

// One digest of a step: what the run wrote down, "" where it did not, and what came out now.
struct ReplayedDigest {
  const char* name = "";  // "rollouts", "gradient", "weights", in the order of their making
  std::string recorded, replayed;
  bool equal() const { return recorded.empty() || recorded == replayed; }
};

struct ReplayedStep {
  idx step = 0;
  std::array<ReplayedDigest, 3> digests;
};

struct ReplayOptions {
  std::string run_dir;
  idx first = 0, last = 0;       // the steps that are asked for
  std::vector<std::string> set;  // of the config: what must not matter, "run.threads=1"
  bool progress = true;          // on stderr: what it will cost beforehand, and a line a step
  std::function<void(const ReplayedStep&)> on_step;
};

struct ReplayResult {
  idx begin = 0;                    // the steps before the first that was taken
  std::vector<ReplayedStep> steps;  // all that were taken
  // What differs, with its place; "" where nothing does.
  std::string difference;
  int signal = 0;  // that ended it early
};

// Takes the steps [first, last] again, and before them those since the newest good checkpoint (or
// since the beginning), which are compared as well. Only reads the run's folder, which may be that
// of a run that goes on. Rewards are those of RUN/rewards.jsonl. Throws Error: kUsage for steps
// that the run has not taken and for settings that change bits, kInput for bad or missing files.
// Of several ranks all call it; the root alone needs to see the folder, and has the steps.
ReplayResult Replay(const ReplayOptions& options, Comm& comm = Comm::Alone());

}  // namespace opo
