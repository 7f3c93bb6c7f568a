#include "format/dequantize.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"

namespace opo {
namespace {

static_assert(std::endian::native == std::endian::little, "weight files are read in place");

const std::uint8_t* Bytes(std::span<const std::byte> in) {
  return reinterpret_cast<const std::uint8_t*>(in.data());
}

float HalfAt(const std::uint8_t* p) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof(bits));
  return F16ToF32(bits);
}

// Number of blocks, after checking that both sides agree; a disagreement is the caller's bug.
idx NumBlocks(std::span<const std::byte> in, std::span<const float> out, BlockShape shape) {
  const idx n = std::ssize(out) / shape.elements;
  OPO_CHECK(n * shape.elements == std::ssize(out) && n * shape.bytes == std::ssize(in));
  return n;
}

}  // namespace

float F16ToF32(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fU;
  const std::uint32_t mantissa = bits & 0x3ffU;
  // Subnormals by a conversion and a product, both exact, so that no f32 subnormal is ever formed
  // and the result does not depend on the processor's flush-to-zero mode.
  const auto subnormal = std::bit_cast<std::uint32_t>(static_cast<float>(mantissa) * 0x1p-24F);
  const std::uint32_t wide = exponent == 0x1fU ? 0xffU : exponent + 112U;
  const std::uint32_t normal = wide << 23 | mantissa << 13;
  return std::bit_cast<float>(sign | (exponent == 0 ? subnormal : normal));
}

void DequantizeF32(std::span<const std::byte> in, std::span<float> out) {
  NumBlocks(in, out, kBlockF32);
  if (!in.empty()) std::memcpy(out.data(), in.data(), in.size());
}

void DequantizeF16(std::span<const std::byte> in, std::span<float> out) {
  const idx n = NumBlocks(in, out, kBlockF16);
  for (idx i = 0; i < n; ++i) out[i] = HalfAt(Bytes(in) + 2 * i);
}

void DequantizeBf16(std::span<const std::byte> in, std::span<float> out) {
  const idx n = NumBlocks(in, out, kBlockBf16);
  for (idx i = 0; i < n; ++i) {
    bf16 x;
    std::memcpy(&x.bits, Bytes(in) + 2 * i, sizeof(x.bits));
    out[i] = ToF32(x);
  }
}

// The low nibbles hold the first 16 values of a block, the high nibbles the last 16.
void DequantizeQ4_0(std::span<const std::byte> in, std::span<float> out) {
  const idx n = NumBlocks(in, out, kBlockQ4_0);
  for (idx b = 0; b < n; ++b) {
    const std::uint8_t* block = Bytes(in) + b * kBlockQ4_0.bytes;
    float* y = out.data() + b * kBlockQ4_0.elements;
    const float scale = HalfAt(block);
    const std::uint8_t* q = block + 2;
    for (int j = 0; j < 16; ++j) {
      y[j] = static_cast<float>((q[j] & 0xf) - 8) * scale;
      y[j + 16] = static_cast<float>((q[j] >> 4) - 8) * scale;
    }
  }
}

void DequantizeQ4_1(std::span<const std::byte> in, std::span<float> out) {
  const idx n = NumBlocks(in, out, kBlockQ4_1);
  for (idx b = 0; b < n; ++b) {
    const std::uint8_t* block = Bytes(in) + b * kBlockQ4_1.bytes;
    float* y = out.data() + b * kBlockQ4_1.elements;
    const float scale = HalfAt(block);
    const float minimum = HalfAt(block + 2);
    const std::uint8_t* q = block + 4;
    for (int j = 0; j < 16; ++j) {
      y[j] = static_cast<float>(q[j] & 0xf) * scale + minimum;
      y[j + 16] = static_cast<float>(q[j] >> 4) * scale + minimum;
    }
  }
}

void DequantizeQ8_0(std::span<const std::byte> in, std::span<float> out) {
  const idx n = NumBlocks(in, out, kBlockQ8_0);
  for (idx b = 0; b < n; ++b) {
    const std::uint8_t* block = Bytes(in) + b * kBlockQ8_0.bytes;
    float* y = out.data() + b * kBlockQ8_0.elements;
    const float scale = HalfAt(block);
    for (int j = 0; j < 32; ++j) {
      y[j] = static_cast<float>(static_cast<std::int8_t>(block[2 + j])) * scale;
    }
  }
}

// Two halves of 128 values. Quarter k of a half takes nibble k/2 of bytes 32*(k%2)+l of `low`, bits
// 2k and 2k+1 of byte l of `high`, and scale 2k + l/16.
void DequantizeQ6_K(std::span<const std::byte> in, std::span<float> out) {
  const idx n = NumBlocks(in, out, kBlockQ6_K);
  for (idx b = 0; b < n; ++b) {
    const std::uint8_t* block = Bytes(in) + b * kBlockQ6_K.bytes;
    float* y = out.data() + b * kBlockQ6_K.elements;
    const float scale = HalfAt(block + 208);
    for (int half = 0; half < 2; ++half) {
      const std::uint8_t* low = block + 64 * half;
      const std::uint8_t* high = block + 128 + 32 * half;
      const std::uint8_t* scales = block + 192 + 8 * half;
      for (int k = 0; k < 4; ++k) {
        for (int l = 0; l < 32; ++l) {
          const int nibble = low[32 * (k % 2) + l] >> (4 * (k / 2)) & 0xf;
          const int q = (nibble | (high[l] >> (2 * k) & 3) << 4) - 32;
          const auto sub = static_cast<float>(static_cast<std::int8_t>(scales[2 * k + l / 16]));
          y[128 * half + 32 * k + l] = scale * sub * static_cast<float>(q);
        }
      }
    }
  }
}

idx FindNonFinite(std::span<const float> values) {
  constexpr std::uint32_t kExponent = 0x7f800000U;
  constexpr idx kChunk = 1024;  // a branchless pass a chunk; the place is sought only on a hit
  for (idx first = 0; first < std::ssize(values); first += kChunk) {
    const auto chunk = values.subspan(first, std::min(kChunk, std::ssize(values) - first));
    std::uint32_t bad = 0;
    for (const float x : chunk) {
      bad |= (std::bit_cast<std::uint32_t>(x) & kExponent) == kExponent ? 1U : 0U;
    }
    if (bad == 0) continue;
    for (idx i = 0; i < std::ssize(chunk); ++i) {
      if ((std::bit_cast<std::uint32_t>(chunk[i]) & kExponent) == kExponent) return first + i;
    }
  }
  return -1;
}

}  // namespace opo
