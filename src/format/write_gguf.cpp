#include <algorithm>
#include <set>
#include <type_traits>

#include "base/error.h"
#include "base/file.h"
#include "format/gguf.h"
#include "format/quantize.h"

namespace opo {
namespace {

constexpr idx kAlignment = 32;  // what readers take where general.alignment is absent

// The header, before the file is opened: everything but the tensors' data.
class Header {
 public:
  template <class T>
  void Number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void Type(GgufValueType type) { Number(static_cast<std::uint32_t>(type)); }
  void String(const std::string& text) {
    Number(static_cast<std::uint64_t>(text.size()));
    text_ += text;
  }
  void Raw(std::span<const std::byte> bytes) {
    text_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void PadToAlignment() {
    text_.resize(static_cast<std::size_t>(RoundUp(std::ssize(text_), kAlignment)), '\0');
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

struct AppendValue {
  Header& header;
  void operator()(std::uint32_t value) const {
    header.Type(GgufValueType::kUint32);
    header.Number(value);
  }
  void operator()(float value) const {
    header.Type(GgufValueType::kFloat32);
    header.Number(value);
  }
  void operator()(bool value) const {
    header.Type(GgufValueType::kBool);
    header.Number(static_cast<std::uint8_t>(value ? 1 : 0));
  }
  void operator()(const std::string& value) const {
    header.Type(GgufValueType::kString);
    header.String(value);
  }
  void operator()(const std::vector<std::int32_t>& values) const {
    Array(GgufValueType::kInt32, values.size());
    for (const std::int32_t value : values) header.Number(value);
  }
  void operator()(const std::vector<std::string>& values) const {
    Array(GgufValueType::kString, values.size());
    for (const std::string& value : values) header.String(value);
  }
  void operator()(std::span<const std::byte> raw) const { header.Raw(raw); }

 private:
  void Array(GgufValueType type, std::size_t size) const {
    header.Type(GgufValueType::kArray);
    header.Type(type);
    header.Number(static_cast<std::uint64_t>(size));
  }
};

idx NumElements(const GgufTensorToWrite& tensor) {
  idx elements = 1;
  for (const idx dim : tensor.dims) elements *= dim;
  return elements;
}

idx NumBytes(const GgufTensorToWrite& tensor) {
  const GgmlTypeRow& row = RowOf(tensor.type);
  return NumElements(tensor) / row.elements * row.bytes;
}

std::string MakeHeader(const std::vector<GgufKeyToWrite>& keys,
                       const std::vector<GgufTensorToWrite>& tensors) {
  Header header;
  header.Number(std::uint32_t{0x46554747});  // "GGUF"
  header.Number(std::uint32_t{3});
  header.Number(static_cast<std::uint64_t>(tensors.size()));
  header.Number(static_cast<std::uint64_t>(keys.size()));
  std::set<std::string> names;
  for (const GgufKeyToWrite& key : keys) {
    OPO_CHECK(names.insert(key.key).second);
    header.String(key.key);
    std::visit(AppendValue{header}, key.value);
  }
  names.clear();
  idx offset = 0;
  for (const GgufTensorToWrite& tensor : tensors) {
    OPO_CHECK(names.insert(tensor.name).second);
    OPO_CHECK(!tensor.dims.empty() && tensor.dims.size() <= 4);
    OPO_CHECK(tensor.dims[0] % RowOf(tensor.type).elements == 0);
    header.String(tensor.name);
    header.Number(static_cast<std::uint32_t>(tensor.dims.size()));
    for (const idx dim : tensor.dims) header.Number(static_cast<std::uint64_t>(dim));
    header.Number(static_cast<std::uint32_t>(tensor.type));
    header.Number(static_cast<std::uint64_t>(offset));
    offset += RoundUp(NumBytes(tensor), kAlignment);
  }
  header.PadToAlignment();
  return header.text();
}

}  // namespace

void WriteGguf(const std::string& path, const std::vector<GgufKeyToWrite>& keys,
               const std::vector<GgufTensorToWrite>& tensors) {
  const std::string header = MakeHeader(keys, tensors);
  PartialFile file(path);
  file.Write(header.data(), header.size());
  std::vector<float> values;
  std::vector<std::byte> stored;
  for (const GgufTensorToWrite& tensor : tensors) {
    const GgmlTypeRow& row = RowOf(tensor.type);
    values.resize(static_cast<std::size_t>(NumElements(tensor)));
    tensor.read(values);
    constexpr idx kChunk = idx{1} << 20;  // whole blocks of every type
    for (idx first = 0; first < std::ssize(values); first += kChunk) {
      const auto chunk =
          std::span(values).subspan(first, std::min(kChunk, std::ssize(values) - first));
      stored.resize(chunk.size() / static_cast<std::size_t>(row.elements) *
                    static_cast<std::size_t>(row.bytes));
      const idx bad = Quantize(tensor.type, chunk, stored);
      if (bad >= 0) FailToHold(path, tensor.name, first + bad, chunk[bad], row.name);
      file.Write(stored.data(), stored.size());
    }
    const std::string padding(
        static_cast<std::size_t>(RoundUp(NumBytes(tensor), kAlignment) - NumBytes(tensor)), '\0');
    file.Write(padding.data(), padding.size());
  }
  file.Commit();
}

}  // namespace opo
