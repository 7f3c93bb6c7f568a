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

RunLog::File RunLog::OpenAfter(const std::string& path, idx last_step) {
  std::string kept;
  if (last_step > 0 && std::filesystem::exists(path)) {
    std::istringstream lines(ReadFile(path));
    for (std::string line; std::getline(lines, line);) {
      // A line that a kill cut short does not parse: it belongs to a step that is taken again.
      const ordered_json value = ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (value.is_discarded() || value.value("training/global_step", idx{0}) > last_step) break;
      kept += line + "\n";
    }
  }
  WriteFileAtomically(path, kept);
  File file(std::fopen(path.c_str(), "ab"));
  if (file == nullptr) {
    Fail(ErrorCode::kWork, "{}: cannot be opened: {}", path, std::strerror(errno));
  }
  return file;
}

RunLog::RunLog(const std::string& run_dir, idx last_step, bool tensorboard)
    : run_dir_(run_dir),
      metrics_(OpenAfter(run_dir + "/metrics.jsonl", last_step)),
      samples_(OpenAfter(run_dir + "/samples.jsonl", last_step)) {
  if (!tensorboard) return;
  std::error_code error;  // EventWriter names the folder where this fails
  std::filesystem::create_directories(run_dir + "/tensorboard", error);
  events_ = std::make_unique<EventWriter>(run_dir + "/tensorboard", WallTime());
}

void RunLog::Append(File& file, const std::string& name, const ordered_json& line) {
  const std::string text = line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() ||
      std::fflush(file.get()) != 0) {
    Fail(ErrorCode::kWork, "{}/{}: cannot be written: {}", run_dir_, name, std::strerror(errno));
  }
}

void RunLog::Write(const ordered_json& metrics) {
  Append(metrics_, "metrics.jsonl", metrics);
  if (events_ == nullptr) return;
  ScalarList scalars;
  for (const auto& [name, value] : metrics.items()) {
    if (value.is_number()) scalars.emplace_back(name, value.get<double>());
  }
  events_->Write(metrics.at("training/global_step").get<idx>(), WallTime(), scalars);
}

void RunLog::WriteSample(const ordered_json& sample) { Append(samples_, "samples.jsonl", sample); }

}  // namespace opo
