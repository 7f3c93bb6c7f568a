#include "format/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "format/dequantize.h"
#include "format/quote.h"

namespace opo {
namespace {

using Bytes = std::span<const std::byte>;

using enum GgufValueType;

// ggml's other types, so that a refusal can say what the file holds.
std::string NameUnreadableType(std::uint32_t number) {
  constexpr std::pair<std::uint32_t, const char*> kNames[] = {
      {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
      {21, "IQ3_S"}, {22, "IQ2_S"}, {24, "I8"},      {25, "I16"},    {26, "I32"},     {27, "I64"},
      {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},   {35, "TQ2_0"},  {39, "MXFP4"},   {40, "NVFP4"},
  };
  for (const auto& [known, name] : kNames) {
    if (known == number) return fmt::format("{} (ggml type {})", name, number);
  }
  return fmt::format("unknown ggml type {}", number);
}

std::string NamesOfReadableTypes() {
  std::string names;
  for (const GgmlTypeRow& row : GgmlTypes()) {
    names += names.empty() ? row.name : std::string(", ") + row.name;
  }
  return names;
}

// An element of an array may take 32 times as much memory as it does in the file, so their number
// is bounded over all arrays of a file; a vocabulary of 256k tokens with its merges has 1 million.
constexpr std::uint64_t kMaxArrayElements = std::uint64_t{1} << 24;
// Of metadata keys and of tensors, each.
constexpr std::uint64_t kMaxEntries = std::uint64_t{1} << 20;

// A cursor over the file. Every read checks what is left, and says what it was reading.
class Reader {
 public:
  Reader(Bytes bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  std::uint64_t pos() const { return pos_; }
  std::uint64_t left() const { return bytes_.size() - pos_; }
  const std::string& path() const { return path_; }

  void Need(std::uint64_t n, std::string_view what) const {
    if (n > left()) {
      Fail(ErrorCode::kInput,
           "{}: truncated: {} at offset {} needs {} bytes, {} are left; fetch the file again",
           path_, what, pos_, n, left());
    }
  }

  template <class T>
  T Number(std::string_view what) {
    Need(sizeof(T), what);
    T value;
    std::memcpy(&value, bytes_.data() + pos_, sizeof(T));
    pos_ += sizeof(T);
    return value;
  }

  std::string String(std::string_view what) {
    const auto size = Number<std::uint64_t>(what);
    Need(size, what);
    std::string text(reinterpret_cast<const char*>(bytes_.data() + pos_), size);
    pos_ += size;
    return text;
  }

  Bytes Since(std::uint64_t start) const { return bytes_.subspan(start, pos_ - start); }

  void CountElements(std::uint64_t count, std::string_view what) {
    if (count > kMaxArrayElements - elements_) {
      Fail(ErrorCode::kInput,
           "{}: {} at offset {} has {} elements; more than {} in all arrays are not read", path_,
           what, pos_, count, kMaxArrayElements);
    }
    elements_ += count;
  }

  bool Bool(std::string_view what) {
    const auto byte = Number<std::uint8_t>(what);
    if (byte > 1) {
      Fail(ErrorCode::kInput, "{}: {} at offset {} is the bool {}, must be 0 or 1", path_, what,
           pos_ - 1, byte);
    }
    return byte != 0;
  }

 private:
  Bytes bytes_;
  const std::string& path_;
  std::uint64_t pos_ = 0;
  std::uint64_t elements_ = 0;  // of arrays, so far
};

// The count is held against the bytes left before anything is allocated.
template <class T, class Stored>
std::vector<Stored> ReadNumbers(Reader& reader, std::uint64_t count, const std::string& what) {
  if (count > reader.left() / sizeof(T)) {
    Fail(ErrorCode::kInput, "{}: {} at offset {} claims {} elements, {} bytes are left",
         reader.path(), what, reader.pos(), count, reader.left());
  }
  reader.CountElements(count, what);
  std::vector<Stored> values(count);
  for (Stored& value : values) {
    const T number = reader.Number<T>(what);
    if constexpr (std::is_same_v<T, std::uint64_t>) {
      if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        Fail(ErrorCode::kInput, "{}: {} at offset {} holds {}, too large for an array element",
             reader.path(), what, reader.pos() - sizeof(T), number);
      }
    }
    value = static_cast<Stored>(+number);
  }
  return values;
}

template <class Value>
Value ReadArray(Reader& reader, const std::string& what) {
  using Ints = std::vector<std::int64_t>;
  const std::uint64_t start = reader.pos();
  const auto type = reader.Number<std::uint32_t>(what);
  const auto count = reader.Number<std::uint64_t>(what);
  switch (static_cast<GgufValueType>(type)) {
    case kUint8:
      return ReadNumbers<std::uint8_t, std::int64_t>(reader, count, what);
    case kInt8:
      return ReadNumbers<std::int8_t, std::int64_t>(reader, count, what);
    case kUint16:
      return ReadNumbers<std::uint16_t, std::int64_t>(reader, count, what);
    case kInt16:
      return ReadNumbers<std::int16_t, std::int64_t>(reader, count, what);
    case kUint32:
      return ReadNumbers<std::uint32_t, std::int64_t>(reader, count, what);
    case kInt32:
      return ReadNumbers<std::int32_t, std::int64_t>(reader, count, what);
    case kUint64:
      return ReadNumbers<std::uint64_t, std::int64_t>(reader, count, what);
    case kInt64:
      return ReadNumbers<std::int64_t, std::int64_t>(reader, count, what);
    case kFloat32:
      return ReadNumbers<float, double>(reader, count, what);
    case kFloat64:
      return ReadNumbers<double, double>(reader, count, what);
    case kBool: {
      reader.Need(count, what);
      reader.CountElements(count, what);
      Ints values(count);
      for (std::int64_t& value : values) value = reader.Bool(what) ? 1 : 0;
      return values;
    }
    case kString: {
      if (count > reader.left() / sizeof(std::uint64_t)) {
        Fail(ErrorCode::kInput, "{}: {} at offset {} claims {} strings, {} bytes are left",
             reader.path(), what, start, count, reader.left());
      }
      reader.CountElements(count, what);
      std::vector<std::string> values;
      values.reserve(count);
      for (std::uint64_t i = 0; i < count; ++i) values.push_back(reader.String(what));
      return values;
    }
    case kArray:
      Fail(ErrorCode::kInput, "{}: {} at offset {} is an array of arrays, which is not supported",
           reader.path(), what, start);
    default:
      Fail(ErrorCode::kInput, "{}: {} at offset {} is an array of unknown value type {}",
           reader.path(), what, start, type);
  }
}

template <class Value>
Value ReadValue(Reader& reader, const std::string& what) {
  const std::uint64_t start = reader.pos();
  const auto type = reader.Number<std::uint32_t>(what);
  switch (static_cast<GgufValueType>(type)) {
    case kUint8:
      return static_cast<std::int64_t>(reader.Number<std::uint8_t>(what));
    case kInt8:
      return static_cast<std::int64_t>(reader.Number<std::int8_t>(what));
    case kUint16:
      return static_cast<std::int64_t>(reader.Number<std::uint16_t>(what));
    case kInt16:
      return static_cast<std::int64_t>(reader.Number<std::int16_t>(what));
    case kUint32:
      return static_cast<std::int64_t>(reader.Number<std::uint32_t>(what));
    case kInt32:
      return static_cast<std::int64_t>(reader.Number<std::int32_t>(what));
    case kUint64:
      return reader.Number<std::uint64_t>(what);
    case kInt64:
      return reader.Number<std::int64_t>(what);
    case kFloat32:
      return static_cast<double>(reader.Number<float>(what));
    case kFloat64:
      return reader.Number<double>(what);
    case kBool:
      return reader.Bool(what);
    case kString:
      return reader.String(what);
    case kArray:
      return ReadArray<Value>(reader, what);
    default:
      Fail(ErrorCode::kInput, "{}: {} at offset {} is of unknown value type {}", reader.path(),
           what, start, type);
  }
}

// Name, shape, type and offset (still relative to the data section) of one tensor.
GgufTensor ReadTensorInfo(Reader& reader, std::uint64_t number) {
  GgufTensor tensor;
  const std::uint64_t start = reader.pos();
  tensor.name = reader.String(fmt::format("the name of tensor {}", number));
  const std::string what = "tensor " + Quote(tensor.name);
  if (tensor.name.empty()) {
    Fail(ErrorCode::kInput, "{}: tensor {} at offset {} has no name", reader.path(), number, start);
  }
  const auto num_dims = reader.Number<std::uint32_t>(what);
  if (num_dims < 1 || num_dims > 4) {
    Fail(ErrorCode::kInput, "{}: {} at offset {} has {} dimensions, must be 1 to 4", reader.path(),
         what, start, num_dims);
  }
  idx elements = 1;
  for (std::uint32_t d = 0; d < num_dims; ++d) {
    const auto dim = reader.Number<std::uint64_t>(what);
    if (dim == 0 || __builtin_mul_overflow(elements, dim, &elements)) {
      Fail(ErrorCode::kInput, "{}: {} at offset {}: dimension {} is {}, which makes no sense",
           reader.path(), what, start, d, dim);
    }
    tensor.dims.push_back(static_cast<idx>(dim));
  }
  const auto type = reader.Number<std::uint32_t>(what);
  const GgmlTypeRow* row = FindGgmlType(type);
  if (row == nullptr) {
    Fail(ErrorCode::kInput,
         "{}: {} at offset {} is of type {}; readable are {}: take the F16, BF16 or Q8_0 file of "
         "the "
         "model",
         reader.path(), what, start, NameUnreadableType(type), NamesOfReadableTypes());
  }
  if (tensor.dims[0] % row->elements != 0) {
    Fail(ErrorCode::kInput, "{}: {} at offset {}: rows of {} values are not whole {} blocks of {}",
         reader.path(), what, start, tensor.dims[0], row->name, row->elements);
  }
  tensor.type = row->type;
  idx bytes = 0;
  if (__builtin_mul_overflow(elements / row->elements, row->bytes, &bytes)) {
    Fail(ErrorCode::kInput, "{}: {} at offset {} has too many elements: {}", reader.path(), what,
         start, elements);
  }
  tensor.bytes = static_cast<std::uint64_t>(bytes);
  tensor.offset = reader.Number<std::uint64_t>(what);
  return tensor;
}

// Turns offsets absolute after checking that each tensor lies aligned, inside the file and apart.
void PlaceTensors(std::vector<GgufTensor>& tensors, std::uint64_t header_end,
                  std::uint64_t alignment, std::uint64_t file_size, const std::string& path) {
  const std::uint64_t data = (header_end + alignment - 1) / alignment * alignment;
  std::vector<const GgufTensor*> by_offset;
  for (GgufTensor& tensor : tensors) {
    if (tensor.offset % alignment != 0) {
      Fail(ErrorCode::kInput, "{}: tensor {}: offset {} is not a multiple of the alignment {}",
           path, Quote(tensor.name), tensor.offset, alignment);
    }
    const std::uint64_t room = data < file_size ? file_size - data : 0;
    if (tensor.offset > room || tensor.bytes > room - tensor.offset) {
      Fail(ErrorCode::kInput,
           "{}: tensor {}: {} bytes at offset {} of the data section (at {}) end after the file's "
           "{} bytes; the file is truncated or lies, fetch it again",
           path, Quote(tensor.name), tensor.bytes, tensor.offset, data, file_size);
    }
    tensor.offset += data;
    by_offset.push_back(&tensor);
  }
  std::sort(by_offset.begin(), by_offset.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < by_offset.size(); ++i) {
    const GgufTensor& before = *by_offset[i - 1];
    if (by_offset[i]->offset < before.offset + before.bytes) {
      Fail(ErrorCode::kInput, "{}: tensors {} and {} overlap at offset {}", path,
           Quote(before.name), Quote(by_offset[i]->name), by_offset[i]->offset);
    }
  }
}

void CheckMagicAndVersion(Reader& reader) {
  const auto magic = reader.Number<std::uint32_t>("the magic");
  if (magic != 0x46554747U) {
    Fail(ErrorCode::kInput, "{}: is not a GGUF file: it starts with 0x{:08x} in place of 'GGUF'",
         reader.path(), magic);
  }
  const auto version = reader.Number<std::uint32_t>("the version");
  if (version != 0 && (version & 0xffffU) == 0) {
    Fail(ErrorCode::kInput, "{}: is a big-endian GGUF (offset 4), only little-endian is read",
         reader.path());
  }
  if (version != 2 && version != 3) {
    Fail(ErrorCode::kInput, "{}: is GGUF version {} (offset 4), only 2 and 3 are read",
         reader.path(), version);
  }
}

// A count that the bytes left cannot hold is refused before the first entry is read.
std::uint64_t ReadCount(Reader& reader, const char* what) {
  const std::uint64_t start = reader.pos();
  const auto count = reader.Number<std::uint64_t>(what);
  constexpr std::uint64_t kSmallestEntry = 13;  // an empty key with a one-byte value
  if (count > reader.left() / kSmallestEntry) {
    Fail(ErrorCode::kInput, "{}: {} at offset {} is {}, more than the {} bytes left can hold",
         reader.path(), what, start, count, reader.left());
  }
  if (count > kMaxEntries) {
    Fail(ErrorCode::kInput, "{}: {} at offset {} is {}; more than {} are not read", reader.path(),
         what, start, count, kMaxEntries);
  }
  return count;
}

constexpr const char* kKindNames[] = {
    "an integer",
    "an integer",
    "a float",
    "a bool",
    "a string",
    "an array of integers",
    "an array of floats",
    "an array of strings",
};

template <class Map>
const auto& Lookup(const Map& map, std::string_view key, const std::string& path) {
  const auto it = map.find(key);
  if (it == map.end()) Fail(ErrorCode::kInput, "{}: metadata key {} is absent", path, Quote(key));
  return it->second.value;
}

template <class Value>
[[noreturn]] void FailKind(const std::string& path, std::string_view key, const Value& value,
                           const char* wanted) {
  Fail(ErrorCode::kInput, "{}: metadata key {} is {}, must be {}", path, Quote(key),
       kKindNames[value.index()], wanted);
}

}  // namespace

idx GgufTensor::num_elements() const {
  idx n = 1;
  for (const idx dim : dims) n *= dim;
  return n;
}

GgufFile GgufFile::ParseOne(Bytes bytes, const std::string& name) {
  GgufFile gguf;
  gguf.parts_.push_back({name, nullptr, bytes});
  Reader reader(bytes, name);
  CheckMagicAndVersion(reader);
  const std::uint64_t num_tensors = ReadCount(reader, "the tensor count");
  const std::uint64_t num_keys = ReadCount(reader, "the metadata count");
  for (std::uint64_t i = 0; i < num_keys; ++i) {
    const std::uint64_t start = reader.pos();
    std::string key = reader.String(fmt::format("metadata key {}", i));
    const std::string what = "metadata key " + Quote(key);
    const std::uint64_t value_start = reader.pos();
    Value value = ReadValue<Value>(reader, what);
    Entry entry{std::move(value), reader.Since(value_start)};
    if (!gguf.metadata_.emplace(std::move(key), std::move(entry)).second) {
      Fail(ErrorCode::kInput, "{}: {} at offset {} is a duplicate", name, what, start);
    }
  }
  std::set<std::string> names;
  for (std::uint64_t i = 0; i < num_tensors; ++i) {
    const std::uint64_t start = reader.pos();
    gguf.tensors_.push_back(ReadTensorInfo(reader, i));
    if (!names.insert(gguf.tensors_.back().name).second) {
      Fail(ErrorCode::kInput, "{}: tensor {} at offset {} is a duplicate", name,
           Quote(gguf.tensors_.back().name), start);
    }
  }
  std::int64_t alignment = 32;
  if (gguf.Has("general.alignment")) alignment = gguf.GetInt("general.alignment");
  if (alignment < 8 || alignment > (1 << 20) ||
      !std::has_single_bit(static_cast<std::uint64_t>(alignment))) {
    Fail(ErrorCode::kInput,
         "{}: metadata key 'general.alignment' is {}, must be a power of two from 8 to 1048576",
         name, alignment);
  }
  PlaceTensors(gguf.tensors_, reader.pos(), static_cast<std::uint64_t>(alignment), bytes.size(),
               name);
  return gguf;
}

GgufFile GgufFile::Parse(Bytes bytes, const std::string& name) {
  const GgufBytes part{bytes, name};
  return ParseParts(std::span(&part, 1));
}

bool GgufFile::Has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }

std::vector<std::string> GgufFile::Keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, entry] : metadata_) keys.push_back(key);
  return keys;
}

