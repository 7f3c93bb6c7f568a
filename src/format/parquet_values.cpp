#include "format/parquet_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "base/utf8.h"
#include "format/thrift.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;
using Bytes = std::span<const std::byte>;

[[noreturn]] void TooFew() { throw Malformed("holds fewer values than it says"); }

std::string_view AsText(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Reads from the front of what is left.
class Cursor {
 public:
  Cursor() = default;
  explicit Cursor(Bytes bytes) : bytes_(bytes) {}
  Bytes Take(std::uint64_t count) {
    if (count > bytes_.size()) TooFew();
    const Bytes taken = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return taken;
  }
  template <class T>
  T Read() {
    T value;
    std::memcpy(&value, Take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::uint64_t Varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = Read<std::uint8_t>();
      value |= std::uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    throw Malformed("a number is longer than 64 bits");
  }
  std::int64_t ZigZag() {
    const std::uint64_t n = Varint();
    return static_cast<std::int64_t>((n >> 1) ^ (~(n & 1) + 1));
  }
  Bytes left() const { return bytes_; }

 private:
  Bytes bytes_;
};

// `width` bits (up to 64) from bit `at` on, lowest first. REQUIRES that they are there.
std::uint64_t Bits(Bytes bytes, std::uint64_t at, int width) {
  std::uint64_t value = 0;
  for (int got = 0; got < width;) {
    const auto byte = static_cast<std::uint64_t>(bytes[at >> 3]);
    const int skip = static_cast<int>(at & 7);
    const int take = std::min(8 - skip, width - got);
    value |= (byte >> skip & ((1U << take) - 1)) << got;
    got += take;
    at += static_cast<std::uint64_t>(take);
  }
  return value;
}

class PlainBools : public ParquetDecoder {
 public:
  explicit PlainBools(Bytes bytes) : bytes_(bytes) {}
  ParquetValue Next() override {
    if (at_ / 8 >= bytes_.size()) TooFew();
    return {static_cast<std::int64_t>(Bits(bytes_, at_++, 1)), 0, {}};
  }

 private:
  Bytes bytes_;
  std::uint64_t at_ = 0;
};

class Plain : public ParquetDecoder {
 public:
  Plain(const ParquetNode& leaf, Bytes bytes) : leaf_(leaf), in_(bytes) {}
  ParquetValue Next() override {
    switch (leaf_.type) {
      case ParquetType::kInt32:
        return {in_.Read<std::int32_t>(), 0, {}};
      case ParquetType::kInt64:
        return {in_.Read<std::int64_t>(), 0, {}};
      case ParquetType::kFloat:
        return {0, double{in_.Read<float>()}, {}};
      case ParquetType::kDouble:
        return {0, in_.Read<double>(), {}};
      case ParquetType::kFixed:
        return {0, 0, AsText(in_.Take(static_cast<std::uint64_t>(leaf_.length)))};
      default:
        return {0, 0, AsText(in_.Take(in_.Read<std::uint32_t>()))};
    }
  }

 private:
  const ParquetNode& leaf_;
  Cursor in_;
};

class RunBools : public ParquetDecoder {
 public:
  explicit RunBools(Bytes bytes) {
    Cursor in(bytes);
    runs_ = ParquetRuns(in.Take(in.Read<std::uint32_t>()), 1);
  }
  ParquetValue Next() override { return {runs_.Next(), 0, {}}; }

 private:
  ParquetRuns runs_;
};

class DictionaryValues : public ParquetDecoder {
 public:
  DictionaryValues(Bytes bytes, const std::vector<ParquetValue>& dictionary)
      : dictionary_(dictionary) {
    // A page without values may be empty.
    if (bytes.empty()) return;
    runs_ = ParquetRuns(bytes.subspan(1), static_cast<int>(bytes[0]));
  }
  ParquetValue Next() override {
    const std::uint32_t i = runs_.Next();
    if (i >= dictionary_.size()) {
      throw Malformed(fmt::format("entry {} of a dictionary of {}", i, dictionary_.size()));
    }
    return dictionary_[i];
  }

 private:
  const std::vector<ParquetValue>& dictionary_;
  ParquetRuns runs_;
};

// DELTA_BINARY_PACKED: blocks of miniblocks of differences. Arithmetic wraps, as the format says.
class Deltas {
 public:
  Deltas() = default;
  explicit Deltas(Bytes bytes) : in_(bytes) {
    block_ = in_.Varint();
    miniblocks_ = in_.Varint();
    left_ = in_.Varint();
    value_ = static_cast<std::uint64_t>(in_.ZigZag());
    if (block_ == 0 || block_ % 128 != 0 || block_ > kMaxBlock || miniblocks_ == 0 ||
        block_ % miniblocks_ != 0 || block_ / miniblocks_ % 32 != 0) {
      throw Malformed(fmt::format("delta blocks of {} values in {} parts", block_, miniblocks_));
    }
    at_ = PerMiniblock();
  }

  std::int64_t Next() {
    if (left_ == 0) TooFew();
    --left_;
    if (std::exchange(first_, false)) return static_cast<std::int64_t>(value_);
    if (at_ == PerMiniblock()) NextMiniblock();
    value_ += min_delta_ + Bits(packed_, at_++ * static_cast<std::uint64_t>(width_), width_);
    return static_cast<std::int64_t>(value_);
  }

  // What stands behind the deltas. Leaves them unread.
  Bytes Behind() const {
    Deltas copy = *this;
    // The first value stands in the header.
    for (std::uint64_t packed = left_ > 0 ? left_ - 1 : 0; packed > 0;) {
      copy.NextMiniblock();
      packed -= std::min(packed, PerMiniblock());
    }
    // The widths of miniblocks that are not needed are there, their values are not.
    return copy.in_.left();
  }

 private:
  static constexpr std::uint64_t kMaxBlock = 1 << 24;

  std::uint64_t PerMiniblock() const { return block_ / miniblocks_; }

  void NextMiniblock() {
    if (miniblock_ == widths_.size()) {
      min_delta_ = static_cast<std::uint64_t>(in_.ZigZag());
      widths_ = in_.Take(miniblocks_);
      miniblock_ = 0;
    }
    width_ = static_cast<int>(widths_[miniblock_++]);
    if (width_ > 64) throw Malformed(fmt::format("a delta of {} bits", width_));
    packed_ = in_.Take(PerMiniblock() / 8 * static_cast<std::uint64_t>(width_));
    at_ = 0;
  }

  Cursor in_;
  std::uint64_t block_ = 128, miniblocks_ = 4;  // values a block, miniblocks a block
  std::uint64_t left_ = 0;
  std::uint64_t value_ = 0, min_delta_ = 0;
  bool first_ = true;
  Bytes widths_;  // of this block's miniblocks
  std::size_t miniblock_ = 0;
  Bytes packed_;
  int width_ = 0;
  std::uint64_t at_ = 32;  // in the miniblock
};

class DeltaWholes : public ParquetDecoder {
 public:
  DeltaWholes(Bytes bytes, bool is_32) : deltas_(bytes), is_32_(is_32) {}
  ParquetValue Next() override {
    const std::int64_t value = deltas_.Next();
    return {is_32_ ? static_cast<std::int32_t>(value) : value, 0, {}};
  }

 private:
  Deltas deltas_;
  bool is_32_;
};

// DELTA_LENGTH_BYTE_ARRAY: all lengths, then all bytes.
class DeltaLengths : public ParquetDecoder {
 public:
  DeltaLengths() = default;
  explicit DeltaLengths(Bytes bytes) : lengths_(bytes), data_(lengths_.Behind()) {}
  ParquetValue Next() override {
    const std::int64_t length = lengths_.Next();
    if (length < 0) throw Malformed("a negative length");
    return {0, 0, AsText(data_.Take(static_cast<std::uint64_t>(length)))};
  }

 private:
  Deltas lengths_;
  Cursor data_;
};

// DELTA_BYTE_ARRAY: how much of the value before is kept, then the rest as above.
class DeltaTexts : public ParquetDecoder {
 public:
  DeltaTexts(const ParquetNode& leaf, Bytes bytes)
      : leaf_(leaf), prefixes_(bytes), suffixes_(prefixes_.Behind()) {}
  ParquetValue Next() override {
    const std::int64_t keep = prefixes_.Next();
    if (keep < 0 || static_cast<std::uint64_t>(keep) > value_.size()) {
      throw Malformed("a prefix that is longer than the value before");
    }
    value_.resize(static_cast<std::size_t>(keep));
    value_ += suffixes_.Next().bytes;
    if (leaf_.type == ParquetType::kFixed &&
        value_.size() != static_cast<std::size_t>(leaf_.length)) {
      throw Malformed(
          fmt::format("a value of {} bytes instead of {}", value_.size(), leaf_.length));
    }
    return {0, 0, value_};
  }

 private:
  const ParquetNode& leaf_;
  Deltas prefixes_;
  DeltaLengths suffixes_;
  std::string value_;
};

// BYTE_STREAM_SPLIT: the first bytes of all values, then the second ones, and so on.
class SplitStreams : public ParquetDecoder {
 public:
  SplitStreams(const ParquetNode& leaf, Bytes bytes) : leaf_(leaf), bytes_(bytes) {
    const bool wide = leaf.type == ParquetType::kInt64 || leaf.type == ParquetType::kDouble;
    width_ = leaf.type == ParquetType::kFixed ? static_cast<std::size_t>(leaf.length)
             : wide                           ? 8
                                              : 4;
    count_ = bytes.size() / width_;
  }
  ParquetValue Next() override {
    if (at_ == count_) TooFew();
    value_.resize(width_);
    for (std::size_t i = 0; i < width_; ++i) {
      value_[i] = static_cast<char>(bytes_[i * count_ + at_]);
    }
    ++at_;
    if (leaf_.type == ParquetType::kFixed) return {0, 0, value_};
    return Plain(leaf_, std::as_bytes(std::span(value_))).Next();
  }

 private:
  const ParquetNode& leaf_;
  Bytes bytes_;
  std::size_t width_ = 0, count_ = 0, at_ = 0;
  std::string value_;
};

// The proleptic Gregorian date of a day counted from 1970-01-01 (Howard Hinnant's
// civil_from_days, in the public domain).
std::string Date(std::int64_t days) {
  days += 719468;
  const std::int64_t era = (days >= 0 ? days : days - 146096) / 146097;
  const std::int64_t day_of_era = days - era * 146097;
  const std::int64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const std::int64_t day_of_year =
      day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const std::int64_t shifted = (5 * day_of_year + 2) / 153;
  const std::int64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
  const std::int64_t year = year_of_era + era * 400 + (month <= 2 ? 1 : 0);
  return fmt::format("{:04}-{:02}-{:02}", year, month, day_of_year - (153 * shifted + 2) / 5 + 1);
}

// `ticks` of 10^-digits seconds since midnight; the fraction only where it is not zero.
std::string TimeOfDay(std::int64_t ticks, int digits) {
  std::int64_t unit = 1;
  for (int i = 0; i < digits; ++i) unit *= 10;
  const std::int64_t seconds = ticks / unit;
  std::string text =
      fmt::format("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
  if (ticks % unit != 0) text += fmt::format(".{:0{}}", ticks % unit, digits);
  return text;
}

std::string Timestamp(const ParquetNode& leaf, std::int64_t ticks) {
  std::int64_t day = 86400;
  for (int i = 0; i < leaf.digits; ++i) day *= 10;
  std::int64_t days = ticks / day;
  std::int64_t rest = ticks % day;
  if (rest < 0) {
    rest += day;
    --days;
  }
  return Date(days) + "T" + TimeOfDay(rest, leaf.digits) + (leaf.utc ? "Z" : "");
}

std::string Decimal(const ParquetNode& leaf, const ParquetValue& value) {
  __int128 number = value.whole;
  if (leaf.type == ParquetType::kBytes || leaf.type == ParquetType::kFixed) {
    if (value.bytes.empty() || value.bytes.size() > 16) {
      throw Malformed(fmt::format("a decimal of {} bytes", value.bytes.size()));
    }
    unsigned __int128 bits = (value.bytes[0] & 0x80) != 0 ? ~static_cast<unsigned __int128>(0) : 0;
    for (const char c : value.bytes) bits = bits << 8 | static_cast<unsigned char>(c);
    number = static_cast<__int128>(bits);
  }
  const bool negative = number < 0;
  auto rest = static_cast<unsigned __int128>(number);
  if (negative) rest = ~rest + 1;
  std::string digits;
  for (; rest != 0; rest /= 10) digits += static_cast<char>('0' + static_cast<int>(rest % 10));
  const auto scale = static_cast<std::size_t>(leaf.scale);
  while (digits.size() <= scale) digits += '0';
  std::reverse(digits.begin(), digits.end());
  if (scale > 0) digits.insert(digits.size() - scale, ".");
  return (negative ? "-" : "") + digits;
}

double Half(std::string_view bytes) {
  const auto low = static_cast<unsigned char>(bytes[0]);
  const auto high = static_cast<unsigned char>(bytes[1]);
  const unsigned bits = low | static_cast<unsigned>(high) << 8;
  const int exponent = static_cast<int>(bits >> 10 & 31);
  const double fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return fraction == 0 ? sign * HUGE_VAL : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

Json Real(double value) {
  if (std::isnan(value)) return nullptr;
  if (std::isinf(value)) throw Malformed("an infinite number, which JSON does not have");
  return value;
}

Json Text(std::string_view bytes) {
  if (!IsUtf8(bytes)) {
    throw Malformed("bytes that are not UTF-8 text; leave such a column out of the file");
  }
  return std::string(bytes);
}

}  // namespace

ParquetRuns::ParquetRuns(std::span<const std::byte> bytes, int bit_width)
    : bytes_(bytes), width_(bit_width) {
  if (width_ > 32) throw Malformed(fmt::format("values of {} bits", width_));
}

void ParquetRuns::ReadRun() {
  Cursor in(bytes_.subspan(pos_));
  const std::uint64_t header = in.Varint();
  packed_ = (header & 1) != 0;
  if (packed_) {
    // Groups of 8 values, `width_` bytes each. A last group may be cut short.
    const std::uint64_t groups = header >> 1;
    const std::size_t size = in.left().size();
    bit_ = (bytes_.size() - size) * 8;
    if (width_ == 0 || groups <= size / static_cast<std::size_t>(width_)) {
      left_ = groups > (std::uint64_t{1} << 60) ? std::uint64_t{1} << 63 : groups * 8;
      in.Take(groups * static_cast<std::uint64_t>(width_));
    } else {
      left_ = size * 8 / static_cast<std::size_t>(width_);
      in.Take(size);
    }
  } else {
    left_ = header >> 1;
    value_ = 0;
    const Bytes stored = in.Take(static_cast<std::uint64_t>(width_ + 7) / 8);
    for (std::size_t i = 0; i < stored.size(); ++i) {
      value_ |= static_cast<std::uint32_t>(stored[i]) << (8 * i);
    }
  }
  pos_ = bytes_.size() - in.left().size();
}

std::uint32_t ParquetRuns::Next() {
  while (left_ == 0) {
    if (pos_ == bytes_.size()) TooFew();
    ReadRun();
  }
  --left_;
  if (!packed_) return value_;
  const auto value = static_cast<std::uint32_t>(Bits(bytes_, bit_, width_));
  bit_ += static_cast<std::uint64_t>(width_);
  return value;
}

std::unique_ptr<ParquetDecoder> MakeParquetDecoder(std::int64_t encoding, const ParquetNode& leaf,
                                                   std::span<const std::byte> bytes,
                                                   const std::vector<ParquetValue>* dictionary) {
  const ParquetType type = leaf.type;
  const bool is_whole = type == ParquetType::kInt32 || type == ParquetType::kInt64;
  const bool is_bytes = type == ParquetType::kBytes;
  const bool is_fixed = type == ParquetType::kFixed;
  switch (static_cast<ParquetEncoding>(encoding)) {
    case ParquetEncoding::kPlain:
      if (type == ParquetType::kBool) return std::make_unique<PlainBools>(bytes);
      return std::make_unique<Plain>(leaf, bytes);
    case ParquetEncoding::kPlainDictionary:
    case ParquetEncoding::kRleDictionary:
      if (dictionary == nullptr) throw Malformed("needs a dictionary, and the column has none");
      return std::make_unique<DictionaryValues>(bytes, *dictionary);
    case ParquetEncoding::kRle:
      if (type == ParquetType::kBool) return std::make_unique<RunBools>(bytes);
      break;
    case ParquetEncoding::kDeltaBinaryPacked:
      if (is_whole) return std::make_unique<DeltaWholes>(bytes, type == ParquetType::kInt32);
      break;
    case ParquetEncoding::kDeltaLengthByteArray:
      if (is_bytes) return std::make_unique<DeltaLengths>(bytes);
      break;
    case ParquetEncoding::kDeltaByteArray:
      if (is_bytes || is_fixed) return std::make_unique<DeltaTexts>(leaf, bytes);
      break;
    case ParquetEncoding::kByteStreamSplit:
      if (!is_bytes && type != ParquetType::kBool) {
        return std::make_unique<SplitStreams>(leaf, bytes);
      }
      break;
    default:
      throw Malformed(fmt::format("encoding {} is not supported", ParquetEncodingName(encoding)));
  }
  throw Malformed(
      fmt::format("encoding {} on a type that it is not for", ParquetEncodingName(encoding)));
}

std::vector<ParquetValue> ReadParquetDictionary(const ParquetNode& leaf,
                                                std::span<const std::byte> bytes, idx count) {
  if (leaf.type == ParquetType::kBool) throw Malformed("a dictionary of bools");
  // An entry takes at least a byte, so what is reserved is bounded by the page.
  if (count < 0 || static_cast<std::uint64_t>(count) > bytes.size()) TooFew();
  std::vector<ParquetValue> values;
  values.reserve(static_cast<std::size_t>(count));
  Plain plain(leaf, bytes);
  for (idx i = 0; i < count; ++i) values.push_back(plain.Next());
  return values;
}

Json ParquetToJson(const ParquetNode& leaf, const ParquetValue& value) {
  switch (leaf.meaning) {
    case ParquetMeaning::kText:
      return Text(value.bytes);
    case ParquetMeaning::kDecimal:
      return Decimal(leaf, value);
    case ParquetMeaning::kDate:
      return Date(value.whole);
    case ParquetMeaning::kTime: {
      std::int64_t day = 86400;
      for (int i = 0; i < leaf.digits; ++i) day *= 10;
      if (value.whole < 0 || value.whole > day) throw Malformed("a time outside of the day");
      return TimeOfDay(value.whole, leaf.digits);
    }
    case ParquetMeaning::kTimestamp:
      return Timestamp(leaf, value.whole);
    case ParquetMeaning::kUuid: {
      std::string text;
      for (std::size_t i = 0; i < value.bytes.size(); ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
        text += fmt::format("{:02x}", static_cast<unsigned char>(value.bytes[i]));
      }
      return text;
    }
    case ParquetMeaning::kHalf:
      return Real(Half(value.bytes));
    case ParquetMeaning::kUnsigned:
      if (leaf.type == ParquetType::kInt32) return static_cast<std::uint32_t>(value.whole);
      return static_cast<std::uint64_t>(value.whole);
    case ParquetMeaning::kAsStored:
      break;
  }
  if (leaf.type == ParquetType::kBool) return value.whole != 0;
  if (leaf.type == ParquetType::kFloat || leaf.type == ParquetType::kDouble) {
    return Real(value.real);
  }
  return value.whole;
}

}  // namespace opo
