// Files in memory, byte by byte, right and wrong on purpose.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace opo {

class ByteBuilder {
 public:
  template <class T>
  ByteBuilder& Put(T value) {
    const auto* p = reinterpret_cast<const char*>(&value);
    data_.append(p, sizeof(T));
    return *this;
  }
  ByteBuilder& Raw(std::string_view text) {
    data_ += text;
    return *this;
  }
  ByteBuilder& String(std::string_view text) {  // as GGUF stores it
    return Put<std::uint64_t>(text.size()).Raw(text);
  }
  const std::string& data() const { return data_; }

 private:
  std::string data_;
};

inline std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// A GGUF whose every part can be overridden. Tensors are laid out by Build() unless `offset` is
// set.
struct GgufBuilder {
  struct Tensor {
    std::string name;
    std::vector<std::uint64_t> dims;
    std::uint32_t type = 0;
    std::string data;
    std::int64_t offset = -1;
  };

  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;  // of the layout; the key is only written where a test adds it
  std::int64_t num_tensors = -1;
  std::int64_t num_keys = -1;
  std::vector<std::string> keys;  // key, type and value, encoded
  std::vector<Tensor> tensors;

  GgufBuilder& Key(std::string_view key, std::uint32_t type, const std::string& value) {
    keys.push_back(ByteBuilder().String(key).Put(type).Raw(value).data());
    return *this;
  }
  GgufBuilder& U32(std::string_view key, std::uint32_t value) {
    return Key(key, 4, ByteBuilder().Put(value).data());
  }
  GgufBuilder& F32(std::string_view key, float value) {
    return Key(key, 6, ByteBuilder().Put(value).data());
  }
  GgufBuilder& Bool(std::string_view key, bool value) {
    return Key(key, 7, ByteBuilder().Put<std::uint8_t>(value ? 1 : 0).data());
  }
  GgufBuilder& Str(std::string_view key, std::string_view value) {
    return Key(key, 8, ByteBuilder().String(value).data());
  }
  GgufBuilder& Floats(const std::string& name, std::vector<std::uint64_t> dims,
                      const std::vector<float>& values) {
    std::string data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    tensors.push_back({name, std::move(dims), 0, std::move(data), -1});
    return *this;
  }

  std::string Build() const {
    ByteBuilder file;
    file.Raw(magic).Put(version);
    file.Put<std::int64_t>(num_tensors >= 0 ? num_tensors : std::ssize(tensors));
    file.Put<std::int64_t>(num_keys >= 0 ? num_keys : std::ssize(keys));
    for (const std::string& key : keys) file.Raw(key);
    std::uint64_t end = 0;
    std::string data;
    for (const Tensor& tensor : tensors) {
      file.String(tensor.name).Put(static_cast<std::uint32_t>(tensor.dims.size()));
      for (const std::uint64_t dim : tensor.dims) file.Put(dim);
      data.resize(end, '\0');
      file.Put(tensor.type)
          .Put(tensor.offset >= 0 ? tensor.offset : static_cast<std::int64_t>(end));
      data += tensor.data;
      end = (data.size() + alignment - 1) / alignment * alignment;
    }
    std::string bytes = file.data();
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
    return bytes + data;
  }
};

inline std::string MakeSafetensors(std::string_view header, std::string_view data) {
  return ByteBuilder().Put<std::uint64_t>(header.size()).Raw(header).Raw(data).data();
}

}  // namespace opo
