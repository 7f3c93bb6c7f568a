// Values as bytes, for messages between the ranks of one job: of one build, on one architecture.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/types.h"

namespace opo {

class Packer {
 public:
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void Put(const T& value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value)); }
  void Put(std::string_view text) { PutMany(text.data(), text.size()); }
  void Put(const std::string& text) { Put(std::string_view(text)); }
  template <class T>
  void Put(const std::vector<T>& values) {
    PutMany(values.data(), values.size());
  }
  std::string Take() { return std::move(bytes_); }

 private:
  template <class T>
  void PutMany(const T* values, std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    Put(static_cast<idx>(count));
    if (count > 0) bytes_.append(reinterpret_cast<const char*>(values), count * sizeof(T));
  }
  std::string bytes_;
};

// Reads in the order of the Puts. Bytes that do not fit are a bug of ours, and trip a check.
class Unpacker {
 public:
  explicit Unpacker(std::string_view bytes) : bytes_(bytes) {}
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void Get(T& value) { Copy(&value, 1); }
  void Get(std::string& text) {
    text.resize(Count(1));
    Copy(text.data(), text.size());
  }
  template <class T>
  void Get(std::vector<T>& values) {
    values.resize(Count(sizeof(T)));
    Copy(values.data(), values.size());
  }
  template <class T>
  T Get() {
    T value{};
    Get(value);
    return value;
  }
  bool done() const { return bytes_.empty(); }

 private:
  std::size_t Count(std::size_t size) {
    const auto count = Get<idx>();
    OPO_CHECK(count >= 0 && static_cast<std::size_t>(count) <= bytes_.size() / size);
    return static_cast<std::size_t>(count);
  }
  template <class T>
  void Copy(T* values, std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    OPO_CHECK(bytes_.size() >= count * sizeof(T));
    if (count > 0) std::memcpy(values, bytes_.data(), count * sizeof(T));
    bytes_.remove_prefix(count * sizeof(T));
  }
  std::string_view bytes_;
};

}  // namespace opo
