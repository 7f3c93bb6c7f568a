#include "data/rows.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <set>
#include <span>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/types.h"
#include "base/utf8.h"
#include "data/csv.h"
#include "format/parquet.h"
#include "format/quote.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

// Runs `read`, which makes a row and hands it on; a row that is bad goes to visitor.bad.
template <class Read>
void Guard(const RowVisitor& visitor, const Read& read) {
  try {
    read();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInput || !visitor.bad) throw;
    visitor.bad(error);
  }
}

void Visit(const RowVisitor& visitor, Json&& row, const std::string& where) {
  if (!row.is_object()) Fail(ErrorCode::kInput, "{}: must be a JSON object", where);
  visitor.row(std::move(row), where);
}

void VisitJsonLines(std::string_view text, const std::string& where, const RowVisitor& visitor) {
  constexpr std::string_view kBom = "\xef\xbb\xbf";
  if (text.starts_with(kBom)) text.remove_prefix(kBom.size());
  for (idx number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Guard(visitor, [&] {
      const std::string at = fmt::format("{}:{}", where, number);
      Visit(visitor, ParseJson<Json>(line, at, "line"), at);
    });
  }
}

void VisitJson(std::string_view text, const std::string& where, const RowVisitor& visitor) {
  constexpr std::string_view kBom = "\xef\xbb\xbf";
  if (text.starts_with(kBom)) text.remove_prefix(kBom.size());
  Json whole = ParseJson<Json>(text, where, "file");
  if (whole.is_object() && whole.contains("data")) {
    Json data = std::move(whole["data"]);
    whole = std::move(data);
  }
  if (!whole.is_array()) {
    Fail(ErrorCode::kInput, "{}: must be an array of objects, or {{\"data\": [...]}}", where);
  }
  idx number = 0;
  for (Json& row : whole) {
    ++number;
    Guard(visitor,
          [&] { Visit(visitor, std::move(row), fmt::format("{}: row {}", where, number)); });
  }
}

void CheckNames(const std::vector<std::string>& names, const std::string& where) {
  std::set<std::string> seen;
  for (const std::string& name : names) {
    if (name.empty() || !IsUtf8(name) || !seen.insert(name).second) {
      Fail(ErrorCode::kInput,
           "{}: {} is no name of a column, or is there twice; the first line names the columns",
           where, Quote(name));
    }
  }
}

void VisitCsv(std::string_view text, const std::string& where, const RowVisitor& visitor) {
  CsvReader csv(text, where);
  std::vector<std::string> names;
  if (!csv.Next(names)) return;
  CheckNames(names, fmt::format("{}:{}", where, csv.line()));
  for (std::vector<std::string> fields; csv.Next(fields);) {
    Guard(visitor, [&] {
      const std::string at = fmt::format("{}:{}", where, csv.line());
      if (fields.size() != names.size()) {
        Fail(ErrorCode::kInput, "{}: has {} fields, the first line names {}", at, fields.size(),
             names.size());
      }
      Json row = Json::object();
      auto& object = row.get_ref<Json::object_t&>();
      for (std::size_t i = 0; i < names.size(); ++i) {
        if (!IsUtf8(fields[i])) Fail(ErrorCode::kInput, "{}: '{}' is not UTF-8", at, names[i]);
        object.emplace_back(names[i], std::move(fields[i]));
      }
      Visit(visitor, std::move(row), at);
    });
  }
}

void VisitParquet(const ParquetFile& file, const std::string& where, const RowVisitor& visitor) {
  // Only what the visitor finds bad can be left out: behind a damaged page all is lost.
  file.ForEachRow([&](idx i, Json&& row) {
    Guard(visitor,
          [&] { Visit(visitor, std::move(row), fmt::format("{}: row {}", where, i + 1)); });
  });
}

}  // namespace

DataFormat DataFormatOf(const std::string& path) {
  std::string ending = std::filesystem::path(path).extension().string();
  for (char& c : ending) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (ending == ".jsonl" || ending == ".ndjson") return DataFormat::kJsonLines;
  if (ending == ".json") return DataFormat::kJson;
  if (ending == ".csv") return DataFormat::kCsv;
  if (ending == ".parquet") return DataFormat::kParquet;
  Fail(ErrorCode::kInput,
       "{}: data files end in .jsonl, .ndjson, .json, .csv or .parquet; rename or convert it",
       path);
}

void VisitRows(const std::string& path, const RowVisitor& visitor) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  VisitRows(text, DataFormatOf(path), path, visitor);
}

void VisitRows(std::string_view bytes, DataFormat format, const std::string& where,
               const RowVisitor& visitor) {
  switch (format) {
    case DataFormat::kJsonLines:
      return VisitJsonLines(bytes, where, visitor);
    case DataFormat::kJson:
      return VisitJson(bytes, where, visitor);
    case DataFormat::kCsv:
      return VisitCsv(bytes, where, visitor);
    case DataFormat::kParquet:
      return VisitParquet(ParquetFile::Parse(std::as_bytes(std::span(bytes)), where), where,
                          visitor);
  }
}

}  // namespace opo
