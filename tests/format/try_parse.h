// What the fuzz targets and the replay of their corpus do with a file: parse it, and where that
// works, read all of it. The only failure allowed is Error(kInput).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "format/gguf.h"
#include "format/parquet.h"
#include "format/safetensors.h"

namespace opo {

inline constexpr idx kMaxFuzzElements = idx{1} << 20;

// The parts of a split model stand one after the other: a part starts at every magic.
inline std::vector<GgufBytes> CutIntoParts(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<GgufBytes> parts;
  for (std::size_t start = 0; start == 0 || start < text.size();) {
    const std::size_t end = std::min(text.find("GGUF", start + 1), text.size());
    parts.push_back({bytes.subspan(start, end - start), "fuzz.gguf"});
    start = end;
    if (start == 0) break;
  }
  return parts;
}

// True where the file was read to its end.
inline bool TryGguf(std::span<const std::byte> bytes) {
  try {
    const GgufFile file = GgufFile::ParseParts(CutIntoParts(bytes));
    idx total = 0;
    for (const GgufTensor& tensor : file.tensors()) {
      OPO_CHECK(tensor.bytes <= bytes.size() && tensor.offset <= bytes.size() - tensor.bytes);
      total += tensor.num_elements();
    }
    if (total > kMaxFuzzElements) return true;
    for (const GgufTensor& tensor : file.tensors()) {
      OPO_CHECK(file.Find(tensor.name) == &tensor);
      std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
      file.Dequantize(tensor, 0, values);
    }
    return true;
  } catch (const Error& e) {
    OPO_CHECK(e.code() == ErrorCode::kInput);
    return false;
  }
}

inline bool TrySafetensors(std::span<const std::byte> bytes) {
  try {
    const SafetensorsFile file = SafetensorsFile::Parse(bytes, "fuzz.safetensors");
    idx total = 0;
    for (const SafeTensor& tensor : file.tensors()) {
      OPO_CHECK(file.Raw(tensor).size() == tensor.bytes);
      OPO_CHECK(tensor.bytes <= bytes.size() && tensor.offset <= bytes.size() - tensor.bytes);
      total += tensor.num_elements();
    }
    if (total > kMaxFuzzElements) return true;
    for (const SafeTensor& tensor : file.tensors()) {
      OPO_CHECK(file.Find(tensor.name) == &tensor);
      std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
      file.ReadF32(tensor, values);
    }
    return true;
  } catch (const Error& e) {
    OPO_CHECK(e.code() == ErrorCode::kInput);
    return false;
  }
}

inline bool TryParquet(std::span<const std::byte> bytes) {
  try {
    ParquetLimits limits;
    limits.values = 1 << 22;
    limits.pages = 1 << 24;
    const ParquetFile file = ParquetFile::Parse(bytes, "fuzz.parquet", limits);
    idx rows = 0;
    file.ForEachRow([&](idx i, nlohmann::ordered_json&& row) {
      OPO_CHECK(i == rows++ && row.size() == file.column_names().size());
      row.dump();  // all text is UTF-8
    });
    OPO_CHECK(rows == file.num_rows());
    return true;
  } catch (const Error& e) {
    OPO_CHECK(e.code() == ErrorCode::kInput);
    return false;
  }
}

}  // namespace opo
