// The scalar twin of the processor's tile unit: what the manual's pseudocode says of LDTILECFG,
// TILERELEASE, TILEZERO, TILELOADD, TILESTORED and TDPBF16PS, on any machine. For tests only; what
// would be a fault of the processor (#GP, #UD) ends the program. Included by tile_gemm.h.
#pragma once

#include "kernels/simd.h"

namespace opo::OPO_ISA {
namespace {  // each file has tiles of its own

struct TwinRegisters {
  bool configured;
  TileConfig config;
  std::uint32_t tile[8][16][16];  // rows of 16 words; a row is 64 bytes
};
thread_local TwinRegisters twin_registers;

// f32 as TDPBF16PS computes it: rounded to nearest even, whatever MXCSR says, with denormal inputs
// and denormal results as zeros of their sign. NaNs are NaNs; their payload is not specified.
OPO_INLINE float TwinFlush(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  return (bits & 0x7f800000U) == 0 ? __builtin_bit_cast(float, bits & 0x80000000U) : x;
}
OPO_INLINE float TwinFma(float a, float b, float c) {
  a = TwinFlush(a);
  b = TwinFlush(b);
  c = TwinFlush(c);
  const float sum = __builtin_fmaf(a, b, c);
  if (__builtin_fabsf(sum) == 0x1p-126f) {
    // x86 asks after rounding, with an exponent as small as it takes, whether a result is denormal:
    // just below the least normal number that is another question than fmaf's. The factors are
    // small here, or the sum could not be.
    const float scaled = __builtin_fmaf(a * 0x1p64f, b, c * 0x1p64f);
    return __builtin_fabsf(scaled) < 0x1p-62f ? __builtin_copysignf(0.0f, sum) : sum;
  }
  return TwinFlush(sum);
}
OPO_INLINE float TwinAdd(float a, float b) { return TwinFma(a, 1.0f, b); }

struct TwinTile {
  static void Require(bool fine) {
    if (!fine) __builtin_trap();
  }
  static void Configure(const TileConfig& config) {
    TwinRegisters& r = twin_registers;
    Require(config.palette == 1 && config.start_row == 0);
    for (int i = 0; i < 14; ++i) Require(config.reserved[i] == 0);
    for (int t = 0; t < 16; ++t) {
      Require(config.rows[t] <= 16 && config.row_bytes[t] <= 64);
      Require((config.rows[t] == 0) == (config.row_bytes[t] == 0));
      if (t >= 8) Require(config.rows[t] == 0);
    }
    r = {};
    r.configured = true;
    r.config = config;
  }
  static void Release() { twin_registers = {}; }

  template <int kTo>
  static void Zero() {
    Use(kTo);
    __builtin_memset(twin_registers.tile[kTo], 0, sizeof(twin_registers.tile[kTo]));
  }
  template <int kTo>
  static void Load(const void* base, idx stride) {
    Zero<kTo>();
    TwinRegisters& r = twin_registers;
    for (int row = 0; row < r.config.rows[kTo]; ++row) {
      __builtin_memcpy(r.tile[kTo][row], static_cast<const char*>(base) + row * stride,
                       r.config.row_bytes[kTo]);
    }
  }
  template <int kFrom>
  static void Store(void* base, idx stride) {
    Use(kFrom);
    const TwinRegisters& r = twin_registers;
    for (int row = 0; row < r.config.rows[kFrom]; ++row) {
      __builtin_memcpy(static_cast<char*>(base) + row * stride, r.tile[kFrom][row],
                       r.config.row_bytes[kFrom]);
    }
  }
  template <int kSum, int kLeft, int kRight>
  static void MultiplyAdd() {
    static_assert(kSum != kLeft && kSum != kRight && kLeft != kRight);
    Use(kSum);
    Use(kLeft);
    Use(kRight);
    TwinRegisters& r = twin_registers;
    const TileConfig& config = r.config;
    Require(config.rows[kSum] == config.rows[kLeft]);
    Require(config.row_bytes[kSum] == config.row_bytes[kRight]);
    Require(config.row_bytes[kLeft] == 4 * config.rows[kRight]);
    Require(config.row_bytes[kSum] % 4 == 0);
    const int columns = config.row_bytes[kSum] / 4;
    for (int m = 0; m < config.rows[kSum]; ++m) {
      float even[16] = {};
      float odd[16] = {};
      for (int k = 0; k < config.row_bytes[kLeft] / 4; ++k) {
        const std::uint32_t left = r.tile[kLeft][m][k];
        for (int n = 0; n < columns; ++n) {
          const std::uint32_t right = r.tile[kRight][k][n];
          even[n] = TwinFma(Low(left), Low(right), even[n]);
          odd[n] = TwinFma(High(left), High(right), odd[n]);
        }
      }
      for (int n = 0; n < columns; ++n) {
        const auto sum = __builtin_bit_cast(float, r.tile[kSum][m][n]);
        r.tile[kSum][m][n] =
            __builtin_bit_cast(std::uint32_t, TwinAdd(sum, TwinAdd(even[n], odd[n])));
      }
      for (int n = columns; n < 16; ++n) r.tile[kSum][m][n] = 0;
    }
    for (int m = config.rows[kSum]; m < 16; ++m) {
      __builtin_memset(r.tile[kSum][m], 0, sizeof(r.tile[kSum][m]));
    }
  }

 private:
  static void Use(int tile) {
    Require(twin_registers.configured && twin_registers.config.rows[tile] > 0);
  }
  static float Low(std::uint32_t pair) { return __builtin_bit_cast(float, pair << 16); }
  static float High(std::uint32_t pair) { return __builtin_bit_cast(float, pair & 0xffff0000U); }
};
using PathTile = TwinTile;

}  // namespace
}  // namespace opo::OPO_ISA
