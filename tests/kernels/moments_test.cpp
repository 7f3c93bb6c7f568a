// AdamW's moments in bf16: which of the two neighbours a number becomes, bit by bit, and that it
// becomes the number on average.
#include <cmath>

#include "base/rng.h"
#include "kernels/isa_test.h"

namespace opo {
namespace {

using reference::kUnitF32;

// The bits of element e, as kernels/kernels.h words it.
std::uint32_t RandomBits(idx e, const AdamWArgs& args, bool of_v) {
  const auto counter = static_cast<std::uint64_t>(e / 64 * 16 + e % 16);
  const auto words = Philox4x32(
      {static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), 0, 0},
      {args.key[0], args.key[1]});
  const std::uint32_t word = words[static_cast<std::size_t>(e / 16 % 4)];
  return of_v ? word >> 16 : word & 0xffffU;
}

struct State {
  Rows<float> w, g;
  Rows<bf16> m, v;
  explicit State(idx n)
      : w(std::move(Rows<float>(1, n).Fill(40))),
        g(std::move(Rows<float>(1, n).Fill(41, 5.0))),
        m(std::move(Rows<bf16>(1, n).Fill(42, 0.1))),
        v(1, n) {
    for (idx i = 0; i < n; ++i) {
      v.row(0)[i] = ToBf16(static_cast<float>(0.01 * (1.1 + Draw(43, i))));
    }
  }
  void Step(idx begin, idx end, AdamWArgs args) {
    args.first += begin;
    ActiveKernels().b16.adamw(w.row(0) + begin, m.row(0) + begin, v.row(0) + begin,
                              g.row(0) + begin, end - begin, args);
  }
};

AdamWArgs Args(idx first) {
  AdamWArgs args{0.01f, 0.9f, 0.999f, 1e-8f, 0.1f, 0.25f, 0.271f, 0.002997f};
  args.first = first;
  args.key[0] = 0x12345678U;
  args.key[1] = 0x9abcdef0U;
  return args;
}

class MomentsTest : public IsaTest {};
OPO_ON_ALL_PATHS(MomentsTest);

// Bit for bit: the f32 kernel's moments plus the random bits, cut.
TEST_P(MomentsTest, AreTheF32MomentsRoundedByTheDocumentedBits) {
  constexpr idx kN = 219;
  for (const idx first : {idx{0}, idx{48}, (idx{1} << 37) + 16}) {
    const AdamWArgs args = Args(first);
    State s(kN);
    Rows<float> w = std::move(Rows<float>(1, kN).Fill(40));
    Rows<float> m(1, kN), v(1, kN);
    for (idx i = 0; i < kN; ++i) {
      m.row(0)[i] = ToF32(s.m.row(0)[i]);
      v.row(0)[i] = ToF32(s.v.row(0)[i]);
    }
    for (idx i = kN; i < s.m.ld; ++i) s.m.row(0)[i] = s.v.row(0)[i] = ToBf16(7.0f);
    ActiveKernels().f32.adamw(w.row(0), m.row(0), v.row(0), s.g.row(0), kN, args);
    s.Step(0, kN, args);
    EXPECT_TRUE(SameBits(w.row(0), s.w.row(0), kN)) << "the update is that of f32 moments";
    idx up = 0;
    for (idx i = 0; i < kN; ++i) {
      for (const bool of_v : {false, true}) {
        const auto x = std::bit_cast<std::uint32_t>((of_v ? v : m).row(0)[i]);
        const std::uint32_t want = (x + RandomBits(first + i, args, of_v)) >> 16;
        ASSERT_EQ((of_v ? s.v : s.m).row(0)[i].bits, want) << "element " << first + i;
        up += want != x >> 16 ? 1 : 0;
      }
    }
    EXPECT_GT(up, kN / 2) << "of 2 n";
    EXPECT_LT(up, kN * 3 / 2);
    for (idx i = kN; i < s.m.ld; ++i) ASSERT_EQ(s.m.at(0, i), 7.0) << "nothing behind n is touched";
  }
}

// The same against plain double-precision arithmetic with the same random bits.
TEST_P(MomentsTest, AgreeWithDoublePrecisionAndTheSameBits) {
  constexpr idx kN = 4000;
  const AdamWArgs args = Args(0);
  State s(kN);
  const auto m0 = s.m.values(0);
  const auto v0 = s.v.values(0);
  s.Step(0, kN, args);
  idx undecided = 0;
  for (idx i = 0; i < kN; ++i) {
    const auto j = static_cast<std::size_t>(i);
    const double g = s.g.at(0, i) * 0.25;
    const double b1 = double{args.beta1}, b2 = double{args.beta2};
    const double exact[2] = {b1 * m0[j] + (1 - b1) * g, b2 * v0[j] + (1 - b2) * g * g};
    // Rounding errors of f32 before the moment is cut (as RowsTest bounds them).
    const double error[2] = {4 * kUnitF32 * (std::abs(m0[j]) + std::abs(g)),
                             6 * kUnitF32 * exact[1]};
    for (int k = 0; k < 2; ++k) {
      const double x = std::abs(exact[k]);
      const double ulp = std::ldexp(1.0, std::ilogb(x) - 7);  // of bf16, 8 bits
      const double below = std::floor(x / ulp) * ulp;
      const double chance = (x - below) / ulp;
      const double draw = RandomBits(i, args, k == 1) / 65536.0;
      // What f32 keeps of x is cut to 16 bits below the ulp, too.
      const double doubt = error[k] / ulp + 1 / 65536.0;
      const double got = (k == 0 ? s.m : s.v).at(0, i);
      if (std::abs(chance + draw - 1) <= doubt || chance <= doubt || chance >= 1 - doubt) {
        ++undecided;
        EXPECT_NEAR(std::abs(got), x, ulp * 1.01 + error[k]);
        continue;
      }
      ASSERT_EQ(got, std::copysign(chance + draw >= 1 ? below + ulp : below, exact[k]))
          << "element " << i << (k == 0 ? " m" : " v");
    }
  }
  EXPECT_LT(undecided, kN / 10);
}

TEST_P(MomentsTest, DependOnTheElementsPlaceAlone) {
  constexpr idx kN = 1000;
  State whole(kN), parts(kN);
  const AdamWArgs args = Args(4096 + 32);
  whole.Step(0, kN, args);
  const idx cuts[] = {0, 16, 48, 64, 208, 512, 992, kN};
  for (std::size_t i = 7; i > 0; --i) parts.Step(cuts[i - 1], cuts[i], args);
  EXPECT_TRUE(SameBits(whole.m.data, parts.m.data));
  EXPECT_TRUE(SameBits(whole.v.data, parts.v.data));
  // Which the test would not see if the bits did not depend on the place at all.
  State moved(kN);
  moved.Step(0, kN, Args(0));
  EXPECT_FALSE(SameBits(whole.m.data, moved.m.data));
}

// m = g / 2 and v = g^2 / 2, for the same g in many elements and with many keys: the mean of what
// is kept is the number, and only its two neighbours occur.
TEST_P(MomentsTest, AreRightOnAverage) {
  constexpr idx kN = 1024;
  constexpr int kKeys = 40;
  constexpr double kDraws = double{kN} * kKeys;
  for (const float g : {1.0f, 1.2345f, -0.7071f, 3.3e-5f, -1.00390625f, 1.0039f, 1.99999f, 255.3f,
                        0x1.01p-20f, -0x1.fffffep-3f}) {
    AdamWArgs args{};
    args.beta1 = args.beta2 = 0.5f;
    args.grad_scale = args.bias1 = args.bias2 = 1;
    args.eps = 1e-8f;
    Rows<float> w(1, kN), grad(1, kN);
    std::fill_n(grad.row(0), kN, g);
    double sum[2] = {};
    const float exact[2] = {0.5f * g, 0.5f * (g * g)};
    for (int key = 0; key < kKeys; ++key) {
      Rows<bf16> m(1, kN), v(1, kN);
      args.key[0] = static_cast<std::uint32_t>(key);
      ActiveKernels().b16.adamw(w.row(0), m.row(0), v.row(0), grad.row(0), kN, args);
      for (idx i = 0; i < kN; ++i) {
        for (int k = 0; k < 2; ++k) {
          const bf16 got = (k == 0 ? m : v).row(0)[i];
          const std::uint32_t below = std::bit_cast<std::uint32_t>(exact[k]) >> 16;
          ASSERT_TRUE(got.bits == below || got.bits == below + 1) << g;
          sum[k] += static_cast<double>(ToF32(got));
        }
      }
    }
    for (int k = 0; k < 2; ++k) {
      const auto x = static_cast<double>(exact[k]);
      const double ulp = std::ldexp(1.0, std::ilogb(std::abs(x)) - 7);
      const double chance = std::abs(x) / ulp - std::floor(std::abs(x) / ulp);
      // Five deviations of a mean of kDraws draws of one or the other.
      const double tolerance = 5 * ulp * std::sqrt(chance * (1 - chance) / kDraws);
      EXPECT_NEAR(sum[k] / kDraws, x, tolerance) << g << (k == 0 ? " m" : " v");
    }
  }
}

}  // namespace
}  // namespace opo
