#include "format/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "format/dequantize.h"
#include "format/quote.h"

namespace opo {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference reader
constexpr std::uint64_t kPrefixBytes = 8;

// Bytes of one element, 0 for an unknown dtype.
idx ElementBytes(std::string_view dtype) {
  constexpr std::pair<std::string_view, idx> kSizes[] = {
      {"F64", 8}, {"F32", 4}, {"F16", 2},  {"BF16", 2},    {"I64", 8},
      {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U64", 8},     {"U32", 4},
      {"U16", 2}, {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1},
  };
  for (const auto& [name, bytes] : kSizes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

// The header, event by event: it has one fixed form, so no tree is built, nesting is bounded by the
// form itself, and a duplicate key is seen where a tree would have swallowed it.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderReader(const std::string& path) : path_(path) {}

  std::vector<SafeTensor> tensors;
  std::map<std::string, std::string> metadata;

  bool null() override { Refuse("null"); }
  bool boolean(bool) override { Refuse("a bool"); }
  bool number_integer(number_integer_t value) override { Refuse(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) override { Refuse(Quote(text)); }
  bool binary(binary_t&) override { Refuse("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape && tensor().shape.size() < kMaxDims && std::in_range<idx>(value)) {
      tensor().shape.push_back(static_cast<idx>(value));
    } else if (place_ == Place::kOffsets && num_offsets_ < 2) {
      offsets_[num_offsets_++] = value;
    } else {
      Refuse(fmt::format("{}", value));
    }
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      metadata[key_] = value;
    } else if (place_ == Place::kTensor && key_ == "dtype") {
      tensor().dtype = value;
    } else {
      Refuse("the string " + Quote(value));
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop && key_ == "__metadata__") {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kTop) {
      place_ = Place::kTensor;
      tensors.emplace_back().name = key_;
      fields_.clear();
      num_offsets_ = 0;
    } else {
      Refuse("an object");
    }
    return true;
  }

  bool key(string_t& name) override {
    std::set<std::string>& seen = place_ == Place::kTop      ? names_
                                  : place_ == Place::kTensor ? fields_
                                                             : metadata_keys_;
    if (!seen.insert(name).second) {
      Fail(ErrorCode::kInput, "{}: the header{} holds the key {} twice", path_, In(), Quote(name));
    }
    key_ = name;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (!fields_.contains(field)) {
          Fail(ErrorCode::kInput, "{}: tensor {} has no {}", path_, Quote(tensor().name), field);
        }
      }
      if (fields_.size() != 3) {
        Fail(ErrorCode::kInput, "{}: tensor {} has fields beside dtype, shape and data_offsets",
             path_, Quote(tensor().name));
      }
      FinishTensor();
    }
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::kTensor && key_ == "shape") {
      place_ = Place::kShape;
    } else if (place_ == Place::kTensor && key_ == "data_offsets") {
      place_ = Place::kOffsets;
    } else {
      Refuse("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && num_offsets_ != 2) Refuse("a list that is not [begin, end]");
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    Fail(ErrorCode::kInput, "{}: the header{} is not JSON at offset {}: {}", path_, In(),
         kPrefixBytes + position - (position > 0 ? 1 : 0), Quote(error.what()));
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };
  static constexpr std::size_t kMaxDims = 8;

  SafeTensor& tensor() { return tensors.back(); }

  std::string In() const {
    if (place_ == Place::kMetadata) return " in '__metadata__'";
    if (place_ == Place::kStart || place_ == Place::kTop || place_ == Place::kEnd) return "";
    return " of tensor " + Quote(tensors.back().name);
  }

  [[noreturn]] void Refuse(const std::string& found) const {
    Fail(ErrorCode::kInput, "{}: the header{} has {} where it does not belong (key {})", path_,
         In(), found, Quote(key_));
  }

  // Size against shape and dtype; the offsets stay relative until the data section is known.
  void FinishTensor() {
    SafeTensor& t = tensor();
    const idx element = ElementBytes(t.dtype);
    if (element == 0) {
      Fail(ErrorCode::kInput, "{}: tensor {} has the unknown dtype {}", path_, Quote(t.name),
           Quote(t.dtype));
    }
    idx bytes = element;
    for (const idx dim : t.shape) {
      if (__builtin_mul_overflow(bytes, dim, &bytes)) {
        Fail(ErrorCode::kInput, "{}: tensor {}: the shape [{}] has too many elements", path_,
             Quote(t.name), fmt::join(t.shape, ", "));
      }
    }
    if (offsets_[1] < offsets_[0] ||
        offsets_[1] - offsets_[0] != static_cast<std::uint64_t>(bytes)) {
      Fail(ErrorCode::kInput,
           "{}: tensor {}: data_offsets [{}, {}] do not span the {} bytes of {} [{}]", path_,
           Quote(t.name), offsets_[0], offsets_[1], bytes, t.dtype, fmt::join(t.shape, ", "));
    }
    t.offset = offsets_[0];
    t.bytes = static_cast<std::uint64_t>(bytes);
  }

  const std::string& path_;
  Place place_ = Place::kStart;
  std::string key_;
  std::set<std::string> names_;
  std::set<std::string> fields_;
  std::set<std::string> metadata_keys_;
  std::uint64_t offsets_[2] = {};
  std::size_t num_offsets_ = 0;
};

// The tensors must tile the data section: no overlap, no hole, nothing left over.
void CheckTiling(const std::vector<SafeTensor>& tensors, std::uint64_t data_bytes,
                 const std::string& path) {
  std::vector<const SafeTensor*> by_offset;
  by_offset.reserve(tensors.size());
  for (const SafeTensor& tensor : tensors) by_offset.push_back(&tensor);
  std::sort(by_offset.begin(), by_offset.end(), [](const SafeTensor* a, const SafeTensor* b) {
    return std::pair(a->offset, a->bytes) < std::pair(b->offset, b->bytes);
  });
  std::uint64_t end = 0;
  for (const SafeTensor* tensor : by_offset) {
    if (tensor->offset != end) {
      Fail(ErrorCode::kInput,
           "{}: tensor {} begins at {} of the data section, {} the end {} of "
           "the tensor before it",
           path, Quote(tensor->name), tensor->offset,
           tensor->offset < end ? "overlapping with what is before" : "leaving a hole after", end);
    }
    if (tensor->bytes > data_bytes - end) {
      Fail(ErrorCode::kInput,
           "{}: tensor {} ends at {} of the data section, which has {} bytes; the file is "
           "truncated, fetch it again",
           path, Quote(tensor->name), tensor->offset + tensor->bytes, data_bytes);
    }
    end += tensor->bytes;
  }
  if (end != data_bytes) {
    Fail(ErrorCode::kInput, "{}: {} bytes at the end belong to no tensor", path, data_bytes - end);
  }
}

}  // namespace

idx SafeTensor::num_elements() const {
  idx n = 1;
  for (const idx dim : shape) n *= dim;
  return n;
}

SafetensorsFile SafetensorsFile::Open(const std::string& path) {
  auto mapped = std::make_shared<MappedFile>(path);
  SafetensorsFile file = Parse(mapped->bytes(), path);
  file.file_ = std::move(mapped);
  return file;
}

SafetensorsFile SafetensorsFile::Parse(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < kPrefixBytes) {
    Fail(ErrorCode::kInput, "{}: {} bytes are too short for a safetensors file", name,
         bytes.size());
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kPrefixBytes) {
    Fail(ErrorCode::kInput,
         "{}: the header length at offset 0 is {}, but {} bytes follow and {} are the limit; the "
         "file is truncated or not safetensors",
         name, header_bytes, bytes.size() - kPrefixBytes, kMaxHeaderBytes);
  }
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + kPrefixBytes;
  if (header_bytes == 0 || text[0] != '{') {
    Fail(ErrorCode::kInput, "{}: the header at offset {} does not begin with '{{'", name,
         kPrefixBytes);
  }
  if (const auto zero = std::string_view(text, header_bytes).find('\0');
      zero != std::string::npos) {
    // The parser would take it for the end, and pass over what is behind it.
    Fail(ErrorCode::kInput, "{}: the header has a zero byte at offset {}", name,
         kPrefixBytes + zero);
  }
  HeaderReader header(name);
  Json::sax_parse(text, text + header_bytes, &header);
  const std::uint64_t data = kPrefixBytes + header_bytes;
  CheckTiling(header.tensors, bytes.size() - data, name);
  SafetensorsFile file;
  file.path_ = name;
  file.bytes_ = bytes;
  file.tensors_ = std::move(header.tensors);
  file.metadata_ = std::move(header.metadata);
  for (SafeTensor& tensor : file.tensors_) tensor.offset += data;
  return file;
}

