#include "kernels/gemm.h"

#include <algorithm>
#include <type_traits>

#include "base/error.h"
#include "base/parallel.h"

namespace opo {
namespace {

constexpr idx kPackRows = 256;              // times panels: of a task of packing, about
constexpr idx kLeftBytes = idx{640} << 10;  // of a block of the left operand: it stays in L2

// Rows of a block: as many as the cache holds, or somewhat fewer where blocks are more even so (the
// threads get as many blocks each, and one that is short leaves its thread idle).
template <class T>
idx RowsOfBlock(const GemmArgs<T>& args) {
  const idx row_bytes =
      (args.to_f32() ? std::min(args.k, kGemmK) : args.k) * static_cast<idx>(sizeof(T));
  idx most = kGemmRows;
  while (most > kPanel && most * row_bytes > kLeftBytes) most = most / 2 / kPanel * kPanel;
  const idx panels = CeilDiv(args.m, kPanel);
  const idx least_blocks = CeilDiv(args.m, most);
  const auto missing = [&](idx blocks) { return CeilDiv(panels, blocks) * blocks - panels; };
  idx best = least_blocks;
  for (idx blocks = best + 1; blocks <= least_blocks + least_blocks / 4; ++blocks) {
    if (missing(blocks) < missing(best)) best = blocks;
  }
  return CeilDiv(panels, best) * kPanel;
}

// Panels of a task: few enough tasks that a block of A is read for many panels (and that handing
// them out does not show in a product of few rows), and as even a share for the threads as there
// is.
idx PanelsOfTask(idx m, idx num_panels, idx num_row_blocks) {
  const idx threads = NumThreads();
  const idx tasks_a_thread = m < 16 ? 2 : 6;
  const idx most = std::max<idx>(1, CeilDiv(num_panels * num_row_blocks, tasks_a_thread * threads));
  idx best = 1;
  idx best_share = num_panels * num_row_blocks;
  for (idx per_task = std::min(most, num_panels); per_task >= 1; --per_task) {
    const idx tasks = CeilDiv(num_panels, per_task) * num_row_blocks;
    const idx share = CeilDiv(tasks, threads) * per_task;  // panels of the busiest thread
    if (share >= best_share) continue;
    best = per_task;
    best_share = share;
  }
  return best;
}

float* GemmScratch() {
  thread_local Buffer<float> scratch(kGemmScratch);
  return scratch.data();
}

template <class T>
void Multiply(const GemmArgs<T>& args) {
  if (args.m == 0) return;
  OPO_CHECK(args.a_packed || args.lda >= RoundUp(args.k, 2));
  const auto kernel = ActiveKernels().of<T>().gemm;
  const idx num_panels = CeilDiv(args.n, kPanel);
  idx block_rows = RowsOfBlock(args);
  // Where a block of rows meets all panels at once (few terms a sum), tasks are rows: rows of c
  // pass whole.
  const bool by_rows =
      args.a_packed &&
      num_panels * PanelSize(args.k) * static_cast<idx>(sizeof(T)) <= kGemmPanelsBytes;
  if (by_rows) {
    const idx row_panels = CeilDiv(args.m, kPanel);
    block_rows = std::min(block_rows, PanelsOfTask(args.m, row_panels, 1) * kPanel);
  }
  const idx row_blocks = CeilDiv(args.m, block_rows);
  const idx per_task = by_rows ? num_panels : PanelsOfTask(args.m, num_panels, row_blocks);
  const idx tasks_a_block = CeilDiv(num_panels, per_task);
  ParallelFor(row_blocks * tasks_a_block, [&](idx task) {
    const idx m0 = task / tasks_a_block * block_rows;
    const idx p0 = task % tasks_a_block * per_task;
    kernel(args, m0, std::min(args.m, m0 + block_rows), p0, std::min(num_panels, p0 + per_task),
           GemmScratch());
  });
}

}  // namespace

template <class T>
void PackedMatrix<T>::Resize(idx rows, idx cols) {
  n = rows;
  k = cols;
  data.Reserve(PackedSize(n, k));
}

template <class T>
void PackedMatrix<T>::PackAt(idx k0, const float* src, idx lds, idx cols) {
  OPO_CHECK(k0 % kPad == 0 && k0 + cols <= k);
  const auto pack = ActiveKernels().of<T>().pack;
  ParallelFor(CeilDiv(n, kPanel), [&](idx p) {
    const idx row = p * kPanel;
    pack(data.data() + p * PanelSize(k) + k0 * kPanel, src + row * lds, lds, n - row, cols, 0, 1);
  });
}

template <class T>
template <class S>
void PackedMatrix<T>::PackTransposedAt(idx k0, const S* src, idx lds, idx rows) {
  OPO_CHECK(k0 % kPad == 0 && k0 + rows <= k);
  const auto& kernels = ActiveKernels().of<T>();
  ParallelFor(CeilDiv(n, kPanel), [&](idx p) {
    const idx col = p * kPanel;
    T* panel = data.data() + p * PanelSize(k) + k0 * kPanel;
    if constexpr (std::is_same_v<S, float>) {
      kernels.pack_t_f32(panel, src + col, lds, rows, n - col, 0, 1);
    } else {
      kernels.pack_t(panel, src + col, lds, rows, n - col, 0, 1);
    }
  });
}

template <class T>
void PackedMatrix<T>::PackTurnedAt(idx k0, const PackedMatrix& w) {
  OPO_CHECK(k0 % kPad == 0 && k0 + w.n <= k && n <= w.k);
  const auto pack_turned = ActiveKernels().of<T>().pack_turned;
  ParallelFor(CeilDiv(n, kPanel), [&](idx p) {
    pack_turned(data.data() + p * PanelSize(k) + k0 * kPanel, w.data.data(), PanelSize(w.k),
                CeilDiv(w.n, kPanel), p * kPanel);
  });
}

template <class T>
void PackedMatrix<T>::CopyAt(idx k0, const PackedMatrix& right) {
  OPO_CHECK(k0 % kPad == 0 && k0 + right.k <= k && n == right.n);
  ParallelFor(CeilDiv(n, kPanel), [&](idx p) {
    std::copy_n(right.data.data() + p * PanelSize(right.k), PanelSize(right.k),
                data.data() + p * PanelSize(k) + k0 * kPanel);
  });
}

template <class T>
void PackedMatrix<T>::Pack(const float* src, idx lds, idx rows, idx cols) {
  Resize(rows, cols);
  PackAt(0, src, lds, cols);
}

template <class T>
void PackedMatrix<T>::PackRows(const T* src, idx lds, idx rows, idx cols) {
  Resize(rows, cols);
  constexpr idx kBlock = 32;
  ParallelFor(CeilDiv(n, kPanel), [&](idx p) {
    T* panel = data.data() + p * PanelSize(k);
    const idx count = std::min(kPanel, n - p * kPanel);
    std::fill_n(panel, PanelSize(k), T{});
    for (idx k0 = 0; k0 < k; k0 += kBlock) {
      const idx end = std::min(k, k0 + kBlock);
      for (idx r = 0; r < count; ++r) {
        const T* row = src + (p * kPanel + r) * lds;
        for (idx i = k0; i < end; ++i) {
          panel[(i / kTogether<T> * kPanel + r) * kTogether<T> + i % kTogether<T>] = row[i];
        }
      }
    }
  });
}

template <class T>
template <class S>
void PackedMatrix<T>::PackTransposed(const S* src, idx lds, idx rows, idx cols) {
  Resize(cols, rows);
  PackTransposedAt(0, src, lds, rows);
}

template <class T>
void PackedLeft<T>::PackTransposed(const T* src, idx lds, idx rows, idx cols) {
  data.Reserve(PackedSize(cols, rows));
  const auto pack = ActiveKernels().of<T>().pack_left;
  ParallelFor(CeilDiv(cols, kPanel),
              [&](idx p) { pack(data.data(), src, lds, rows, cols, p, p + 1); });
}

template <class T>
void Gemm(GemmArgs<T> args, const PackedMatrix<T>& b) {
  GemmPart(args, b, 0, b.n);
}

template <class T>
void GemmPart(GemmArgs<T> args, const PackedMatrix<T>& b, idx first, idx count) {
  OPO_CHECK(first % kPanel == 0 && first + count <= b.n);
  args.b = b.data.data() + first / kPanel * PanelSize(b.k);
  args.b_panel = PanelSize(b.k);
  args.n = count;
  args.k = b.k;
  Multiply(args);
}

template <class T>
void GemmTerms(GemmArgs<T> args, const PackedMatrix<T>& b, idx first, idx count) {
  OPO_CHECK(first % kPad == 0 && first + count <= b.k);
  args.b = b.data.data() + first * kPanel;
  args.b_panel = PanelSize(b.k);
  args.n = b.n;
  args.k = count;
  Multiply(args);
}

template <class T>
void WeightGradScratch<T>::PackX(const T* src, idx lds, idx k, idx rows) {
  OPO_CHECK(rows % RowBlock<T>() == 0);
  x.PackTransposed(src, lds, rows, k);
}

namespace {

// dW += dy^T x, both packed.
template <class T>
void AddPacked(float* dw, idx ldw, idx n, const WeightGradScratch<T>& scratch) {
  GemmArgs<T> args;
  args.a = scratch.dy.data.data();
  args.a_packed = true;
  args.m = n;
  args.output = GemmOutput::kAccumulateF32;
  args.c = dw;
  args.ldc = ldw;
  Gemm(args, scratch.x);
}

}  // namespace

template <class T>
void WeightGrad(float* dw, idx ldw, const T* dy, idx ldy, idx n, WeightGradScratch<T>& scratch) {
  scratch.dy.PackTransposed(dy, ldy, scratch.x.k, n);
  AddPacked(dw, ldw, n, scratch);
}

template <class T>
void WeightGrad(float* dw, idx ldw, const T* dy, idx ldy, idx n, const T* x, idx ldx, idx k,
                idx rows, WeightGradScratch<T>& scratch) {
  if (rows == 0) return;
  OPO_CHECK(rows % RowBlock<T>() == 0);
  scratch.x.Resize(k, rows);
  scratch.dy.data.Reserve(PackedSize(n, rows));
  // Both at once, some panels a task: with few rows handing out tasks would take longer than they
  // do. A thread packs the part of dy that it multiplies, so that this need not come from another
  // one's cache.
  const auto& kernels = ActiveKernels().of<T>();
  const idx x_panels = CeilDiv(k, kPanel);
  const idx dy_panels = CeilDiv(n, kPanel);
  const idx tasks = CeilDiv((x_panels + dy_panels) * rows, kPackRows);
  ParallelFor(tasks, [&](idx task) {
    kernels.pack_left(scratch.dy.data.data(), dy, ldy, rows, n, dy_panels * task / tasks,
                      dy_panels * (task + 1) / tasks);
    kernels.pack_t(scratch.x.data.data(), x, ldx, rows, k, x_panels * task / tasks,
                   x_panels * (task + 1) / tasks);
  });
  AddPacked(dw, ldw, n, scratch);
}

template struct PackedMatrix<float>;
template struct PackedMatrix<bf16>;
template struct PackedLeft<float>;
template struct PackedLeft<bf16>;
template void PackedMatrix<float>::PackTransposed(const float*, idx, idx, idx);
template void PackedMatrix<bf16>::PackTransposed(const float*, idx, idx, idx);
template void PackedMatrix<bf16>::PackTransposed(const bf16*, idx, idx, idx);
template void PackedMatrix<float>::PackTransposedAt(idx, const float*, idx, idx);
template void PackedMatrix<bf16>::PackTransposedAt(idx, const float*, idx, idx);
template void Gemm<float>(GemmArgs<float>, const PackedMatrix<float>&);
template void Gemm<bf16>(GemmArgs<bf16>, const PackedMatrix<bf16>&);
template void GemmPart<float>(GemmArgs<float>, const PackedMatrix<float>&, idx, idx);
template void GemmPart<bf16>(GemmArgs<bf16>, const PackedMatrix<bf16>&, idx, idx);
template void GemmTerms<float>(GemmArgs<float>, const PackedMatrix<float>&, idx, idx);
template void GemmTerms<bf16>(GemmArgs<bf16>, const PackedMatrix<bf16>&, idx, idx);
template struct WeightGradScratch<float>;
template struct WeightGradScratch<bf16>;
template void WeightGrad<float>(float*, idx, const float*, idx, idx, WeightGradScratch<float>&);
template void WeightGrad<bf16>(float*, idx, const bf16*, idx, idx, WeightGradScratch<bf16>&);
template void WeightGrad<float>(float*, idx, const float*, idx, idx, const float*, idx, idx, idx,
                                WeightGradScratch<float>&);
template void WeightGrad<bf16>(float*, idx, const bf16*, idx, idx, const bf16*, idx, idx, idx,
                               WeightGradScratch<bf16>&);

}  // namespace opo
