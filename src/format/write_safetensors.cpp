#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "format/quantize.h"
#include "format/safetensors.h"

namespace opo {
namespace {

struct TypeName {
  GgmlType ggml;
  const char* name;  // in safetensors
};

TypeName NameOf(DType dtype) {
  if (dtype == DType::kBf16) return {GgmlType::kBf16, "BF16"};
  if (dtype == DType::kF16) return {GgmlType::kF16, "F16"};
  return {GgmlType::kF32, "F32"};
}

idx NumElements(const SafeTensorToWrite& tensor) {
  idx elements = 1;
  for (const idx dim : tensor.shape) elements *= dim;
  return elements;
}

}  // namespace

void WriteSafetensors(const std::string& path, const std::vector<SafeTensorToWrite>& tensors,
                      DType dtype, const std::map<std::string, std::string>& metadata) {
  const TypeName type = NameOf(dtype);
  const idx element = RowOf(type.ggml).bytes;
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  idx offset = 0;
  for (const SafeTensorToWrite& tensor : tensors) {
    const idx elements = NumElements(tensor);
    const idx given = std::visit([](auto data) { return std::ssize(data); }, tensor.data);
    OPO_CHECK(given == (tensor.read ? 0 : elements) && !header.contains(tensor.name));
    header[tensor.name] = {{"dtype", type.name},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + elements * element}}};
    offset += elements * element;
  }
  std::string text = header.dump();
  text.resize(static_cast<std::size_t>(RoundUp(std::ssize(text), 8)), ' ');  // aligns the data
  const std::uint64_t header_bytes = text.size();

  PartialFile file(path);
  file.Write(&header_bytes, sizeof(header_bytes));
  file.Write(text.data(), text.size());
  std::vector<float> values;
  std::vector<std::byte> rounded;
  for (const SafeTensorToWrite& tensor : tensors) {
    if (const auto* exact = std::get_if<std::span<const bf16>>(&tensor.data)) {
      OPO_CHECK(dtype == DType::kBf16);
      file.Write(exact->data(), exact->size_bytes());
      continue;
    }
    auto data = std::get<std::span<const float>>(tensor.data);
    if (tensor.read) {
      values.resize(static_cast<std::size_t>(NumElements(tensor)));
      tensor.read(values);
      data = values;
    }
    if (dtype == DType::kF32) {
      file.Write(data.data(), data.size_bytes());
      continue;
    }
    constexpr idx kChunk = idx{1} << 20;
    for (idx first = 0; first < std::ssize(data); first += kChunk) {
      const auto chunk = data.subspan(first, std::min(kChunk, std::ssize(data) - first));
      rounded.resize(chunk.size() * static_cast<std::size_t>(element));
      const idx bad = Quantize(type.ggml, chunk, rounded);
      if (bad >= 0) FailToHold(path, tensor.name, first + bad, chunk[bad], type.name);
      file.Write(rounded.data(), rounded.size());
    }
  }
  file.Commit();
}

}  // namespace opo
