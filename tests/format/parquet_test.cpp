#include "format/parquet.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/file.h"
#include "format/byte_builder.h"
#include "format/expect_error.h"
#include "format/parquet_builder.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

const std::string kGolden = std::string(OPO_SOURCE_DIR) + "/tests/format/golden/parquet/";

std::vector<Json> RowsOf(const ParquetFile& file) {
  std::vector<Json> rows;
  file.ForEachRow([&](idx i, Json&& row) {
    EXPECT_EQ(i, static_cast<idx>(rows.size()));
    rows.push_back(std::move(row));
  });
  EXPECT_EQ(file.num_rows(), static_cast<idx>(rows.size()));
  return rows;
}

std::vector<Json> RowsOf(const ParquetBuilder& builder, const ParquetLimits& limits = {}) {
  const std::string bytes = builder.Build();
  return RowsOf(ParquetFile::Parse(AsBytes(bytes), "p.parquet", limits));
}

void ExpectRefused(const ParquetBuilder& builder, std::initializer_list<std::string> parts,
                   const ParquetLimits& limits = {}) {
  ExpectInputError([&] { RowsOf(builder, limits); }, parts);
}

// File and rows: the rows are pyarrow's, of files by pyarrow and Polars.
class ParquetGolden : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(ParquetGolden, RowsAreThoseOfPyarrow) {
  const auto [name, rows_name] = GetParam();
  std::ifstream lines(kGolden + rows_name + ".jsonl");
  ASSERT_TRUE(lines.is_open());
  std::vector<Json> expected;
  for (std::string line; std::getline(lines, line);) expected.push_back(Json::parse(line));
  const std::vector<Json> rows = RowsOf(ParquetFile::Open(kGolden + name + ".parquet"));
  ASSERT_EQ(rows.size(), expected.size());
  // As text: 1 and 1.0 differ, and so does the order of the keys.
  for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i].dump(), expected[i].dump()) << i;
}

using GoldenPair = std::pair<const char*, const char*>;
INSTANTIATE_TEST_SUITE_P(
    Files, ParquetGolden,
    ::testing::Values(GoldenPair{"verl", "verl"}, GoldenPair{"polars_verl", "polars_verl"},
                      GoldenPair{"nested", "nested"}, GoldenPair{"types", "types"},
                      GoldenPair{"polars_types", "polars_types"}, GoldenPair{"pages", "pages"},
                      GoldenPair{"no_rows", "no_rows"}, GoldenPair{"codec_none_v1", "codec"},
                      GoldenPair{"codec_none_v2", "codec"}, GoldenPair{"codec_snappy_v1", "codec"},
                      GoldenPair{"codec_snappy_v2", "codec"}, GoldenPair{"codec_gzip_v1", "codec"},
                      GoldenPair{"codec_gzip_v2", "codec"}, GoldenPair{"codec_zstd_v1", "codec"},
                      GoldenPair{"codec_zstd_v2", "codec"}, GoldenPair{"encodings_v1", "encodings"},
                      GoldenPair{"encodings_v2", "encodings"}),
    [](const auto& golden) { return std::string(golden.param.first); });

TEST(Parquet, TheTwoWritersOfVerlsSchemaAgree) {
  const auto pyarrow = RowsOf(ParquetFile::Open(kGolden + "verl.parquet"));
  EXPECT_EQ(pyarrow, RowsOf(ParquetFile::Open(kGolden + "polars_verl.parquet")));
  EXPECT_EQ(pyarrow.at(0)["prompt"][1]["role"], "user");
  EXPECT_EQ(pyarrow.at(0)["reward_model"]["ground_truth"], "0");
  EXPECT_TRUE(pyarrow.at(7)["extra_info"].is_null());
}

TEST(Parquet, TheGoldenFilesHaveWhatTheyAreThereFor) {
  EXPECT_EQ(ParquetFile::Open(kGolden + "pages.parquet").num_row_groups(), 3);
  EXPECT_EQ(ParquetFile::Open(kGolden + "polars_types.parquet").num_row_groups(), 2);
  EXPECT_EQ(
      ParquetFile::Open(kGolden + "no_rows.parquet").column_names(),
      (std::vector<std::string>{"data_source", "prompt", "ability", "reward_model", "extra_info"}));
}

