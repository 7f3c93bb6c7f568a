// Parquet files, row by row: what pyarrow, Polars, pandas and the data sets of verl and Hugging
// Face hold. Written against the format's public specification. Hostile until proven otherwise:
// every length is checked against the file and the page, and what a file may unpack to is bounded.
//
// Read: nested structs, lists (3-level, and the old 2-level forms) and maps; nulls at any level;
// the encodings plain, dictionary, RLE, the three delta ones and byte-stream split; data pages v1
// and v2; uncompressed, snappy, gzip, zstd. Everything else is refused by name.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/types.h"

namespace opo {

class MappedFile;
struct ParquetFooter;

// In bytes. A value of any kind counts as 64 and its text.
struct ParquetLimits {
  std::uint64_t values = std::uint64_t{8} << 30;  // of all rows together
  std::uint64_t pages = std::uint64_t{1} << 30;   // unpacked at the same time: one of each column
};

class ParquetFile {
 public:
  // Reads the footer. Throws Error(kInput) naming the file, and the place in it.
  static ParquetFile Open(const std::string& path, const ParquetLimits& limits = {});
  // `bytes` must outlive the object.
  static ParquetFile Parse(std::span<const std::byte> bytes, const std::string& name,
                           const ParquetLimits& limits = {});

  idx num_rows() const;
  idx num_row_groups() const;
  std::vector<std::string> column_names() const;  // of the top level

  // Calls row(i, object) for each row in order; one page of each column is in memory. Structs are
  // objects, lists arrays, and maps arrays of {"key", "value"}. Dates and times are ISO 8601 text
  // ("Z" at its end where the column says UTC), decimals exact text, NaN null. Throws
  // Error(kInput): "file: column 'a.b': row group 3, page 2: ...".
  void ForEachRow(const std::function<void(idx, nlohmann::ordered_json&&)>& row) const;

 private:
  std::string name_;
  std::shared_ptr<MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const ParquetFooter> footer_;
  ParquetLimits limits_;
};

}  // namespace opo
