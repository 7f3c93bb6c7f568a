// What the engine keeps of a run of tokens: its K and V for attention, and, where a backward pass
// is to follow, the activations of every row. A prompt is a segment; each of its samples is another
// one, with the prompt as prefix.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "kernels/kernels.h"
#include "model/config.h"

namespace opo {

// Blocks of one size, carved from slabs; zeroed on request when they are used again. KV pages must
// be zero: a masked key still meets a zero probability, and 0 x NaN is NaN. Not for several threads
// at once.
class BlockPool {
 public:
  explicit BlockPool(idx bytes_per_block) : bytes_(RoundUp(bytes_per_block, 64)) {}
  std::byte* Acquire(bool zero);
  void Release(std::byte* block) { free_.push_back(block); }
  idx block_bytes() const { return bytes_; }
  idx bytes() const { return bytes_ * (blocks_of_slabs_ - fresh_); }  // handed out at least once

 private:
  idx bytes_;
  std::vector<Buffer<std::byte>> slabs_;
  idx blocks_of_slabs_ = 0;
  idx fresh_ = 0;  // blocks of the last slab that nobody had yet
  std::vector<std::byte*> free_;
};

// What a run of tokens leaves behind for a backward pass.
enum class Record {
  kNone,
  kResiduals,  // each layer's input, K and V: Backward recomputes the rest, one layer at a time
  kAll,
};

// The record of a row. Offsets in bytes; rows of T are padded to kPad with zeros. The `kept` part
// has every layer's; the `rest` of a layer can be recomputed from it, and where it is (kResiduals),
// there is room for one layer only. 346 KB a row for a 135M model in bf16, 68 KB with recompute.
template <class T>
struct ActivationLayout {
  explicit ActivationLayout(const ModelConfig& config);
  idx ld_d, ld_q, ld_kv, ld_gate_up;  // elements
  idx residual, k, v;                 // in a layer's kept part
  idx kept_layer_bytes;
  idx final;  // behind the last layer's kept part: the residual that the final norm reads
  idx kept_bytes;
  // In a layer's rest. q_pre and k_pre, before their norm, are there where the model has one.
  idx q, q_pre, k_pre, attention, mid, gate_up, lse;
  idx rest_layer_bytes;
  idx num_layers;
  idx row_bytes(Record record) const {
    if (record == Record::kNone) return 0;
    return kept_bytes + rest_layer_bytes * (record == Record::kAll ? num_layers : 1);
  }
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
  // Makes room for `rows` rows in all, and for their records: all rows in one way, from the first
  // one that was ever recorded (a multiple of kActivationRows) on; and for their seals.
  void Grow(idx rows, Record record, bool seal = false);
  void SetLength(idx length) { length_ = length; }
  bool has_pages() const { return !pages_.empty(); }
  T* page(idx block) const { return reinterpret_cast<T*>(pages_[static_cast<std::size_t>(block)]); }
  Record record() const { return record_; }
  idx first_recorded() const { return first_recorded_; }
  // The two parts of a row's record in a layer; add the layout's offsets.
  std::byte* Kept(idx row, idx layer) const;
  std::byte* Rest(idx row, idx layer) const;
  // What model/seals.h checks: of each row a hash of its keys and values, and one of its record, in
  // a layer. A record has one more, at layer == num_layers: of what the final norm reads.
  bool sealed() const { return sealed_; }
  std::uint64_t& KeySeal(idx row, idx layer) const { return key_seals_[SealAt(row, layer)]; }
  std::uint64_t& RecordSeal(idx row, idx layer) const {
    return record_seals_[SealAt(row - first_recorded_, layer)];
  }
  void DropRecords();
  // Nobody will attend to these rows any more; the records stay.
  void DropPages();

 private:
  SegmentPool<T>* pool_ = nullptr;
  idx length_ = 0;
  Record record_ = Record::kNone;
  std::vector<std::byte*> pages_;
  idx first_recorded_ = 0;
  std::vector<std::byte*> kept_, rest_;
  std::size_t SealAt(idx row, idx layer) const;
  bool sealed_ = false;
  mutable std::vector<std::uint64_t> key_seals_, record_seals_;  // (rows, L + 1)
};

template <class T>
class SegmentPool {
 public:
  explicit SegmentPool(const ModelConfig& config);
  const ActivationLayout<T>& activations() const { return activations_; }
  // What the records of a segment of `rows` rows take.
  idx RecordBytes(idx rows, Record record) const {
    return CeilDiv(rows, kActivationRows) * kActivationRows * activations_.row_bytes(record);
  }
  idx bytes() const { return pages_.bytes() + kept_.bytes() + rest_.bytes() + one_layer_.bytes(); }

 private:
  friend class Segment<T>;
  BlockPool& rest_of(Record record) { return record == Record::kAll ? rest_ : one_layer_; }
  ActivationLayout<T> activations_;
  BlockPool pages_;
  BlockPool kept_, rest_, one_layer_;  // of kActivationRows rows
};

AttentionShape ShapeOf(const ModelConfig& config);

}  // namespace opo
