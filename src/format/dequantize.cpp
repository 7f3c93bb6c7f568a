#include "format/dequantize.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

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

// The formulas: one block at `in` to its values. The compiler is told not to contract, so the
// products and sums round as they are written.

constexpr std::int8_t Signed(std::uint8_t byte) { return static_cast<std::int8_t>(byte); }

void F32Block(const std::uint8_t* in, float* out) { std::memcpy(out, in, sizeof(float)); }

void F16Block(const std::uint8_t* in, float* out) { *out = HalfAt(in); }

void Bf16Block(const std::uint8_t* in, float* out) {
  bf16 x;
  std::memcpy(&x.bits, in, sizeof(x.bits));
  *out = ToF32(x);
}

// Blocks of 32. The low nibbles hold the first 16 values, the high nibbles the last 16; types of
// five bits have the fifth of value i in bit i of a word of their own.
template <class Value>
void Nibbles(const std::uint8_t* low, const Value& value, float* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = value(j, low[j] & 0xf);
    out[j + 16] = value(j + 16, low[j] >> 4);
  }
}

int FifthBit(const std::uint8_t* high, int i) { return (high[i / 8] >> (i % 8) & 1) << 4; }

// f16 scale, 32 nibbles
void Q4_0Block(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in);
  Nibbles(
      in + 2, [&](int, int q) { return static_cast<float>(q - 8) * scale; }, out);
}

// f16 scale, f16 minimum, 32 nibbles
void Q4_1Block(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in);
  const float minimum = HalfAt(in + 2);
  Nibbles(
      in + 4, [&](int, int q) { return static_cast<float>(q) * scale + minimum; }, out);
}

// f16 scale, 32 fifth bits, 32 nibbles
void Q5_0Block(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in);
  const auto value = [&](int i, int q) {
    return static_cast<float>((q | FifthBit(in + 2, i)) - 16) * scale;
  };
  Nibbles(in + 6, value, out);
}

// f16 scale, f16 minimum, 32 fifth bits, 32 nibbles
void Q5_1Block(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in);
  const float minimum = HalfAt(in + 2);
  const auto value = [&](int i, int q) {
    return static_cast<float>(q | FifthBit(in + 4, i)) * scale + minimum;
  };
  Nibbles(in + 8, value, out);
}

// f16 scale, 32 signed bytes
void Q8_0Block(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in);
  for (int j = 0; j < 32; ++j) out[j] = static_cast<float>(Signed(in[2 + j])) * scale;
}

// The values that the nibbles of IQ4 stand for.
constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                        1,    13,   25,  38,  53,  69,  89,  113};

// f16 scale, 32 nibbles
void Iq4NlBlock(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in);
  Nibbles(
      in + 2, [&](int, int q) { return scale * static_cast<float>(kIq4Values[q]); }, out);
}

// Blocks of 256.

// f16 scale, 8 high pairs of scales, 8 low nibbles of scales, 256 nibbles in groups of 32
void Iq4XsBlock(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in);
  for (int group = 0; group < 8; ++group) {
    const int high = in[2 + group / 4] >> (2 * (group % 4)) & 3;
    const int low = in[4 + group / 2] >> (4 * (group % 2)) & 0xf;
    const float sub = scale * static_cast<float>((low | high << 4) - 32);
    const auto value = [&](int, int q) { return sub * static_cast<float>(kIq4Values[q]); };
    Nibbles(in + 8 + 16 * group, value, out + 32 * group);
  }
}

// 16 pairs of scale and minimum, 256 values of two bits, f16 scale and minimum of those. Groups of
// 16 values: four of them (32 bytes, four shifts) to a half.
void Q2_KBlock(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in + 80);
  const float minimum = HalfAt(in + 82);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int q = in[16 + 32 * half + i % 32] >> (2 * (i % 128 / 32)) & 3;
    const std::uint8_t group = in[i / 16];
    const float sub = scale * static_cast<float>(group & 0xf);
    out[i] = sub * static_cast<float>(q) - minimum * static_cast<float>(group >> 4);
  }
}

// 256 high bits (bit i/32 of byte i%32; where it is off, 4 is taken away), 256 values of two bits
// as in Q2_K, 16 scales of six bits (8 bytes of low nibbles, 4 of high pairs), f16 scale
void Q3_KBlock(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in + 108);
  const std::uint8_t* scales = in + 96;
  float subs[16];
  for (int group = 0; group < 16; ++group) {
    const int low = scales[group % 8] >> (4 * (group / 8)) & 0xf;
    const int high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
    subs[group] = scale * static_cast<float>((low | high << 4) - 32);
  }
  for (int i = 0; i < 256; ++i) {
    const int low = in[32 + 32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3;
    const int bit = in[i % 32] >> (i / 32) & 1;
    out[i] = subs[i / 16] * static_cast<float>(low - 4 * (1 - bit));
  }
}

