#include "model/segment.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace opo {

std::byte* BlockPool::Acquire(bool zero) {
  if (!free_.empty()) {
    std::byte* block = free_.back();
    free_.pop_back();
    if (zero) std::memset(block, 0, static_cast<std::size_t>(bytes_));
    return block;
  }
  if (fresh_ == 0) {
    // Slabs, so that blocks lie on huge pages; small enough that a small model stays small.
    constexpr idx kSlabBytes = idx{32} << 20;
    fresh_ = std::clamp<idx>(kSlabBytes / bytes_, 1, 32);
    slabs_.emplace_back(fresh_ * bytes_);
    blocks_of_slabs_ += fresh_;
  }
  Buffer<std::byte>& slab = slabs_.back();
  return slab.data() + slab.size() - bytes_ * fresh_--;
}

AttentionShape ShapeOf(const ModelConfig& config) {
  AttentionShape shape;
  shape.num_heads = config.num_heads;
  shape.num_kv_heads = config.num_kv_heads;
  shape.head_dim = config.head_dim;
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
  return shape;
}

template <class T>
ActivationLayout<T>::ActivationLayout(const ModelConfig& config)
    : ld_d(RoundUp(config.hidden_size, kPad)),
      ld_q(RoundUp(config.num_heads * config.head_dim, kPad)),
      ld_kv(RoundUp(config.num_kv_heads * config.head_dim, kPad)),
      ld_gate_up(RoundUp(2 * config.intermediate_size, kPad)) {
  constexpr idx kBytes = sizeof(T);
  num_layers = config.num_layers;
  const auto take = [](idx& at, idx bytes) {
    const idx offset = at;
    at += RoundUp(bytes, 64);
    return offset;
  };
  kept_layer_bytes = 0;
  residual = take(kept_layer_bytes, ld_d * kBytes);
  k = take(kept_layer_bytes, ld_kv * kBytes);
  v = take(kept_layer_bytes, ld_kv * kBytes);
  final = kept_layer_bytes * num_layers;
  kept_bytes = final + RoundUp(ld_d * kBytes, 64);
  rest_layer_bytes = 0;
  q = take(rest_layer_bytes, ld_q * kBytes);
  q_pre = take(rest_layer_bytes, config.qk_norm ? ld_q * kBytes : 0);
  k_pre = take(rest_layer_bytes, config.qk_norm ? ld_kv * kBytes : 0);
  attention = take(rest_layer_bytes, ld_q * kBytes);
  mid = take(rest_layer_bytes, ld_d * kBytes);
  gate_up = take(rest_layer_bytes, ld_gate_up * kBytes);
  lse = take(rest_layer_bytes, config.num_heads * static_cast<idx>(sizeof(float)));
}

template <class T>
Segment<T>& Segment<T>::operator=(Segment&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(length_, other.length_);
  std::swap(record_, other.record_);
  std::swap(first_recorded_, other.first_recorded_);
  std::swap(pages_, other.pages_);
  std::swap(kept_, other.kept_);
  std::swap(rest_, other.rest_);
  std::swap(sealed_, other.sealed_);
  std::swap(key_seals_, other.key_seals_);
  std::swap(record_seals_, other.record_seals_);
  return *this;
}

template <class T>
void Segment<T>::DropRecords() {
  for (std::byte* block : kept_) pool_->kept_.Release(block);
  for (std::byte* block : rest_) pool_->rest_of(record_).Release(block);
  kept_.clear();
  rest_.clear();
  record_seals_.clear();
  record_ = Record::kNone;
}

template <class T>
void Segment<T>::DropPages() {
  for (std::byte* page : pages_) pool_->pages_.Release(page);
  pages_.clear();
  key_seals_.clear();
}

template <class T>
std::size_t Segment<T>::SealAt(idx row, idx layer) const {
  return static_cast<std::size_t>(row * (pool_->activations_.num_layers + 1) + layer);
}

template <class T>
void Segment<T>::Clear() {
  DropRecords();
  DropPages();
  length_ = 0;
  sealed_ = false;
}

template <class T>
void Segment<T>::Grow(idx rows, Record record, bool seal) {
  while (static_cast<idx>(pages_.size()) < CeilDiv(rows, kKeyBlock)) {
    pages_.push_back(pool_->pages_.Acquire(true));
  }
  OPO_CHECK(sealed_ == seal || length_ == 0);
  sealed_ = seal;
  if (sealed_) key_seals_.resize(SealAt(rows, 0));
  if (record == Record::kNone) return;
  if (record_ == Record::kNone) {
    OPO_CHECK(length_ % kActivationRows == 0);
    record_ = record;
    first_recorded_ = length_;
  }
  OPO_CHECK(record_ == record);
  // Records are overwritten row by row, their zero padding never: no need to clear them.
  while (static_cast<idx>(kept_.size()) < CeilDiv(rows - first_recorded_, kActivationRows)) {
    kept_.push_back(pool_->kept_.Acquire(false));
    rest_.push_back(pool_->rest_of(record).Acquire(false));
  }
  if (sealed_) record_seals_.resize(SealAt(rows - first_recorded_, 0));
}

template <class T>
std::byte* Segment<T>::Kept(idx row, idx layer) const {
  const ActivationLayout<T>& layout = pool_->activations_;
  row -= first_recorded_;
  return kept_[static_cast<std::size_t>(row / kActivationRows)] +
         (row % kActivationRows) * layout.kept_bytes + layer * layout.kept_layer_bytes;
}

template <class T>
std::byte* Segment<T>::Rest(idx row, idx layer) const {
  const ActivationLayout<T>& layout = pool_->activations_;
  row -= first_recorded_;
  std::byte* block = rest_[static_cast<std::size_t>(row / kActivationRows)];
  const idx in_block = row % kActivationRows;
  if (record_ != Record::kAll) return block + in_block * layout.rest_layer_bytes;
  return block + (in_block * layout.num_layers + layer) * layout.rest_layer_bytes;
}

template <class T>
SegmentPool<T>::SegmentPool(const ModelConfig& config)
    : activations_(config),
      pages_(config.num_layers * ShapeOf(config).page_size() * static_cast<idx>(sizeof(T))),
      kept_(kActivationRows * activations_.kept_bytes),
      rest_(kActivationRows * activations_.rest_layer_bytes * activations_.num_layers),
      one_layer_(kActivationRows * activations_.rest_layer_bytes) {}

template struct ActivationLayout<float>;
template struct ActivationLayout<bf16>;
template class Segment<float>;
template class Segment<bf16>;
template class SegmentPool<float>;
template class SegmentPool<bf16>;

}  // namespace opo
