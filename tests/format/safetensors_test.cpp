#include "format/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "format/byte_builder.h"
#include "format/expect_error.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

// A folder that is empty at the start of a test and gone at its end.
class SafetensorsFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "opo_safetensors_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string folder_;
};

void ExpectRefused(const std::string& bytes, std::initializer_list<std::string> parts) {
  ExpectInputError([&] { SafetensorsFile::Parse(AsBytes(bytes), "bad.st"); }, {"bad.st: "});
  ExpectInputError([&] { SafetensorsFile::Parse(AsBytes(bytes), "bad.st"); }, parts);
}

// A header with tensor "w" and whatever text stands for its fields.
std::string Header(const std::string& fields) { return "{\"w\":{" + fields + "}}"; }

std::string Floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

TEST_F(SafetensorsFolder, F32RoundTripsBitwise) {
  const std::vector<float> a{1.5F, -0.0F, 1e-42F, 3.4e38F, 0.1F, -7.0F};
  const std::vector<float> b{42.0F};
  const std::string path = folder_ + "/x.safetensors";
  WriteSafetensors(path, {{"a", {2, 3}, a}, {"b", {1}, b}, {"empty", {0, 4}, {}}}, DType::kF32,
                   {{"format", "pt"}, {"note", "\"quoted\""}});
  const std::string bytes = ReadFile(path);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  EXPECT_EQ(header % 8, 0U);
  const SafetensorsFile file = SafetensorsFile::Open(path);
  EXPECT_EQ(file.metadata().at("note"), "\"quoted\"");
  ASSERT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.tensors()[0].name, "a");  // the order is kept
  const SafeTensor* tensor = file.Find("a");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->shape, (std::vector<idx>{2, 3}));
  std::vector<float> out(6);
  file.ReadF32(*tensor, out);
  EXPECT_EQ(std::memcmp(out.data(), a.data(), sizeof(float) * 6), 0);
  EXPECT_EQ(file.Find("empty")->num_elements(), 0);
  file.ReadF32(*file.Find("empty"), {});
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(SafetensorsFolder, Bf16RoundsToNearestEven) {
  const std::vector<float> a{1.0F, 1.00390625F, 1.01171875F, -3.14159274F, 65536.0F};
  const std::string path = folder_ + "/x.safetensors";
  WriteSafetensors(path, {{"a", {5}, a}}, DType::kBf16, {});
  const SafetensorsFile file = SafetensorsFile::Open(path);
  EXPECT_EQ(file.tensors()[0].dtype, "BF16");
  std::vector<float> out(5);
  file.ReadF32(file.tensors()[0], out);
  EXPECT_EQ(out, (std::vector<float>{1.0F, 1.0F, 1.015625F, -3.140625F, 65536.0F}));
}

TEST_F(SafetensorsFolder, AFullDiskLeavesNothingBehind) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const std::vector<float> a(1 << 16, 1.0F);
  const std::string path = folder_ + "/x.safetensors";
  std::ofstream(path) << "old";
  fs::create_symlink("/dev/full", path + ".partial");
  ExpectError(ErrorCode::kWork,
              [&] {
                WriteSafetensors(path, {{"a", {1 << 16}, a}}, DType::kF32, {});
              },
              {path, "No space left"});
  EXPECT_FALSE(fs::is_symlink(path + ".partial"));
  EXPECT_EQ(ReadFile(path), "old");  // what was there before is still there
}

TEST_F(SafetensorsFolder, AnUnwritablePathIsNamed) {
  const std::vector<float> a{1.0F};
  const std::string path = folder_ + "/missing/x.safetensors";
  ExpectError(ErrorCode::kWork,
              [&] {
                WriteSafetensors(path, {{"a", {1}, a}}, DType::kF32, {});
              },
              {path, "No such file"});
}

TEST(Safetensors, HalfAndBfloatReadExactly) {
  const std::string header = R"({"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
                             R"("b":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]}}   )";
  const std::string bytes = MakeSafetensors(header, std::string("\x00\x3c\x01\x00\xc0\xbf", 6));
  const SafetensorsFile file = SafetensorsFile::Parse(AsBytes(bytes), "half.st");
  std::vector<float> half(2);
  file.ReadF32(*file.Find("h"), half);
  EXPECT_EQ(half, (std::vector<float>{1.0F, 0x1p-24F}));
  std::vector<float> bfloat(1);
  file.ReadF32(*file.Find("b"), bfloat);
  EXPECT_EQ(bfloat[0], -1.5F);
}

TEST(Safetensors, TruncationAnywhereIsRefused) {
  const std::string bytes =
      MakeSafetensors(Header(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), Floats({1, 2}));
  ASSERT_NO_THROW(SafetensorsFile::Parse(AsBytes(bytes), "whole"));
  for (std::size_t size = 0; size < bytes.size(); ++size) ExpectRefused(bytes.substr(0, size), {});
  ExpectRefused(bytes + "x", {"1 bytes at the end"});
}

