// GEMM blocks, packing and transposes of one instruction-set path.
#include "kernels/micro_gemm.h"
#include "kernels/tables.h"

namespace opo::OPO_ISA {
namespace {

idx Min(idx a, idx b) { return a < b ? a : b; }

// Sums of rows [m0, m1), one panel, k in [k0, k1), into c.
template <class T>
void PanelSums(const GemmArgs<T>& g, idx m0, idx m1, idx p, idx k0, idx k1, float* c, idx ldc,
               bool from_c) {
  constexpr idx kPairWidth = sizeof(T) == 2 ? 2 : 1;
  static_assert(kGemmK % kPairWidth == 0);
  MicroGemm(g.a + m0 * g.lda + k0, g.lda, g.b + p * PanelSize(g.k) + k0 * kPanel, m1 - m0, k1 - k0,
            c, ldc, from_c);
}

// Rows of f32 sums to their destination.
template <class T>
void Finish(const GemmArgs<T>& g, idx m0, idx m1, idx p, const float* sums) {
  const idx n0 = p * kPanel;
  for (idx m = m0; m < m1; ++m, sums += kPanel) {
    switch (g.output) {
      case GemmOutput::kStoreF32:
      case GemmOutput::kAccumulateF32: {
        float* c = g.c + m * g.ldc + n0;
        const idx columns = Min(kPanel, g.n - n0);
        StorePart(c, Load(sums), columns);
        if (columns > kLanes) StorePart(c + kLanes, Load(sums + kLanes), columns - kLanes);
        break;
      }
      case GemmOutput::kStore: {
        T* out = (g.out_rows != nullptr ? g.out_rows[m] : g.out + m * g.ldo) + n0;
        Store(out, Load(sums));
        Store(out + kLanes, Load(sums + kLanes));
        break;
      }
      case GemmOutput::kAddResidual: {
        T* out = g.out + m * g.ldo + n0;
        const T* residual = g.residual + m * g.ldo + n0;
        Store(out, Load(residual) + Load(sums));
        Store(out + kLanes, Load(residual + kLanes) + Load(sums + kLanes));
        break;
      }
    }
  }
}

template <class T>
void Gemm(const GemmArgs<T>& g, idx m0, idx m1, idx p0, idx p1, float* scratch) {
  const bool f32 = g.output == GemmOutput::kStoreF32 || g.output == GemmOutput::kAccumulateF32;
  const bool accumulate = g.output == GemmOutput::kAccumulateF32;
  for (idx mb = m0; mb < m1; mb += kGemmRows) {
    const idx me = Min(m1, mb + kGemmRows);
    if (f32) {
      // Blocks of k outermost: a block of A stays in the cache while all panels pass. The chain of
      // an element goes on through c, which is exact.
      for (idx k0 = 0; k0 < g.k; k0 += kGemmK) {
        const idx k1 = Min(g.k, k0 + kGemmK);
        for (idx p = p0; p < p1; ++p) {
          const idx columns = g.n - p * kPanel;
          float* c = g.c + mb * g.ldc + p * kPanel;
          if (columns >= kPanel) {
            PanelSums(g, mb, me, p, k0, k1, c, g.ldc, accumulate || k0 > 0);
            continue;
          }
          for (idx m = 0; m < me - mb; ++m) {
            for (idx j = 0; j < columns; ++j) scratch[m * kPanel + j] = c[m * g.ldc + j];
            for (idx j = columns; j < kPanel; ++j) scratch[m * kPanel + j] = 0;
          }
          PanelSums(g, mb, me, p, k0, k1, scratch, kPanel, accumulate || k0 > 0);
          Finish(g, mb, me, p, scratch);
        }
      }
    } else {
      for (idx p = p0; p < p1; ++p) {
        for (idx k0 = 0; k0 < g.k; k0 += kGemmK) {
          PanelSums(g, mb, me, p, k0, Min(g.k, k0 + kGemmK), scratch, kPanel, k0 > 0);
        }
        Finish(g, mb, me, p, scratch);
      }
    }
  }
}

// Where element (k, column j) of a panel stands.
template <class T>
idx PanelIndex(idx k, idx j) {
  return sizeof(T) == 2 ? (k / 2) * 2 * kPanel + 2 * j + k % 2 : k * kPanel + j;
}

template <class T>
T Round1(float x) {
  T y[kLanes];
  Store(y, Splat(x));
  return y[0];
}

template <class T>
void Pack(T* packed, const float* src, idx lds, idx n, idx k, idx p0, idx p1) {
  const idx padded_k = RoundUp(k, kPad);
  for (idx p = p0; p < p1; ++p) {
    T* panel = packed + p * PanelSize(k);
    for (idx j = 0; j < kPanel; ++j) {
      const idx row = p * kPanel + j;
      for (idx i = 0; i < padded_k; i += kLanes) {
        T values[kLanes];
        Store(values, row < n && i < k ? LoadPart(src + row * lds + i, k - i) : f32x16{});
        for (idx e = 0; e < kLanes; ++e) panel[PanelIndex<T>(i + e, j)] = values[e];
      }
    }
  }
}

// Two source rows (k even and odd) interleaved, 16 columns.
OPO_INLINE void StorePair(bf16* dst, f32x16 even, f32x16 odd) {
  const u32x16 lo = __builtin_convertvector(RoundToBf16(even), u32x16);
  const u32x16 hi = __builtin_convertvector(RoundToBf16(odd), u32x16);
  const u32x16 pair = lo | (hi << 16);
  __builtin_memcpy(dst, &pair, sizeof(pair));
}

template <class T, class S>
void PackT(T* packed, const S* src, idx lds, idx num_k, idx n, idx p0, idx p1) {
  const idx padded_k = RoundUp(num_k, kPad);
  for (idx p = p0; p < p1; ++p) {
    T* panel = packed + p * PanelSize(num_k);
    for (idx k = 0; k < padded_k; k += 2) {
      for (idx j = 0; j < kPanel; j += kLanes) {
        const idx column = p * kPanel + j;
        f32x16 rows[2];
        for (int r = 0; r < 2; ++r) {
          rows[r] = k + r < num_k && column < n ? LoadPart(src + (k + r) * lds + column, n - column)
                                                : f32x16{};
        }
        if constexpr (sizeof(T) == 2) {
          StorePair(panel + k * kPanel + 2 * j, rows[0], rows[1]);
        } else {
          Store(panel + k * kPanel + j, rows[0]);
          Store(panel + (k + 1) * kPanel + j, rows[1]);
        }
      }
    }
  }
}

template <class T>
void Transpose(T* dst, idx ldd, const T* src, idx lds, idx m, idx n0, idx n1) {
  constexpr idx kBlock = 32;
  const idx padded_m = RoundUp(m, kPad);
  for (idx nb = n0; nb < n1; nb += kBlock) {
    const idx ne = Min(n1, nb + kBlock);
    for (idx mb = 0; mb < padded_m; mb += kBlock) {
      for (idx n = nb; n < ne; ++n) {
        T* row = dst + n * ldd + mb;
        for (idx i = 0; i < kBlock; ++i) row[i] = mb + i < m ? src[(mb + i) * lds + n] : T{};
      }
    }
  }
}

}  // namespace

template <class T>
void FillGemm(KernelsOf<T>& table) {
  table.gemm = Gemm<T>;
  table.pack = Pack<T>;
  table.pack_t_f32 = PackT<T, float>;
  table.pack_t = PackT<T, T>;
  table.transpose = Transpose<T>;
}
template void FillGemm<bf16>(KernelsOf<bf16>& table);
template void FillGemm<float>(KernelsOf<float>& table);

}  // namespace opo::OPO_ISA
