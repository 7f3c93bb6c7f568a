#include "base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace opo {
namespace {

double SteadySeconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

std::size_t TerminalWidth(std::FILE* out) {
  winsize size = {};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string Bar(idx done, idx total) {
  constexpr idx kWidth = 20;
  const idx filled = total > 0 ? std::clamp<idx>(done * kWidth / total, 0, kWidth) : kWidth;
  return fmt::format("[{}{}] ", std::string(static_cast<std::size_t>(filled), '#'),
                     std::string(static_cast<std::size_t>(kWidth - filled), '.'));
}

}  // namespace

std::string DurationText(double seconds) {
  const idx s = std::lround(std::clamp(seconds, 0.0, 1e9));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
}

Progress::Progress(std::FILE* out, bool terminal, idx total, std::string unit, idx done_before,
                   std::function<double()> seconds)
    : out_(out),
      terminal_(terminal),
      total_(total),
      unit_(std::move(unit)),
      done_before_(done_before),
      seconds_(std::move(seconds)),
      start_(seconds_()) {}

Progress::Progress(idx total, std::string unit, idx done_before)
    : Progress(stderr, isatty(STDERR_FILENO) != 0, total, std::move(unit), done_before,
               SteadySeconds) {}

Progress::~Progress() {
  if (line_open_) std::fputc('\n', out_);
}

std::string Progress::Line(idx done, std::string_view text, double now) const {
  std::string line = terminal_ ? Bar(done, total_) : "";
  line += fmt::format("{} {}/{}", unit_, done, total_);
  if (!text.empty()) line += fmt::format("  {}", text);
  const double elapsed = now - start_;
  const idx fresh = done - done_before_;
  if (fresh <= 0 || elapsed <= 0) return line;
  const double each = elapsed / static_cast<double>(fresh);
  line += each >= 1 ? fmt::format("  {:.1f} s/{}", each, unit_)
                    : fmt::format("  {:.1f} {}s/s", 1 / each, unit_);
  if (done < total_) {
    return line + "  " + DurationText(each * static_cast<double>(total_ - done)) + " left";
  }
  return line + "  took " + DurationText(elapsed);
}

void Progress::Update(idx done, std::string_view text) {
  const double now = seconds_();
  const bool rose = done > last_done_;
  if (!rose && (!terminal_ || now - last_draw_ < 0.1)) return;
  last_done_ = std::max(done, last_done_);
  last_draw_ = now;
  std::string line = Line(done, text, now);
  if (terminal_) {
    // A line wider than the terminal would wrap, and a wrapped one cannot be drawn over.
    const std::size_t width = TerminalWidth(out_) - 1;
    if (line.size() > width) line.resize(width);
    line = "\r" + line + "\x1b[K";
    line_open_ = true;
  } else {
    line += '\n';
  }
  std::fputs(line.c_str(), out_);
  std::fflush(out_);
}

}  // namespace opo
