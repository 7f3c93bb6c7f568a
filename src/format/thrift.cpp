#include "format/thrift.h"

#include <fmt/format.h>

namespace opo {
namespace {

constexpr int kMaxDepth = 32;

[[noreturn]] void WrongType(int type, const char* wanted) {
  throw Malformed(fmt::format("a header field of type {} where {} belongs", type, wanted));
}

std::int64_t ZigZag(std::uint64_t n) {
  return static_cast<std::int64_t>((n >> 1) ^ (~(n & 1) + 1));
}

}  // namespace

void ThriftReader::Enter() {
  if (++depth_ > kMaxDepth) throw Malformed("a header is nested too deeply");
}

std::uint8_t ThriftReader::Byte() {
  if (pos_ >= bytes_.size()) throw Malformed("a header ends in the middle of a field");
  return static_cast<std::uint8_t>(bytes_[pos_++]);
}

std::uint64_t ThriftReader::Varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const std::uint8_t byte = Byte();
    value |= std::uint64_t{byte & 0x7FU} << shift;
    if (byte < 0x80) return value;
  }
  throw Malformed("a number in a header is longer than 64 bits");
}

int ThriftReader::NextField(idx& id) {
  const std::uint8_t head = Byte();
  if (head == 0) return 0;
  const int type = head & 15;
  if (type == 0) WrongType(type, "a known type");
  id = head >> 4 != 0 ? id + (head >> 4) : ZigZag(Varint());
  if (id < -32768 || id > 32767) throw Malformed("a header field has an impossible number");
  return type;
}

idx ThriftReader::BeginList(int type, int& element_type) {
  if (type != kList && type != kSet) WrongType(type, "a list");
  Enter();
  const std::uint8_t head = Byte();
  element_type = head & 15;
  const std::uint64_t count = head >> 4 == 15 ? Varint() : head >> 4;
  // An element takes at least a byte.
  if (count > bytes_.size() - pos_) throw Malformed("a list in a header is longer than the header");
  return static_cast<idx>(count);
}

std::int64_t ThriftReader::Whole(int type) {
  if (type == kByte) return static_cast<std::int8_t>(Byte());
  if (type != kI16 && type != kI32 && type != kI64) WrongType(type, "a whole number");
  return ZigZag(Varint());
}

bool ThriftReader::Bool(int type) const {
  if (type != kTrue && type != kFalse) WrongType(type, "true or false");
  return type == kTrue;
}

std::string_view ThriftReader::Binary(int type) {
  if (type != kBinary) WrongType(type, "a text");
  const std::uint64_t size = Varint();
  if (size > bytes_.size() - pos_) throw Malformed("a text in a header is longer than the header");
  const auto* data = reinterpret_cast<const char*>(bytes_.data()) + pos_;
  pos_ += size;
  return {data, size};
}

void ThriftReader::ExpectStruct(int type) {
  if (type != kStruct) WrongType(type, "a struct");
}

void ThriftReader::Skip(int type) {
  switch (type) {
    case kTrue:
    case kFalse:
      return;
    case kByte:
    case kI16:
    case kI32:
    case kI64:
      Whole(type);
      return;
    case kDouble:
      for (int i = 0; i < 8; ++i) Byte();
      return;
    case kBinary:
      Binary(type);
      return;
    case kList:
    case kSet:
      // Within a list a bool has a byte of its own.
      return List(type, [this](int element) { element <= kFalse ? void(Byte()) : Skip(element); });
    case kMap: {
      Enter();
      const std::uint64_t count = Varint();
      if (count > bytes_.size() - pos_) throw Malformed("a map in a header is longer than it");
      const int types = count > 0 ? Byte() : 0;
      for (std::uint64_t i = 0; i < count; ++i) {
        for (const int part : {types >> 4, types & 15}) part <= kFalse ? void(Byte()) : Skip(part);
      }
      --depth_;
      return;
    }
    case kStruct:
      return Struct([](idx, int) { return false; });
    default:
      WrongType(type, "a known type");
  }
}

}  // namespace opo
