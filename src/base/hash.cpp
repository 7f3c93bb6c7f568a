#include "base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>
// The same digests, by the vector unit that this machine has.
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

#include <algorithm>
#include <cstring>

#include "base/parallel.h"

namespace opo {

Digest::Digest() : state_(XXH3_createState()) {
  XXH3_128bits_reset(static_cast<XXH3_state_t*>(state_));
}
Digest::~Digest() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }
void Digest::Add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state_), bytes.data(), bytes.size());
}
std::string Digest::Hex() const {
  const XXH128_hash_t h = XXH3_128bits_digest(static_cast<const XXH3_state_t*>(state_));
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

std::string HexDigest(std::string_view bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}
std::uint64_t Hash64(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }
std::uint64_t Hash64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::vector<BlockDigest> DigestBlocks(std::span<const float> slab, idx begin, idx end) {
  std::vector<BlockDigest> digests(static_cast<std::size_t>(end - begin));
  const idx size = static_cast<idx>(slab.size());
  ParallelFor(end - begin, [&](idx i) {
    const idx first = (begin + i) * kDigestBlock;
    const idx floats = std::min(kDigestBlock, size - first);
    const XXH128_hash_t h =
        XXH3_128bits(slab.data() + first, static_cast<std::size_t>(floats) * sizeof(float));
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, h);
    std::memcpy(digests[static_cast<std::size_t>(i)].data(), canonical.digest, sizeof(canonical));
  });
  return digests;
}

std::string JoinDigests(std::span<const BlockDigest> blocks) {
  Digest digest;
  digest.Add(std::as_bytes(blocks));
  return digest.Hex();
}

std::string SlabDigest(std::span<const float> slab) {
  return JoinDigests(DigestBlocks(slab, 0, CeilDiv(static_cast<idx>(slab.size()), kDigestBlock)));
}

}  // namespace opo
