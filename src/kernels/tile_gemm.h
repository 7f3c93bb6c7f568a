// The bf16 products of the AMX path: blocks of two by two tiles, 32 rows times one packed panel of
// 32 columns. Included only by *_isa.cpp, through micro_gemm.h. The code is a template over the
// tile unit: the processor's, or its scalar twin (tile_twin.h), with which packing, tails and order
// are tested on any machine.
//
// Order of summation of an element, as the manual defines TDPBF16PS: acc = start; for each block of
// 32 k (the last one may be shorter), ascending:
//   even = odd = 0; for each pair of k in the block, ascending:
//     even = fma(a[k], b[k], even), odd = fma(a[k + 1], b[k + 1], odd)
//   acc = acc + (even + odd)
// in f32, rounded to nearest even at each step; denormals are zero as inputs and as results. So a
// chain may be cut, and go on through f32 memory, at multiples of 32 k. Blocks count from the first
// k of the call. Nothing depends on the number of rows or on the tile that an element falls in.
//
// Tails are shapes of tiles, not copies: a tile of 5 rows, or of 3 pairs, reads and multiplies just
// these. So nothing is read of `a` behind its rows and behind RoundUp(num_k, 2), or of a panel
// behind RoundUp(num_k, 2).
#pragma once

#include "kernels/layout.h"
#include "kernels/simd.h"

namespace opo::OPO_ISA {

constexpr idx kTile = 16;       // rows of a tile, and pairs of k or f32 columns in its rows
constexpr idx kTileK = 32;      // k that one instruction sums
constexpr idx kTileBlock = 32;  // rows of a block: two tiles

// What LDTILECFG reads.
struct alignas(64) TileConfig {
  std::uint8_t palette;
  std::uint8_t start_row;
  std::uint8_t reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace opo::OPO_ISA

#if defined(OPO_AMX_TWIN)
#include "kernels/tile_twin.h"
#else
namespace opo::OPO_ISA {

// The processor's tiles. Written as assembly because g++ 12's intrinsics do not tell the compiler
// what memory they read: it may drop the stores that fill a TileConfig or the rows of a tile.
struct AmxTile {
  OPO_INLINE void Configure(const TileConfig& config) {
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  OPO_INLINE void Release() { asm volatile("tilerelease"); }
  template <int kTo>
  OPO_INLINE void Zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTo));
  }
  template <int kTo>
  OPO_INLINE void Load(const void* base, idx stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(base), "r"(stride), "i"(kTo) : "memory");
  }
  template <int kFrom>
  OPO_INLINE void Store(void* base, idx stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(base), "r"(stride), "i"(kFrom) : "memory");
  }
  // sum += left . right; the assembler wants the operands from last to first.
  template <int kSum, int kLeft, int kRight>
  OPO_INLINE void MultiplyAdd() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kLeft), "i"(kRight));
  }
};
using PathTile = AmxTile;

}  // namespace opo::OPO_ISA
#endif

