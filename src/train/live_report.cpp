#include "train/live_report.h"

#include <exception>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "report/report.h"

namespace opo {

LiveReport::LiveReport(std::string run_dir, idx every)
    : run_dir_(std::move(run_dir)), every_(every), begin_(Seconds()) {}

void LiveReport::AfterStep(idx step, bool last) {
  if (every_ == 0 || (!last && step % every_ != 0)) return;
  const double start = Seconds();
  if (!last && spent_ > 0.02 * (start - begin_)) return;
  try {
    WriteFileAtomically(run_dir_ + "/report.html", ReportPage(ReadReport({run_dir_})));
  } catch (const std::exception& error) {
    if (!std::exchange(told_, true)) {
      fmt::print(stderr, "warning: no report was written, the run goes on: {}\n", error.what());
    }
  }
  spent_ += Seconds() - start;
}

}  // namespace opo
