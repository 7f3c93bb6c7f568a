// RUN/report.html while the run goes on.
#pragma once

#include <string>

#include "base/types.h"

namespace opo {

class LiveReport {
 public:
  // Every so many steps, and after the last; 0: never.
  LiveReport(std::string run_dir, idx every);
  // Never throws: a report that cannot be made is told once on stderr, and the run goes on.
  // Writings are left out while they have taken more than a fiftieth of the run's time.
  void AfterStep(idx step, bool last);

 private:
  std::string run_dir_;
  idx every_;
  double begin_;
  double spent_ = 0;
  bool told_ = false;
};

}  // namespace opo
