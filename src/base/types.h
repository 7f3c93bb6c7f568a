// The number types that every room shares.
#pragma once

#include <bit>
#include <cstdint>

namespace opo {

using idx = std::int64_t;      // every count, index and size
using TokenId = std::int32_t;  // a vocabulary entry

// bfloat16: the upper half of an f32. Conversion rounds to nearest, ties to even; NaN stays NaN.
struct bf16 {
  std::uint16_t bits;
};

inline float ToF32(float x) { return x; }
inline float ToF32(bf16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
inline bf16 ToBf16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffU) > 0x7f800000U) return {static_cast<std::uint16_t>((u >> 16) | 0x40U)};
  return {static_cast<std::uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16)};
}

template <class T>
T FromF32(float x);
template <>
inline float FromF32<float>(float x) {
  return x;
}
template <>
inline bf16 FromF32<bf16>(float x) {
  return ToBf16(x);
}

enum class DType { kF32, kBf16, kF16 };  // kF16 is for files only, nothing computes in it

inline constexpr idx RoundUp(idx n, idx multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
inline constexpr idx CeilDiv(idx n, idx d) { return (n + d - 1) / d; }

}  // namespace opo
