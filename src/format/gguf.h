// GGUF v2 and v3 containers (specification: ggml/docs/gguf.md). The file is hostile until proven
// otherwise: every size is checked against the file before anything is allocated, and an error
// names the file, the key or tensor, and the byte offset.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/types.h"

namespace opo {

class MappedFile;

enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kQ6_K = 14,
  kBf16 = 30,
};

struct GgufTensor {
  std::string name;
  std::vector<idx> dims;  // as in the file: dims[0] is the contiguous one
  GgmlType type = GgmlType::kF32;
  std::uint64_t offset = 0;  // absolute, in bytes
  std::uint64_t bytes = 0;
  idx num_elements() const;
};

class GgufFile {
 public:
  // Throws Error(kInput) on anything that is not a well-formed GGUF.
  static GgufFile Open(const std::string& path);
  // The same over bytes in memory (fuzzing, tests); `name` stands for the path in messages.
  static GgufFile Parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& path() const { return path_; }
  bool Has(std::string_view key) const;
  // Typed getters; throw Error(kInput) naming the key where it is absent or of another kind.
  // Integers of any width and sign convert when the value fits.
  std::int64_t GetInt(std::string_view key) const;
  double GetFloat(std::string_view key) const;  // f32, f64, or an integer
  bool GetBool(std::string_view key) const;
  const std::string& GetString(std::string_view key) const;
  const std::vector<std::string>& GetStrings(std::string_view key) const;
  std::vector<std::int64_t> GetInts(std::string_view key) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* Find(std::string_view name) const;  // nullptr where absent

  // Elements [first, first + out.size()) of the tensor as f32; both ends on block boundaries of the
  // quantisation. Throws Error(kInput) where a value is NaN or infinite, naming tensor and offset.
  void Dequantize(const GgufTensor& tensor, idx first, std::span<float> out) const;

 private:
  using Value =
      std::variant<std::int64_t, std::uint64_t, double, bool, std::string,
                   std::vector<std::int64_t>, std::vector<double>, std::vector<std::string>>;
  std::string path_;
  std::shared_ptr<MappedFile> file_;  // owns the bytes when opened from a path
  std::span<const std::byte> bytes_;
  std::map<std::string, Value, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace opo