namespace opo::OPO_ISA {
namespace {  // each file has a state of its own, and so must have its own copy of what uses it

// The tiles of the calling thread: how they are configured, and how many sessions are open.
struct TileUnit {
  idx shape = 0;
  idx sessions = 0;
};
thread_local TileUnit tile_unit;

// While a session is open, LDTILECFG (200 cycles) runs only where the shape changes. The outermost
// one releases the tiles at its end: other code of the thread may use them, and tiles in use make
// switches between threads expensive.
class TileSession {
 public:
  TileSession() { ++tile_unit.sessions; }
  ~TileSession() {
    if (--tile_unit.sessions > 0) return;
    PathTile::Release();
    tile_unit.shape = 0;
  }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

// Tiles 0..3: sums (upper left, upper right, lower left, lower right); 4 and 5: upper and lower
// rows of `a`; 6 and 7: left and right columns of the panel. lower == 0: tiles 2, 3, 5 are unused.
template <class Tile>
void TileShape(idx upper, idx lower, idx pairs) {
  const idx shape = (upper * 64 + lower) * 64 + pairs;
  if (tile_unit.shape == shape) return;
  tile_unit.shape = shape;
  TileConfig config = {};
  config.palette = 1;
  const auto set = [&config](int tile, idx rows, idx words) {
    config.rows[tile] = static_cast<std::uint8_t>(rows);
    config.row_bytes[tile] = static_cast<std::uint16_t>(rows > 0 ? 4 * words : 0);
  };
  set(0, upper, kTile);
  set(1, upper, kTile);
  set(2, lower, kTile);
  set(3, lower, kTile);
  set(4, upper, pairs);
  set(5, lower, pairs);
  set(6, pairs, kTile);
  set(7, pairs, kTile);
  Tile::Configure(config);
}

// One block of rows, in the shape that is configured; kLower: with lower tiles.
template <class Tile, bool kLower>
void TileSums(const bf16* a, idx lda, const bf16* panel, idx num_steps, float* c, idx ldc,
              bool from_c) {
  const idx a_stride = lda * static_cast<idx>(sizeof(bf16));
  const idx c_stride = ldc * static_cast<idx>(sizeof(float));
  constexpr idx kPairStride = 2 * kPanel * sizeof(bf16);
  if (from_c) {
    Tile::template Load<0>(c, c_stride);
    Tile::template Load<1>(c + kTile, c_stride);
    if constexpr (kLower) {
      Tile::template Load<2>(c + kTile * ldc, c_stride);
      Tile::template Load<3>(c + kTile * ldc + kTile, c_stride);
    }
  } else {
    Tile::template Zero<0>();
    Tile::template Zero<1>();
    if constexpr (kLower) {
      Tile::template Zero<2>();
      Tile::template Zero<3>();
    }
  }
  for (idx step = 0; step < num_steps; ++step) {
    Tile::template Load<4>(a, a_stride);
    Tile::template Load<6>(panel, kPairStride);
    Tile::template Load<7>(panel + 2 * kTile, kPairStride);
    Tile::template MultiplyAdd<0, 4, 6>();
    Tile::template MultiplyAdd<1, 4, 7>();
    if constexpr (kLower) {
      Tile::template Load<5>(a + kTile * lda, a_stride);
      Tile::template MultiplyAdd<2, 5, 6>();
      Tile::template MultiplyAdd<3, 5, 7>();
    }
    a += kTileK;
    panel += kTileK * kPanel;
  }
  Tile::template Store<0>(c, c_stride);
  Tile::template Store<1>(c + kTile, c_stride);
  if constexpr (kLower) {
    Tile::template Store<2>(c + kTile * ldc, c_stride);
    Tile::template Store<3>(c + kTile * ldc + kTile, c_stride);
  }
}

// All rows, `num_steps` blocks of `pairs` pairs of k (of 16 pairs, if there is more than one).
template <class Tile>
void TileRows(const bf16* a, idx lda, const bf16* panel, idx num_rows, idx num_steps, idx pairs,
              float* c, idx ldc, bool from_c) {
  for (; num_rows > kTile; num_rows -= kTileBlock) {
    TileShape<Tile>(kTile, num_rows < kTileBlock ? num_rows - kTile : kTile, pairs);
    TileSums<Tile, true>(a, lda, panel, num_steps, c, ldc, from_c);
    a += kTileBlock * lda;
    c += kTileBlock * ldc;
  }
  if (num_rows <= 0) return;
  TileShape<Tile>(num_rows, 0, pairs);
  TileSums<Tile, false>(a, lda, panel, num_steps, c, ldc, from_c);
}

// c[r][0..32) = (from_c ? c : 0) + a[r][:] . panel, for any number of rows: MicroGemm's contract.
template <class Tile = PathTile>
void TileGemm(const bf16* a, idx lda, const bf16* panel, idx num_rows, idx num_k, float* c, idx ldc,
              bool from_c) {
  const TileSession session;
  const idx whole = num_k / kTileK * kTileK;
  if (whole > 0 || num_k <= 0) {
    TileRows<Tile>(a, lda, panel, num_rows, whole / kTileK, kTile, c, ldc, from_c);
  }
  if (whole < num_k) {  // through c, which is exact
    TileRows<Tile>(a + whole, lda, panel + whole * kPanel, num_rows, 1, CeilDiv(num_k - whole, 2),
                   c, ldc, from_c || whole > 0);
  }
}

// At most kTileBlock rows times `num_panels` panels, each `panel_size` behind the one before.
inline void TilePanels(const bf16* a, idx lda, const bf16* b, idx panel_size, idx num_panels,
                       idx num_rows, idx num_k, float* c, idx ldc, bool from_c) {
  const TileSession session;
  for (idx p = 0; p < num_panels; ++p) {
    TileGemm(a, lda, b + p * panel_size, num_rows, num_k, c + p * kPanel, ldc, from_c);
  }
}

}  // namespace
}  // namespace opo::OPO_ISA