TEST(Parquet, RefusesByName) {
  const auto refuse = [](const char* name, std::initializer_list<std::string> parts) {
    ExpectInputError([&] { RowsOf(ParquetFile::Open(kGolden + "refused_" + name + ".parquet")); },
                     parts);
  };
  refuse("brotli", {"refused_brotli.parquet: column 'i': row group 0: codec BROTLI is not"});
  refuse("lz4", {"column 'i': row group 0: codec LZ4_RAW is not supported; write it with snappy"});
  refuse("int96", {"column 'when': type INT96 is not supported"});
  refuse("bytes", {"column 'raw': row group 0, page 1: bytes that are not UTF-8 text"});
}

ParquetBuilder Plain() {
  ParquetBuilder b;
  b.pages = ParquetBuilder::Page(ParquetBuilder::Int32s({7, -8}), 2);
  return b;
}

TEST(Parquet, ABuiltFileIsRead) {
  EXPECT_EQ(Json(RowsOf(Plain())).dump(), R"([{"x":7},{"x":-8}])");
}

TEST(Parquet, OldListsAreRead) {
  // A repeated field alone; then the two-level LISTs of the specification's compatibility rules.
  const auto rows = [](std::vector<ThriftBuilder> schema, int definition) {
    ParquetBuilder b;
    b.schema = std::move(schema);
    b.num_values = 3;
    // [5, 6] and [].
    b.pages =
        ParquetBuilder::Page(ParquetBuilder::Levels({{1, 0}, {1, 1}, {1, 0}}) +
                                 ParquetBuilder::Levels({{2, definition}, {1, definition - 1}}) +
                                 ParquetBuilder::Int32s({5, 6}),
                             3);
    return Json(RowsOf(b)).dump();
  };
  const ThriftBuilder repeated = ThriftBuilder().I32(1, 1).I32(3, 2).Text(4, "element");
  EXPECT_EQ(rows({repeated}, 1), R"([{"element":[5,6]},{"element":[]}])");
  const ThriftBuilder list = ThriftBuilder().I32(3, 0).Text(4, "l").I32(5, 1).I32(6, 3);
  EXPECT_EQ(rows({list, repeated}, 1), R"([{"l":[5,6]},{"l":[]}])");
  const ThriftBuilder leaf = ThriftBuilder().I32(1, 1).I32(3, 0).Text(4, "v");
  const auto wrapper = [](const char* name) {
    return ThriftBuilder().I32(3, 2).Text(4, name).I32(5, 1);
  };
  EXPECT_EQ(rows({list, wrapper("array"), leaf}, 1), R"([{"l":[{"v":5},{"v":6}]},{"l":[]}])");
  EXPECT_EQ(rows({list, wrapper("l_tuple"), leaf}, 1), R"([{"l":[{"v":5},{"v":6}]},{"l":[]}])");
  EXPECT_EQ(rows({list, wrapper("list"), leaf}, 1), R"([{"l":[5,6]},{"l":[]}])");
}

TEST(Parquet, FootersThatLieAreRefused) {
  const auto refuse = [](const auto& change, std::initializer_list<std::string> parts) {
    ParquetBuilder b = Plain();
    change(b);
    ExpectRefused(b, parts);
  };
  refuse([](auto& b) { b.footer_rows = 3; }, {"the footer counts 3 rows, its row groups 2"});
  refuse([](auto& b) { b.num_rows = b.footer_rows = 3; },
         {"p.parquet: column 'x': row group 0, page 0: has fewer rows"});
  refuse([](auto& b) { b.num_rows = b.footer_rows = 1; }, {"has more rows than its row group"});
  refuse([](auto& b) { b.num_rows = b.footer_rows = -1; }, {"row group 0: has -1 rows"});
  refuse([](auto& b) { b.num_values = 1; }, {"has 2 values, the chunk only 1 more"});
  refuse([](auto& b) { b.num_values = std::int64_t{1} << 60; }, {"page 1: a header ends"});
  refuse([](auto& b) { b.offset = 1 << 30; }, {"lie outside of the file"});
  refuse([](auto& b) { b.offset = -1; }, {"lie outside of the file"});
  refuse([](auto& b) { b.chunk_bytes = 1 << 30; }, {"lie outside of the file"});
  refuse([](auto& b) { b.type = 2; }, {"has another type than its column"});
  refuse([](auto& b) { b.codec = 3; }, {"codec LZO is not supported"});
  refuse([](auto& b) { b.codec = 99; }, {"codec 99 is not supported"});
  refuse([](auto& b) { b.crypto = true; }, {"is encrypted, which is not supported"});
  refuse([](auto& b) { b.row_group_count = std::uint64_t{1} << 40; },
         {"footer: a list in a header is longer than the header"});
  refuse([](auto& b) { b.root_fields = 2; }, {"the footer ends within its fields"});
  refuse([](auto& b) { b.root_fields = 0; }, {"has no columns"});
  refuse([](auto& b) { b.schema.push_back(b.schema[0]); }, {"more columns than there are"});
  refuse(
      [](auto& b) {
        b.schema.push_back(b.schema[0]);
        b.root_fields = 2;
      },
      {"column 'x': is there twice"});
  refuse([](auto& b) { b.schema = {ThriftBuilder().I32(1, 1).I32(3, 0).Text(4, "x").I32(6, 21)}; },
         {"column 'x': has converted type INTERVAL"});
  refuse([](auto& b) { b.schema = {ThriftBuilder().I32(1, 7).I32(3, 0).Text(4, "x")}; },
         {"column 'x': has values of 0 bytes"});
  refuse([](auto& b) { b.schema.assign(100, ThriftBuilder().I32(3, 1).Text(4, "g").I32(5, 1)); },
         {"is deeper than 30 levels"});
}

