#include "format/parquet_schema.h"

#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "format/quote.h"
#include "format/thrift.h"

namespace opo {
namespace {

constexpr int kMaxDepth = 30;  // of columns in columns
constexpr int kMaxLength = 1 << 20;

// parquet.thrift's LogicalType.
enum Logical : int {
  kNoLogical = 0,
  kString = 1,
  kMap = 2,
  kList = 3,
  kEnum = 4,
  kDecimal = 5,
  kDate = 6,
  kTime = 7,
  kTimestamp = 8,
  kInteger = 10,
  kUnknown = 11,
  kJson = 12,
  kBson = 13,
  kUuid = 14,
  kFloat16 = 15,
};

enum Repetition : int { kRequired, kOptional, kRepeated };

struct Element {  // SchemaElement
  std::string name;
  std::int64_t type = -1;
  std::int64_t length = 0;
  std::int64_t repetition = kRequired;
  std::int64_t num_children = 0;
  std::int64_t converted = -1;
  std::int64_t scale = 0;
  int logical = kNoLogical;
  int unit = 0;  // 1 milliseconds, 2 microseconds, 3 nanoseconds
  bool utc = false;
  bool is_signed = true;
};

void ReadUnit(ThriftReader& in, int type, int& unit) {
  ThriftReader::ExpectStruct(type);
  in.Struct([&](idx id, int) {
    unit = static_cast<int>(id);
    return false;
  });
}

// The struct inside of a LogicalType: which fields it has depends on its kind.
void ReadLogicalDetail(ThriftReader& in, Element& element) {
  const bool is_time = element.logical == kTime || element.logical == kTimestamp;
  in.Struct([&](idx id, int type) {
    if (element.logical == kDecimal && id == 1) return element.scale = in.Whole(type), true;
    if (is_time && id == 1) return element.utc = in.Bool(type), true;
    if (is_time && id == 2) return ReadUnit(in, type, element.unit), true;
    if (element.logical == kInteger && id == 2) return element.is_signed = in.Bool(type), true;
    return false;
  });
}

Element ReadElement(ThriftReader& in) {
  Element e;
  in.Struct([&](idx id, int type) {
    switch (id) {
      case 1:
        return e.type = in.Whole(type), true;
      case 2:
        return e.length = in.Whole(type), true;
      case 3:
        return e.repetition = in.Whole(type), true;
      case 4:
        return e.name = std::string(in.Binary(type)), true;
      case 5:
        return e.num_children = in.Whole(type), true;
      case 6:
        return e.converted = in.Whole(type), true;
      case 7:
        return e.scale = in.Whole(type), true;
      case 10:
        ThriftReader::ExpectStruct(type);
        in.Struct([&](idx kind, int inner) {
          ThriftReader::ExpectStruct(inner);
          e.logical = static_cast<int>(kind);
          return ReadLogicalDetail(in, e), true;
        });
        return true;
      default:
        return false;
    }
  });
  return e;
}

// The old annotations, where there is no new one.
void Modernise(Element& e) {
  constexpr int kLogicalOf[] = {kString,  kMap,     kMap,     kList,      kEnum,      kDecimal,
                                kDate,    kTime,    kTime,    kTimestamp, kTimestamp, kInteger,
                                kInteger, kInteger, kInteger, kInteger,   kInteger,   kInteger,
                                kInteger, kJson,    kBson};
  if (e.logical != kNoLogical || e.converted < 0) return;
  if (e.converted >= static_cast<std::int64_t>(std::size(kLogicalOf))) {
    throw Malformed(fmt::format("has converted type {}, which is not supported",
                                e.converted == 21 ? "INTERVAL" : fmt::to_string(e.converted)));
  }
  e.logical = kLogicalOf[e.converted];
  if (e.logical == kTime || e.logical == kTimestamp) {
    e.utc = true;
    e.unit = e.converted == 7 || e.converted == 9 ? 1 : 2;
  }
  if (e.logical == kInteger) e.is_signed = e.converted >= 15;
}

// Turns the list of elements into a tree of nodes with levels.
class SchemaBuilder {
 public:
  SchemaBuilder(std::vector<Element> elements, const std::string& file)
      : elements_(std::move(elements)), file_(file) {}

