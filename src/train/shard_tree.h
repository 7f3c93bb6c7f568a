// Gradients of virtual shards, joined in an order that depends on the number of shards alone (E4).
#pragma once

#include <algorithm>
#include <vector>

#include "base/buffer.h"
#include "base/parallel.h"
#include "kernels/kernels.h"

namespace opo {

inline void ZeroSlab(Buffer<float>& slab) {
  ParallelChunks(slab.size(), 65536, [&](idx begin, idx end) {
    std::fill(slab.data() + begin, slab.data() + end, 0.0f);
  });
}

// Gradients of shards, joined in a fixed binary tree over the shard's index: shard 0 with 1, 2 with
// 3, then the pairs, and so on. Holds one slab a level.
class ShardTree {
 public:
  explicit ShardTree(idx slab_size) : slab_size_(slab_size) {}

  // Takes the next shard's gradient (its content is used up, the buffer is zero afterwards).
  void Push(Buffer<float>& grad) {
    std::size_t level = 0;
    for (; level < levels_.size() && levels_[level].used; ++level) {
      AddInto(levels_[level].slab, grad);
      std::swap(levels_[level].slab, grad);
      levels_[level].used = false;  // its slab is scratch until the level is filled again
    }
    if (level == levels_.size()) levels_.push_back({Buffer<float>(slab_size_), false});
    std::swap(levels_[level].slab, grad);
    levels_[level].used = true;
    ZeroSlab(grad);
  }
  // The sum, into `grad`; the tree is empty afterwards.
  void Join(Buffer<float>& grad) {
    bool first = true;
    for (Level& level : levels_) {
      if (!level.used) continue;
      if (!first) AddInto(level.slab, grad);
      std::swap(level.slab, grad);
      first = false;
      level.used = false;
    }
  }

 private:
  struct Level {
    Buffer<float> slab;
    bool used;
  };
  // left += right, left being the lower shard.
  static void AddInto(Buffer<float>& left, const Buffer<float>& right) {
    const auto add = ActiveKernels().add;
    ParallelChunks(left.size(), 65536, [&](idx begin, idx end) {
      add(left.data() + begin, right.data() + begin, end - begin);
    });
  }

  idx slab_size_;
  std::vector<Level> levels_;
};

}  // namespace opo
