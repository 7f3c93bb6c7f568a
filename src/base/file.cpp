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

void WriteFileAtomically(const std::string& path, std::string_view content) {
  const std::string beside = path + ".partial";
  {
    const Descriptor fd(beside, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    bool ok = fd.ok();
    while (ok && !content.empty()) {
      const ssize_t n = ::write(fd.get(), content.data(), content.size());
      if (n < 0 && errno == EINTR) continue;
      ok = n > 0;
      if (ok) content.remove_prefix(static_cast<std::size_t>(n));
    }
    if (!ok || ::fsync(fd.get()) != 0) {
      const int reason = errno;
      ::unlink(beside.c_str());
      Fail(ErrorCode::kWork, "{}: cannot be written: {}", path, std::strerror(reason));
    }
  }
  if (::rename(beside.c_str(), path.c_str()) != 0) {
    Fail(ErrorCode::kWork, "{}: cannot be renamed into place: {}", path, std::strerror(errno));
  }
  const std::string folder = std::filesystem::path(path).parent_path().string();
  SyncPath(folder.empty() ? "." : folder);
}

}  // namespace opo
