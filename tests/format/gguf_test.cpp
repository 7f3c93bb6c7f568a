#include "format/gguf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "base/file.h"
#include "format/byte_builder.h"
#include "format/dequantize.h"
#include "format/expect_error.h"
#include "format/quantize.h"

namespace opo {
namespace {

const std::string kGolden = std::string(OPO_SOURCE_DIR) + "/tests/format/golden/";

// Parses `bytes`, expecting an error that names the file and all of `parts`.
void ExpectRefused(const std::string& bytes, std::initializer_list<std::string> parts) {
  ExpectInputError([&] { GgufFile::Parse(AsBytes(bytes), "bad.gguf"); }, {"bad.gguf: "});
  ExpectInputError([&] { GgufFile::Parse(AsBytes(bytes), "bad.gguf"); }, parts);
}

std::string Zeros(std::size_t bytes) { return std::string(bytes, '\0'); }

GgufBuilder OneTensor() {
  GgufBuilder file;
  file.Str("general.architecture", "test");
  file.Floats("w", {4, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  return file;
}

TEST(Gguf, EveryTypeDecodesToTheBitsOfThePythonPackage) {
  const GgufFile file = GgufFile::Open(kGolden + "types.gguf");
  const std::string expected = ReadFile(kGolden + "types.f32");
  // Every readable type is there.
  std::set<GgmlType> types;
  for (const GgufTensor& tensor : file.tensors()) types.insert(tensor.type);
  ASSERT_EQ(types.size(), GgmlTypes().size());
  ASSERT_EQ(types.size(), file.tensors().size());
  std::size_t at = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
    file.Dequantize(tensor, 0, values);
    const std::size_t bytes = values.size() * sizeof(float);
    ASSERT_LE(at + bytes, expected.size());
    EXPECT_EQ(std::memcmp(values.data(), expected.data() + at, bytes), 0) << tensor.name;
    // A part gives the same values as the whole.
    std::vector<float> part(256);
    file.Dequantize(tensor, 256, part);
    EXPECT_EQ(std::memcmp(part.data(), values.data() + 256, part.size() * sizeof(float)), 0)
        << tensor.name;
    at += bytes;
  }
  EXPECT_EQ(at, expected.size());
}

TEST(Gguf, EveryMetadataTypeReads) {
  const GgufFile file = GgufFile::Open(kGolden + "types.gguf");
  EXPECT_EQ(file.GetInt("a.uint8"), 255);
  EXPECT_EQ(file.GetInt("a.int8"), -128);
  EXPECT_EQ(file.GetInt("a.uint16"), 65535);
  EXPECT_EQ(file.GetInt("a.int16"), -32768);
  EXPECT_EQ(file.GetInt("a.uint32"), 4294967295);
  EXPECT_EQ(file.GetInt("a.int32"), std::numeric_limits<std::int32_t>::min());
  EXPECT_EQ(file.GetInt("a.int64"), std::numeric_limits<std::int64_t>::min());
  ExpectInputError([&] { (void)file.GetInt("a.uint64"); }, {"a.uint64", "18446744073709551615"});
  EXPECT_EQ(file.GetFloat("a.uint64"), 0x1p64);
  EXPECT_EQ(file.GetFloat("a.float32"), static_cast<double>(0.1F));
  EXPECT_EQ(file.GetFloat("a.float64"), 0.1);
  EXPECT_EQ(file.GetFloat("a.int8"), -128.0);
  EXPECT_TRUE(file.GetBool("a.bool"));
  EXPECT_EQ(file.GetString("a.string"), "zw\xc3\xb6lf");
  EXPECT_EQ(file.GetInts("a.ints"), (std::vector<std::int64_t>{3, -1, 2}));
  EXPECT_EQ(file.GetInts("a.bools"), (std::vector<std::int64_t>{1, 0}));
  EXPECT_EQ(file.GetStrings("a.strings"), (std::vector<std::string>{"one", "", "three"}));
  EXPECT_TRUE(file.Has("a.floats"));
  EXPECT_FALSE(file.Has("a.nothing"));
  EXPECT_EQ(file.Find("nothing"), nullptr);
  ExpectInputError([&] { (void)file.GetInt("a.nothing"); }, {"types.gguf", "a.nothing", "absent"});
  ExpectInputError([&] { (void)file.GetInt("a.string"); }, {"a.string", "a string", "an integer"});
  ExpectInputError([&] { (void)file.GetString("a.bool"); }, {"a.bool", "a bool", "a string"});
  ExpectInputError([&] { (void)file.GetFloat("a.floats"); }, {"a.floats", "an array of floats"});
  ExpectInputError([&] { (void)file.GetStrings("a.ints"); }, {"a.ints", "an array of integers"});
}

TEST(Gguf, VersionTwoReadsAsVersionThree) {
  GgufBuilder builder = OneTensor();
  builder.version = 2;
  const std::string bytes = builder.Build();
  const GgufFile file = GgufFile::Parse(AsBytes(bytes), "two.gguf");
  const GgufTensor* w = file.Find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->dims, (std::vector<idx>{4, 2}));
  std::vector<float> values(4);
  file.Dequantize(*w, 4, values);
  EXPECT_EQ(values, (std::vector<float>{5, 6, 7, 8}));
}

TEST(Gguf, TruncationAnywhereIsRefused) {
  const std::string bytes = OneTensor().Build();
  ASSERT_NO_THROW(GgufFile::Parse(AsBytes(bytes), "whole"));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::string part = bytes.substr(0, size);
    ExpectRefused(part, {});
  }
}

TEST(Gguf, ForeignMagicAndVersionsAreRefused) {
  GgufBuilder file = OneTensor();
  file.magic = "GGML";
  ExpectRefused(file.Build(), {"not a GGUF"});
  file.magic = "GGUF";
  file.version = 1;
  ExpectRefused(file.Build(), {"version 1"});
  file.version = 4;
  ExpectRefused(file.Build(), {"version 4"});
  file.version = 0x03000000;
  ExpectRefused(file.Build(), {"big-endian"});
}

TEST(Gguf, HugeCountsAreRefusedBeforeAllocation) {
  GgufBuilder file = OneTensor();
  file.num_tensors = std::numeric_limits<std::int64_t>::max();
  ExpectRefused(file.Build(), {"tensor count", "offset 8"});
  file.num_tensors = -1;
  file.num_keys = std::int64_t{1} << 60;
  ExpectRefused(file.Build(), {"metadata count", "offset 16"});

  for (std::uint32_t type = 0; type <= 12; ++type) {
    GgufBuilder array;
    array.Key("a.huge", 9, ByteBuilder().Put(type).Put(std::uint64_t{1} << 61).data());
    ExpectRefused(array.Build(), {"'a.huge'"});
  }
  // Elements are counted over all arrays: what a file of 18 MB may make us allocate is bounded.
  const std::uint64_t many = std::uint64_t{9} << 20;
  GgufBuilder bytes;
  for (const char* key : {"a.one", "a.two"}) {
    bytes.Key(key, 9,
              ByteBuilder().Put<std::uint32_t>(0).Put(many).Raw(std::string(many, '\1')).data());
  }
  ExpectRefused(bytes.Build(), {"'a.two'", "9437184", "16777216"});

  GgufBuilder text;
  text.Key("a.text", 8, ByteBuilder().Put(std::uint64_t{0xffffffffffffffff}).data());
  ExpectRefused(text.Build(), {"'a.text'", "truncated"});
}

TEST(Gguf, BadMetadataIsRefusedByKey) {
  GgufBuilder twice;
  twice.U32("a.key", 1).U32("a.key", 2);
  ExpectRefused(twice.Build(), {"'a.key'", "duplicate"});

  GgufBuilder type;
  type.Key("a.odd", 13, Zeros(32));
  ExpectRefused(type.Build(), {"'a.odd'", "unknown value type 13"});

  GgufBuilder element;
  element.Key("a.odd", 9, ByteBuilder().Put<std::uint32_t>(77).Put<std::uint64_t>(0).data());
  ExpectRefused(element.Build(), {"'a.odd'", "unknown value type 77"});

  GgufBuilder nested;
  nested.Key("a.nest", 9, ByteBuilder().Put<std::uint32_t>(9).Put<std::uint64_t>(1).data());
  ExpectRefused(nested.Build(), {"'a.nest'", "array of arrays"});

  GgufBuilder boolean;
  boolean.Key("a.bool", 7, "\x02");
  ExpectRefused(boolean.Build(), {"'a.bool'", "must be 0 or 1"});

  GgufBuilder large;
  large.Key(
      "a.large", 9,
      ByteBuilder().Put<std::uint32_t>(10).Put<std::uint64_t>(1).Put(~std::uint64_t{0}).data());
  ExpectRefused(large.Build(), {"'a.large'", "too large"});

  GgufBuilder control;
  control.Key("a\n\x1b[31m", 13, Zeros(32));
  ExpectRefused(control.Build(), {"'a\\x0a\\x1b[31m'"});
}

TEST(Gguf, AlignmentMustBeASensiblePowerOfTwo) {
  for (const std::uint32_t alignment : {0U, 1U, 7U, 48U, 1U << 31}) {
    GgufBuilder file = OneTensor();
    file.U32("general.alignment", alignment);
    ExpectRefused(file.Build(), {"'general.alignment'", std::to_string(alignment)});
  }
  GgufBuilder text = OneTensor();
  text.Str("general.alignment", "32");
  ExpectRefused(text.Build(), {"'general.alignment'", "a string"});

  GgufBuilder wide = OneTensor();
  wide.U32("general.alignment", 256);
  wide.alignment = 256;
  const std::string bytes = wide.Build();
  const GgufFile file = GgufFile::Parse(AsBytes(bytes), "wide.gguf");
  EXPECT_EQ(file.tensors()[0].offset % 256, 0U);
}

TEST(Gguf, BadTensorsAreRefusedByName) {
  const auto refused = [](const GgufBuilder::Tensor& tensor,
                          std::initializer_list<std::string> parts) {
    GgufBuilder file;
    file.tensors.push_back(tensor);
    ExpectRefused(file.Build(), parts);
  };
  refused({"", {4}, 0, Zeros(16), -1}, {"tensor 0", "no name"});
  refused({"w", {}, 0, Zeros(16), -1}, {"'w'", "0 dimensions"});
  refused({"w", {1, 1, 1, 1, 1}, 0, Zeros(16), -1}, {"'w'", "5 dimensions"});
  refused({"w", {4, 0}, 0, Zeros(16), -1}, {"'w'", "dimension 1 is 0"});
  refused({"w", {4}, 16, Zeros(144), -1}, {"'w'", "IQ2_XXS", "16", "Q4_K, Q5_K"});
  refused({"w", {4}, 4, Zeros(144), -1}, {"'w'", "unknown ggml type 4"});
  refused({"w", {4}, 4000000000U, Zeros(144), -1}, {"'w'", "4000000000"});
  refused({"w", {33}, 8, Zeros(68), -1}, {"'w'", "33", "Q8_0"});
  refused({"w", {8}, 0, Zeros(16), -1}, {"'w'", "truncated"});
  refused({"w", {4}, 0, Zeros(16), 32}, {"'w'", "end after"});
  refused({"w", {4}, 0, Zeros(16), 4}, {"'w'", "offset 4", "alignment 32"});
  refused({"w", {4}, 0, Zeros(16), std::numeric_limits<std::int64_t>::max() - 31},
          {"'w'", "end after"});
  const std::uint64_t huge = std::uint64_t{1} << 40;
  refused({"w", {huge, huge, huge, huge}, 0, Zeros(16), -1}, {"'w'", "makes no sense"});
  refused({"w", {~std::uint64_t{0}}, 0, Zeros(16), -1}, {"'w'", "makes no sense"});
  refused({"w", {std::uint64_t{1} << 62}, 0, Zeros(16), -1}, {"'w'", "too many elements"});
  refused({"w", {std::uint64_t{1} << 60}, 0, Zeros(16), -1}, {"'w'", "end after"});
}

TEST(Gguf, DuplicateAndOverlappingTensorsAreRefused) {
  GgufBuilder twice = OneTensor();
  twice.Floats("w", {1}, {1});
  ExpectRefused(twice.Build(), {"'w'", "duplicate"});

  GgufBuilder overlap;
  overlap.tensors.push_back({"first", {16}, 0, Zeros(64), 0});
  overlap.tensors.push_back({"second", {8}, 0, Zeros(32), 32});
  ExpectRefused(overlap.Build(), {"'first'", "'second'", "overlap"});
}

TEST(Gguf, NonFiniteWeightsAreRefusedByTensorAndElement) {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    GgufBuilder builder;
    std::vector<float> weights(3000, 1.0F);
    weights[2500] = bad;
    builder.Floats("layer.w", {3000}, weights);
    const std::string bytes = builder.Build();
    const GgufFile file = GgufFile::Parse(AsBytes(bytes), "nan.gguf");
    std::vector<float> out(3000);
    ExpectInputError([&] { file.Dequantize(file.tensors()[0], 0, out); },
                     {"nan.gguf", "'layer.w'", "element 2500"});
    std::vector<float> tail(1000);
    ExpectInputError([&] { file.Dequantize(file.tensors()[0], 2000, tail); }, {"element 2500"});
    std::vector<float> head(1000);
    EXPECT_NO_THROW(file.Dequantize(file.tensors()[0], 0, head));
  }
  // A NaN scale of the second block.
  GgufBuilder builder;
  std::string blocks = Zeros(68);
  blocks[34] = '\x01';
  blocks[35] = '\x7e';
  builder.tensors.push_back({"q", {64}, 8, blocks, -1});
  const std::string bytes = builder.Build();
  const GgufFile file = GgufFile::Parse(AsBytes(bytes), "nan.gguf");
  std::vector<float> out(64);
  ExpectInputError([&] { file.Dequantize(file.tensors()[0], 0, out); }, {"'q'", "element 32"});
}

