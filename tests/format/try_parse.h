// What the fuzz targets and the replay of their corpus do with a file: parse it, and where that
// works, read all of it. The only failure allowed is Error(kInput).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "format/gguf.h"
#include "format/safetensors.h"

namespace opo {

inline constexpr idx kMaxFuzzElements = idx{1} << 20;

// True where the file was read to its end.
inline bool TryGguf(std::span<const std::byte> bytes) {
  try {
    const GgufFile file = GgufFile::Parse(bytes, "fuzz.gguf");
    idx total = 0;
    for (const GgufTensor& tensor : file.tensors()) {
      OPO_CHECK(tensor.bytes <= bytes.size() && tensor.offset <= bytes.size() - tensor.bytes);
      total += tensor.num_elements();
    }
    if (total > kMaxFuzzElements) return true;
    for (const GgufTensor& tensor : file.tensors()) {
      OPO_CHECK(file.Find(tensor.name) == &tensor);
      std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
      file.Dequantize(tensor, 0, values);
    }
    return true;
  } catch (const Error& e) {
    OPO_CHECK(e.code() == ErrorCode::kInput);
    return false;
  }
}

inline bool TrySafetensors(std::span<const std::byte> bytes) {
  try {
    const SafetensorsFile file = SafetensorsFile::Parse(bytes, "fuzz.safetensors");
    idx total = 0;
    for (const SafeTensor& tensor : file.tensors()) {
      OPO_CHECK(file.Raw(tensor).size() == tensor.bytes);
      OPO_CHECK(tensor.bytes <= bytes.size() && tensor.offset <= bytes.size() - tensor.bytes);
      total += tensor.num_elements();
    }
    if (total > kMaxFuzzElements) return true;
    for (const SafeTensor& tensor : file.tensors()) {
      OPO_CHECK(file.Find(tensor.name) == &tensor);
      std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
      file.ReadF32(tensor, values);
    }
    return true;
  } catch (const Error& e) {
    OPO_CHECK(e.code() == ErrorCode::kInput);
    return false;
  }
}

}  // namespace opo
