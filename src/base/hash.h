// Digests that users see and runs compare: XXH3-128, as 32 hex digits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

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
std::uint64_t Hash64(std::span<const std::byte> bytes);

// The digest of a slab that can be had in pieces: XXH3-128 over the XXH3-128 digests of its blocks
// of kDigestBlock floats (the last one may be shorter), each 16 bytes, big-endian. Who holds some
// of the blocks, as a rank does, digests those; whoever has all of the digests joins them.
inline constexpr idx kDigestBlock = 4096;
using BlockDigest = std::array<std::byte, 16>;
// Of the blocks [begin, end), on all threads. `slab` is the whole slab.
std::vector<BlockDigest> DigestBlocks(std::span<const float> slab, idx begin, idx end);
std::string JoinDigests(std::span<const BlockDigest> blocks);
std::string SlabDigest(std::span<const float> slab);

}  // namespace opo