TEST(Parquet, FilesThatAreNone) {
  const std::string whole = Plain().Build();
  const auto refuse = [](const std::string& bytes, std::initializer_list<std::string> parts) {
    ExpectInputError([&] { RowsOf(ParquetFile::Parse(AsBytes(bytes), "p.parquet")); }, parts);
  };
  refuse("", {"p.parquet: is not a whole Parquet file"});
  refuse("PAR1PAR1", {"is not a whole Parquet file"});
  refuse(whole.substr(0, whole.size() - 1), {"is not a whole Parquet file"});
  refuse("PAR1" + std::string("\xff\xff\xff\xff", 4) + "PAR1", {"longer than the file"});
  refuse(whole.substr(0, whole.size() - 4) + "PARE", {"encrypted"});
  // Every cut and every changed byte is rows or an error, never a crash (a sanitizer's test).
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const int bit : {1, 16, 128}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ bit);
      try {
        ParquetFile::Parse(AsBytes(changed), "p").ForEachRow([](idx, Json&&) {});
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInput);
      }
    }
  }
}

TEST(Parquet, PagesThatLieAreRefused) {
  const auto refuse = [](const std::string& pages, std::initializer_list<std::string> parts,
                         int codec = 0) {
    ParquetBuilder b;
    b.pages = pages;
    b.codec = codec;
    ExpectRefused(b, parts);
  };
  const std::string two = ParquetBuilder::Int32s({1, 2});
  const auto page = [](const std::string& body, int encoding = 0, std::int64_t unpacked = -1,
                       std::int64_t packed = -1) {
    return ParquetBuilder::Page(body, 2, encoding, unpacked, packed);
  };
  refuse(page(two.substr(0, 7)), {"page 0: holds fewer values than it says"});
  refuse(page(two, 0, -1, 1000), {"of 1000 bytes in a chunk with 8 left"});
  refuse(page(two, 0, 9), {"two sizes of uncompressed data"});
  refuse(page(two, 8), {"needs a dictionary, and the column has none"});
  refuse(page(two, 4), {"encoding BIT_PACKED is not supported"});
  refuse(page(two, 6), {"encoding DELTA_LENGTH_BYTE_ARRAY on a type that it is not for"});
  refuse(page(two, 77), {"encoding 77 is not supported"});
  // Sizes that the data cannot fill take no memory.
  constexpr std::int64_t kHuge = 1 << 29;
  refuse(page(two, 0, kHuge), {"8 bytes cannot unpack to 536870912"}, 1);
  refuse(page(two, 0, kHuge), {"8 bytes cannot unpack to 536870912"}, 2);
  refuse(page(two, 0, kHuge), {"8 bytes cannot unpack to 536870912"}, 6);
  refuse(page(two, 0, 8), {"snappy data"}, 1);
  refuse(page(two, 0, 8), {"gzip data that do not unpack"}, 2);
  refuse(page(two, 0, 8), {"zstd data that do not unpack"}, 6);
  const std::string dictionary = ParquetBuilder::Dictionary(two, 2);
  refuse(dictionary + page(std::string("\x01\x04\x02", 3), 8), {"entry 2 of a dictionary of 2"});
  refuse(dictionary + page(std::string("\x21\x04\x02", 3), 8), {"values of 33 bits"});
  refuse(dictionary + dictionary, {"is a second dictionary"});
  refuse(ParquetBuilder::Dictionary(two, 1 << 30), {"holds fewer values than it says"});
  // Delta blocks: 100 values; 128 in 3 parts; widths of 65 bits; lengths behind the end.
  refuse(page(std::string("\x64\x01\x02\x02\x00", 5), 5), {"delta blocks of 100 values"});
  refuse(page(std::string("\x80\x01\x03\x02\x02\x00", 6), 5), {"delta blocks of 128 values in 3"});
  refuse(page(std::string("\x80\x01\x01\x02\x02\x00\x41", 7), 5), {"a delta of 65 bits"});
  refuse(page(std::string("\x80\x01\x01\x02\x02\x00\x40", 7), 5), {"holds fewer values"});
}

