#include "train/shards.h"

#include <algorithm>

#include "base/error.h"
#include "base/parallel.h"
#include "kernels/kernels.h"

namespace opo {
namespace {

constexpr idx kGrain = 65536;
constexpr int kShareTag = 29999;  // the others are the numbers of segments

void Zero(Buffer<float>& slab) {
  ParallelChunks(slab.size(), kGrain, [&](idx begin, idx end) {
    std::fill(slab.data() + begin, slab.data() + end, 0.0f);
  });
}

// a += b
void Add(float* a, const float* b, idx count) {
  const auto add = ActiveKernels().add;
  ParallelChunks(count, kGrain,
                 [&](idx begin, idx end) { add(a + begin, b + begin, end - begin); });
}

SlabPart Overlap(const SlabPart& a, const SlabPart& b) {
  const idx begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

// Before the layers, each layer, behind them.
std::vector<SlabPart> Segments(const SlabLayout& layout) {
  const idx layers = static_cast<idx>(layout.layers.size());
  std::vector<SlabPart> segments(static_cast<std::size_t>(layers) + 2);
  std::vector<idx> begins(static_cast<std::size_t>(layers), layout.size);
  for (idx l = 0; l < layers; ++l) {
    const std::string prefix = fmt::format("model.layers.{}.", l);
    for (const TensorSpec& t : layout.tensors) {
      if (t.name.starts_with(prefix)) {
        idx& begin = begins[static_cast<std::size_t>(l)];
        begin = std::min(begin, t.offset);
      }
    }
  }
  // Behind the last layer.
  idx end = layout.size;
  for (const TensorSpec& t : layout.tensors) {
    if (t.name.starts_with("model.layers.")) continue;
    if (layers > 0 && t.offset > begins.back()) end = std::min(end, t.offset);
  }
  idx at = 0;
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const idx next = s < begins.size() ? begins[s] : s == begins.size() ? end : layout.size;
    OPO_CHECK(next >= at);  // layers stand in order
    segments[s] = {at, next};
    at = next;
  }
  return segments;
}

}  // namespace

SlabPart OwnedPart(idx slab_size, int rank, int ranks) {
  const idx blocks = CeilDiv(slab_size, kSlabBlock);
  const auto cut = [&](int r) { return std::min(slab_size, blocks * r / ranks * kSlabBlock); };
  return {cut(rank), cut(rank + 1)};
}

int ShardDeal::RankOf(idx shard) const {
  const auto it = std::upper_bound(first.begin(), first.end(), shard);
  return static_cast<int>(it - first.begin()) - 1;
}

ShardDeal DealShards(std::span<const idx> work, int ranks) {
  const auto shards = static_cast<idx>(work.size());
  OPO_CHECK(ranks >= 1 && shards >= ranks);
  // The deal in which no rank gets more than `most` (but for single shards), as far to the left as
  // possible; false where the last rank would get more.
  ShardDeal deal;
  const auto fits = [&](idx most) {
    deal.first = {0};
    idx at = 0;
    for (int r = 0; r < ranks; ++r) {
      idx sum = 0;
      const idx left_for_others = ranks - 1 - r;
      do {
        sum += work[static_cast<std::size_t>(at++)];
      } while (at < shards - left_for_others && sum + work[static_cast<std::size_t>(at)] <= most);
      if (sum > most) return false;
      deal.first.push_back(at);
    }
    return at == shards;
  };
  idx low = 0;
  idx high = 0;
  for (const idx w : work) {
    low = std::max(low, w);
    high += w;
  }
  while (low < high) {
    const idx middle = low + (high - low) / 2;
    if (fits(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  OPO_CHECK(fits(high));
  return deal;
}

GradientSum::GradientSum(Comm& comm, const SlabLayout& layout)
    : comm_(comm),
      size_(layout.size),
      part_(OwnedPart(layout.size, comm.rank(), comm.size())),
      segments_(Segments(layout)),
      num_layers_(static_cast<idx>(layout.layers.size())),
      grad_(layout.size) {}

Buffer<float> GradientSum::Spare() {
  if (spare_.empty()) return Buffer<float>(size_);
  Buffer<float> slab = std::move(spare_.back());
  spare_.pop_back();
  return slab;
}

std::vector<GradientSum::Node> GradientSum::NodesOf(idx first, idx last) {
  std::vector<Node> nodes;
  for (idx s = first; s < last; ++s) {
    Node node{0, s};
    // A left neighbour that is there can only be the newest one.
    while (!nodes.empty() && node.second % 2 == 1 &&
           nodes.back() == Node{node.first, node.second - 1}) {
      nodes.pop_back();
      node = {node.first + 1, node.second / 2};
    }
    nodes.push_back(node);
  }
  return nodes;
}

// Keeps the gradient of a shard that is not this rank's last.
void GradientSum::Store(idx shard) {
  Node node{0, shard};
  while (node.second % 2 == 1) {
    const auto left = kept_.find({node.first, node.second - 1});
    if (left == kept_.end()) break;
    Add(grad_.data(), left->second.data(), size_);
    spare_.push_back(std::move(left->second));
    kept_.erase(left);
    node = {node.first + 1, node.second / 2};
  }
  kept_.emplace(node, std::exchange(grad_, Spare()));
}

void GradientSum::Run(const ShardDeal& deal,
                      const std::function<void(idx, float*, const LayerDone&)>& accumulate) {
  const auto rank = static_cast<std::size_t>(comm_.rank());
  const idx first = deal.first[rank];
  const idx last = deal.first[rank + 1] - 1;
  for (idx s = first; s < last; ++s) {
    Zero(grad_);
    accumulate(s, grad_.data(), {});
    Store(s);
  }
  final_ = {0, last};
  lefts_.clear();
  while (final_.second % 2 == 1) {
    const auto left = kept_.find({final_.first, final_.second - 1});
    if (left == kept_.end()) break;
    lefts_.push_back(&left->second);
    final_ = {final_.first + 1, final_.second / 2};
  }
  complete_.assign(segments_.size(), false);
  if (!comm_.alone()) BeginMessages(deal);
  Zero(grad_);
  LayerDone done;
  if (!comm_.alone()) {
    done = [&](idx layer) {
      Complete(static_cast<std::size_t>(layer) + 1);
      comm_.Poll();
    };
  }
  accumulate(last, grad_.data(), done);
  for (std::size_t s = 0; s < segments_.size(); ++s) {
    if (!complete_[s]) Complete(s);
  }
  comm_.Wait();
  Join(deal.first.back());
  for (auto& [node, slab] : kept_) spare_.push_back(std::move(slab));
  kept_.clear();
}

// Makes room for what others will send, and sends what is final before the last shard begins.
void GradientSum::BeginMessages(const ShardDeal& deal) {
  for (auto& [node, sum] : received_) spare_parts_.push_back(std::move(sum));
  received_.clear();
  for (int r = 0; r < comm_.size(); ++r) {
    if (r == comm_.rank() || part_.size() == 0) continue;
    const auto i = static_cast<std::size_t>(r);
    for (const Node& node : NodesOf(deal.first[i], deal.first[i + 1])) {
      Buffer<float>& sum = received_[node];
      if (spare_parts_.empty()) {
        sum = Buffer<float>(part_.size());
      } else {
        sum = std::move(spare_parts_.back());
        spare_parts_.pop_back();
      }
      for (std::size_t s = 0; s < segments_.size(); ++s) {
        const SlabPart range = Overlap(segments_[s], part_);
        if (range.size() == 0) continue;
        comm_.Recv(r, static_cast<int>(s), sum.data() + range.begin - part_.begin,
                   range.size() * static_cast<idx>(sizeof(float)));
      }
    }
  }
  for (const Node& node : NodesOf(deal.first[static_cast<std::size_t>(comm_.rank())],
                                  deal.first[static_cast<std::size_t>(comm_.rank()) + 1])) {
    const auto kept = kept_.find(node);
    if (kept == kept_.end()) continue;  // final_
    for (std::size_t s = 0; s < segments_.size(); ++s) SendRange(kept->second, s);
  }
}

void GradientSum::SendRange(const Buffer<float>& slab, std::size_t segment) {
  for (int r = 0; r < comm_.size(); ++r) {
    if (r == comm_.rank()) continue;
    const SlabPart range = Overlap(segments_[segment], OwnedPart(size_, r, comm_.size()));
    if (range.size() == 0) continue;
    comm_.Send(r, static_cast<int>(segment), slab.data() + range.begin,
               range.size() * static_cast<idx>(sizeof(float)));
  }
}

// The last shard's gradient is final in a segment: this rank's sum is, too.
void GradientSum::Complete(std::size_t segment) {
  const SlabPart& range = segments_[segment];
  for (const Buffer<float>* left : lefts_) {
    Add(grad_.data() + range.begin, left->data() + range.begin, range.size());
  }
  if (!comm_.alone()) SendRange(grad_, segment);
  complete_[segment] = true;
}

float* GradientSum::Value(Node node) {
  if (node == final_) return grad_.data() + part_.begin;
  if (const auto it = kept_.find(node); it != kept_.end()) return it->second.data() + part_.begin;
  if (const auto it = received_.find(node); it != received_.end()) return it->second.data();
  const auto [level, index] = node;
  OPO_CHECK(level > 0);
  float* left = Value({level - 1, 2 * index});
  const float* right = Value({level - 1, 2 * index + 1});
  Add(left, right, part_.size());
  return left;
}

void GradientSum::Join(idx shards) {
  if (part_.size() == 0) return;
  idx level = 0;
  while ((idx{1} << level) < shards) ++level;
  const float* sum = Value({level, 0});
  float* out = grad_.data() + part_.begin;
  if (sum != out) {
    ParallelChunks(part_.size(), kGrain,
                   [&](idx begin, idx end) { std::copy(sum + begin, sum + end, out + begin); });
  }
}

void GradientSum::Share(Buffer<float>& slab) {
  const auto bytes = [](const SlabPart& part) {
    return part.size() * static_cast<idx>(sizeof(float));
  };
  for (int i = 1; i < comm_.size(); ++i) {
    // Everybody begins with another neighbour.
    const int from = (comm_.rank() + comm_.size() - i) % comm_.size();
    const int to = (comm_.rank() + i) % comm_.size();
    const SlabPart theirs = OwnedPart(size_, from, comm_.size());
    if (theirs.size() > 0) {
      comm_.Recv(from, kShareTag, slab.data() + theirs.begin, bytes(theirs));
    }
    if (part_.size() > 0) comm_.Send(to, kShareTag, slab.data() + part_.begin, bytes(part_));
  }
  comm_.Wait();
}

}  // namespace opo
