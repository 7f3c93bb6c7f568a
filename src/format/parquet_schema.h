// The footer of a Parquet file: the tree of columns as levels describe it, and where the chunks of
// each column lie.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/types.h"

namespace opo {

// The numbers of these four are the format's own.
enum class ParquetType { kBool, kInt32, kInt64, kInt96, kFloat, kDouble, kBytes, kFixed };
enum class ParquetEncoding {
  kPlain = 0,
  kPlainDictionary = 2,
  kRle = 3,
  kBitPacked = 4,
  kDeltaBinaryPacked = 5,
  kDeltaLengthByteArray = 6,
  kDeltaByteArray = 7,
  kRleDictionary = 8,
  kByteStreamSplit = 9,
};
enum class ParquetCodec { kNone, kSnappy, kGzip, kLzo, kBrotli, kLz4, kZstd, kLz4Raw };
std::string ParquetCodecName(std::int64_t codec);
std::string ParquetEncodingName(std::int64_t encoding);

// What the values of a leaf stand for.
enum class ParquetMeaning {
  kAsStored,  // a bool, a whole or a real number
  kUnsigned,  // of the stored width
  kText,      // bytes too: they must be UTF-8
  kDecimal,
  kDate,
  kTime,
  kTimestamp,
  kUuid,
  kHalf,
};

// A leaf, a struct, or a list. Levels: a node is there where the definition level of its leaves is
// at least `level`, which is that of its parent where it cannot be null.
struct ParquetNode {
  enum class Kind { kLeaf, kStruct, kList };
  std::string name;
  std::string path;  // "a.b", for messages
  Kind kind = Kind::kLeaf;
  bool nullable = false;
  int level = 0;
  int item_level = 0;                 // lists: the definition level of an item that is there
  int repetition = 0;                 // lists: the repetition level of a further item
  std::vector<ParquetNode> children;  // of a list: its one item
  std::size_t first_leaf = 0, end_leaf = 0;

  // Of a leaf.
  ParquetType type = ParquetType::kBool;
  int length = 0;  // of kFixed, in bytes
  int max_repetition = 0;
  ParquetMeaning meaning = ParquetMeaning::kAsStored;
  int scale = 0;   // of decimals
  int digits = 0;  // of a second, for times: 3, 6 or 9
  bool utc = false;
};

struct ParquetChunk {
  std::uint64_t offset = 0, bytes = 0;  // checked against the file
  std::int64_t num_values = 0;          // nulls too
  ParquetCodec codec = ParquetCodec::kNone;
};

struct ParquetRowGroup {
  std::int64_t num_rows = 0;
  std::vector<ParquetChunk> chunks;  // one a leaf
};

struct ParquetFooter {
  ParquetNode root;  // a struct; its children are the columns
  std::vector<const ParquetNode*> leaves;
  std::vector<ParquetRowGroup> row_groups;
  std::int64_t num_rows = 0;

  ParquetFooter() = default;
  ParquetFooter(const ParquetFooter&) = delete;  // `leaves` points into `root`
  ParquetFooter& operator=(const ParquetFooter&) = delete;
};

// Reads the footer of a whole file. Throws Error(kInput) naming `file`.
void ReadParquetFooter(std::span<const std::byte> bytes, const std::string& file,
                       ParquetFooter& footer);

}  // namespace opo
