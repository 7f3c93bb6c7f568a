// The progress of long work, for people, on stderr: on a terminal one line that is drawn in place
// (a bar, the caller's text, rate and time left), elsewhere one plain line an update.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

#include "base/types.h"

namespace opo {

class Progress {
 public:
  // `total` units of work, named `unit` in the singular ("step"). `seconds` is a clock that never
  // goes back. Rate and time left count from here, and from `done_before` units.
  Progress(std::FILE* out, bool terminal, idx total, std::string unit, idx done_before,
           std::function<double()> seconds);
  // To stderr, by the steady clock.
  Progress(idx total, std::string unit, idx done_before = 0);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();  // ends the line, so that what follows starts a new one

  // `done` of `total` units. Without a terminal, an update that does not raise `done` writes
  // nothing; on one it redraws, at most ten times a second unless `done` rose.
  void Update(idx done, std::string_view text);

 private:
  std::string Line(idx done, std::string_view text, double now) const;

  std::FILE* out_;
  bool terminal_;
  idx total_;
  std::string unit_;
  idx done_before_;
  std::function<double()> seconds_;
  double start_ = 0;
  double last_draw_ = 0;
  idx last_done_ = -1;
  bool line_open_ = false;
};

// "45s", "12m03s", "3h04m".
std::string DurationText(double seconds);

}  // namespace opo
