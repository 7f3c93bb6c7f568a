#include "train/tensorboard.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace opo {
namespace {

std::string Hex(std::string_view bytes) {
  std::string hex;
  for (const char c : bytes) hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return hex;
}

TEST(Crc32c, KnownAnswers) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283U);            // the catalogue's check value
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAU);  // RFC 3720, B.4
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62A8AB43U);
  EXPECT_EQ(Crc32c(""), 0U);
}

// Both frames as TensorFlow's record format has them, protobuf serialised by the `tensorboard`
// Python package: RecordWriter over Event(wall_time=1.5, ...).SerializeToString().
TEST(EventFile, BytesAreThoseOfTensorBoardsOwnWriter) {
  EXPECT_EQ(Hex(RecordFrame(VersionEvent(1.5))),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a32"
            "2a28646c");
  EXPECT_EQ(
      Hex(RecordFrame(ScalarEvent(300, 1.5, {{"critic/rewards/mean", 0.625}, {"actor/lr", 1e-6}}))),
      "3b000000000000001a23ac5c09000000000000f83f10ac022a2d0a1a0a13637269746963"
      "2f726577617264732f6d65616e150000203f0a0f0a086163746f722f6c7215bd37863518"
      "4e1871");
}

TEST(EventFile, HoldsTheVersionAndEveryStep) {
  const std::string folder = testing::TempDir() + "/tensorboard_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  {
    EventWriter writer(folder, 1700000000.25);
    writer.Write(1, 1700000001, {{"a", 1}});
    writer.Write(2, 1700000002, {{"a", 2}, {"b", -3}});
  }
  std::ifstream file(folder + "/events.out.tfevents.1700000000.opo", std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  EXPECT_EQ(content.str(), RecordFrame(VersionEvent(1700000000.25)) +
                               RecordFrame(ScalarEvent(1, 1700000001, {{"a", 1}})) +
                               RecordFrame(ScalarEvent(2, 1700000002, {{"a", 2}, {"b", -3}})));
}

TEST(EventFile, FailuresNameTheFile) {
  try {
    EventWriter writer("/nonexistent-folder", 1);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kWork);
    EXPECT_NE(std::string(error.what()).find("/nonexistent-folder/events"), std::string::npos);
  }
}

}  // namespace
}  // namespace opo
