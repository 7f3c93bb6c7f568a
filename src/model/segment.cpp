#include "model/segment.h"

#include <cmath>
#include <cstring>

namespace opo {

std::byte* BlockPool::Acquire(bool zero) {
  if (free_.empty()) {
    blocks_.emplace_back(bytes_);
    return blocks_.back().data();
  }
  std::byte* block = free_.back();
  free_.pop_back();
  if (zero) std::memset(block, 0, static_cast<std::size_t>(bytes_));
  return block;
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
  idx at = 0;
  const auto take = [&](idx elements) {
    const idx offset = at;
    at += RoundUp(elements * kBytes, 64);
    return offset;
  };
  residual = take(ld_d);
  q = take(ld_q);
  k = take(ld_kv);
  v = take(ld_kv);
  attention = take(ld_q);
  mid = take(ld_d);
  gate_up = take(ld_gate_up);
  lse = at;
  at += RoundUp(config.num_heads * static_cast<idx>(sizeof(float)), 64);
  layer_bytes = at;
  final = layer_bytes * config.num_layers;
  row_bytes = final + RoundUp(ld_d * kBytes, 64);
}

template <class T>
Segment<T>& Segment<T>::operator=(Segment&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(length_, other.length_);
  std::swap(pages_, other.pages_);
  std::swap(records_, other.records_);
  return *this;
}

template <class T>
void Segment<T>::DropRecords() {
  for (std::byte* block : records_) pool_->records_.Release(block);
  records_.clear();
}

template <class T>
void Segment<T>::Clear() {
  DropRecords();
  for (std::byte* page : pages_) pool_->pages_.Release(page);
  pages_.clear();
  length_ = 0;
}

template <class T>
void Segment<T>::Grow(idx rows, bool record) {
  while (static_cast<idx>(pages_.size()) < CeilDiv(rows, kKeyBlock)) {
    pages_.push_back(pool_->pages_.Acquire(true));
  }
  // Records are overwritten row by row, their zero padding never: no need to clear them.
  while (record && static_cast<idx>(records_.size()) < CeilDiv(rows, kActivationRows)) {
    records_.push_back(pool_->records_.Acquire(false));
  }
}

template <class T>
std::byte* Segment<T>::Record(idx row, idx layer) const {
  const ActivationLayout<T>& layout = pool_->activations_;
  return records_[static_cast<std::size_t>(row / kActivationRows)] +
         (row % kActivationRows) * layout.row_bytes + layer * layout.layer_bytes;
}

template <class T>
SegmentPool<T>::SegmentPool(const ModelConfig& config)
    : activations_(config),
      pages_(config.num_layers * ShapeOf(config).page_size() * static_cast<idx>(sizeof(T))),
      records_(kActivationRows * activations_.row_bytes) {}

template struct ActivationLayout<float>;
template struct ActivationLayout<bf16>;
template class Segment<float>;
template class Segment<bf16>;
template class SegmentPool<float>;
template class SegmentPool<bf16>;

}  // namespace opo
