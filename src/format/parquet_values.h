// The values in a page of a Parquet file: decoders of the encodings, one value at a time, and what
// a value is in JSON. All throw Malformed where the bytes do not hold what they should.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "base/types.h"
#include "format/parquet_schema.h"

namespace opo {

// One value; which member counts follows from the type.
struct ParquetValue {
  std::int64_t whole = 0;  // bools and whole numbers
  double real = 0;
  std::string_view bytes;  // valid until the next value is read
};

// Runs of the RLE / bit-packed hybrid: levels, dictionary indices, bools.
class ParquetRuns {
 public:
  ParquetRuns() = default;
  ParquetRuns(std::span<const std::byte> bytes, int bit_width);
  std::uint32_t Next();

 private:
  void ReadRun();

  std::span<const std::byte> bytes_;
  int width_ = 0;
  std::size_t pos_ = 0;     // in bytes
  std::uint64_t left_ = 0;  // values of this run
  bool packed_ = false;
  std::uint64_t bit_ = 0;  // of a packed run: where its next value begins
  std::uint32_t value_ = 0;
};

class ParquetDecoder {
 public:
  virtual ~ParquetDecoder() = default;
  virtual ParquetValue Next() = 0;
};

// The values of a data page. `dictionary` may be null where the encoding needs none; both it and
// `bytes` must outlive the decoder.
std::unique_ptr<ParquetDecoder> MakeParquetDecoder(std::int64_t encoding, const ParquetNode& leaf,
                                                   std::span<const std::byte> bytes,
                                                   const std::vector<ParquetValue>* dictionary);

// The `count` values of a dictionary page; their bytes point into `bytes`.
std::vector<ParquetValue> ReadParquetDictionary(const ParquetNode& leaf,
                                                std::span<const std::byte> bytes, idx count);

nlohmann::ordered_json ParquetToJson(const ParquetNode& leaf, const ParquetValue& value);

}  // namespace opo
