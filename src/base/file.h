// Files: read-only maps of what comes from outside, and writes that are whole or absent. Whatever a
// run writes goes through here, and so do the faults of write and fsync (base/fault.h).
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace opo {

// A read-only memory map. Throws Error(kInput) naming the path where it cannot be opened.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Whether something is there; what cannot be looked at counts as absent.
bool Exists(const std::string& path);

// The whole file. Throws Error(kInput) naming the path.
std::string ReadFile(const std::string& path);

// A file under construction at PATH.partial. Commit() syncs it, renames it to `path` and syncs the
// folder: afterwards the old content or the new is there, never a part. Without, it is removed.
// Throws Error(kWork) naming the path and the system's reason.
class PartialFile {
 public:
  explicit PartialFile(const std::string& path);
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;
  ~PartialFile();

  void Write(const void* data, std::size_t size);
  void Commit();

 private:
  std::string path_;
  std::string partial_;
  int fd_;
  bool committed_ = false;
};

// The same for a content at hand.
void WriteFileAtomically(const std::string& path, std::string_view content);

// A file that grows at its end; made where it is absent. Throws Error(kWork) naming the path and
// the system's reason.
class AppendFile {
 public:
  explicit AppendFile(const std::string& path);
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  ~AppendFile();

  // Handed to the system, all of it; where that fails, the file is cut back to what it was.
  void Append(std::string_view bytes);
  // Cuts the file down to its first `size` bytes.
  void Truncate(std::size_t size);
  // On the disk, with the file's name, when it returns.
  void Sync();

 private:
  std::string path_;
  int fd_;
  std::size_t size_ = 0;
  bool named_ = false;  // the folder was synced
};

// A lock on the file `path`, held while the object lives: a second holder is refused, be it another
// process or this one. The system frees it when the process ends in whatever way. Throws
// Error(kUsage) naming the process and the host that hold it, Error(kWork) where the file cannot be
// opened. Where the file system has no locks, it says so on stderr and holds nothing.
class FileLock {
 public:
  // `what` is what the lock protects, for the message.
  FileLock(const std::string& path, const std::string& what);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int fd_;
};

// fsync of a file or folder that was written by other means. Throws Error(kWork).
void SyncPath(const std::string& path);
// The same of the folder that holds `path`.
void SyncFolderOf(const std::string& path);

}  // namespace opo
