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

// The numbers are ggml's own, as they stand in GGUF files.
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIq4Nl = 20,
  kIq4Xs = 23,
  kBf16 = 30,
};

// A type that can be read: blocks of `elements` values in `bytes` bytes of the file.
struct GgmlTypeRow {
  GgmlType type;
  const char* name;
  idx elements;
  idx bytes;
  // `in` holds exactly the blocks of `out`, little-endian, at any alignment.
  void (*dequantize)(std::span<const std::byte> in, std::span<float> out);
};

// All of them; nullptr for a number that is not one of them.
std::span<const GgmlTypeRow> GgmlTypes();
const GgmlTypeRow* FindGgmlType(std::uint32_t number);
const GgmlTypeRow& RowOf(GgmlType type);

// Those that safetensors has too. `in` as above.
void DequantizeF32(std::span<const std::byte> in, std::span<float> out);
void DequantizeF16(std::span<const std::byte> in, std::span<float> out);
void DequantizeBf16(std::span<const std::byte> in, std::span<float> out);

// The first NaN or infinity, or -1 where every value is finite.
idx FindNonFinite(std::span<const float> values);

}  // namespace opo