// ---- Models in several files.

TEST(GgufParts, AnyPartOpensTheModelThatThePythonPackageCut) {
  for (const int part : {1, 2, 3}) {
    const GgufFile file =
        GgufFile::Open(kGolden + "parts-0000" + std::to_string(part) + "-of-00003.gguf");
    EXPECT_EQ(file.path(), kGolden + "parts-00001-of-00003.gguf");
    EXPECT_EQ(file.GetString("a.string"), "of all parts");
    ASSERT_EQ(file.tensors().size(), 5U);
    for (int i = 0; i < 5; ++i) {
      const GgufTensor* tensor = file.Find("t." + std::to_string(i));
      ASSERT_NE(tensor, nullptr) << i;
      std::vector<float> values(8);
      file.Dequantize(*tensor, 0, values);
      for (int j = 0; j < 8; ++j) EXPECT_EQ(values[j], static_cast<float>(10 * i + j));
    }
  }
}

class PartsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "opo_gguf_parts/";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Part `no` (from 0) of `count`, with one tensor, named after the part.
  static GgufBuilder Part(std::uint32_t no, std::uint32_t count, std::uint32_t tensors) {
    GgufBuilder file;
    if (no == 0) file.Str("general.name", "whole");
    file.U32("split.no", no).U32("split.count", count).U32("split.tensors.count", tensors);
    file.Floats("t." + std::to_string(no), {2}, {static_cast<float>(no), 1});
    return file;
  }
  std::string Write(const std::string& name, const GgufBuilder& file) const {
    std::ofstream(folder_ + name, std::ios::binary) << file.Build();
    return folder_ + name;
  }
  // What opening either of two parts says.
  void ExpectPartsRefused(const GgufBuilder& first, const GgufBuilder& second,
                          std::initializer_list<std::string> parts) const {
    Write("m-00001-of-00002.gguf", first);
    Write("m-00002-of-00002.gguf", second);
    for (const char* name : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
      ExpectInputError([&] { GgufFile::Open(folder_ + name); }, parts);
    }
  }

  std::string folder_;
};