const SafeTensor* SafetensorsFile::Find(std::string_view name) const {
  for (const SafeTensor& tensor : tensors_) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

std::span<const std::byte> SafetensorsFile::Raw(const SafeTensor& tensor) const {
  return bytes_.subspan(tensor.offset, tensor.bytes);
}

void SafetensorsFile::ReadF32(const SafeTensor& tensor, std::span<float> out) const {
  OPO_CHECK(std::ssize(out) == tensor.num_elements());
  if (tensor.dtype == "F32") {
    DequantizeF32(Raw(tensor), out);
  } else if (tensor.dtype == "F16") {
    DequantizeF16(Raw(tensor), out);
  } else if (tensor.dtype == "BF16") {
    DequantizeBf16(Raw(tensor), out);
  } else {
    Fail(ErrorCode::kInput, "{}: tensor {} is {}, readable are F32, F16 and BF16", path_,
         Quote(tensor.name), tensor.dtype);
  }
  const idx bad = FindNonFinite(out);
  if (bad >= 0) {
    Fail(ErrorCode::kInput, "{}: tensor {}: element {} (at offset {}) is {}", path_,
         Quote(tensor.name), bad, tensor.offset + bad * ElementBytes(tensor.dtype), out[bad]);
  }
}

void SafetensorsFile::ReadBf16(const SafeTensor& tensor, std::span<bf16> out) const {
  OPO_CHECK(std::ssize(out) == tensor.num_elements() && tensor.dtype == "BF16");
  std::memcpy(out.data(), Raw(tensor).data(), out.size_bytes());
  for (std::size_t i = 0; i < out.size(); ++i) {
    if ((out[i].bits & 0x7f80U) != 0x7f80U) continue;
    Fail(ErrorCode::kInput, "{}: tensor {}: element {} (at offset {}) is {}", path_,
         Quote(tensor.name), i, tensor.offset + i * sizeof(bf16), ToF32(out[i]));
  }
}

}  // namespace opo
