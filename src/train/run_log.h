// What a run writes while it goes: metrics.jsonl (one object a step), samples.jsonl, TensorBoard
// events. A resume drops the lines of steps that will be taken again.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "train/tensorboard.h"

namespace opo {

// One line of JSON, its end included; text that is no UTF-8 is replaced.
std::string LineText(const nlohmann::ordered_json& line);

// A file of JSON lines that a run appends to. Each names its step, "training/global_step".
class LineFile {
 public:
  // Keeps the lines at the beginning that are whole and that `keep` accepts, in order, up to the
  // first that it does not: a kill may have cut the last one short, and steps behind the checkpoint
  // will be taken again. Throws Error(kInput) where a line of a step up to `last_step` follows one
  // that cannot be read: no kill does that, the file was damaged.
  LineFile(const std::string& path, idx last_step,
           const std::function<bool(const nlohmann::ordered_json& line)>& keep);
  // In the system's hands, whole or not at all. Throws Error(kWork) where that fails.
  void Append(const nlohmann::ordered_json& line);
  // On the disk.
  void Sync() { file_.Sync(); }
  // The step of the last line that was kept; -1: none was.
  idx last_kept() const { return last_kept_; }

 private:
  AppendFile file_;
  idx last_kept_ = -1;
};

// The whole lines of such a file, as far as they are JSON objects; the file is not touched, and may
// be growing. Throws Error(kInput) where it cannot be read.
std::vector<nlohmann::ordered_json> ReadLines(const std::string& path);

class RunLog {
 public:
  // Appends behind the lines of steps up to `last_step` (0: starts anew).
  RunLog(const std::string& run_dir, idx last_step, bool tensorboard);

  // `metrics`: name to number or text; "training/global_step" is its step.
  void Write(const nlohmann::ordered_json& metrics);
  void WriteSample(const nlohmann::ordered_json& sample);
  // What was written is on the disk: before a checkpoint of its steps is.
  void Sync();

 private:
  LineFile metrics_, samples_;
  std::unique_ptr<EventWriter> events_;
};

}  // namespace opo
