#include "format/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace opo {
namespace {

constexpr idx kQ8Values = 32;  // of a block of Q8_0: an f16 scale and 32 signed bytes
constexpr idx kQ8Bytes = 34;

bool IsFinite(std::uint16_t half) { return (half & 0x7c00U) != 0x7c00U; }

void Store(std::uint16_t value, std::byte* out) { std::memcpy(out, &value, sizeof(value)); }

idx QuantizeF16(std::span<const float> in, std::span<std::byte> out) {
  idx bad = -1;
  for (idx i = 0; i < std::ssize(in); ++i) {
    const std::uint16_t half = F32ToF16(in[i]);
    if (bad < 0 && !IsFinite(half)) bad = i;
    Store(half, out.data() + 2 * i);
  }
  return bad;
}

idx QuantizeBf16(std::span<const float> in, std::span<std::byte> out) {
  idx bad = -1;
  for (idx i = 0; i < std::ssize(in); ++i) {
    const bf16 x = ToBf16(in[i]);
    if (bad < 0 && !std::isfinite(ToF32(x))) bad = i;
    Store(x.bits, out.data() + 2 * i);
  }
  return bad;
}

// The largest magnitude of a block is 127 steps; values round half away from zero.
idx QuantizeQ8_0(std::span<const float> in, std::span<std::byte> out) {
  idx bad = -1;
  for (idx b = 0; b < std::ssize(in) / kQ8Values; ++b) {
    const auto values = in.subspan(b * kQ8Values, kQ8Values);
    std::byte* block = out.data() + b * kQ8Bytes;
    idx largest = 0;
    for (idx i = 0; i < kQ8Values; ++i) {
      if (std::isnan(values[largest])) break;
      if (!(std::fabs(values[i]) <= std::fabs(values[largest]))) largest = i;  // a NaN too
    }
    const float step = std::fabs(values[largest]) / 127.0F;
    const std::uint16_t scale = F32ToF16(step);
    if (bad < 0 && !IsFinite(scale)) bad = b * kQ8Values + largest;
    Store(scale, block);
    // 1/step overflows only where the scale is 0 as an f16.
    const float inverse = step == 0.0F || !std::isfinite(1.0F / step) ? 0.0F : 1.0F / step;
    for (idx i = 0; i < kQ8Values; ++i) {
      const float steps = IsFinite(scale) ? std::round(values[i] * inverse) : 0.0F;
      block[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(steps));
    }
  }
  return bad;
}

}  // namespace

std::uint16_t F32ToF16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U;                       // NaN
  } else if (magnitude >= 0x477ff000U) {  // 65520, halfway to what would be the next f16
    half = 0x7c00U;
  } else if (magnitude < 0x38800000U) {
    // Below 2^-14 the steps are 2^-24, which is the last bit of an f32 between 1/2 and 1: the sum
    // rounds as we want.
    const float sum = std::bit_cast<float>(magnitude) + 0.5F;
    half = std::bit_cast<std::uint32_t>(sum) - 0x3f000000U;
  } else {
    const std::uint32_t rebased = magnitude - 0x38000000U;  // exponent bias 127 to 15
    half = (rebased + 0xfffU + (rebased >> 13 & 1U)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

bool CanQuantizeTo(GgmlType type) {
  return type == GgmlType::kF32 || type == GgmlType::kF16 || type == GgmlType::kBf16 ||
         type == GgmlType::kQ8_0;
}

idx Quantize(GgmlType type, std::span<const float> in, std::span<std::byte> out) {
  const GgmlTypeRow& row = RowOf(type);
  OPO_CHECK(CanQuantizeTo(type) && std::ssize(in) % row.elements == 0);
  OPO_CHECK(std::ssize(out) == std::ssize(in) / row.elements * row.bytes);
  if (type == GgmlType::kF16) return QuantizeF16(in, out);
  if (type == GgmlType::kBf16) return QuantizeBf16(in, out);
  if (type == GgmlType::kQ8_0) return QuantizeQ8_0(in, out);
  if (!in.empty()) std::memcpy(out.data(), in.data(), in.size_bytes());
  return FindNonFinite(in);
}

void FailToHold(const std::string& path, const std::string& tensor, idx element, float value,
                const char* type) {
  Fail(ErrorCode::kWork,
       "{}: tensor '{}': element {} is {}, which {} cannot hold; write bf16 or f32 instead", path,
       tensor, element, value, type);
}

}  // namespace opo
