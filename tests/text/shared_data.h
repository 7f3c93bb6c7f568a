// Collected vectors, in a folder beside the repository. Tests that need them skip without.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace opo {

inline std::string SharedData(const std::string& path) {
  return std::string(OPO_SOURCE_DIR) + "/../shared/data/" + path;
}

inline std::vector<nlohmann::ordered_json> ReadJsonLines(const std::string& path) {
  std::vector<nlohmann::ordered_json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    lines.push_back(nlohmann::ordered_json::parse(line));
  }
  return lines;
}

// A folder of its own for a test, removed with it.
class TempFolder {
 public:
  explicit TempFolder(const std::string& name)
      : path_(std::filesystem::path(OPO_BUILD_DIR) / ("text_test_" + name)) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string path() const { return path_.string(); }
  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace opo

#define OPO_NEEDS_SHARED_DATA(path)                                         \
  if (!std::filesystem::exists(SharedData(path))) {                         \
    GTEST_SKIP() << "no shared data: " << SharedData(path) << " is absent"; \
  }
