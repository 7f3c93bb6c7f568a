// GGUF v2 and v3 containers (specification: ggml/docs/gguf.md). The file is hostile until proven
// otherwise: every size is checked against the file before anything is allocated, and an error
// names the file, the key or tensor, and the byte offset.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/types.h"
#include "format/dequantize.h"

namespace opo {

class MappedFile;

// How the file numbers the types of metadata.
enum class GgufValueType : std::uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

struct GgufTensor {
  std::string name;
  std::vector<idx> dims;  // as in the file: dims[0] is the contiguous one
  GgmlType type = GgmlType::kF32;
  std::uint64_t offset = 0;  // absolute, in bytes
  std::uint64_t bytes = 0;
  std::size_t part = 0;  // the file of a split model that holds it
  idx num_elements() const;
};

// A file in memory; `name` stands for the path in messages.
struct GgufBytes {
  std::span<const std::byte> bytes;
  std::string name;
};

class GgufFile {
 public:
  // Throws Error(kInput) on anything that is not a well-formed GGUF. A model that llama.cpp's
  // gguf-split cut into NAME-00001-of-00003.gguf and so on is opened by any of its parts.
  static GgufFile Open(const std::string& path);
  // The same over bytes in memory (fuzzing, tests): a whole file, or the parts of a split model in
  // their order.
  static GgufFile Parse(std::span<const std::byte> bytes, const std::string& name);
  static GgufFile ParseParts(std::span<const GgufBytes> parts);

  const std::string& path() const { return parts_.front().path; }  // of the first part
  bool Has(std::string_view key) const;
  // Typed getters; throw Error(kInput) naming the key where it is absent or of another kind.
  // Integers of any width and sign convert when the value fits.
  std::int64_t GetInt(std::string_view key) const;
  double GetFloat(std::string_view key) const;  // f32, f64, or an integer
  bool GetBool(std::string_view key) const;
  const std::string& GetString(std::string_view key) const;
  const std::vector<std::string>& GetStrings(std::string_view key) const;
  std::vector<std::int64_t> GetInts(std::string_view key) const;
  std::vector<std::string> Keys() const;  // in alphabetical order
  // Type and value of a key that is there, as they stand in the file.
  std::span<const std::byte> RawValue(std::string_view key) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* Find(std::string_view name) const;  // nullptr where absent

  // Elements [first, first + out.size()) of the tensor as f32; both ends on block boundaries of the
  // quantisation. Throws Error(kInput) where a value is NaN or infinite, naming tensor and offset.
  void Dequantize(const GgufTensor& tensor, idx first, std::span<float> out) const;

 private:
  using Value =
      std::variant<std::int64_t, std::uint64_t, double, bool, std::string,
                   std::vector<std::int64_t>, std::vector<double>, std::vector<std::string>>;
  struct Entry {
    Value value;
    std::span<const std::byte> raw;
  };
  struct Part {
    std::string path;
    std::shared_ptr<MappedFile> file;  // owns the bytes when opened from a path
    std::span<const std::byte> bytes;
  };
  static GgufFile ParseOne(std::span<const std::byte> bytes, const std::string& name);
  static GgufFile Join(std::vector<GgufFile> files);  // gguf_split.cpp

  std::vector<Part> parts_;
  std::map<std::string, Entry, std::less<>> metadata_;  // the first part's
  std::vector<GgufTensor> tensors_;                     // of all parts
};

// A metadata key to be written: as u32, f32, bool, string, array of i32, array of strings, or as
// GgufFile::RawValue gave it.
struct GgufKeyToWrite {
  std::string key;
  std::variant<std::uint32_t, float, bool, std::string, std::vector<std::int32_t>,
               std::vector<std::string>, std::span<const std::byte>>
      value;
};

// A tensor to be written. `read` fills it in when its turn comes: one at a time is in memory.
struct GgufTensorToWrite {
  std::string name;
  std::vector<idx> dims;           // dims[0] is the contiguous one, whole blocks of the type
  GgmlType type = GgmlType::kF32;  // F32, F16, BF16 or Q8_0
  std::function<void(std::span<float>)> read;
};

// Writes a GGUF v3 in the given order, as WriteSafetensors does its files.
void WriteGguf(const std::string& path, const std::vector<GgufKeyToWrite>& keys,
               const std::vector<GgufTensorToWrite>& tensors);

}  // namespace opo
