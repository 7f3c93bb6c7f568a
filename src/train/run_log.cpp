#include "train/run_log.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string_view>

#include "base/error.h"
#include "base/json.h"

namespace opo {

using nlohmann::ordered_json;

namespace {
double WallTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Null where the line is not JSON.
ordered_json LineOf(std::string_view text) {
  std::string fault;
  return TryParseJson<ordered_json>(text, fault).value_or(ordered_json());
}

// -1: the line names none.
idx StepOf(const ordered_json& line) {
  if (!line.is_object()) return -1;
  const auto step = line.find("training/global_step");
  return step != line.end() && step->is_number_integer() ? step->get<idx>() : -1;
}

// The lines of steps up to the last one: later ones are taken again.
auto UpTo(idx last_step) {
  return [last_step](const ordered_json& line) {
    return StepOf(line) > 0 && StepOf(line) <= last_step;
  };
}
}  // namespace

std::string LineText(const ordered_json& line) {
  return line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

LineFile::LineFile(const std::string& path, idx last_step,
                   const std::function<bool(const ordered_json&)>& keep)
    : file_(path) {
  std::size_t kept = 0;  // bytes
  {
    const MappedFile file(path);
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                                file.bytes().size());
    idx number = 0;
    idx refused = 0;  // the first line that is not kept
    for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end + 1) {
      ++number;
      end = text.find('\n', begin);
      if (end == std::string_view::npos) break;
      const ordered_json line = LineOf(text.substr(begin, end - begin));
      const idx step = StepOf(line);
      if (refused > 0 && step >= 0 && step <= last_step) {
        Fail(ErrorCode::kInput,
             "{}: line {} is damaged: lines of steps that were taken follow it; restore the file, "
             "or the line",
             path, refused);
      }
      if (refused > 0) continue;
      if (!line.is_object() || !keep(line)) {
        refused = number;
      } else {
        last_kept_ = step;
        kept = end + 1;
      }
    }
  }
  file_.Truncate(kept);
  file_.Sync();
}

std::vector<ordered_json> ReadLines(const std::string& path) {
  std::vector<ordered_json> values;
  std::istringstream lines(ReadFile(path));
  for (std::string line; std::getline(lines, line);) {
    ordered_json value = LineOf(line);
    if (lines.eof() || !value.is_object()) break;
    values.push_back(std::move(value));
  }
  return values;
}

void LineFile::Append(const ordered_json& line) { file_.Append(LineText(line)); }

RunLog::RunLog(const std::string& run_dir, idx last_step, bool tensorboard)
    : metrics_(run_dir + "/metrics.jsonl", last_step, UpTo(last_step)),
      samples_(run_dir + "/samples.jsonl", last_step, UpTo(last_step)) {
  const idx kept = std::max<idx>(0, metrics_.last_kept());
  if (kept < last_step) {
    fmt::print(stderr, "warning: {}/metrics.jsonl: the lines of steps {} to {} are missing\n",
               run_dir, kept + 1, last_step);
  }
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

void RunLog::Sync() {
  metrics_.Sync();
  samples_.Sync();
  if (events_ != nullptr) events_->Sync();
}

void RunLog::WriteSample(const ordered_json& sample) { samples_.Append(sample); }

}  // namespace opo