TEST_F(PartsTest, WhatIsNotOneWholeModelIsRefusedByFile) {
  const std::string second = "m-00002-of-00002.gguf: ";
  Write("m-00001-of-00002.gguf", Part(0, 2, 2));
  ExpectInputError([&] { GgufFile::Open(folder_ + "m-00001-of-00002.gguf"); },
                   {"m-00002-of-00002.gguf: cannot be opened", "part 2 of 2", "fetch all parts"});
  ExpectPartsRefused(Part(0, 2, 3), Part(1, 2, 3), {"split.tensors.count", "is 3", "hold 2"});
  GgufBuilder twice = Part(1, 2, 3);
  twice.Floats("t.0", {1}, {1});
  ExpectPartsRefused(Part(0, 2, 3), twice, {second + "tensor 't.0' is in ", "m-00001-of-00002"});
  // Parts of different models: another name, other counts, no split keys at all.
  GgufBuilder other = Part(1, 2, 2);
  other.Str("general.name", "another");
  ExpectPartsRefused(Part(0, 2, 2), other, {second, "'general.name'", "two models"});
  ExpectPartsRefused(Part(0, 2, 2), Part(1, 2, 7), {"'split.tensors.count'", "two models"});
  GgufBuilder extra = Part(1, 2, 2);
  extra.Str("general.license", "other");
  ExpectPartsRefused(Part(0, 2, 2), extra, {second, "'general.license'", "two models"});
  GgufBuilder no_keys;
  no_keys.Floats("t.1", {1}, {1});
  Write("m-00002-of-00002.gguf", no_keys);
  ExpectInputError([&] { GgufFile::Open(folder_ + "m-00001-of-00002.gguf"); },
                   {second, "'split.no' is absent"});
  // The second file is the first part again, under another name.
  Write("m-00002-of-00002.gguf", Part(0, 2, 2));
  ExpectInputError([&] { GgufFile::Open(folder_ + "m-00001-of-00002.gguf"); },
                   {second + "metadata key 'split.no' is 0, must be 1"});
}

