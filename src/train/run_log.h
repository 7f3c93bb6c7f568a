// What a run writes while it goes: metrics.jsonl (one object a step), samples.jsonl, TensorBoard
// events. A resume drops the lines of steps that will be taken again.
#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "train/tensorboard.h"

namespace opo {

// One line of JSON, its end included; text that is no UTF-8 is replaced.
std::string LineText(const nlohmann::ordered_json& line);

// A file of JSON lines that a run appends to.
class LineFile {
 public:
  // Keeps the lines at the beginning that are whole and that `keep` accepts, in order, up to the
  // first that it does not: a kill may have cut the last one short.
  LineFile(const std::string& path,
           const std::function<bool(const nlohmann::ordered_json& line)>& keep);
  // Flushed to the file. Throws Error(kWork) where that fails.
  void Append(const nlohmann::ordered_json& line);

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
};

// The whole lines of such a file, as far as they are JSON objects; the file is not touched, and may
// be growing. Throws Error(kInput) where it cannot be read.
std::vector<nlohmann::ordered_json> ReadLines(const std::string& path);

class RunLog {
 public:
  // Appends behind the lines of steps up to `last_step` (0: starts anew).
  RunLog(const std::string& run_dir, idx last_step, bool tensorboard);

  // `metrics`: name to number or text; "training/global_step" is its step. Flushed to the file.
  void Write(const nlohmann::ordered_json& metrics);
  void WriteSample(const nlohmann::ordered_json& sample);

 private:
  LineFile metrics_, samples_;
  std::unique_ptr<EventWriter> events_;
};

}  // namespace opo