TEST(Safetensors, BadHeadersAreRefused) {
  ExpectRefused(MakeSafetensors("", ""), {"does not begin with '{'"});
  ExpectRefused(MakeSafetensors(" {}", ""), {"does not begin with '{'"});
  ExpectRefused(MakeSafetensors("{", ""), {"not JSON", "offset 9"});
  ExpectRefused(MakeSafetensors("{}{}", ""), {"not JSON"});
  ExpectRefused(MakeSafetensors("{\"\xff\":1}", ""), {"not JSON"});
  ExpectRefused(MakeSafetensors(R"({"w":1})", ""), {"'w'"});
  ExpectRefused(MakeSafetensors(R"({"w":[]})", ""), {"'w'"});
  ExpectRefused(MakeSafetensors(R"({"w":null})", ""), {"null", "'w'"});
  ExpectRefused(MakeSafetensors(R"({"__metadata__":{"a":1}})", ""), {"__metadata__", "'a'"});
  ExpectRefused(MakeSafetensors(R"({"__metadata__":{"a":{}}})", ""), {"__metadata__", "'a'"});
  ExpectRefused(ByteBuilder().Put(~std::uint64_t{0}).Raw("{}").data(), {"header length"});
  ExpectRefused(ByteBuilder().Put(std::uint64_t{3}).Raw("{}").data(), {"header length", "3"});
  std::string deep = "{\"w\":" + std::string(100000, '[');
  ExpectRefused(MakeSafetensors(deep, ""), {"'w'"});
}

TEST(Safetensors, DuplicateKeysAreRefused) {
  const std::string w = R"("w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  ExpectRefused(MakeSafetensors("{" + w + "," + w + "}", ""), {"'w'", "twice"});
  ExpectRefused(
      MakeSafetensors(Header(R"("dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0])"), ""),
      {"'w'", "'dtype'", "twice"});
  ExpectRefused(MakeSafetensors(R"({"__metadata__":{"a":"1","a":"2"}})", ""), {"'a'", "twice"});
  ExpectRefused(MakeSafetensors(R"({"__metadata__":{},"__metadata__":{}})", ""),
                {"'__metadata__'", "twice"});
}

TEST(Safetensors, BadTensorsAreRefusedByName) {
  const auto refused = [](const std::string& fields, std::initializer_list<std::string> parts) {
    ExpectRefused(MakeSafetensors(Header(fields), std::string(8, '\0')), {"'w'"});
    ExpectRefused(MakeSafetensors(Header(fields), std::string(8, '\0')), parts);
  };
  refused(R"("dtype":"F32","shape":[2])", {"data_offsets"});
  refused(R"("dtype":"F32","data_offsets":[0,8])", {"shape"});
  refused(R"("shape":[2],"data_offsets":[0,8])", {"dtype"});
  refused(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"extra":"x")", {"'extra'"});
  refused(R"("dtype":"Q9","shape":[2],"data_offsets":[0,8])", {"dtype", "'Q9'"});
  refused(R"("dtype":["F32"],"shape":[2],"data_offsets":[0,8])", {"array"});
  refused(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])", {"[0, 8]", "12 bytes"});
  refused(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])", {"[8, 0]"});
  refused(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])", {"8"});
  refused(R"("dtype":"F32","shape":[2],"data_offsets":[0])", {"[begin, end]"});
  refused(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])", {"-2"});
  refused(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])", {"2.0"});
  refused(R"("dtype":"F32","shape":[1e400],"data_offsets":[0,8])", {});
  refused(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])", {"'2'"});
  refused(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])", {"array"});
  refused(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8])", {"too many"});
  refused(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])", {});
  refused(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])", {});
  refused(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])", {"truncated"});
  refused(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])", {"hole"});
}

TEST(Safetensors, OverlapsAndHolesAreRefused) {
  const auto two = [](int begin) {
    return MakeSafetensors(
        fmt::format(R"({{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},)"
                    R"("b":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}}})",
                    begin, begin + 4),
        std::string(static_cast<std::size_t>(begin) + 4, '\0'));
  };
  const std::string right = two(8);
  EXPECT_NO_THROW(SafetensorsFile::Parse(AsBytes(right), "right"));
  ExpectRefused(two(4), {"'b'", "overlap"});
  ExpectRefused(two(12), {"'b'", "hole"});
}

TEST(Safetensors, UnreadableTypesAndNonFiniteWeightsAreRefusedOnRead) {
  const std::string ints =
      MakeSafetensors(Header(R"("dtype":"I64","shape":[1],"data_offsets":[0,8])"), Floats({1, 2}));
  const SafetensorsFile int_file = SafetensorsFile::Parse(AsBytes(ints), "ints.st");
  std::vector<float> one(1);
  ExpectInputError([&] { int_file.ReadF32(int_file.tensors()[0], one); }, {"'w'", "I64"});
  const std::string nan = MakeSafetensors(
      Header(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), Floats({1, std::nanf("")}));
  const SafetensorsFile nan_file = SafetensorsFile::Parse(AsBytes(nan), "nan.st");
  std::vector<float> two(2);
  ExpectInputError([&] { nan_file.ReadF32(nan_file.tensors()[0], two); },
                   {"nan.st", "'w'", "element 1"});
}

}  // namespace
}  // namespace opo