TEST_F(PartsTest, NamesAndNumbersMustAgree) {
  ExpectInputError([&] { GgufFile::Open(Write("m.gguf", Part(1, 2, 2))); },
                   {"m.gguf: says that it is part 2 of 2", "*-00002-of-00002.gguf"});
  ExpectInputError([&] { GgufFile::Open(Write("m-00001-of-00002.gguf", Part(1, 2, 2))); },
                   {"part 2 of 2", "*-00002-of-00002.gguf"});
  ExpectInputError([&] { GgufFile::Open(Write("m-00003-of-00002.gguf", Part(2, 2, 2))); },
                   {"part 3 of 2"});
  ExpectInputError([&] { GgufFile::Open(Write("m.gguf", Part(0, 100000, 2))); },
                   {"'split.count' is 100000"});
  const std::string part = Part(0, 2, 2).Build();
  ExpectInputError([&] { GgufFile::Parse(AsBytes(part), "one"); },
                   {"one: ", "2 parts, 1 are here"});
  // One part, or the mark of a merged model.
  for (const std::uint32_t count : {0U, 1U}) {
    EXPECT_EQ(GgufFile::Open(Write("whole.gguf", Part(0, count, 1))).tensors().size(), 1U);
  }
}

// ---- Writing.

std::vector<float> AsFloats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