// The scale and minimum of group `j` of Q4_K and Q5_K, six bits each: the first four groups' in the
// low bits of bytes 0-3 and 4-7, the others' in the nibbles of bytes 8-11 and the high pairs left.
std::pair<float, float> SubScales(const std::uint8_t* scales, int j) {
  int scale = scales[j % 4] & 0x3f;
  int minimum = scales[4 + j % 4] & 0x3f;
  if (j >= 4) {
    scale = (scales[4 + j] & 0xf) | (scales[j - 4] >> 6) << 4;
    minimum = scales[4 + j] >> 4 | (scales[j] >> 6) << 4;
  }
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

// f16 scale, f16 minimum, 8 scales and minima, [256 fifth bits: bit j of byte l], 256 nibbles.
// Groups of 32 values; two groups share 32 bytes, low nibbles first.
template <bool kFive>
void Q4or5_KBlock(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in);
  const float minimum = HalfAt(in + 2);
  const std::uint8_t* high = in + 16;
  const std::uint8_t* low = high + (kFive ? 32 : 0);
  for (int j = 0; j < 8; ++j) {
    const auto [sub, sub_minimum] = SubScales(in + 4, j);
    const float group_scale = scale * sub;
    const float group_minimum = minimum * sub_minimum;
    for (int l = 0; l < 32; ++l) {
      int q = low[32 * (j / 2) + l] >> (4 * (j % 2)) & 0xf;
      if (kFive) q |= (high[l] >> j & 1) << 4;
      out[32 * j + l] = group_scale * static_cast<float>(q) - group_minimum;
    }
  }
}

// 128 low nibbles, 64 high pairs, 16 signed scales, f16 scale. Two halves of 128 values: quarter k
// of a half takes nibble k/2 of bytes 32*(k%2)+l of `low`, bits 2k and 2k+1 of byte l of `high`,
// and scale 2k + l/16.
void Q6_KBlock(const std::uint8_t* in, float* out) {
  const float scale = HalfAt(in + 208);
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* low = in + 64 * half;
    const std::uint8_t* high = in + 128 + 32 * half;
    const std::uint8_t* scales = in + 192 + 8 * half;
    for (int k = 0; k < 4; ++k) {
      for (int l = 0; l < 32; ++l) {
        const int nibble = low[32 * (k % 2) + l] >> (4 * (k / 2)) & 0xf;
        const int q = (nibble | (high[l] >> (2 * k) & 3) << 4) - 32;
        const auto sub = static_cast<float>(Signed(scales[2 * k + l / 16]));
        out[128 * half + 32 * k + l] = scale * sub * static_cast<float>(q);
      }
    }
  }
}

// All blocks of a span, after checking that both sides agree; a disagreement is the caller's bug.
template <idx kElements, idx kBytes, void (*kBlock)(const std::uint8_t*, float*)>
void Dequantize(std::span<const std::byte> in, std::span<float> out) {
  const idx n = std::ssize(out) / kElements;
  OPO_CHECK(n * kElements == std::ssize(out) && n * kBytes == std::ssize(in));
  for (idx b = 0; b < n; ++b) kBlock(Bytes(in) + b * kBytes, out.data() + b * kElements);
}

template <idx kElements, idx kBytes, void (*kBlock)(const std::uint8_t*, float*)>
constexpr GgmlTypeRow Row(GgmlType type, const char* name) {
  return {type, name, kElements, kBytes, Dequantize<kElements, kBytes, kBlock>};
}

constexpr GgmlTypeRow kTypes[] = {
    Row<1, 4, F32Block>(GgmlType::kF32, "F32"),
    Row<1, 2, F16Block>(GgmlType::kF16, "F16"),
    Row<1, 2, Bf16Block>(GgmlType::kBf16, "BF16"),
    Row<32, 34, Q8_0Block>(GgmlType::kQ8_0, "Q8_0"),
    Row<32, 18, Q4_0Block>(GgmlType::kQ4_0, "Q4_0"),
    Row<32, 20, Q4_1Block>(GgmlType::kQ4_1, "Q4_1"),
    Row<32, 22, Q5_0Block>(GgmlType::kQ5_0, "Q5_0"),
    Row<32, 24, Q5_1Block>(GgmlType::kQ5_1, "Q5_1"),
    Row<256, 84, Q2_KBlock>(GgmlType::kQ2_K, "Q2_K"),
    Row<256, 110, Q3_KBlock>(GgmlType::kQ3_K, "Q3_K"),
    Row<256, 144, Q4or5_KBlock<false>>(GgmlType::kQ4_K, "Q4_K"),
    Row<256, 176, Q4or5_KBlock<true>>(GgmlType::kQ5_K, "Q5_K"),
    Row<256, 210, Q6_KBlock>(GgmlType::kQ6_K, "Q6_K"),
    Row<32, 18, Iq4NlBlock>(GgmlType::kIq4Nl, "IQ4_NL"),
    Row<256, 136, Iq4XsBlock>(GgmlType::kIq4Xs, "IQ4_XS"),
};

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

std::span<const GgmlTypeRow> GgmlTypes() { return kTypes; }

const GgmlTypeRow* FindGgmlType(std::uint32_t number) {
  for (const GgmlTypeRow& row : kTypes) {
    if (static_cast<std::uint32_t>(row.type) == number) return &row;
  }
  return nullptr;
}

const GgmlTypeRow& RowOf(GgmlType type) {
  const GgmlTypeRow* row = FindGgmlType(static_cast<std::uint32_t>(type));
  OPO_CHECK(row != nullptr);
  return *row;
}

void DequantizeF32(std::span<const std::byte> in, std::span<float> out) {
  RowOf(GgmlType::kF32).dequantize(in, out);
}

void DequantizeF16(std::span<const std::byte> in, std::span<float> out) {
  RowOf(GgmlType::kF16).dequantize(in, out);
}

void DequantizeBf16(std::span<const std::byte> in, std::span<float> out) {
  RowOf(GgmlType::kBf16).dequantize(in, out);
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
