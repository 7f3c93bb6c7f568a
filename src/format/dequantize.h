// The number formats inside weight files, turned into f32. The block formulas follow ggml (the
// definition of GGUF's quantised types) down to the order of operations, so the results are the
// same bits as ggml's and those of its Python package.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/types.h"

namespace opo {

// IEEE half precision to f32, exact for every finite value; infinities and NaN stay what they are.
float F16ToF32(std::uint16_t bits);

// One block of a quantised type: `elements` values in `bytes` bytes of the file.
struct BlockShape {
  idx elements = 1;
  idx bytes = 0;
};

// All: `in` holds exactly the blocks of `out`, little-endian, at any alignment.
void DequantizeF32(std::span<const std::byte> in, std::span<float> out);
void DequantizeF16(std::span<const std::byte> in, std::span<float> out);
void DequantizeBf16(std::span<const std::byte> in, std::span<float> out);
void DequantizeQ4_0(std::span<const std::byte> in, std::span<float> out);
void DequantizeQ4_1(std::span<const std::byte> in, std::span<float> out);
void DequantizeQ8_0(std::span<const std::byte> in, std::span<float> out);
void DequantizeQ6_K(std::span<const std::byte> in, std::span<float> out);

inline constexpr BlockShape kBlockF32{1, 4};
inline constexpr BlockShape kBlockF16{1, 2};
inline constexpr BlockShape kBlockBf16{1, 2};
inline constexpr BlockShape kBlockQ4_0{32, 18};    // f16 scale, 32 nibbles
inline constexpr BlockShape kBlockQ4_1{32, 20};    // f16 scale, f16 minimum, 32 nibbles
inline constexpr BlockShape kBlockQ8_0{32, 34};    // f16 scale, 32 signed bytes
inline constexpr BlockShape kBlockQ6_K{256, 210};  // 128 low nibbles, 64 high pairs, 16 i8, f16

// The first NaN or infinity, or -1 where every value is finite.
idx FindNonFinite(std::span<const float> values);

}  // namespace opo