TEST(Parquet, DictionaryRunsAreRead) {
  ParquetBuilder b;
  b.pages = ParquetBuilder::Dictionary(ParquetBuilder::Int32s({5, 6}), 2) +
            ParquetBuilder::Page(std::string("\x01\x04\x01", 3), 2, 8);
  EXPECT_EQ(Json(RowsOf(b)).dump(), R"([{"x":6},{"x":6}])");
}

TEST(Parquet, FewBytesThatStandForManyRowsMeetTheLimit) {
  // 2^40 rows out of a dictionary of one value: each run of 2^31 - 1 takes 6 bytes.
  ParquetBuilder b;
  b.num_values = b.num_rows = b.footer_rows = 0x7fffffff;
  b.pages = ParquetBuilder::Dictionary(ParquetBuilder::Int32s({5}), 1) +
            ParquetBuilder::Page(std::string("\x01\xfe\xff\xff\xff\x0f\x00", 7), 0x7fffffff, 8);
  ParquetLimits limits;
  limits.values = 64 * 1000;
  const std::string bytes = b.Build();
  idx rows = 0;
  ExpectInputError(
      [&] {
        ParquetFile::Parse(AsBytes(bytes), "p", limits).ForEachRow([&](idx, Json&&) { ++rows; });
      },
      {"page 1: the file holds more values than can be read; split it"});
  EXPECT_EQ(rows, 1000);
}

TEST(Parquet, PagesTogetherMeetTheLimit) {
  ParquetLimits limits;
  limits.pages = 100;
  ExpectInputError([&] { RowsOf(ParquetFile::Open(kGolden + "codec_zstd_v1.parquet", limits)); },
                   {"bytes are too many; write smaller pages"});
}

TEST(Parquet, DamageIsSeenByTheChecksum) {
  std::string bytes = ReadFile(kGolden + "codec_zstd_v1.parquet");
  bytes[100] = static_cast<char>(bytes[100] ^ 1);
  ExpectInputError([&] { RowsOf(ParquetFile::Parse(AsBytes(bytes), "p")); },
                   {"its checksum is wrong"});
}

TEST(Parquet, ColumnsThatDisagreeAreRefused) {
  // A required leaf whose levels say that a level above it is null, of a struct that is there.
  ParquetBuilder b;
  b.schema = {ThriftBuilder().I32(3, 1).Text(4, "s").I32(5, 1),
              ThriftBuilder().I32(1, 1).I32(3, 1).Text(4, "v")};
  b.pages = ParquetBuilder::Page(
      ParquetBuilder::Levels({{1, 3}, {1, 0}}) + ParquetBuilder::Int32s({5}), 2);
  ExpectRefused(b, {"column 's.v': row group 0, page 0: levels 3 and 0 beyond 2 and 0"});
  // A row that begins in the middle of a list.
  b.schema = {ThriftBuilder().I32(1, 1).I32(3, 2).Text(4, "l")};
  b.pages =
      ParquetBuilder::Page(ParquetBuilder::Levels({{2, 1}}) + ParquetBuilder::Levels({{2, 1}}) +
                               ParquetBuilder::Int32s({5, 6}),
                           2);
  ExpectRefused(b, {"has fewer rows than its row group"});
}

}  // namespace
}  // namespace opo
