#include "format/parquet_pages.h"

#include <snappy.h>
#include <zlib.h>
#include <zstd.h>

#include <bit>
#include <cstring>
#include <limits>
#include <optional>

#include "base/error.h"
#include "format/quote.h"
#include "format/thrift.h"

namespace opo {

// PageHeader with the header of its kind.
struct ParquetPageHeader {
  std::int64_t kind = -1;
  std::int64_t unpacked = -1, packed = -1;  // bytes
  std::optional<std::int64_t> crc;
  std::int64_t num_values = -1, encoding = -1;
  std::int64_t definition_encoding = -1, repetition_encoding = -1;  // v1
  std::int64_t definition_bytes = 0, repetition_bytes = 0;          // v2
  bool compressed = true;                                           // v2
};

namespace {

enum PageKind : int { kData = 0, kIndex = 1, kDictionary = 2, kDataV2 = 3 };

using Bytes = std::span<const std::byte>;

ParquetPageHeader ReadPageHeader(ThriftReader& in) {
  ParquetPageHeader h;
  const auto detail = [&](idx kind, idx id, int type) {
    const bool v2 = kind == 8;
    if (id == 1) return h.num_values = in.Whole(type), true;
    if (v2 && id == 4) return h.encoding = in.Whole(type), true;
    if (v2 && id == 5) return h.definition_bytes = in.Whole(type), true;
    if (v2 && id == 6) return h.repetition_bytes = in.Whole(type), true;
    if (v2 && id == 7) return h.compressed = in.Bool(type), true;
    if (!v2 && id == 2) return h.encoding = in.Whole(type), true;
    if (kind == 5 && id == 3) return h.definition_encoding = in.Whole(type), true;
    if (kind == 5 && id == 4) return h.repetition_encoding = in.Whole(type), true;
    return false;
  };
  in.Struct([&](idx id, int type) {
    if (id == 1) return h.kind = in.Whole(type), true;
    if (id == 2) return h.unpacked = in.Whole(type), true;
    if (id == 3) return h.packed = in.Whole(type), true;
    if (id == 4) return h.crc = in.Whole(type), true;
    if (id != 5 && id != 7 && id != 8) return false;
    ThriftReader::ExpectStruct(type);
    in.Struct([&](idx inner, int inner_type) { return detail(id, inner, inner_type); });
    return true;
  });
  return h;
}

void Gunzip(Bytes packed, std::vector<std::byte>& out) {
  z_stream stream = {};
  // 32 more than the window: a gzip or a zlib header, whichever is there.
  if (inflateInit2(&stream, 15 + 32) != Z_OK) throw Malformed("zlib cannot be started");
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  int status = Z_OK;
  while (status == Z_OK) {
    status = inflate(&stream, Z_FINISH);
    // A page may be several gzip members.
    if (status == Z_STREAM_END && stream.avail_in > 0 && stream.avail_out > 0) {
      status = inflateReset(&stream);
    }
  }
  const bool whole = status == Z_STREAM_END && stream.avail_out == 0;
  inflateEnd(&stream);
  if (!whole) throw Malformed("gzip data that do not unpack to what the header says");
}

// How many bytes one packed byte can stand for, at most.
std::uint64_t MaxRatio(ParquetCodec codec) {
  switch (codec) {
    case ParquetCodec::kSnappy:
      return 32;  // copies of 64 bytes take 3
    case ParquetCodec::kGzip:
      return 1040;  // deflate's limit is 1032
    case ParquetCodec::kZstd:
      return 1 << 16;  // a block of 128 KiB of one byte takes 4
    default:
      return 1;
  }
}

int LevelBits(int max_level) { return std::bit_width(static_cast<unsigned>(max_level)); }

int MaxDefinition(const ParquetNode& leaf) { return leaf.level; }

// The levels of a v1 page: a length and runs, taken from the front of `page`.
ParquetRuns TakeLevels(int max_level, std::int64_t encoding, Bytes& page) {
  if (max_level == 0) return {};
  if (encoding != static_cast<int>(ParquetEncoding::kRle)) {
    throw Malformed(
        fmt::format("levels in encoding {} are not supported", ParquetEncodingName(encoding)));
  }
  std::uint32_t size = 0;
  if (page.size() < sizeof(size)) throw Malformed("ends within its levels");
  std::memcpy(&size, page.data(), sizeof(size));
  page = page.subspan(sizeof(size));
  if (size > page.size()) throw Malformed("ends within its levels");
  const ParquetRuns runs(page.first(size), LevelBits(max_level));
  page = page.subspan(size);
  return runs;
}

}  // namespace

void ParquetUnpack(ParquetCodec codec, std::span<const std::byte> packed, std::uint64_t size,
                   std::vector<std::byte>& out) {
  if (size > packed.size() * MaxRatio(codec)) {
    throw Malformed(fmt::format("{} bytes cannot unpack to {}", packed.size(), size));
  }
  const auto* data = reinterpret_cast<const char*>(packed.data());
  std::size_t stated = 0;
  if (codec == ParquetCodec::kSnappy &&
      (!snappy::GetUncompressedLength(data, packed.size(), &stated) || stated != size)) {
    throw Malformed("snappy data of another size than the header says");
  }
  out.resize(size);
  if (codec == ParquetCodec::kSnappy) {
    if (!snappy::RawUncompress(data, packed.size(), reinterpret_cast<char*>(out.data()))) {
      throw Malformed("snappy data that do not unpack");
    }
  } else if (codec == ParquetCodec::kGzip) {
    Gunzip(packed, out);
  } else {
    const std::size_t got = ZSTD_decompress(out.data(), out.size(), data, packed.size());
    if (ZSTD_isError(got) || got != size) {
      throw Malformed("zstd data that do not unpack to what the header says");
    }
  }
}

ParquetColumn::ParquetColumn(std::span<const std::byte> file_bytes, const std::string& file,
                             const ParquetNode& leaf, const ParquetChunk& chunk, idx row_group,
                             ParquetUse& use)
    : file_(file),
      leaf_(leaf),
      chunk_(chunk),
      row_group_(row_group),
      use_(use),
      bytes_(file_bytes.subspan(chunk.offset, chunk.bytes)),
      values_left_(chunk.num_values) {
  Next();
}

ParquetColumn::~ParquetColumn() {
  use_.pages_left += page_buffer_.size() + dictionary_buffer_.size();
}

void ParquetColumn::Refuse(const std::string& what) const {
  Fail(ErrorCode::kInput, "{}: column {}: row group {}, page {}: {}", file_, Quote(leaf_.path),
       row_group_, page_, what);
}

nlohmann::ordered_json ParquetColumn::Take() {
  // Cost first: a page of few bytes may stand for any number of values.
  constexpr std::uint64_t kValueBytes = 64;
  nlohmann::ordered_json json;
  std::uint64_t cost = kValueBytes;
  if (definition_ == MaxDefinition(leaf_)) {
    try {
      const ParquetValue value = values_->Next();
      cost += value.bytes.size();
      json = ParquetToJson(leaf_, value);
    } catch (const Malformed& fault) {
      Refuse(fault.what());
    }
  }
  if (cost > use_.values_left) {
    Refuse("the file holds more values than can be read; split it into smaller files");
  }
  use_.values_left -= cost;
  Next();
  return json;
}

void ParquetColumn::Skip() {
  OPO_CHECK(definition_ < MaxDefinition(leaf_));
  Take();
}

void ParquetColumn::Next() {
  try {
    while (page_left_ == 0) {
      if (values_left_ == 0) {
        definition_ = repetition_ = -1;
        return;
      }
      NextPage();
    }
    --page_left_;
    definition_ = MaxDefinition(leaf_) == 0 ? 0 : static_cast<int>(definitions_.Next());
    repetition_ = leaf_.max_repetition == 0 ? 0 : static_cast<int>(repetitions_.Next());
    if (definition_ > MaxDefinition(leaf_) || repetition_ > leaf_.max_repetition) {
      throw Malformed(fmt::format("levels {} and {} beyond {} and {}", definition_, repetition_,
                                  MaxDefinition(leaf_), leaf_.max_repetition));
    }
  } catch (const Malformed& fault) {
    Refuse(fault.what());
  }
}

void ParquetColumn::NextPage() {
  ++page_;
  ThriftReader in(bytes_);
  const ParquetPageHeader header = ReadPageHeader(in);
  bytes_ = bytes_.subspan(in.position());
  if (header.packed < 0 || header.unpacked < 0 ||
      static_cast<std::uint64_t>(header.packed) > bytes_.size()) {
    throw Malformed(
        fmt::format("of {} bytes in a chunk with {} left", header.packed, bytes_.size()));
  }
  const Bytes packed = bytes_.first(static_cast<std::size_t>(header.packed));
  bytes_ = bytes_.subspan(packed.size());
  if (header.crc.has_value()) {
    const auto crc = crc32_z(0, reinterpret_cast<const Bytef*>(packed.data()), packed.size());
    if (static_cast<std::uint32_t>(crc) != static_cast<std::uint32_t>(*header.crc)) {
      throw Malformed("its checksum is wrong: the file is damaged");
    }
  }
  if (header.kind == kIndex) return;
  if (header.num_values < 0) throw Malformed("has no number of values");
  if (header.kind == kDictionary) return ReadDictionary(header, packed);
  if (header.kind != kData && header.kind != kDataV2) {
    throw Malformed(fmt::format("page type {} is not supported", header.kind));
  }
  if (header.num_values > values_left_) {
    throw Malformed(
        fmt::format("has {} values, the chunk only {} more", header.num_values, values_left_));
  }
  values_left_ -= header.num_values;
  page_left_ = header.num_values;
  header.kind == kData ? ReadData(header, packed) : ReadDataV2(header, packed);
}

std::span<const std::byte> ParquetColumn::Unpack(std::span<const std::byte> packed,
                                                 std::uint64_t size,
                                                 std::vector<std::byte>& buffer) {
  if (chunk_.codec == ParquetCodec::kNone) {
    if (packed.size() != size) throw Malformed("two sizes of uncompressed data");
    return packed;
  }
  use_.pages_left += buffer.size();
  buffer.clear();
  if (size > use_.pages_left) {
    throw Malformed(fmt::format("{} bytes are too many; write smaller pages", size));
  }
  ParquetUnpack(chunk_.codec, packed, size, buffer);
  use_.pages_left -= buffer.size();
  return buffer;
}

void ParquetColumn::ReadDictionary(const ParquetPageHeader& header,
                                   std::span<const std::byte> packed) {
  if (has_dictionary_) throw Malformed("is a second dictionary");
  if (header.encoding != static_cast<int>(ParquetEncoding::kPlain) &&
      header.encoding != static_cast<int>(ParquetEncoding::kPlainDictionary)) {
    throw Malformed(fmt::format("a dictionary in encoding {} is not supported",
                                ParquetEncodingName(header.encoding)));
  }
  const Bytes bytes =
      Unpack(packed, static_cast<std::uint64_t>(header.unpacked), dictionary_buffer_);
  dictionary_ = ReadParquetDictionary(leaf_, bytes, header.num_values);
  has_dictionary_ = true;
}

void ParquetColumn::ReadData(const ParquetPageHeader& header, std::span<const std::byte> packed) {
  Bytes page = Unpack(packed, static_cast<std::uint64_t>(header.unpacked), page_buffer_);
  repetitions_ = TakeLevels(leaf_.max_repetition, header.repetition_encoding, page);
  definitions_ = TakeLevels(MaxDefinition(leaf_), header.definition_encoding, page);
  values_ =
      MakeParquetDecoder(header.encoding, leaf_, page, has_dictionary_ ? &dictionary_ : nullptr);
}

void ParquetColumn::ReadDataV2(const ParquetPageHeader& header, std::span<const std::byte> packed) {
  const std::int64_t levels = header.repetition_bytes + header.definition_bytes;
  if (header.repetition_bytes < 0 || header.definition_bytes < 0 ||
      levels > std::min(header.packed, header.unpacked)) {
    throw Malformed("ends within its levels");
  }
  const auto repetition_bytes = static_cast<std::size_t>(header.repetition_bytes);
  const auto definition_bytes = static_cast<std::size_t>(header.definition_bytes);
  repetitions_ = ParquetRuns(packed.first(repetition_bytes), LevelBits(leaf_.max_repetition));
  definitions_ = ParquetRuns(packed.subspan(repetition_bytes, definition_bytes),
                             LevelBits(MaxDefinition(leaf_)));
  Bytes page = packed.subspan(repetition_bytes + definition_bytes);
  // Where all values are null there is nothing to unpack.
  if (header.compressed && header.unpacked > levels) {
    page = Unpack(page, static_cast<std::uint64_t>(header.unpacked - levels), page_buffer_);
  }
  values_ =
      MakeParquetDecoder(header.encoding, leaf_, page, has_dictionary_ ? &dictionary_ : nullptr);
}

}  // namespace opo
