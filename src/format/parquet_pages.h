// A column chunk of a Parquet file, one page in memory at a time: its levels and values in order.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "format/parquet_schema.h"
#include "format/parquet_values.h"

namespace opo {

struct ParquetPageHeader;

// What a file has unpacked so far, against its limits.
struct ParquetUse {
  std::uint64_t values_left = 0;  // bytes
  std::uint64_t pages_left = 0;   // bytes
};

// Unpacks into `out`, which gets exactly `size` bytes. `size` is what a header says: no memory is
// taken for it that the codec could not fill from this much input. Throws Malformed.
void ParquetUnpack(ParquetCodec codec, std::span<const std::byte> packed, std::uint64_t size,
                   std::vector<std::byte>& out);

// All functions throw Error(kInput) naming file, column, row group and page.
class ParquetColumn {
 public:
  // All but `chunk` must outlive the object.
  ParquetColumn(std::span<const std::byte> file_bytes, const std::string& file,
                const ParquetNode& leaf, const ParquetChunk& chunk, idx row_group, ParquetUse& use);
  ParquetColumn(ParquetColumn&&) = delete;
  ~ParquetColumn();

  const ParquetNode& leaf() const { return leaf_; }
  // The levels of the value at hand; -1 both behind the last one.
  int definition() const { return definition_; }
  int repetition() const { return repetition_; }

  // The value at hand, or null where there is none; goes on to the next.
  nlohmann::ordered_json Take();
  void Skip();

  [[noreturn]] void Refuse(const std::string& what) const;

 private:
  void Next();
  void NextPage();
  void ReadDictionary(const ParquetPageHeader& header, std::span<const std::byte> packed);
  void ReadData(const ParquetPageHeader& header, std::span<const std::byte> packed);
  void ReadDataV2(const ParquetPageHeader& header, std::span<const std::byte> packed);
  std::span<const std::byte> Unpack(std::span<const std::byte> packed, std::uint64_t size,
                                    std::vector<std::byte>& buffer);

  const std::string& file_;
  const ParquetNode& leaf_;
  const ParquetChunk chunk_;
  idx row_group_;
  ParquetUse& use_;
  std::span<const std::byte> bytes_;  // pages not yet read
  std::int64_t values_left_;          // of the chunk, beyond the page's
  idx page_ = -1;
  std::int64_t page_left_ = 0;
  std::vector<std::byte> page_buffer_, dictionary_buffer_;
  bool has_dictionary_ = false;
  std::vector<ParquetValue> dictionary_;
  int definition_ = -1, repetition_ = -1;
  ParquetRuns definitions_, repetitions_;
  std::unique_ptr<ParquetDecoder> values_;
};

}  // namespace opo