std::span<const std::byte> GgufFile::RawValue(std::string_view key) const {
  const auto it = metadata_.find(key);
  OPO_CHECK(it != metadata_.end());
  return it->second.raw;
}

std::int64_t GgufFile::GetInt(std::string_view key) const {
  const Value& value = Lookup(metadata_, key, path());
  if (const auto* x = std::get_if<std::int64_t>(&value)) return *x;
  if (const auto* x = std::get_if<std::uint64_t>(&value)) {
    if (std::in_range<std::int64_t>(*x)) return static_cast<std::int64_t>(*x);
    Fail(ErrorCode::kInput, "{}: metadata key {} is {}, too large", path(), Quote(key), *x);
  }
  FailKind(path(), key, value, "an integer");
}

double GgufFile::GetFloat(std::string_view key) const {
  const Value& value = Lookup(metadata_, key, path());
  if (const auto* x = std::get_if<double>(&value)) return *x;
  if (const auto* x = std::get_if<std::int64_t>(&value)) return static_cast<double>(*x);
  if (const auto* x = std::get_if<std::uint64_t>(&value)) return static_cast<double>(*x);
  FailKind(path(), key, value, "a number");
}

bool GgufFile::GetBool(std::string_view key) const {
  const Value& value = Lookup(metadata_, key, path());
  if (const auto* x = std::get_if<bool>(&value)) return *x;
  FailKind(path(), key, value, "a bool");
}

