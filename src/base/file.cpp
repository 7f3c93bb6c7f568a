#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/fault.h"

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

[[noreturn]] void FailWithReason(const std::string& path, const char* what) {
  Fail(ErrorCode::kWork, "{}: {}: {}", path, what, std::strerror(errno));
}

// write(2), as OPO_FAULT will have it.
ssize_t WriteSome(int fd, const std::string& path, const char* data, std::size_t size) {
  if (!FaultsArmed()) return ::write(fd, data, size);
  if (FaultAt("kill", "write", path)) {  // in the middle of it
    (void)!::write(fd, data, size / 2);
    std::raise(SIGKILL);
  }
  if (const auto fault = FaultAt("short", "write", path, size)) {
    size = std::max<std::size_t>(1, size / 2);
  }
  if (const auto fault = FaultAt("write", "", path, size)) {
    if (fault->after <= 0) {
      errno = fault->error;
      return -1;
    }
    size = static_cast<std::size_t>(fault->after);  // what still fits
  }
  return ::write(fd, data, size);
}

void WriteAll(int fd, const std::string& path, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t n = WriteSome(fd, path, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO;  // a device that takes nothing and says nothing
    if (n <= 0) FailWithReason(path, "cannot be written");
    data += n;
    size -= static_cast<std::size_t>(n);
  }
}

void SyncFile(int fd, const std::string& path) {
  const auto fault = FaultAt("fsync", "", path);
  if (fault) errno = fault->error;
  if (fault || ::fsync(fd) != 0) FailWithReason(path, "cannot be synced");
}

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
  if (!fd.ok()) FailWithReason(path, "cannot be synced");
  SyncFile(fd.get(), path);
}

void SyncFolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  SyncPath(folder.empty() ? "." : folder);
}

PartialFile::PartialFile(const std::string& path)
    : path_(path),
      partial_(path + ".partial"),
      fd_(::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {
  if (fd_ < 0) FailWithReason(path_, "cannot be written");
}

PartialFile::~PartialFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!committed_) ::unlink(partial_.c_str());
}

void PartialFile::Write(const void* data, std::size_t size) {
  WriteAll(fd_, path_, static_cast<const char*>(data), size);
}

void PartialFile::Commit() {
  SyncFile(fd_, path_);
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0) FailWithReason(path_, "cannot be closed");
  FaultPoint("before-rename", path_);
  if (::rename(partial_.c_str(), path_.c_str()) != 0) {
    FailWithReason(path_, "cannot be put into place");
  }
  committed_ = true;
  SyncFolderOf(path_);
}

void WriteFileAtomically(const std::string& path, std::string_view content) {
  PartialFile file(path);
  file.Write(content.data(), content.size());
  file.Commit();
}

AppendFile::AppendFile(const std::string& path)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  struct stat status {};
  if (fd_ < 0 || ::fstat(fd_, &status) != 0) FailWithReason(path_, "cannot be opened");
  size_ = static_cast<std::size_t>(status.st_size);
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

void AppendFile::Append(std::string_view bytes) {
  try {
    WriteAll(fd_, path_, bytes.data(), bytes.size());
  } catch (...) {
    // Best effort: what stays is dropped as an unfinished line when the file is next opened.
    (void)!::ftruncate(fd_, static_cast<off_t>(size_));
    throw;
  }
  size_ += bytes.size();
}

void AppendFile::Truncate(std::size_t size) {
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) FailWithReason(path_, "cannot be cut");
  size_ = size;
}

void AppendFile::Sync() {
  SyncFile(fd_, path_);
  if (!named_) SyncFolderOf(path_);
  named_ = true;
}

FileLock::FileLock(const std::string& path, const std::string& what)
    : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (fd_ < 0) FailWithReason(path, "cannot be opened");
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int reason = errno;
    char holder[256] = {};
    const ssize_t n = ::pread(fd_, holder, sizeof(holder) - 1, 0);
    if (reason == EWOULDBLOCK) {
      ::close(fd_);
      std::string who(holder, static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
      while (!who.empty() && who.back() == '\n') who.pop_back();
      Fail(ErrorCode::kUsage, "{}: is in use by {} ({} is locked); wait for its end, or stop it",
           what, who.empty() ? "another process" : who, path);
    }
    fmt::print(stderr,
               "warning: {}: cannot be locked: {}; nothing keeps a second process out of {}\n",
               path, std::strerror(reason), what);
    return;
  }
  char host[256] = {};
  if (::gethostname(host, sizeof(host) - 1) != 0) host[0] = '?';
  const std::string who = fmt::format("process {} on {}\n", ::getpid(), host);
  // For people alone: a full disk must not keep a run from being resumed.
  if (::ftruncate(fd_, 0) == 0) (void)!::pwrite(fd_, who.data(), who.size(), 0);
}

FileLock::~FileLock() { ::close(fd_); }

}  // namespace opo
