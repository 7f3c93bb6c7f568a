// GEMM blocks, packing and transposes of one instruction-set path.
#include "kernels/micro_gemm.h"
#include "kernels/tables.h"

namespace opo::OPO_ISA {
namespace {

idx Min(idx a, idx b) { return a < b ? a : b; }

// Rows of sums that wait in scratch for their way out: few enough to stay in the first-level cache.
constexpr idx kFinishRows = 96;
// Panels that one pass of few rows takes.
constexpr idx kFewRows = 6;
constexpr idx kFewRowsPanels = 4;
static_assert(kFinishRows * kPanel <= kGemmScratch);
static_assert(kFewRows * kFewRowsPanels * kPanel <= kGemmScratch);

// What follows the sums of some rows with one panel, to be asked for meanwhile: the panel behind
// this one (the hardware sees a panel's stream only once it has begun), by as large a part with
// every row as there are `rows` of it in all, `row` of which came before these; with a task's first
// panel the left operand (which another thread may have written); and the rows of c after a block's
// (each is two lines of a page of its own, which no hardware foresees).
template <class T>
struct Next {
  const T* panel = nullptr;  // null: there is none
  idx row = 0;
  idx rows = 1;
  bool left = false;
  bool rows_of_c = false;
};

// Sums of rows [m0, m1), panels [p, p + num_panels), k in [k0, k1), into c.
template <class T>
void Sums(const GemmArgs<T>& g, idx m0, idx m1, idx p, idx num_panels, idx k0, idx k1, float* c,
          idx ldc, bool from_c, const Next<T>& next) {
  static_assert(kGemmK % kPad == 0);
  const T* b = g.b + p * g.b_panel + k0 * kPanel;
  // What rows [first, first + count) of these ask for; the left operand's next rows are at `left`.
  const auto look_ahead = [&](idx first, idx count, const T* left) {
    constexpr idx kBytes = sizeof(T);
    const idx turns = CeilDiv(k1 - k0, kTogether<T>);
    Ahead ahead = NothingAhead(b);
    if (next.panel != nullptr) {
      const idx bytes = (k1 - k0) * kPanel * kBytes;
      const idx begin = bytes * (next.row + first) / next.rows;
      const idx end = bytes * (next.row + first + count) / next.rows;
      ahead.right = reinterpret_cast<const char*>(next.panel) + begin;
      ahead.right_step = CeilDiv(end - begin, turns);
    }
    if (next.left) {
      ahead.left = reinterpret_cast<const char*>(left);
      ahead.left_step = CeilDiv(count * (k1 - k0) * kBytes, turns);
    }
    if (!next.rows_of_c) return ahead;
    const bool wraps = first + count >= m1 - m0;  // to the next panel's first rows
    const float* rows = wraps ? c + num_panels * kPanel : c + (first + count) * ldc;
    AskForRows(rows, ldc, Min(kBlockRows<T>, wraps ? m1 - m0 : m1 - m0 - first - count));
    ahead.rows_of_c = true;
    return ahead;
  };
  if (!g.a_packed) {
    ForRowBlocks<T>(m1 - m0, [&](idx first, idx count) {
      const T* a = g.a + (m0 + first) * g.lda + k0;
      MicroBlock<false>(a, g.lda, b, g.b_panel, num_panels, count, k1 - k0, c + first * ldc, ldc,
                        from_c, look_ahead(first, count, a + count * g.lda));
    });
    return;
  }
  const idx left_size = PanelSize(g.k);
  for (idx m = m0; m < m1;) {  // a block of rows stays within one panel
    const idx end = Min(m1, RoundUp(m + 1, kPanel));
    const T* left = g.a + m / kPanel * left_size;
    ForRowBlocks<T>(end - m, [&](idx first, idx count) {
      const idx row = m % kPanel + first;
      float* to = c + (m - m0 + first) * ldc;
      const Ahead ahead =
          look_ahead(m - m0 + first, count, left + left_size + k0 * kPanel + first * (k1 - k0));
      if constexpr (kLeftInRows<T>) {
        const idx lda = RoundUp(g.k, kPad);
        MicroBlock<false>(left + row * lda + k0, lda, b, g.b_panel, num_panels, count, k1 - k0, to,
                          ldc, from_c, ahead);
      } else {
        MicroBlock<true>(left + PanelIndex<T>(k0, row), 0, b, g.b_panel, num_panels, count, k1 - k0,
                         to, ldc, from_c, ahead);
      }
    });
    m = end;
  }
}

// What follows the panels before `end` of a task of panels [p0, p1): its next panel, the first
// one's next block of k, or the next task's first panel.
template <class T>
Next<T> After(const GemmArgs<T>& g, idx m0, idx m1, idx p0, idx p1, idx end, idx k0, idx block_k) {
  Next<T> next;
  if (m1 - m0 <= kBlockRows<T>) return next;  // one block of rows streams its panels anyway
  if (end < p1) {
    next.panel = g.b + end * g.b_panel + k0 * kPanel;
  } else if (k0 + block_k < g.k) {
    next.panel = g.b + p0 * g.b_panel + (k0 + block_k) * kPanel;
  } else if (p1 * kPanel < g.n) {
    next.panel = g.b + p1 * g.b_panel;
  }
  next.rows = m1 - m0;
  return next;
}

// Rows of f32 sums, one panel wide, to their destination.
template <class T>
void Finish(const GemmArgs<T>& g, idx m0, idx m1, idx p, const float* sums, idx lds) {
  const idx n0 = p * kPanel;
  for (idx m = m0; m < m1; ++m, sums += lds) {
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
        T* out = g.out + m * g.ldo + n0;
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

// f32 sums go straight to c, in blocks of k: the chain of an element goes on through c, which is
// exact, and a block of the left operand stays in the cache while all panels pass.
template <class T>
void GemmF32(const GemmArgs<T>& g, idx m0, idx m1, idx p0, idx p1, float* scratch) {
  const idx whole_panels = Min(p1, g.n / kPanel);
  for (idx k0 = 0; k0 < g.k; k0 += kGemmK) {
    const idx k1 = Min(g.k, k0 + kGemmK);
    const idx panel_bytes = (k1 - k0) * kPanel * static_cast<idx>(sizeof(T));
    idx at_once = 1;
    if (m1 - m0 <= kFewRows) {
      at_once = kFewRowsPanels;
    } else if (g.a_packed && 2 * panel_bytes <= kGemmPanelsBytes) {
      at_once = kGemmPanelsBytes / panel_bytes;
    }
    const bool from_c = g.output == GemmOutput::kAccumulateF32 || k0 > 0;
    for (idx p = p0; p < whole_panels; p += at_once) {
      const idx panels = Min(at_once, whole_panels - p);
      Next<T> next = After(g, m0, m1, p0, p1, p + panels, k0, kGemmK);
      next.left = p == p0;
      next.rows_of_c = m1 - m0 > kFewRows;
      Sums(g, m0, m1, p, panels, k0, k1, g.c + m0 * g.ldc + p * kPanel, g.ldc, from_c, next);
    }
    if (whole_panels == p1) continue;
    const idx columns = g.n - whole_panels * kPanel;  // of the last, partial panel
    for (idx m = m0; m < m1; m += kFinishRows) {
      const idx end = Min(m1, m + kFinishRows);
      for (idx r = m; r < end; ++r) {
        const float* c = g.c + r * g.ldc + whole_panels * kPanel;
        float* sums = scratch + (r - m) * kPanel;
        for (idx j = 0; j < kPanel; ++j) sums[j] = from_c && j < columns ? c[j] : 0.0f;
      }
      Sums(g, m, end, whole_panels, 1, k0, k1, scratch, kPanel, from_c, Next<T>{});
      Finish(g, m, end, whole_panels, scratch, kPanel);
    }
  }
}

template <class T>
void Gemm(const GemmArgs<T>& g, idx m0, idx m1, idx p0, idx p1, float* scratch) {
  [[maybe_unused]] const MicroSession session;
  if (g.to_f32()) {
    GemmF32(g, m0, m1, p0, p1, scratch);
    return;
  }
  const idx at_once = m1 - m0 <= kFewRows ? kFewRowsPanels : 1;
  for (idx p = p0; p < p1; p += at_once) {
    const idx panels = Min(at_once, p1 - p);
    Next<T> next = After(g, m0, m1, p0, p1, p + panels, 0, g.k);
    next.left = p == p0;
    for (idx m = m0; m < m1; m += kFinishRows) {
      const idx end = Min(m1, m + kFinishRows);
      next.row = m - m0;
      Sums(g, m, end, p, panels, 0, g.k, scratch, panels * kPanel, false, next);
      for (idx i = 0; i < panels; ++i) {
        Finish(g, m, end, p + i, scratch + i * kPanel, panels * kPanel);
      }
    }
  }
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

using u16x32 = std::uint16_t __attribute__((vector_size(64)));

// One pair of source rows (k even and odd; null: zeros), a whole panel of columns.
OPO_INLINE void PackPair(bf16* dst, const bf16* even, const bf16* odd) {
  u16x32 rows[2] = {};
  if (even != nullptr) __builtin_memcpy(&rows[0], even, sizeof(u16x32));
  if (odd != nullptr) __builtin_memcpy(&rows[1], odd, sizeof(u16x32));
#if defined(__AVX512BW__)
  // vpermt2w with the indices 0, 32, 1, 33, ...
  const u32x16 low = __builtin_convertvector(LaneIndex(), u32x16) * 0x10001U + 0x200000U;
  const auto zip = [&](u32x16 index) {
    return _mm512_permutex2var_epi16((__m512i)rows[0], (__m512i)index, (__m512i)rows[1]);
  };
  _mm512_storeu_si512(dst, zip(low));
  _mm512_storeu_si512(dst + kPanel, zip(low + 0x100010U));
#else
  for (idx half = 0; half < 2; ++half) {
    u16x16 pair[2];
    __builtin_memcpy(&pair[0], reinterpret_cast<const char*>(&rows[0]) + 32 * half, 32);
    __builtin_memcpy(&pair[1], reinterpret_cast<const char*>(&rows[1]) + 32 * half, 32);
    const u32x16 zipped =
        __builtin_convertvector(pair[0], u32x16) | (__builtin_convertvector(pair[1], u32x16) << 16);
    __builtin_memcpy(dst + half * kPanel, &zipped, sizeof(zipped));
  }
#endif
}
OPO_INLINE void PackPair(bf16* dst, const float* even, const float* odd) {
  for (idx j = 0; j < kPanel; j += kLanes) {
    const u16x16 lo = RoundToBf16(even != nullptr ? Load(even + j) : f32x16{});
    const u16x16 hi = RoundToBf16(odd != nullptr ? Load(odd + j) : f32x16{});
    const u32x16 pair =
        __builtin_convertvector(lo, u32x16) | (__builtin_convertvector(hi, u32x16) << 16);
    __builtin_memcpy(dst + 2 * j, &pair, sizeof(pair));
  }
}
OPO_INLINE void PackPair(float* dst, const float* even, const float* odd) {
  for (idx j = 0; j < kPanel; j += kLanes) {
    Store(dst + j, even != nullptr ? Load(even + j) : f32x16{});
    Store(dst + kPanel + j, odd != nullptr ? Load(odd + j) : f32x16{});
  }
}

template <class T, class S>
void PackT(T* packed, const S* src, idx lds, idx num_k, idx n, idx p0, idx p1) {
  const idx padded_k = RoundUp(num_k, kPad);
  for (idx p = p0; p < p1; ++p) {
    T* panel = packed + p * PanelSize(num_k);
    const idx columns = Min(kPanel, n - p * kPanel);
    for (idx k = 0; k < padded_k; k += 2) {
      const S* rows[2];
      S part[2][kPanel];  // a partial panel's columns, the others zero
      for (idx r = 0; r < 2; ++r) {
        rows[r] = k + r < num_k ? src + (k + r) * lds + p * kPanel : nullptr;
        if (columns == kPanel || rows[r] == nullptr) continue;
        for (idx j = 0; j < kPanel; ++j) part[r][j] = j < columns ? rows[r][j] : S{};
        rows[r] = part[r];
      }
      PackPair(panel + k * kPanel, rows[0], rows[1]);
    }
  }
}

template <class T>
void PackTurned(T* panel, const T* packed, idx panel_size, idx num_panels, idx k0) {
  constexpr idx kWords = kPanel * static_cast<idx>(sizeof(T)) / 4;  // of a row of 32 k
  alignas(64) T rows[kPanel * kPad];                                // 32 rows n of 32 k
  for (idx p = 0; p < num_panels; ++p) {
    const auto* words = reinterpret_cast<const float*>(packed + p * panel_size + k0 * kPanel);
    for (idx n = 0; n < kPanel; n += kLanes) {
      for (idx w = 0; w < kWords; w += kLanes) {
        Transpose16(reinterpret_cast<float*>(rows) + n * kWords + w, kWords, words + w * kPanel + n,
                    kPanel);
      }
    }
    PackT(panel + p * kPanel * kPanel, rows, kPad, kPanel, kPanel, 0, 1);
  }
}

// Panels as PackT's, or, where the kernel wants a row's k side by side, panels of 32 such rows.
template <class T>
void PackLeft(T* packed, const T* src, idx lds, idx num_k, idx m, idx p0, idx p1) {
  if constexpr (!kLeftInRows<T>) {
    PackT(packed, src, lds, num_k, m, p0, p1);
    return;
  }
  constexpr idx kPairs = kPad / 2;
  alignas(64) T zipped[kPad * kPanel];  // 32 k of a panel as PackT lays them out
  const idx ld = RoundUp(num_k, kPad);
  for (idx p = p0; p < p1; ++p) {
    const idx columns = Min(kPanel, m - p * kPanel);
    T* panel = packed + p * PanelSize(num_k);
    for (idx k = 0; k < ld; k += kPad) {
      PackT(zipped, src + k * lds + p * kPanel, lds, Min(kPad, num_k - k), columns, 0, 1);
      for (idx r = 0; r < kPanel; r += kPairs) {
        // Pairs of k are words, and 16 words of 16 rows change places.
        Transpose16(reinterpret_cast<float*>(panel + r * ld + k), ld / 2,
                    reinterpret_cast<const float*>(zipped + 2 * r), kPanel);
      }
    }
  }
}

}  // namespace

template <class T>
void FillGemm(KernelsOf<T>& table) {
  static_assert(kRowBlock % kChainBlock<T> == 0);
  table.row_block = kChainBlock<T>;
  table.gemm = Gemm<T>;
  table.pack = Pack<T>;
  table.pack_t_f32 = PackT<T, float>;
  table.pack_t = PackT<T, T>;
  table.pack_turned = PackTurned<T>;
  table.pack_left = PackLeft<T>;
}
template void FillGemm<bf16>(KernelsOf<bf16>& table);
template void FillGemm<float>(KernelsOf<float>& table);

}  // namespace opo::OPO_ISA