const std::string& GgufFile::GetString(std::string_view key) const {
  const Value& value = Lookup(metadata_, key, path());
  if (const auto* x = std::get_if<std::string>(&value)) return *x;
  FailKind(path(), key, value, "a string");
}

const std::vector<std::string>& GgufFile::GetStrings(std::string_view key) const {
  const Value& value = Lookup(metadata_, key, path());
  if (const auto* x = std::get_if<std::vector<std::string>>(&value)) return *x;
  FailKind(path(), key, value, "an array of strings");
}

std::vector<std::int64_t> GgufFile::GetInts(std::string_view key) const {
  const Value& value = Lookup(metadata_, key, path());
  if (const auto* x = std::get_if<std::vector<std::int64_t>>(&value)) return *x;
  FailKind(path(), key, value, "an array of integers");
}

const GgufTensor* GgufFile::Find(std::string_view name) const {
  for (const GgufTensor& tensor : tensors_) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

void GgufFile::Dequantize(const GgufTensor& tensor, idx first, std::span<float> out) const {
  const GgmlTypeRow& row = RowOf(tensor.type);
  const Part& part = parts_[tensor.part];
  const idx size = std::ssize(out);
  OPO_CHECK(first >= 0 && first % row.elements == 0 && size % row.elements == 0);
  OPO_CHECK(size <= tensor.num_elements() - first);
  const std::uint64_t begin = tensor.offset + first / row.elements * row.bytes;
  row.dequantize(part.bytes.subspan(begin, size / row.elements * row.bytes), out);
  const idx bad = FindNonFinite(out);
  if (bad >= 0) {
    Fail(ErrorCode::kInput, "{}: tensor {}: element {} ({} block at offset {}) is {}", part.path,
         Quote(tensor.name), first + bad, row.name, begin + bad / row.elements * row.bytes,
         out[bad]);
  }
}

}  // namespace opo
