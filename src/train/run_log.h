// What a run writes while it goes: metrics.jsonl (one object a step), samples.jsonl, TensorBoard
// events. A resume drops the lines of steps that will be taken again.
#pragma once

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "train/tensorboard.h"

namespace opo {

class RunLog {
 public:
  // Appends behind the lines of steps up to `last_step` (0: starts anew).
  RunLog(const std::string& run_dir, idx last_step, bool tensorboard);

  // `metrics`: name to number or text; "training/global_step" is its step. Flushed to the file.
  void Write(const nlohmann::ordered_json& metrics);
  void WriteSample(const nlohmann::ordered_json& sample);

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  using File = std::unique_ptr<std::FILE, Closer>;
  static File OpenAfter(const std::string& path, idx last_step);
  void Append(File& file, const std::string& name, const nlohmann::ordered_json& line);

  std::string run_dir_;
  File metrics_, samples_;
  std::unique_ptr<EventWriter> events_;
};

}  // namespace opo
