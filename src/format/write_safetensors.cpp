#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "format/safetensors.h"

namespace opo {
namespace {

// A file under construction beside its final name. Unless Commit() succeeds, it is removed.
class PartialFile {
 public:
  explicit PartialFile(const std::string& path)
      : path_(path),
        partial_(path + ".partial"),
        fd_(::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
    if (fd_ < 0) FailWithReason("cannot be created");
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!committed_) ::unlink(partial_.c_str());
  }

  void Write(const void* data, std::size_t size) {
    const char* at = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t n = ::write(fd_, at, size);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) FailWithReason("cannot be written");
      at += n;
      size -= static_cast<std::size_t>(n);
    }
  }

  void Commit() {
    if (::fsync(fd_) != 0) FailWithReason("cannot be synced");
    const int fd = fd_;
    fd_ = -1;
    if (::close(fd) != 0) FailWithReason("cannot be closed");
    if (::rename(partial_.c_str(), path_.c_str()) != 0) FailWithReason("cannot be put into place");
    committed_ = true;
    const std::string folder = std::filesystem::path(path_).parent_path().string();
    SyncPath(folder.empty() ? "." : folder);
  }

 private:
  [[noreturn]] void FailWithReason(const char* what) const {
    Fail(ErrorCode::kWork, "{}: {}: {}", path_, what, std::strerror(errno));
  }

  std::string path_;
  std::string partial_;
  int fd_;
  bool committed_ = false;
};

}  // namespace

void WriteSafetensors(const std::string& path, const std::vector<SafeTensorToWrite>& tensors,
                      DType dtype, const std::map<std::string, std::string>& metadata) {
  const idx element = dtype == DType::kBf16 ? 2 : 4;
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  idx offset = 0;
  for (const SafeTensorToWrite& tensor : tensors) {
    idx elements = 1;
    for (const idx dim : tensor.shape) elements *= dim;
    const idx size = std::visit([](auto data) { return std::ssize(data); }, tensor.data);
    OPO_CHECK(elements == size && !header.contains(tensor.name));
    header[tensor.name] = {{"dtype", dtype == DType::kBf16 ? "BF16" : "F32"},
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
  std::vector<bf16> rounded;
  for (const SafeTensorToWrite& tensor : tensors) {
    if (const auto* exact = std::get_if<std::span<const bf16>>(&tensor.data)) {
      OPO_CHECK(dtype == DType::kBf16);
      file.Write(exact->data(), exact->size_bytes());
      continue;
    }
    const auto data = std::get<std::span<const float>>(tensor.data);
    if (dtype == DType::kF32) {
      file.Write(data.data(), data.size_bytes());
      continue;
    }
    constexpr idx kChunk = idx{1} << 20;
    for (idx first = 0; first < std::ssize(data); first += kChunk) {
      const auto chunk = data.subspan(first, std::min(kChunk, std::ssize(data) - first));
      rounded.resize(chunk.size());
      for (std::size_t i = 0; i < chunk.size(); ++i) rounded[i] = ToBf16(chunk[i]);
      file.Write(rounded.data(), rounded.size() * sizeof(bf16));
    }
  }
  file.Commit();
}

}  // namespace opo
