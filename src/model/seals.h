// Seals: hashes that are taken of keys, values and activation records as they are written, so that
// a bit that flips in memory afterwards is found before anybody learns from it. Every row of every
// layer has its own, so that the flaw is named too. A key or value is sealed from the registers'
// side of the page, a record as it stands in the cache.
#pragma once

#include <optional>

#include "model/segment.h"

namespace opo {

// A place that differs from its seal. layer == num_layers: what the final norm reads.
struct Flaw {
  idx row = 0, layer = 0;
  auto operator<=>(const Flaw&) const = default;
};

// Of a row's keys and values (Hk * Dh each), as kv_write gets them.
template <class T>
std::uint64_t SealOfKeys(const T* k, const T* v, const AttentionShape& shape);
// Takes the seal of a row's record in a layer, from what is in memory.
template <class T>
void SealRecord(const Segment<T>& segment, const ActivationLayout<T>& layout, idx row, idx layer);

// The first row of a sealed segment whose keys or values on the pages, or whose record, is not what
// was written. On all threads; nothing to check in a segment without seals, pages or records.
template <class T>
std::optional<Flaw> FindFlawInPages(const Segment<T>& segment, const ModelConfig& config);
template <class T>
std::optional<Flaw> FindFlawInRecords(const Segment<T>& segment, const ActivationLayout<T>& layout);

// For tests and planted faults: where number i of a segment's keys and values is on its pages, and
// number i of its records' bytes; both wrap around.
template <class T>
T* KeyOrValueAt(const Segment<T>& segment, const ModelConfig& config, idx i);
template <class T>
std::byte* RecordByteAt(const Segment<T>& segment, const ActivationLayout<T>& layout, idx i);

}  // namespace opo
