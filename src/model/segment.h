// What the engine keeps of a run of tokens: its K and V for attention, and, where a backward pass
// is to follow, the activations of every row. A prompt is a segment; each of its samples is another
// one, with the prompt as prefix.
#pragma once

#include <memory>
#include <vector>

#include "base/buffer.h"
#include "kernels/kernels.h"
#include "model/config.h"

namespace opo {

// Blocks of one size, zeroed when handed out and reused. KV pages must be zero: a masked key still
// meets a zero probability, and 0 x NaN is NaN. Not for several threads at once.
class BlockPool {
 public:
  explicit BlockPool(idx bytes_per_block) : bytes_(RoundUp(bytes_per_block, 64)) {}
  std::byte* Acquire(bool zero);
  void Release(std::byte* block) { free_.push_back(block); }
  idx bytes() const { return bytes_ * static_cast<idx>(blocks_.size()); }

 private:
  idx bytes_;
  std::vector<Buffer<std::byte>> blocks_;
  std::vector<std::byte*> free_;
};

// The record that a row leaves in each layer for the backward pass. Offsets in bytes; rows of T are
// padded to kPad with zeros. 346 KB a row for a 135M model in bf16.
template <class T>
struct ActivationLayout {
  explicit ActivationLayout(const ModelConfig& config);
  idx ld_d, ld_q, ld_kv, ld_gate_up;  // elements
  idx residual, q, k, v, attention, mid, gate_up, lse;
  idx layer_bytes;
  idx final;      // behind the last layer: the residual that the final norm reads
  idx row_bytes;  // all layers and `final`
};

// Rows of one block of activation records: samples own whole blocks, never parts.
inline constexpr idx kActivationRows = 8;

template <class T>
class SegmentPool;

template <class T>
class Segment {
 public:
  Segment() = default;
  explicit Segment(SegmentPool<T>* pool) : pool_(pool) {}
  Segment(Segment&& other) noexcept { *this = std::move(other); }
  Segment& operator=(Segment&& other) noexcept;
  ~Segment() { Clear(); }

  void Clear();  // gives everything back
  idx length() const { return length_; }
  // Makes room for `rows` rows in all; activation records too when `record`.
  void Grow(idx rows, bool record);
  void SetLength(idx length) { length_ = length; }
  T* page(idx block) const { return reinterpret_cast<T*>(pages_[static_cast<std::size_t>(block)]); }
  bool recorded() const { return !records_.empty(); }
  // The record of a row in a layer; add the layout's offsets.
  std::byte* Record(idx row, idx layer) const;
  void DropRecords();

 private:
  SegmentPool<T>* pool_ = nullptr;
  idx length_ = 0;
  std::vector<std::byte*> pages_;
  std::vector<std::byte*> records_;
};

template <class T>
class SegmentPool {
 public:
  explicit SegmentPool(const ModelConfig& config);
  const ActivationLayout<T>& activations() const { return activations_; }
  idx bytes() const { return pages_.bytes() + records_.bytes(); }

 private:
  friend class Segment<T>;
  ActivationLayout<T> activations_;
  BlockPool pages_;
  BlockPool records_;
};

AttentionShape ShapeOf(const ModelConfig& config);

}  // namespace opo
