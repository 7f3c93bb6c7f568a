// The part of Thrift's compact protocol that Parquet's headers are written in, read from hostile
// bytes: every length is checked against what is left, nesting is bounded, unknown fields are
// skipped. Malformed bytes throw Malformed; the caller knows which file and place they are of.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "base/types.h"

namespace opo {

// What is wrong with some bytes, without saying where they are.
struct Malformed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class ThriftReader {
 public:
  enum Type : int {
    kTrue = 1,
    kFalse = 2,
    kByte = 3,
    kI16 = 4,
    kI32 = 5,
    kI64 = 6,
    kDouble = 7,
    kBinary = 8,
    kList = 9,
    kSet = 10,
    kMap = 11,
    kStruct = 12,
  };

  explicit ThriftReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::size_t position() const { return pos_; }

  // One struct: calls field(id, type) for each of its fields, which reads the value with the
  // functions below and returns true, or returns false to have it skipped.
  template <class F>
  void Struct(const F& field) {
    Enter();
    idx id = 0;
    for (int type = NextField(id); type != 0; type = NextField(id)) {
      if (!field(id, type)) Skip(type);
    }
    --depth_;
  }

  // A list: calls element(type) for each.
  template <class F>
  void List(int type, const F& element) {
    int element_type = 0;
    const idx count = BeginList(type, element_type);
    for (idx i = 0; i < count; ++i) element(element_type);
    --depth_;
  }

  std::int64_t Whole(int type);  // of any width
  bool Bool(int type) const;     // of a field: its type is its value
  std::string_view Binary(int type);
  void Skip(int type);
  // The type must be that of a struct: then Struct() may be called.
  static void ExpectStruct(int type);

 private:
  void Enter();
  int NextField(idx& id);  // 0 at the end of the struct
  idx BeginList(int type, int& element_type);
  std::uint8_t Byte();
  std::uint64_t Varint();

  std::span<const std::byte> bytes_;
  std::size_t pos_ = 0;
  int depth_ = 0;
};

}  // namespace opo
