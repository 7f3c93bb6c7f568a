// Safetensors containers: a u64 header length, a JSON header, raw little-endian data. Hostile until
// proven otherwise, as format/gguf.h.
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

namespace opo {

class MappedFile;

struct SafeTensor {
  std::string name;
  std::string dtype;  // "F32", "F16", "BF16" can be read as f32
  std::vector<idx> shape;
  std::uint64_t offset = 0;  // absolute, in bytes
  std::uint64_t bytes = 0;
  idx num_elements() const;
};

class SafetensorsFile {
 public:
  static SafetensorsFile Open(const std::string& path);
  static SafetensorsFile Parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& path() const { return path_; }
  const std::vector<SafeTensor>& tensors() const { return tensors_; }
  const SafeTensor* Find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // The bytes of the tensor as they stand in the file.
  std::span<const std::byte> Raw(const SafeTensor& tensor) const;

  // The whole tensor as f32 (exact for F16 and BF16). Throws Error(kInput) on NaN or infinity.
  void ReadF32(const SafeTensor& tensor, std::span<float> out) const;
  // The same of a BF16 tensor, as it is. REQUIRES that dtype.
  void ReadBf16(const SafeTensor& tensor, std::span<bf16> out) const;

 private:
  std::string path_;
  std::shared_ptr<MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::vector<SafeTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// One tensor to be written: `data`, which must stay valid until WriteSafetensors returns, as f32
// or, into a file of bf16, as bf16; or, where the weights are not in memory, what fills them in as
// f32: then one tensor at a time is.
struct SafeTensorToWrite {
  std::string name;
  std::vector<idx> shape;
  std::variant<std::span<const float>, std::span<const bf16>> data;
  std::function<void(std::span<float>)> read = nullptr;
};

// Writes all tensors as `dtype` (rounded to nearest, ties to even) in the given order, beside
// `path`, syncs and renames: afterwards the old file or the whole new one is there. Throws
// Error(kWork) naming the path where the disk is full or not writable; what was written is then
// removed. A value that is too large for `dtype` is Error(kWork) naming the tensor.
void WriteSafetensors(const std::string& path, const std::vector<SafeTensorToWrite>& tensors,
                      DType dtype, const std::map<std::string, std::string>& metadata);

}  // namespace opo
