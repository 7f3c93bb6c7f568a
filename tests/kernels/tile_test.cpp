// The products of the amx path: the scalar twin against another reading of the manual, and the
// processor's tiles against the twin.
#include <immintrin.h>

#include <memory>

#include "kernels/isa_test.h"

namespace opo {
namespace {

const float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

// One row of `a` times the columns of w, as the manual's pseudocode of TDPBF16PS has it: "FP32 FMA
// with DAZ=FTZ=1, RNE rounding", here with this processor's own FMA in just that mode.
__attribute__((target("fma"), noinline)) void Emulate(const bf16* a, const Rows<bf16>& w, idx num_k,
                                                      float* c) {
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(0x1f80 | 0x8040);  // all exceptions masked, nearest even; FTZ, DAZ
  for (idx n = 0; n < w.num_rows; ++n) {
    __m128 acc = _mm_set_ss(c[n]);
    for (idx block = 0; block < num_k; block += 32) {
      __m128 temp[2] = {_mm_setzero_ps(), _mm_setzero_ps()};
      for (idx k = block; k < std::min(num_k, block + 32); ++k) {
        __m128& t = temp[k % 2];
        t = _mm_fmadd_ss(_mm_set_ss(ToF32(a[k])), _mm_set_ss(ToF32(w.row(n)[k])), t);
      }
      acc = _mm_add_ss(acc, _mm_add_ss(temp[0], temp[1]));
    }
    c[n] = _mm_cvtss_f32(acc);
  }
  _mm_setcsr(mode);
}

// Operands of a product with one panel. The rows of `a` end where the contract lets them end: an
// even number of k, no pads.
struct Operands {
  idx num_k;
  Rows<bf16> a, w;
  Rows<float> start;
  Buffer<bf16> packed;
  Operands(idx num_rows, idx k)
      : num_k(k),
        a(num_rows, k, RoundUp(k, 2)),
        w(32, k),
        start(num_rows, 32),
        packed(PackedSize(32, k)) {}
  void Pack(const Kernels& kernels) {
    Rows<float> values(w.num_rows, num_k);
    for (idx n = 0; n < w.num_rows; ++n) {
      for (idx k = 0; k < num_k; ++k) values.row(n)[k] = ToF32(w.row(n)[k]);
    }
    kernels.b16.pack(packed.data(), values.data.data(), values.ld, 32, num_k, 0, 1);
  }
  // k in [k0, k1), continuing from c or from zero.
  void Run(const Kernels& kernels, idx k0, idx k1, bool from_c, Rows<float>& c) const {
    GemmArgs<bf16> args;
    args.a = a.data.data() + k0;
    args.lda = a.ld;
    args.b = packed.data() + k0 * kPanel;
    args.m = a.num_rows;
    args.n = 32;
    args.k = k1 - k0;
    args.output = from_c ? GemmOutput::kAccumulateF32 : GemmOutput::kStoreF32;
    args.c = c.data.data();
    args.ldc = c.ld;
    Buffer<float> scratch(kGemmScratch);
    for (idx m = 0; m < args.m; m += kGemmRows) {
      kernels.b16.gemm(args, m, std::min(args.m, m + kGemmRows), 0, 1, scratch.data());
    }
  }
  Rows<float> Whole(const Kernels& kernels, bool from_c) const {
    Rows<float> c(a.num_rows, 32);
    for (idx i = 0; i < c.data.size(); ++i) c.data[i] = from_c ? start.data[i] : kNan;
    Run(kernels, 0, num_k, from_c, c);
    return c;
  }
};

// Plain numbers; numbers whose products and sums lie around the least normal one, with denormals
// among them; numbers up to the greatest, whose sums overflow.
enum class Kind { kPlain, kTiny, kHuge };

void Fill(Rows<bf16>& rows, std::uint32_t stream, Kind kind) {
  for (idx i = 0; i < rows.data.size(); ++i) {
    const auto bits = Philox4x32({static_cast<std::uint32_t>(i), stream, 0, 0}, {17, 19});
    const std::uint32_t sign = bits[0] & 0x8000U;
    const std::uint32_t mantissa = bits[1] & 0x7fU;
    std::uint32_t exponent = 120 + bits[2] % 8;
    if (kind == Kind::kTiny) exponent = bits[3] % 8 == 0 ? 0 : 60 + bits[2] % 8;
    if (kind == Kind::kHuge) exponent = bits[3] % 4 == 0 ? 250 + bits[2] % 5 : 120;
    rows.data[i] = {static_cast<std::uint16_t>(sign | exponent << 7 | mantissa)};
  }
}
void Fill(Rows<float>& rows, std::uint32_t stream, Kind kind) {
  const float scale = kind == Kind::kTiny ? 0x1p-124f : kind == Kind::kHuge ? 0x1p127f : 1.0f;
  for (idx i = 0; i < rows.data.size(); ++i) {
    rows.data[i] = scale * static_cast<float>(Draw(stream, i));
  }
}

Operands Make(idx num_rows, idx num_k, Kind kind) {
  Operands operands(num_rows, num_k);
  Fill(operands.a, 21, kind);
  Fill(operands.w, 22, kind);
  Fill(operands.start, 23, kind);
  // The contract: `a` is zero up to an even number of k.
  for (idx r = 0; r < num_rows && num_k % 2 == 1; ++r) operands.a.row(r)[num_k] = {0};
  return operands;
}

// The same bits, where all NaNs count as one: the manual does not say which one comes out.
bool SameNumbers(const Rows<float>& x, const Rows<float>& y) {
  for (idx i = 0; i < x.data.size(); ++i) {
    if (std::isnan(x.data[i]) && std::isnan(y.data[i])) continue;
    if (!SameBits(&x.data[i], &y.data[i], 1)) return false;
  }
  return x.data.size() == y.data.size();
}

class TileTest : public testing::Test {
 protected:
  Kernels twin_ = AmxTwinKernels();
};

TEST_F(TileTest, TheTwinIsTheManualsPseudocode) {
  if (!__builtin_cpu_supports("fma")) GTEST_SKIP() << "this machine has no FMA to compare with";
  idx flushed = 0;
  idx infinite = 0;
  for (const Kind kind : {Kind::kPlain, Kind::kTiny, Kind::kHuge}) {
    for (const idx m : {1, 15, 16, 17, 31, 32, 33, 70}) {
      for (const idx k : {1, 2, 30, 31, 32, 34, 50, 64, 95, 576}) {
        for (const bool from_c : {false, true}) {
          Operands operands = Make(m, k, kind);
          operands.Pack(twin_);
          const Rows<float> got = operands.Whole(twin_, from_c);
          Rows<float> want(m, 32);
          for (idx r = 0; r < m; ++r) {
            std::copy_n(operands.start.row(r), from_c ? 32 : 0, want.row(r));
            Emulate(operands.a.row(r), operands.w, k, want.row(r));
          }
          ASSERT_TRUE(SameNumbers(got, want))
              << m << " rows, " << k << " k, kind " << static_cast<int>(kind) << ", " << from_c;
          for (idx i = 0; i < got.data.size(); ++i) {
            flushed += kind == Kind::kTiny && got.data[i] == 0 ? 1 : 0;
            infinite += std::isfinite(got.data[i]) ? 0 : 1;
          }
        }
      }
    }
  }
  EXPECT_GT(flushed, 0) << "nothing was flushed to zero";
  EXPECT_GT(infinite, 0) << "nothing overflowed";
}

TEST_F(TileTest, DenormalsAreZeroAsInputsAndAsResults) {
  const auto product = [&](float a, float b, float start) {
    Operands operands(1, 2);
    operands.a.row(0)[0] = ToBf16(a);
    operands.w.row(0)[0] = ToBf16(b);
    operands.start.row(0)[0] = start;
    operands.Pack(twin_);
    return operands.Whole(twin_, true).row(0)[0];
  };
  EXPECT_EQ(product(0x1p-63f, 0x1p-63f, 0), 0x1p-126f);
  EXPECT_EQ(product(0x1p-63f, 0x1p-64f, 0), 0);
  EXPECT_EQ(product(0x1p-63f, 0x1p-64f, 0x1p-126f), 0x1p-126f) << "the product is flushed first";
  EXPECT_EQ(product(0x1p-130f, 0x1p100f, 0), 0) << "a denormal input";
  EXPECT_EQ(product(1, 1, 0x1p-130f), 1);
  EXPECT_EQ(product(0, 1, 0x1p-130f), 0) << "a denormal sum from memory";
  EXPECT_TRUE(std::isnan(product(kInf, 0x1p-130f, 0))) << "infinity times zero";
  EXPECT_EQ(product(kInf, -2, 1), -kInf);
  EXPECT_TRUE(std::isnan(product(kNan, 0, 1)));
}

// 2^-126 - d, with d from below half a unit of the denormals to above half of one of the least
// normal numbers: whether it is denormal is asked after rounding.
TEST_F(TileTest, DenormalIsWhatIsSoAfterRounding) {
  if (!__builtin_cpu_supports("fma")) GTEST_SKIP() << "this machine has no FMA to compare with";
  idx flushed = 0;
  for (const float d : {0x1p-77f, 0x1.fp-77f, 0x1p-76f, 0x1.02p-76f, 0x1.8p-76f, 0x1.fep-76f,
                        0x1p-75f, 0x1.02p-75f, 0x1p-74f}) {
    Operands operands(1, 4);
    operands.a.row(0)[0] = operands.w.row(0)[0] = ToBf16(0x1p-63f);
    operands.a.row(0)[2] = ToBf16(0x1p-75f);
    operands.w.row(0)[2] = ToBf16(-d);
    operands.Pack(twin_);
    Rows<float> want(1, 32);
    Emulate(operands.a.row(0), operands.w, 4, want.row(0));
    const Rows<float> got = operands.Whole(twin_, false);
    EXPECT_TRUE(SameBits(got.data, want.data)) << d << ": " << got.data[0];
    flushed += got.data[0] == 0 ? 1 : 0;
  }
  EXPECT_EQ(flushed, 6);
}

TEST_F(TileTest, ARowsBitsDoNotDependOnHowManyThereAre) {
  for (const idx k : {50, 576}) {
    Operands all = Make(70, k, Kind::kPlain);
    all.Pack(twin_);
    const Rows<float> want = all.Whole(twin_, true);
    for (idx m = 1; m <= 70; ++m) {
      Operands part(m, k);
      part.packed = std::move(all.packed);
      for (idx r = 0; r < m; ++r) {
        std::copy_n(all.a.row((r * 11 + m) % 70), all.a.ld, part.a.row(r));
        std::copy_n(all.start.row((r * 11 + m) % 70), 32, part.start.row(r));
      }
      const Rows<float> got = part.Whole(twin_, true);
      for (idx r = 0; r < m; ++r) {
        ASSERT_TRUE(SameBits(got.row(r), want.row((r * 11 + m) % 70), 32)) << r << " of " << m;
      }
      all.packed = std::move(part.packed);
    }
  }
}

TEST_F(TileTest, AChainGoesOnThroughMemoryAtMultiplesOf32) {
  for (const Kind kind : {Kind::kPlain, Kind::kTiny}) {
    for (const idx k : {50, 96, 576}) {
      Operands operands = Make(37, k, kind);
      operands.Pack(twin_);
      const Rows<float> whole = operands.Whole(twin_, false);
      for (const idx step : {32, 64, 320}) {
        Rows<float> c(37, 32);
        for (idx k0 = 0; k0 < k; k0 += step) {
          operands.Run(twin_, k0, std::min(k, k0 + step), k0 > 0, c);
        }
        ASSERT_TRUE(SameBits(whole.data, c.data)) << k << " in steps of " << step;
      }
    }
  }
  // The control: a cut elsewhere is another sum.
  Operands operands = Make(37, 96, Kind::kPlain);
  operands.Pack(twin_);
  Rows<float> c(37, 32);
  operands.Run(twin_, 0, 16, false, c);
  operands.Run(twin_, 16, 96, true, c);
  EXPECT_FALSE(SameBits(operands.Whole(twin_, false).data, c.data)) << "a cut went unnoticed";
}

// Behind the rows, behind k, and in the panel's rows behind k stands anything at all.
TEST_F(TileTest, GarbageAroundTheOperandsDoesNotMatter) {
  for (const float garbage : {1e30f, kInf, kNan}) {
    for (const idx k : {1, 2, 16, 30, 34, 50, 63}) {
      for (const idx m : {1, 5, 16, 17, 32, 40}) {
        Operands clean = Make(m, k, Kind::kPlain);
        clean.Pack(twin_);
        const Rows<float> want = clean.Whole(twin_, true);
        Operands dirty(m + 20, k);
        dirty.a = Rows<bf16>(m + 20, k, 128);
        for (idx i = 0; i < dirty.a.data.size(); ++i) dirty.a.data[i] = ToBf16(garbage);
        for (idx r = 0; r < m; ++r) {
          std::copy_n(clean.a.row(r), RoundUp(k, 2), dirty.a.row(r));
          std::copy_n(clean.start.row(r), 32, dirty.start.row(r));
        }
        std::copy_n(clean.packed.data(), clean.packed.size(), dirty.packed.data());
        for (idx i = RoundUp(k, 2) * kPanel; i < dirty.packed.size(); ++i) {
          dirty.packed[i] = ToBf16(garbage);
        }
        dirty.a.num_rows = m;
        Rows<float> c(m, 32);
        std::copy_n(dirty.start.row(0), c.data.size(), c.data.data());
        dirty.Run(twin_, 0, k, true, c);
        ASSERT_TRUE(SameBits(want.data, c.data)) << m << " rows, " << k << " k, " << garbage;
      }
    }
  }
}

void CompareWithTheTwin(const Kernels& amx, const Kernels& twin) {
  for (const Kind kind : {Kind::kPlain, Kind::kTiny, Kind::kHuge}) {
    for (const idx m : {1, 15, 16, 17, 31, 32, 33, 70}) {
      for (const idx k : {1, 2, 30, 31, 32, 34, 50, 64, 95, 576}) {
        for (const bool from_c : {false, true}) {
          Operands operands = Make(m, k, kind);
          operands.Pack(twin);
          ASSERT_TRUE(SameNumbers(operands.Whole(amx, from_c), operands.Whole(twin, from_c)))
              << m << " rows, " << k << " k, kind " << static_cast<int>(kind) << ", " << from_c;
        }
      }
    }
  }
}

TEST_F(TileTest, TheProcessorsTilesHaveTheTwinsBits) {
  if (!IsaPaths().front().available) {
    GTEST_SKIP() << "this machine has no AMX: its tiles were not compared with their twin";
  }
  CompareWithTheTwin(AmxKernels(), twin_);
}

// Shows that the compiled instructions say what the source means, and nothing of a processor.
TEST_F(TileTest, TheAmxPathOnEmulatedTilesHasTheTwinsBits) {
  if (IsaPaths().front().available) GTEST_SKIP() << "this machine has AMX: nothing to emulate";
  if (!AmxEmulator::RowKernelsRun()) GTEST_SKIP() << "this machine cannot run the path's AVX-512";
  AmxEmulator::Install();
  const idx before = AmxEmulator::count();
  CompareWithTheTwin(AmxKernels(), twin_);
  EXPECT_GT(AmxEmulator::count(), before) << "no tile instruction was met";
}

}  // namespace
}  // namespace opo