  ParquetNode Build() {
    if (elements_.empty()) Fail(ErrorCode::kInput, "{}: has no columns", file_);
    ParquetNode root;
    root.kind = ParquetNode::Kind::kStruct;
    const Element& element = elements_[next_++];
    if (element.num_children <= 0) Fail(ErrorCode::kInput, "{}: has no columns", file_);
    AddFields(element, 0, 0, 0, root);
    if (next_ != elements_.size()) {
      Fail(ErrorCode::kInput, "{}: the footer describes more columns than there are", file_);
    }
    return root;
  }

 private:
  [[noreturn]] void Refuse(const std::string& path, const std::string& what) const {
    Fail(ErrorCode::kInput, "{}: column {}: {}", file_, Quote(path), what);
  }

  // The element at next_; fails where the tree asks for more than there are.
  Element& Take(const std::string& path) {
    if (next_ >= elements_.size()) Refuse(path, "the footer ends within its fields");
    Element& element = elements_[next_++];
    if (!IsUtf8(element.name)) Refuse(element.name, "its name is not UTF-8");
    try {
      Modernise(element);
    } catch (const Malformed& fault) {
      Refuse(path.empty() ? element.name : path + "." + element.name, fault.what());
    }
    return element;
  }

  void AddFields(const Element& element, int level, int repetition, int depth, ParquetNode& node) {
    node.first_leaf = num_leaves_;
    std::set<std::string> names;
    for (std::int64_t i = 0; i < element.num_children; ++i) {
      node.children.push_back(Node(node.path, level, repetition, depth + 1));
      if (!names.insert(node.children.back().name).second) {
        Refuse(node.children.back().path, "is there twice");
      }
    }
    node.end_leaf = num_leaves_;
  }

  // A field: what stands there, in a list of its own where it is repeated without a LIST around.
  ParquetNode Node(const std::string& parent, int level, int repetition, int depth) {
    const Element& element = Take(parent);
    const std::string path = parent.empty() ? element.name : parent + "." + element.name;
    if (element.repetition == kRepeated) {
      ParquetNode list = ListNode(element, path, level, repetition, /*nullable=*/false);
      AddItem(element, depth, list);
      return list;
    }
    return Plain(element, path, level, repetition, depth);
  }

  static ParquetNode ListNode(const Element& element, const std::string& path, int level,
                              int repetition, bool nullable) {
    ParquetNode list;
    list.kind = ParquetNode::Kind::kList;
    list.name = element.name;
    list.path = path;
    list.nullable = nullable;
    list.level = level;
    list.item_level = level + 1;
    list.repetition = repetition + 1;
    return list;
  }

  // The repeated element itself is the item.
  void AddItem(const Element& repeated, int depth, ParquetNode& list) {
    Element item = repeated;
    item.repetition = kRequired;
    list.first_leaf = num_leaves_;
    list.children.push_back(Plain(item, list.path, list.item_level, list.repetition, depth + 1));
    list.end_leaf = num_leaves_;
  }

  ParquetNode Plain(const Element& element, const std::string& path, int level, int repetition,
                    int depth) {
    if (depth > kMaxDepth) Refuse(path, fmt::format("is deeper than {} levels", kMaxDepth));
    if (element.repetition != kRequired && element.repetition != kOptional) {
      Refuse(path, fmt::format("has the unknown repetition {}", element.repetition));
    }
    const bool nullable = element.repetition == kOptional;
    if (nullable) ++level;
    if (element.num_children < 0) Refuse(path, "has a negative number of fields");
    if (element.num_children == 0) return Leaf(element, path, level, repetition, nullable);
    if (element.logical == kList || element.logical == kMap) {
      return Annotated(element, path, level, repetition, depth, nullable);
    }
    if (element.logical != kNoLogical) {
      Refuse(path, fmt::format("logical type {} of a struct is not supported", element.logical));
    }
    ParquetNode node;
    node.kind = ParquetNode::Kind::kStruct;
    node.name = element.name;
    node.path = path;
    node.nullable = nullable;
    node.level = level;
    AddFields(element, level, repetition, depth, node);
    return node;
  }

