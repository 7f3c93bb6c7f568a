// Replays the seeds of the fuzz targets.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/file.h"
#include "format/byte_builder.h"
#include "format/try_parse.h"

namespace opo {
namespace {

template <class Try>
void Replay(const std::string& format, const Try& try_file) {
  const std::string folder = std::string(OPO_SOURCE_DIR) + "/tests/fuzz/corpus/" + format;
  int num_read = 0;
  int num_refused = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string bytes = ReadFile(entry.path().string());
    ++(try_file(AsBytes(bytes)) ? num_read : num_refused);
  }
  EXPECT_GT(num_read, 0) << folder;
  EXPECT_GT(num_refused, 0) << folder;
}

TEST(FuzzCorpus, GgufReplays) { Replay("gguf", TryGguf); }
TEST(FuzzCorpus, ParquetReplays) { Replay("parquet", TryParquet); }
TEST(FuzzCorpus, SafetensorsReplays) { Replay("safetensors", TrySafetensors); }

}  // namespace
}  // namespace opo
