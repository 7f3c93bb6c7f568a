// A Parquet file of one column, byte by byte, right and wrong on purpose.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace opo {

// Thrift's compact protocol, as far as headers need it.
class ThriftBuilder {
 public:
  ThriftBuilder& I32(int id, std::int64_t value) { return Field(id, 5).Zig(value); }
  ThriftBuilder& I64(int id, std::int64_t value) { return Field(id, 6).Zig(value); }
  ThriftBuilder& Bool(int id, bool value) { return Field(id, value ? 1 : 2); }
  ThriftBuilder& Text(int id, std::string_view text) {
    Field(id, 8).Var(text.size());
    data_ += text;
    return *this;
  }
  ThriftBuilder& Struct(int id, const ThriftBuilder& inner) {
    Field(id, 12);
    data_ += inner.Stop();
    return *this;
  }
  ThriftBuilder& Structs(int id, const std::vector<ThriftBuilder>& list) {
    return Structs(id, list, list.size());
  }
  // A list that says it has `count` elements.
  ThriftBuilder& Structs(int id, const std::vector<ThriftBuilder>& list, std::uint64_t count) {
    Field(id, 9);
    data_ += static_cast<char>(0xFC);
    Var(count);
    for (const ThriftBuilder& element : list) data_ += element.Stop();
    return *this;
  }
  std::string Stop() const { return data_ + '\0'; }

 private:
  ThriftBuilder& Field(int id, int type) {
    data_ += static_cast<char>((id - last_) << 4 | type);
    last_ = id;
    return *this;
  }
  ThriftBuilder& Zig(std::int64_t value) {
    return Var(static_cast<std::uint64_t>(value) << 1 ^ static_cast<std::uint64_t>(value >> 63));
  }
  ThriftBuilder& Var(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) data_ += static_cast<char>(value | 0x80);
    data_ += static_cast<char>(value);
    return *this;
  }

  std::string data_;
  int last_ = 0;
};

struct ParquetBuilder {
  // The root's fields: by default one required INT32 "x".
  std::vector<ThriftBuilder> schema = {ThriftBuilder().I32(1, 1).I32(3, 0).Text(4, "x")};
  int root_fields = 1;
  int type = 1, codec = 0;
  std::int64_t num_values = 2, num_rows = 2, footer_rows = 2;
  std::int64_t offset = 4, chunk_bytes = -1;  // -1: the size of `pages`
  std::string pages;
  std::uint64_t row_group_count = 1;
  bool crypto = false;

  static std::string Int32s(const std::vector<std::int32_t>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * 4};
  }
  // A page of kind v1 with its header. Sizes of -1: that of `body`.
  static std::string Page(const std::string& body, std::int64_t values, int encoding = 0,
                          std::int64_t unpacked = -1, std::int64_t packed = -1) {
    const auto size = static_cast<std::int64_t>(body.size());
    return ThriftBuilder()
               .I32(1, 0)
               .I32(2, unpacked < 0 ? size : unpacked)
               .I32(3, packed < 0 ? size : packed)
               .Struct(5, ThriftBuilder().I32(1, values).I32(2, encoding).I32(3, 3).I32(4, 3))
               .Stop() +
           body;
  }
  static std::string Dictionary(const std::string& body, std::int64_t values) {
    const auto size = static_cast<std::int64_t>(body.size());
    return ThriftBuilder()
               .I32(1, 2)
               .I32(2, size)
               .I32(3, size)
               .Struct(7, ThriftBuilder().I32(1, values).I32(2, 0))
               .Stop() +
           body;
  }
  // Levels or indices, one run of RLE after the other, with the length before it.
  static std::string Levels(const std::vector<std::pair<int, int>>& runs) {
    std::string body;
    for (const auto& [count, value] : runs) {
      body += static_cast<char>(count << 1);
      body += static_cast<char>(value);
    }
    return Int32s({static_cast<std::int32_t>(body.size())}) + body;
  }

  std::string Build() const {
    std::vector<ThriftBuilder> elements = {ThriftBuilder().Text(4, "schema").I32(5, root_fields)};
    elements.insert(elements.end(), schema.begin(), schema.end());
    ThriftBuilder meta;
    meta.I32(1, type).I32(4, codec).I64(5, num_values);
    meta.I64(7, chunk_bytes < 0 ? static_cast<std::int64_t>(pages.size()) : chunk_bytes);
    meta.I64(9, offset);
    ThriftBuilder chunk;
    chunk.I64(2, 0).Struct(3, meta);
    if (crypto) chunk.Struct(8, ThriftBuilder());
    const ThriftBuilder group = ThriftBuilder().Structs(1, {chunk}).I64(2, 0).I64(3, num_rows);
    const std::string footer = ThriftBuilder()
                                   .I32(1, 1)
                                   .Structs(2, elements)
                                   .I64(3, footer_rows)
                                   .Structs(4, {group}, row_group_count)
                                   .Stop();
    return "PAR1" + pages + footer + Int32s({static_cast<std::int32_t>(footer.size())}) + "PAR1";
  }
};

}  // namespace opo
