#include "train/run_log.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "base/error.h"
#include "base/file.h"

namespace opo {

using nlohmann::ordered_json;

namespace {
double WallTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}
}  // namespace

LineFile::LineFile(const std::string& path, const std::function<bool(const ordered_json&)>& keep)
    : path_(path) {
  std::string kept;
  if (Exists(path)) {
    std::istringstream lines(ReadFile(path));
    for (std::string line; std::getline(lines, line);) {
      const ordered_json value = ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (lines.eof() || !value.is_object() || !keep(value)) break;
      kept += line + "\n";
    }
  }
  WriteFileAtomically(path, kept);
  file_.reset(std::fopen(path.c_str(), "ab"));
  if (file_ == nullptr) {
    Fail(ErrorCode::kWork, "{}: cannot be opened: {}", path, std::strerror(errno));
  }
}

void LineFile::Append(const ordered_json& line) {
  const std::string text = line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() ||
      std::fflush(file_.get()) != 0) {
    Fail(ErrorCode::kWork, "{}: cannot be written: {}", path_, std::strerror(errno));
  }
}

namespace {
// The lines of steps up to the last one: later ones are taken again.
auto UpTo(idx last_step) {
  return [last_step](const ordered_json& line) {
    const auto step = line.find("training/global_step");
    return step != line.end() && step->is_number_integer() && *step <= last_step && last_step > 0;
  };
}
}  // namespace

RunLog::RunLog(const std::string& run_dir, idx last_step, bool tensorboard)
    : metrics_(run_dir + "/metrics.jsonl", UpTo(last_step)),
      samples_(run_dir + "/samples.jsonl", UpTo(last_step)) {
  if (!tensorboard) return;
  std::error_code error;  // EventWriter names the folder where this fails
  std::filesystem::create_directories(run_dir + "/tensorboard", error);
  events_ = std::make_unique<EventWriter>(run_dir + "/tensorboard", WallTime());
}

void RunLog::Write(const ordered_json& metrics) {
  metrics_.Append(metrics);
  if (events_ == nullptr) return;
  ScalarList scalars;
  for (const auto& [name, value] : metrics.items()) {
    if (value.is_number()) scalars.emplace_back(name, value.get<double>());
  }
  events_->Write(metrics.at("training/global_step").get<idx>(), WallTime(), scalars);
}

void RunLog::WriteSample(const ordered_json& sample) { samples_.Append(sample); }

}  // namespace opo
