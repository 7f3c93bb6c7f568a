// Replays the seeds of the fuzz target of Hugging Face folders.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/file.h"
#include "model/try_folder.h"

namespace opo {
namespace {

TEST(FuzzCorpus, HfFoldersReplay) {
  const std::string folder = std::string(OPO_SOURCE_DIR) + "/tests/fuzz/corpus/hf_folder";
  int num_read = 0;
  int num_refused = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    ++(TryHfFolder(ReadFile(entry.path().string())) ? num_read : num_refused);
  }
  EXPECT_GT(num_read, 1) << folder;
  EXPECT_GT(num_refused, 1) << folder;
}

}  // namespace
}  // namespace opo
