#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace opo {
namespace {

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, mode_t mode = 0)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

 private:
  int fd_;
};

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  // A FIFO would make open() wait for a writer; it is refused below.
  const Descriptor fd(path, O_RDONLY | O_NONBLOCK);
  struct stat status {};
  if (!fd.ok() || ::fstat(fd.get(), &status) != 0) {
    Fail(ErrorCode::kInput, "{}: cannot be opened: {}", path, std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) Fail(ErrorCode::kInput, "{}: is not a file", path);
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  void* map = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (map == MAP_FAILED) {
    Fail(ErrorCode::kInput, "{}: cannot be mapped: {}", path, std::strerror(errno));
  }
  data_ = static_cast<const std::byte*>(map);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::string ReadFile(const std::string& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void SyncPath(const std::string& path) {
  const Descriptor fd(path, O_RDONLY);
  if (!fd.ok() || ::fsync(fd.get()) != 0) {
    Fail(ErrorCode::kWork, "{}: cannot be synced: {}", path, std::strerror(errno));
  }
}

PartialFile::PartialFile(const std::string& path)
    : path_(path),
      partial_(path + ".partial"),
      fd_(::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
  if (fd_ < 0) FailWithReason("cannot be written");
}

PartialFile::~PartialFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!committed_) ::unlink(partial_.c_str());
}

void PartialFile::Write(const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::write(fd_, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) FailWithReason("cannot be written");
    at += n;
    size -= static_cast<std::size_t>(n);
  }
}

void PartialFile::Commit() {
  if (::fsync(fd_) != 0) FailWithReason("cannot be synced");
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) FailWithReason("cannot be closed");
  if (::rename(partial_.c_str(), path_.c_str()) != 0) FailWithReason("cannot be put into place");
  committed_ = true;
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  SyncPath(folder.empty() ? "." : folder);
}

void PartialFile::FailWithReason(const char* what) const {
  Fail(ErrorCode::kWork, "{}: {}: {}", path_, what, std::strerror(errno));
}

void WriteFileAtomically(const std::string& path, std::string_view content) {
  PartialFile file(path);
  file.Write(content.data(), content.size());
  file.Commit();
}

}  // namespace opo
