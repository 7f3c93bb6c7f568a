#include "base/hash.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace opo