GgufTensorToWrite ToWrite(const std::string& name, std::vector<idx> dims, GgmlType type,
                          const std::vector<float>& values) {
  return {name, std::move(dims), type,
          [values](std::span<float> out) { std::ranges::copy(values, out.begin()); }};
}

TEST(WriteGguf, WritesTheFileThatThePythonPackageWrites) {
  const std::vector<float> values = AsFloats(ReadFile(kGolden + "written.f32"));
  const idx rows = std::ssize(values) / 64;
  const std::string path = testing::TempDir() + "opo_written.gguf";
  const std::vector<float> vector(values.begin(), values.begin() + 5);
  WriteGguf(path,
            {{"general.architecture", "golden"},
             {"a.uint32", std::uint32_t{4294967295}},
             {"a.float32", 0.1F},
             {"a.bool", true},
             {"a.string", "zw\xc3\xb6lf"},
             {"a.ints", std::vector<std::int32_t>{3, -1, 2}},
             {"a.strings", std::vector<std::string>{"one", "", "three"}}},
            {ToWrite("t.F32", {64, rows}, GgmlType::kF32, values),
             ToWrite("t.F16", {64, rows}, GgmlType::kF16, values),
             ToWrite("t.BF16", {64, rows}, GgmlType::kBf16, values),
             ToWrite("t.Q8_0", {64, rows}, GgmlType::kQ8_0, values),
             ToWrite("t.vector", {5}, GgmlType::kF32, vector)});
  const std::string written = ReadFile(path);
  const std::string golden = ReadFile(kGolden + "written.gguf");
  ASSERT_EQ(written.size(), golden.size());
  const auto at = std::mismatch(written.begin(), written.end(), golden.begin());
  EXPECT_EQ(at.first - written.begin(), std::ssize(golden));

  // Raw values and read back again.
  const GgufFile file = GgufFile::Open(path);
  std::vector<GgufKeyToWrite> keys;
  for (const std::string& key : file.Keys()) keys.push_back({key, file.RawValue(key)});
  WriteGguf(path + "2", keys, {});
  const GgufFile copy = GgufFile::Open(path + "2");
  EXPECT_EQ(copy.Keys(), file.Keys());
  EXPECT_EQ(copy.GetStrings("a.strings"), file.GetStrings("a.strings"));
  EXPECT_EQ(copy.GetInts("a.ints"), file.GetInts("a.ints"));
  EXPECT_EQ(copy.GetInt("a.uint32"), 4294967295);
  std::filesystem::remove(path);
  std::filesystem::remove(path + "2");
}

