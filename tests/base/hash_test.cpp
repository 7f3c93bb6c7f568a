#include "base/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace opo {
namespace {

// xxhsum -H2 of an empty input, and of "abc" (xxHash 0.8).
TEST(HexDigest, AgreesWithXxhsum) {
  EXPECT_EQ(HexDigest(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(HexDigest("abc"), "06b05ab6733a618578af5f94892f3950");
}

TEST(Digest, PartsAreTheWhole) {
  Digest parts;
  parts.Add(std::as_bytes(std::span<const char>("ab", 2)));
  parts.Add(std::as_bytes(std::span<const char>("c", 1)));
  EXPECT_EQ(parts.Hex(), HexDigest("abc"));
  EXPECT_EQ(parts.Hex(), parts.Hex()) << "asking changes nothing";
}

TEST(Digest, SeesTheSignOfZeroAndTheOrder) {
  const auto hex = [](const std::vector<float>& values) {
    Digest digest;
    digest.Add(std::span<const float>(values));
    return digest.Hex();
  };
  EXPECT_NE(hex({0.0f}), hex({-0.0f}));
  EXPECT_NE(hex({1.0f, 2.0f}), hex({2.0f, 1.0f}));
}

TEST(Hash64, IsXxh3) { EXPECT_EQ(Hash64(""), 0x2d06800538d394c2U); }

// A plain loop over blocks; and pieces, as ranks would take them.
TEST(SlabDigest, IsTheDigestOfTheBlocksDigests) {
  for (const std::size_t size : {0UL, 1UL, 4095UL, 4096UL, 4097UL, 19000UL}) {
    std::vector<float> slab(size);
    for (std::size_t i = 0; i < size; ++i) slab[i] = static_cast<float>(i) * 0.37f;
    std::string joined;
    for (std::size_t first = 0; first < size; first += 4096) {
      const std::size_t floats = std::min<std::size_t>(4096, size - first);
      const std::string hex =
          HexDigest({reinterpret_cast<const char*>(slab.data() + first), floats * sizeof(float)});
      for (std::size_t i = 0; i < hex.size(); i += 2) {
        joined += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
      }
    }
    EXPECT_EQ(SlabDigest(slab), HexDigest(joined)) << size;
    const idx blocks = static_cast<idx>((size + 4095) / 4096);
    for (idx cut = 0; cut <= blocks; ++cut) {
      std::vector<BlockDigest> parts = DigestBlocks(slab, 0, cut);
      const std::vector<BlockDigest> rest = DigestBlocks(slab, cut, blocks);
      parts.insert(parts.end(), rest.begin(), rest.end());
      EXPECT_EQ(JoinDigests(parts), SlabDigest(slab)) << size << " cut at " << cut;
    }
    if (size == 0) continue;
    std::vector<float> flipped = slab;
    flipped.back() = -flipped.back();
    flipped.front() += 1;
    EXPECT_NE(SlabDigest(flipped), SlabDigest(slab)) << size;
  }
}

}  // namespace
}  // namespace opo
