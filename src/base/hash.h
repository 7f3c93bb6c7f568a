// Digests that users see and runs compare: XXH3-128, as 32 hex digits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace opo {

class Digest {
 public:
  Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;
  ~Digest();
  void Add(std::span<const std::byte> bytes);
  template <class T>
  void Add(std::span<const T> values) {
    Add(std::as_bytes(values));
  }
  std::string Hex() const;

 private:
  void* state_;
};

std::string HexDigest(std::string_view bytes);
std::uint64_t Hash64(std::string_view bytes);

}  // namespace opo
