#include "data/rows.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "data/csv.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// All rows as JSON lines; places too where `places` is given.
std::string Rows(std::string_view bytes, DataFormat format,
                 std::vector<std::string>* places = nullptr) {
  std::string all;
  RowVisitor visitor;
  visitor.row = [&](Json&& row, const std::string& where) {
    all += row.dump() + "\n";
    if (places) places->push_back(where);
  };
  VisitRows(bytes, format, "f", visitor);
  return all;
}

std::string ErrorOf(std::string_view bytes, DataFormat format) {
  try {
    Rows(bytes, format);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << bytes;
  return "";
}

TEST(Rows, FormatsGoByTheEnding) {
  EXPECT_EQ(DataFormatOf("a/b.jsonl"), DataFormat::kJsonLines);
  EXPECT_EQ(DataFormatOf("b.NDJSON"), DataFormat::kJsonLines);
  EXPECT_EQ(DataFormatOf("b.json"), DataFormat::kJson);
  EXPECT_EQ(DataFormatOf("b.csv"), DataFormat::kCsv);
  EXPECT_EQ(DataFormatOf("b.Parquet"), DataFormat::kParquet);
  for (const char* name : {"b.txt", "b", "b.jsonl.gz", "parquet"}) {
    try {
      DataFormatOf(name);
      FAIL() << name;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(".jsonl, .ndjson, .json, .csv or .parquet"),
                std::string::npos);
    }
  }
}

TEST(Rows, CsvAsRfc4180) {
  std::vector<std::string> places;
  EXPECT_EQ(Rows("\xef\xbb\xbfprompt,answer,\"a,b\"\r\n"
                 "\"two\nlines, \"\"quoted\"\"\",1,\r\n"
                 "\n"
                 "é,\"\",\" x \"",
                 DataFormat::kCsv, &places),
            "{\"prompt\":\"two\\nlines, \\\"quoted\\\"\",\"answer\":\"1\",\"a,b\":\"\"}\n"
            "{\"prompt\":\"é\",\"answer\":\"\",\"a,b\":\" x \"}\n");
  EXPECT_EQ(places, (std::vector<std::string>{"f:2", "f:5"}));
  EXPECT_EQ(Rows("", DataFormat::kCsv), "");
  EXPECT_EQ(Rows("a\n", DataFormat::kCsv), "");
  EXPECT_EQ(Rows("a\n\"\"\n", DataFormat::kCsv), "{\"a\":\"\"}\n");
}

TEST(Rows, CsvErrorsNameTheLine) {
  EXPECT_EQ(ErrorOf("a,b\n1\n", DataFormat::kCsv), "f:2: has 1 fields, the first line names 2");
  EXPECT_EQ(ErrorOf("a\n\n\"x", DataFormat::kCsv), "f:3: a field's closing quote is missing");
  EXPECT_NE(ErrorOf("a\n\"x\" y\n", DataFormat::kCsv).find("f:2: text behind the closing quote"),
            std::string::npos);
  EXPECT_NE(ErrorOf("a\nx\"y\n", DataFormat::kCsv).find("f:2: a quote within a field"),
            std::string::npos);
  EXPECT_NE(ErrorOf("a\n\"x\"\ry\n", DataFormat::kCsv).find("carriage return"), std::string::npos);
  EXPECT_NE(ErrorOf("a,a\n1,2\n", DataFormat::kCsv).find("f:1: 'a' is no name of a column"),
            std::string::npos);
  EXPECT_NE(ErrorOf("a,\n1,2\n", DataFormat::kCsv).find("f:1: '' is no name"), std::string::npos);
  EXPECT_EQ(ErrorOf("a\n\xff\n", DataFormat::kCsv), "f:2: 'a' is not UTF-8");
}

TEST(Rows, JsonArrays) {
  std::vector<std::string> places;
  EXPECT_EQ(Rows(R"( [{"a": 1}, {"a": 2}] )", DataFormat::kJson, &places),
            "{\"a\":1}\n{\"a\":2}\n");
  EXPECT_EQ(places[1], "f: row 2");
  EXPECT_EQ(Rows(R"({"version": 1, "data": [{"a": 1}]})", DataFormat::kJson), "{\"a\":1}\n");
  EXPECT_NE(ErrorOf(R"({"rows": []})", DataFormat::kJson).find("must be an array of objects"),
            std::string::npos);
  EXPECT_EQ(ErrorOf("[1]", DataFormat::kJson), "f: row 1: must be a JSON object");
  EXPECT_EQ(ErrorOf("[", DataFormat::kJson), "f: not valid JSON at byte 2 of the file");
}

TEST(Rows, ParquetRowsAreCounted) {
  const std::string path =
      std::string(OPO_SOURCE_DIR) + "/tests/format/golden/parquet/verl.parquet";
  idx rows = 0;
  RowVisitor visitor;
  visitor.row = [&](Json&& row, const std::string& where) {
    EXPECT_EQ(row["prompt"].back()["role"], "user");
    EXPECT_EQ(where, fmt::format("{}: row {}", path, ++rows));
  };
  VisitRows(path, visitor);
  EXPECT_EQ(rows, 12);
}

TEST(Rows, OnlyRowsCanBeLeftOutNotWhatIsDamagedAsAWhole) {
  idx bad = 0;
  RowVisitor visitor;
  visitor.row = [](Json&& row, const std::string& where) {
    if (row.contains("bad")) Fail(ErrorCode::kInput, "{}: bad", where);
  };
  visitor.bad = [&](const Error&) { ++bad; };
  VisitRows("{\"bad\":1}\n{}\nnonsense\n", DataFormat::kJsonLines, "f", visitor);
  EXPECT_EQ(bad, 2);
  VisitRows("a,b\n1\n1,2\n", DataFormat::kCsv, "f", visitor);
  EXPECT_EQ(bad, 3);
  VisitRows("[1, {}]", DataFormat::kJson, "f", visitor);
  EXPECT_EQ(bad, 4);
  EXPECT_THROW(VisitRows("a\n\"x", DataFormat::kCsv, "f", visitor), Error);
  EXPECT_THROW(VisitRows("[{}", DataFormat::kJson, "f", visitor), Error);
  std::string parquet =
      ReadFile(std::string(OPO_SOURCE_DIR) + "/tests/format/golden/parquet/codec_zstd_v1.parquet");
  parquet[100] = static_cast<char>(parquet[100] ^ 1);
  EXPECT_THROW(VisitRows(parquet, DataFormat::kParquet, "f", visitor), Error);
}

}  // namespace
}  // namespace opo
