#include "format/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/file.h"
#include "format/byte_builder.h"
#include "format/dequantize.h"
#include "format/expect_error.h"

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
  ASSERT_EQ(file.tensors().size(), 7U);
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
  refused({"w", {4}, 12, Zeros(144), -1}, {"'w'", "Q4_K", "12"});
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
