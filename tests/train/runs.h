// Whole runs in tests: a folder of their own, the metrics of each step, a replay.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "train/replay.h"
#include "train/trainer.h"

namespace opo {

using Settings = std::vector<std::string>;

inline Settings With(Settings settings, const Settings& more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}

class RunTest : public testing::Test {
 protected:
  RunTest()
      : folder_(std::filesystem::path(testing::TempDir()) /
                ("opo_runs_" + std::to_string(::getpid()))) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~RunTest() override { std::filesystem::remove_all(folder_); }
  std::string Folder(const std::string& name) const { return (folder_ / name).string(); }

  struct Outcome {
    std::vector<nlohmann::ordered_json> steps;  // metrics of those that were taken now
    TrainResult result;
    const std::string& digest() const { return result.weights_digest; }
  };
  static Outcome Take(const TrainConfig& config, bool resume = false, bool evaluate = false) {
    Outcome outcome;
    TrainOptions options;
    options.resume = resume;
    options.progress = false;
    options.final_eval = evaluate;
    options.on_step = [&](const nlohmann::ordered_json& metrics) {
      outcome.steps.push_back(metrics);
    };
    outcome.result = Train(config, options);
    return outcome;
  }
  static std::vector<nlohmann::ordered_json> Run(const TrainConfig& config, bool resume = false) {
    return Take(config, resume).steps;
  }
  // That a replay of the run finds every number of these steps.
  void ExpectReplays(const std::string& name, idx first, idx last) const {
    ReplayOptions options;
    options.run_dir = Folder(name);
    options.progress = false;
    options.first = first;
    options.last = last;
    const ReplayResult replay = Replay(options);
    EXPECT_EQ(static_cast<idx>(replay.steps.size()), last - first + 1);
    EXPECT_EQ(replay.difference, "");
  }

  std::filesystem::path folder_;
};

}  // namespace opo
