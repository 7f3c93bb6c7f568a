// Files: read-only maps of what comes from outside, and writes that are whole or absent.
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
  [[noreturn]] void FailWithReason(const char* what) const;

  std::string path_;
  std::string partial_;
  int fd_;
  bool committed_ = false;
};

// The same for a content at hand.
void WriteFileAtomically(const std::string& path, std::string_view content);

// fsync of a file or folder that was written by other means. Throws Error(kWork).
void SyncPath(const std::string& path);

}  // namespace opo