  // A LIST or MAP: one repeated child, which is the item itself or a wrapper around it (the rules
  // of the specification's "backward compatibility").
  ParquetNode Annotated(const Element& outer, const std::string& path, int level, int repetition,
                        int depth, bool nullable) {
    if (outer.num_children != 1) Refuse(path, "is a list with several fields");
    const Element repeated = Take(path);
    if (repeated.repetition != kRepeated) {
      Refuse(path, "is a list whose inner field is not repeated");
    }
    ParquetNode list = ListNode(outer, path, level, repetition, nullable);
    const bool wrapper = outer.logical == kList && repeated.num_children == 1 &&
                         next_ < elements_.size() && elements_[next_].repetition != kRepeated &&
                         repeated.name != "array" && repeated.name != outer.name + "_tuple" &&
                         repeated.logical != kList && repeated.logical != kMap;
    if (wrapper) {
      list.first_leaf = num_leaves_;
      list.children.push_back(Node(path, list.item_level, list.repetition, depth + 2));
      list.end_leaf = num_leaves_;
    } else {
      Element item = repeated;
      if (outer.logical == kMap) item.logical = kNoLogical;  // MAP_KEY_VALUE is a plain struct
      AddItem(item, depth + 1, list);
    }
    return list;
  }

  ParquetNode Leaf(const Element& element, const std::string& path, int level, int repetition,
                   bool nullable) {
    ParquetNode leaf;
    leaf.name = element.name;
    leaf.path = path;
    leaf.nullable = nullable;
    leaf.level = level;
    leaf.max_repetition = repetition;
    leaf.first_leaf = num_leaves_++;
    leaf.end_leaf = num_leaves_;
    if (element.type < 0 || element.type > static_cast<int>(ParquetType::kFixed)) {
      Refuse(path, "has neither fields nor a known type");
    }
    leaf.type = static_cast<ParquetType>(element.type);
    if (leaf.type == ParquetType::kInt96) {
      Refuse(path, "type INT96 is not supported; write its times as TIMESTAMP");
    }
    if (leaf.type == ParquetType::kFixed) {
      if (element.length < 1 || element.length > kMaxLength) {
        Refuse(path, fmt::format("has values of {} bytes", element.length));
      }
      leaf.length = static_cast<int>(element.length);
    }
    SetMeaning(element, leaf);
    return leaf;
  }

  void SetMeaning(const Element& e, ParquetNode& leaf) const {
    const bool i32 = leaf.type == ParquetType::kInt32;
    const bool i64 = leaf.type == ParquetType::kInt64;
    const bool bytes = leaf.type == ParquetType::kBytes;
    const bool fixed = leaf.type == ParquetType::kFixed;
    const auto need = [&](bool fits, const char* name) {
      if (!fits) Refuse(leaf.path, fmt::format("logical type {} on a type without it", name));
    };
    switch (e.logical) {
      case kNoLogical:
      case kUnknown:  // all values are null
        if (bytes || fixed) leaf.meaning = ParquetMeaning::kText;
        return;
      case kString:
      case kEnum:
      case kJson:
        need(bytes || fixed, "STRING");
        leaf.meaning = ParquetMeaning::kText;
        return;
      case kDecimal:
        need(i32 || i64 || bytes || (fixed && leaf.length <= 16), "DECIMAL (of up to 16 bytes)");
        if (e.scale < 0 || e.scale > 38) {
          Refuse(leaf.path, fmt::format("a decimal of scale {} is not supported", e.scale));
        }
        leaf.meaning = ParquetMeaning::kDecimal;
        leaf.scale = static_cast<int>(e.scale);
        return;
      case kDate:
        need(i32, "DATE");
        leaf.meaning = ParquetMeaning::kDate;
        return;
      case kTime:
      case kTimestamp:
        if (e.unit < 1 || e.unit > 3) {
          Refuse(leaf.path, fmt::format("times in the unknown unit {}", e.unit));
        }
        need(e.logical == kTime && e.unit == 1 ? i32 : i64, "TIME or TIMESTAMP");
        leaf.meaning = e.logical == kTime ? ParquetMeaning::kTime : ParquetMeaning::kTimestamp;
        leaf.digits = 3 * e.unit;
        leaf.utc = e.utc && e.logical == kTimestamp;
        return;
      case kInteger:
        need(i32 || i64, "INTEGER");
        if (!e.is_signed) leaf.meaning = ParquetMeaning::kUnsigned;
        return;
      case kUuid:
        need(fixed && leaf.length == 16, "UUID");
        leaf.meaning = ParquetMeaning::kUuid;
        return;
      case kFloat16:
        need(fixed && leaf.length == 2, "FLOAT16");
        leaf.meaning = ParquetMeaning::kHalf;
        return;
      case kBson:
        Refuse(leaf.path, "logical type BSON is not supported");
      default:
        Refuse(leaf.path, fmt::format("logical type {} is not supported", e.logical));
    }
  }

