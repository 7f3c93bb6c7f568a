// Replays the seeds of the fuzz targets of Hugging Face and PEFT folders.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/file.h"
#include "model/try_folder.h"

namespace opo {
namespace {

template <class Try>
void Replay(const std::string& target, const Try& try_folder) {
  const std::string folder = std::string(OPO_SOURCE_DIR) + "/tests/fuzz/corpus/" + target;
  int num_read = 0;
  int num_refused = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    ++(try_folder(ReadFile(entry.path().string())) ? num_read : num_refused);
  }
  EXPECT_GT(num_read, 1) << folder;
  EXPECT_GT(num_refused, 1) << folder;
}

TEST(FuzzCorpus, HfFoldersReplay) { Replay("hf_folder", TryHfFolder); }
TEST(FuzzCorpus, AdaptersReplay) { Replay("adapter", TryAdapter); }

}  // namespace
}  // namespace opo