TEST(WriteGguf, WhatDoesNotFitIsRefusedAndNothingIsLeft) {
  const std::string path = testing::TempDir() + "opo_unwritten.gguf";
  std::filesystem::remove(path);
  const auto refused = [&](GgmlType type, float value, const std::string& part) {
    std::vector<float> values(64, 1.0F);
    values[40] = value;
    try {
      WriteGguf(path, {}, {ToWrite("big", {64}, type, values)});
      FAIL() << "was written";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kWork);
      for (const std::string& text :
           {path, std::string("'big'"), std::string("element 40"), part}) {
        EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
      }
    }
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
  };
  refused(GgmlType::kF16, 65520.0F, "F16");
  refused(GgmlType::kF16, -1e9F, "F16");
  refused(GgmlType::kQ8_0, 65520.0F * 127.0F, "Q8_0");
  refused(GgmlType::kBf16, 3.4e38F, "BF16");
  for (const GgmlType type : {GgmlType::kF32, GgmlType::kF16, GgmlType::kBf16, GgmlType::kQ8_0}) {
    refused(type, std::nanf(""), RowOf(type).name);
    refused(type, -INFINITY, RowOf(type).name);
  }
}

// Every f16 comes back, and between two of them rounding is to nearest, ties to even.
TEST(Quantize, HalfPrecisionRoundsAsIeeeSays) {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    for (const std::uint32_t sign : {0U, 0x8000U}) {
      ASSERT_EQ(F32ToF16(F16ToF32(static_cast<std::uint16_t>(bits | sign))), bits | sign);
    }
    const float low = F16ToF32(static_cast<std::uint16_t>(bits));
    // The last one's neighbour would be 65536.
    const float high = bits == 0x7bff ? 65536.0F : F16ToF32(static_cast<std::uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;
    ASSERT_EQ(F32ToF16(middle), bits + bits % 2) << bits;
    ASSERT_EQ(F32ToF16(std::nextafter(middle, 0.0F)), bits) << bits;
    ASSERT_EQ(F32ToF16(std::nextafter(middle, 1e9F)), bits + 1) << bits;
  }
  EXPECT_EQ(F32ToF16(INFINITY), 0x7c00);
  EXPECT_EQ(F32ToF16(-INFINITY), 0xfc00);
  EXPECT_EQ(F32ToF16(std::nanf("")) & 0x7fff, 0x7e00);
  EXPECT_EQ(F32ToF16(1e-40F), 0);
}

TEST(Gguf, MissingFileAndFolderAreInputErrors) {
  ExpectInputError([] { GgufFile::Open("/nonexistent/x.gguf"); }, {"/nonexistent/x.gguf"});
  ExpectInputError([] { GgufFile::Open("/"); }, {"/: is not a file"});
}

TEST(Dequantize, HalfPrecisionIsExactForAllBitPatterns) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 0x1f);
    const int mantissa = static_cast<int>(bits & 0x3ff);
    const float x = F16ToF32(static_cast<std::uint16_t>(bits));
    ASSERT_EQ(std::signbit(x), bits >= 0x8000) << bits;
    if (exponent == 31) {
      ASSERT_EQ(std::isnan(x), mantissa != 0) << bits;
      ASSERT_EQ(std::isinf(x), mantissa == 0) << bits;
    } else {
      const double expected =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      ASSERT_EQ(std::fabs(static_cast<double>(x)), expected) << bits;
    }
  }
}

}  // namespace
}  // namespace opo