  std::vector<Element> elements_;
  const std::string& file_;
  std::size_t next_ = 0;
  std::size_t num_leaves_ = 0;
};

struct RawChunk {  // ColumnChunk with its ColumnMetaData
  std::int64_t type = -1, codec = 0, num_values = -1, compressed = -1, data_offset = -1;
  std::int64_t dictionary_offset = 0;
  bool has_meta = false, encrypted = false, elsewhere = false;
};

RawChunk ReadChunk(ThriftReader& in) {
  RawChunk chunk;
  const auto meta = [&](idx id, int type) {
    switch (id) {
      case 1:
        return chunk.type = in.Whole(type), true;
      case 4:
        return chunk.codec = in.Whole(type), true;
      case 5:
        return chunk.num_values = in.Whole(type), true;
      case 7:
        return chunk.compressed = in.Whole(type), true;
      case 9:
        return chunk.data_offset = in.Whole(type), true;
      case 11:
        return chunk.dictionary_offset = in.Whole(type), true;
      default:
        return false;
    }
  };
  in.Struct([&](idx id, int type) {
    if (id == 1) return chunk.elsewhere = !in.Binary(type).empty(), true;
    if (id == 8 || id == 9) chunk.encrypted = true;
    if (id != 3) return false;
    ThriftReader::ExpectStruct(type);
    chunk.has_meta = true;
    return in.Struct(meta), true;
  });
  return chunk;
}

struct RawRowGroup {
  std::vector<RawChunk> chunks;
  std::int64_t num_rows = -1;
};

RawRowGroup ReadRowGroup(ThriftReader& in) {
  RawRowGroup group;
  in.Struct([&](idx id, int type) {
    if (id == 3) return group.num_rows = in.Whole(type), true;
    if (id != 1) return false;
    in.List(type, [&](int element) {
      ThriftReader::ExpectStruct(element);
      group.chunks.push_back(ReadChunk(in));
    });
    return true;
  });
  return group;
}

void CollectLeaves(const ParquetNode& node, std::vector<const ParquetNode*>& leaves) {
  if (node.kind == ParquetNode::Kind::kLeaf) leaves.push_back(&node);
  for (const ParquetNode& child : node.children) CollectLeaves(child, leaves);
}

ParquetChunk CheckedChunk(const RawChunk& raw, const ParquetNode& leaf, std::uint64_t file_bytes) {
  if (raw.encrypted) throw Malformed("is encrypted, which is not supported");
  if (raw.elsewhere) throw Malformed("lies in another file, which is not supported");
  if (!raw.has_meta) throw Malformed("has no metadata");
  if (raw.type != static_cast<int>(leaf.type)) throw Malformed("has another type than its column");
  const auto known = {ParquetCodec::kNone, ParquetCodec::kSnappy, ParquetCodec::kGzip,
                      ParquetCodec::kZstd};
  ParquetChunk chunk;
  bool supported = false;
  for (const ParquetCodec codec : known) {
    if (raw.codec != static_cast<int>(codec)) continue;
    chunk.codec = codec;
    supported = true;
  }
  if (!supported) {
    throw Malformed(
        fmt::format("codec {} is not supported; write it with snappy, gzip, zstd or "
                    "uncompressed",
                    ParquetCodecName(raw.codec)));
  }
  const bool has_dictionary = raw.dictionary_offset > 0 && raw.dictionary_offset < raw.data_offset;
  const std::int64_t offset = has_dictionary ? raw.dictionary_offset : raw.data_offset;
  if (offset < 0 || raw.compressed < 0 || raw.num_values < 0 ||
      static_cast<std::uint64_t>(offset) > file_bytes ||
      static_cast<std::uint64_t>(raw.compressed) >
          file_bytes - static_cast<std::uint64_t>(offset)) {
    throw Malformed(
        fmt::format("{} bytes at offset {} lie outside of the file", raw.compressed, offset));
  }
  chunk.offset = static_cast<std::uint64_t>(offset);
  chunk.bytes = static_cast<std::uint64_t>(raw.compressed);
  chunk.num_values = raw.num_values;
  return chunk;
}

}  // namespace

std::string ParquetCodecName(std::int64_t codec) {
  constexpr const char* kNames[] = {"UNCOMPRESSED", "SNAPPY", "GZIP", "LZO",
                                    "BROTLI",       "LZ4",    "ZSTD", "LZ4_RAW"};
  const bool known = codec >= 0 && codec < static_cast<std::int64_t>(std::size(kNames));
  return known ? kNames[codec] : fmt::to_string(codec);
}

std::string ParquetEncodingName(std::int64_t encoding) {
  constexpr const char* kNames[] = {"PLAIN",
                                    "1",
                                    "PLAIN_DICTIONARY",
                                    "RLE",
                                    "BIT_PACKED",
                                    "DELTA_BINARY_PACKED",
                                    "DELTA_LENGTH_BYTE_ARRAY",
                                    "DELTA_BYTE_ARRAY",
                                    "RLE_DICTIONARY",
                                    "BYTE_STREAM_SPLIT"};
  const bool known = encoding >= 0 && encoding < static_cast<std::int64_t>(std::size(kNames));
  return known ? kNames[encoding] : fmt::to_string(encoding);
}

void ReadParquetFooter(std::span<const std::byte> bytes, const std::string& file,
                       ParquetFooter& footer) {
  constexpr std::size_t kTail = 8;
  const auto magic_at = [&](std::size_t pos) {
    return std::string_view(reinterpret_cast<const char*>(bytes.data()) + pos, 4);
  };
  if (bytes.size() >= 12 && magic_at(bytes.size() - 4) == "PARE") {
    Fail(ErrorCode::kInput, "{}: is encrypted Parquet, which is not supported", file);
  }
  if (bytes.size() < 12 || magic_at(0) != "PAR1" || magic_at(bytes.size() - 4) != "PAR1") {
    Fail(ErrorCode::kInput, "{}: is not a whole Parquet file (PAR1 at its begin and end)", file);
  }
  std::uint32_t length = 0;
  std::memcpy(&length, bytes.data() + bytes.size() - kTail, sizeof(length));
  if (length > bytes.size() - kTail - 4) {
    Fail(ErrorCode::kInput, "{}: the footer of {} bytes is longer than the file", file, length);
  }
  const std::size_t end = bytes.size() - kTail - length;
  ThriftReader in(bytes.subspan(end, length));
  std::vector<Element> elements;
  std::vector<RawRowGroup> groups;
  std::optional<std::int64_t> num_rows;
  try {
    in.Struct([&](idx id, int type) {
      const auto structs = [&](const auto& read) {
        in.List(type, [&](int element) {
          ThriftReader::ExpectStruct(element);
          read();
        });
        return true;
      };
      if (id == 2) return structs([&] { elements.push_back(ReadElement(in)); });
      if (id == 3) return num_rows = in.Whole(type), true;
      if (id == 4) return structs([&] { groups.push_back(ReadRowGroup(in)); });
      if (id == 8) throw Malformed("is encrypted, which is not supported");
      return false;
    });
  } catch (const Malformed& fault) {
    Fail(ErrorCode::kInput, "{}: footer: {}", file, fault.what());
  }
  footer.root = SchemaBuilder(std::move(elements), file).Build();
  CollectLeaves(footer.root, footer.leaves);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const RawRowGroup& raw = groups[g];
    if (raw.num_rows < 0 || raw.chunks.size() != footer.leaves.size()) {
      Fail(ErrorCode::kInput, "{}: row group {}: has {} rows and {} columns, the schema {} columns",
           file, g, raw.num_rows, raw.chunks.size(), footer.leaves.size());
    }
    ParquetRowGroup group;
    group.num_rows = raw.num_rows;
    for (std::size_t i = 0; i < raw.chunks.size(); ++i) {
      try {
        group.chunks.push_back(CheckedChunk(raw.chunks[i], *footer.leaves[i], end));
      } catch (const Malformed& fault) {
        Fail(ErrorCode::kInput, "{}: column {}: row group {}: {}", file,
             Quote(footer.leaves[i]->path), g, fault.what());
      }
    }
    if (__builtin_add_overflow(footer.num_rows, group.num_rows, &footer.num_rows)) {
      Fail(ErrorCode::kInput, "{}: row group {}: too many rows", file, g);
    }
    footer.row_groups.push_back(std::move(group));
  }
  if (num_rows != footer.num_rows) {
    Fail(ErrorCode::kInput, "{}: the footer counts {} rows, its row groups {}", file,
         num_rows.value_or(0), footer.num_rows);
  }
}

}  // namespace opo
