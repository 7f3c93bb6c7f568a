// Virtual shards: the groups of an update belong to train.shards shards by their place in it, and
// the gradient is a sum over shards in a fixed binary tree over the shard's index: 0 with 1, 2 with
// 3, then these pairs, and so on. Ranks only decide who adds, never in which order, so any number
// of ranks gives the same bits (E4).
#pragma once

#include <functional>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/hash.h"
#include "comm/comm.h"
#include "model/weights.h"

namespace opo {

// Slabs are dealt to ranks in blocks of this many floats, of which norms and digests are sums too.
inline constexpr idx kSlabBlock = kDigestBlock;

// The part [begin, end) of a slab that a rank owns: it holds the gradient's sum there, and the
// optimizer's state. The same for all ranks, up to a block.
struct SlabPart {
  idx begin = 0, end = 0;
  idx size() const { return end - begin; }
};
SlabPart OwnedPart(idx slab_size, int rank, int ranks);

// Which rank has which shards: rank r those of [first[r], first[r + 1]).
struct ShardDeal {
  std::vector<idx> first = {0, 1};
  int RankOf(idx shard) const;
};

// Deals shards of the given work to ranks in runs of consecutive ones, at least one each, so that
// the most that any rank gets is least. REQUIRES at least as many shards as ranks.
ShardDeal DealShards(std::span<const idx> work, int ranks);

// The sum of the shards' gradients. Of each rank's last shard, what is final is sent while the rest
// is still computed.
class GradientSum {
 public:
  // Tells that the gradients of a layer are final.
  using LayerDone = std::function<void(idx layer)>;

  GradientSum(Comm& comm, const SlabLayout& layout);

  const SlabPart& part() const { return part_; }
  // Adds up one update: accumulate(shard, grad, done) adds the gradient of each of this rank's
  // shards, in order, to `grad`, a slab of zeros, and may call `done`, if there is one. Afterwards
  // sum() holds the sum over all shards in part(); elsewhere it is undefined.
  void Run(const ShardDeal& deal,
           const std::function<void(idx shard, float* grad, const LayerDone& done)>& accumulate);
  Buffer<float>& sum() { return grad_; }
  // Ranges of owned parts, from their owners to all: `slab` is then the same everywhere.
  void Share(Buffer<float>& slab);

 private:
  using Node = std::pair<idx, idx>;  // level, index: shards [index << level, (index + 1) << level)
  static std::vector<Node> NodesOf(idx first, idx last);
  Buffer<float> Spare();
  void Store(idx shard);
  void BeginMessages(const ShardDeal& deal);
  void SendRange(const Buffer<float>& slab, std::size_t segment);
  void Complete(std::size_t segment);
  void Join(idx shards);
  float* Value(Node node);

  Comm& comm_;
  idx size_;
  SlabPart part_;
  // The slab in pieces, in order: what stands before the layers, each layer, and the rest.
  std::vector<SlabPart> segments_;
  std::vector<bool> complete_;
  idx num_layers_;
  Buffer<float> grad_;                  // of the shard at hand; in the end the sum
  std::map<Node, Buffer<float>> kept_;  // this rank's sums that wait for their right neighbours
  std::vector<const Buffer<float>*> lefts_;  // of those: what the last shard is added to, in order
  std::map<Node, Buffer<float>> received_;   // others' sums, in part_ only
  Node final_;                               // which sum grad_ becomes
  std::vector<Buffer<float>> spare_;         // slabs for kept_, from one update to the next
  std::vector<Buffer<float>> spare_parts_;   // for received_
};

}  // namespace opo
