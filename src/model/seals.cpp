#include "model/seals.h"

#include <algorithm>
#include <mutex>

#include "base/hash.h"
#include "base/parallel.h"

namespace opo {
namespace {

constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15;  // one changed hash changes the pair's

template <class T>
std::uint64_t Hash(const T* values, idx n) {
  return Hash64(std::as_bytes(std::span<const T>(values, static_cast<std::size_t>(n))));
}

// Where kv_write puts column d of head h of the key in `slot`, and of its value (kernels/layout.h).
template <class T>
idx KeyPlace(const AttentionShape& shape, idx slot, idx h, idx d) {
  const idx base = h * (shape.k_size() + shape.v_size());
  if constexpr (sizeof(T) == 2) return base + (d / 2 * kPanel + slot) * 2 + d % 2;
  return base + d * kPanel + slot;
}
template <class T>
idx ValuePlace(const AttentionShape& shape, idx slot, idx h, idx d) {
  const idx panel =
      h * (shape.k_size() + shape.v_size()) + shape.k_size() + d / kPanel * PanelSize(kKeyBlock);
  if constexpr (sizeof(T) == 2) {
    return panel + slot / 2 * 2 * kPanel + d % kPanel * 2 + slot % 2;
  }
  return panel + slot * kPanel + d % kPanel;
}

template <class T>
std::uint64_t SealOf(const Segment<T>& segment, const ActivationLayout<T>& at, idx row, idx layer) {
  if (layer == at.num_layers) {
    return Hash(segment.Kept(row, 0) + at.final, at.kept_bytes - at.final);
  }
  return Hash(segment.Kept(row, layer), at.kept_layer_bytes) * kOdd +
         Hash(segment.Rest(row, layer), at.rest_layer_bytes);
}

// The least of the flaws that find(i) reports for i < n.
template <class Find>
std::optional<Flaw> First(idx n, const Find& find) {
  std::mutex mutex;
  std::optional<Flaw> first;
  ParallelFor(n, [&](idx i) {
    const std::optional<Flaw> flaw = find(i);
    if (!flaw.has_value()) return;
    const std::scoped_lock lock(mutex);
    if (!first.has_value() || *flaw < *first) first = flaw;
  });
  return first;
}

}  // namespace

template <class T>
std::uint64_t SealOfKeys(const T* k, const T* v, const AttentionShape& shape) {
  const idx width = shape.num_kv_heads * shape.head_dim;
  return Hash(k, width) * kOdd + Hash(v, width);
}

template <class T>
void SealRecord(const Segment<T>& segment, const ActivationLayout<T>& layout, idx row, idx layer) {
  segment.RecordSeal(row, layer) = SealOf(segment, layout, row, layer);
}

template <class T>
std::optional<Flaw> FindFlawInPages(const Segment<T>& segment, const ModelConfig& config) {
  if (!segment.sealed() || !segment.has_pages()) return std::nullopt;
  const AttentionShape shape = ShapeOf(config);
  const idx blocks = CeilDiv(segment.length(), kKeyBlock);
  return First(blocks * config.num_layers, [&](idx task) -> std::optional<Flaw> {
    const idx layer = task % config.num_layers;
    const idx row0 = task / config.num_layers * kKeyBlock;
    const T* page = segment.page(row0 / kKeyBlock) + layer * shape.page_size();
    thread_local std::vector<T> k;
    thread_local std::vector<T> v;
    k.resize(static_cast<std::size_t>(shape.num_kv_heads * shape.head_dim));
    v.resize(k.size());
    for (idx row = row0; row < std::min(segment.length(), row0 + kKeyBlock); ++row) {
      const idx slot = row - row0;
      for (idx h = 0; h < shape.num_kv_heads; ++h) {
        T* key = k.data() + h * shape.head_dim;
        T* value = v.data() + h * shape.head_dim;
        for (idx d = 0; d < shape.head_dim; ++d) {
          key[d] = page[KeyPlace<T>(shape, slot, h, d)];
          value[d] = page[ValuePlace<T>(shape, slot, h, d)];
        }
      }
      if (SealOfKeys(k.data(), v.data(), shape) != segment.KeySeal(row, layer)) {
        return Flaw{row, layer};
      }
    }
    return std::nullopt;
  });
}

template <class T>
std::optional<Flaw> FindFlawInRecords(const Segment<T>& segment,
                                      const ActivationLayout<T>& layout) {
  if (!segment.sealed() || segment.record() != Record::kAll) return std::nullopt;
  return First(segment.length(), [&](idx row) -> std::optional<Flaw> {
    for (idx layer = 0; layer <= layout.num_layers; ++layer) {
      // A prompt's rows end in the last layer: nothing of theirs is read by the final norm.
      const std::uint64_t seal = segment.RecordSeal(row, layer);
      if (layer == layout.num_layers && seal == 0) continue;
      if (SealOf(segment, layout, row, layer) != seal) return Flaw{row, layer};
    }
    return std::nullopt;
  });
}

template <class T>
T* KeyOrValueAt(const Segment<T>& segment, const ModelConfig& config, idx i) {
  const AttentionShape shape = ShapeOf(config);
  const auto take = [&](idx n) {
    const idx value = i % n;
    i /= n;
    return value;
  };
  const idx row = take(segment.length());
  const idx layer = take(config.num_layers);
  const bool key = take(2) == 0;
  const idx h = take(shape.num_kv_heads);
  const idx d = take(shape.head_dim);
  T* page = segment.page(row / kKeyBlock) + layer * shape.page_size();
  return page + (key ? KeyPlace<T>(shape, row % kKeyBlock, h, d)
                     : ValuePlace<T>(shape, row % kKeyBlock, h, d));
}

template <class T>
std::byte* RecordByteAt(const Segment<T>& segment, const ActivationLayout<T>& layout, idx i) {
  const idx row = i % segment.length();
  i /= segment.length();
  const idx layer = i % layout.num_layers;
  i = i / layout.num_layers % (layout.kept_layer_bytes + layout.rest_layer_bytes);
  return i < layout.kept_layer_bytes ? segment.Kept(row, layer) + i
                                     : segment.Rest(row, layer) + i - layout.kept_layer_bytes;
}

#define OPO_INSTANTIATE(T)                                                                       \
  template std::uint64_t SealOfKeys(const T*, const T*, const AttentionShape&);                  \
  template void SealRecord(const Segment<T>&, const ActivationLayout<T>&, idx, idx);             \
  template std::optional<Flaw> FindFlawInPages(const Segment<T>&, const ModelConfig&);           \
  template std::optional<Flaw> FindFlawInRecords(const Segment<T>&, const ActivationLayout<T>&); \
  template T* KeyOrValueAt(const Segment<T>&, const ModelConfig&, idx);                          \
  template std::byte* RecordByteAt(const Segment<T>&, const ActivationLayout<T>&, idx);
OPO_INSTANTIATE(float)
OPO_INSTANTIATE(bf16)
#undef OPO_INSTANTIATE

}  // namespace opo
