// The rows of a data file as JSON objects, whatever its format: chosen by the ending of its name.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"

namespace opo {

enum class DataFormat { kJsonLines, kJson, kCsv, kParquet };

// .jsonl and .ndjson, .json, .csv, .parquet. Throws Error(kInput) naming those for any other.
DataFormat DataFormatOf(const std::string& path);

struct RowVisitor {
  // A row and where it stands: "file:line", or "file: row N" (from 1) where lines mean nothing.
  // May throw Error(kInput) where it finds the row bad.
  std::function<void(nlohmann::ordered_json&&, const std::string& where)> row;
  // A row that could not be read, or that `row` found bad. Without it the error ends the reading.
  std::function<void(const Error&)> bad = nullptr;
};

// JSON lines (empty lines are skipped); a JSON array of objects, or {"data": [...]}; CSV with a
// line of names, all values text; Parquet. Throws Error(kInput) naming the file and the place
// where it is damaged as a whole.
void VisitRows(const std::string& path, const RowVisitor& visitor);
// The same from memory; `where` names the file.
void VisitRows(std::string_view bytes, DataFormat format, const std::string& where,
               const RowVisitor& visitor);

}  // namespace opo
