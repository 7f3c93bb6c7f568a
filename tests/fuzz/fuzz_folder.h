// For fuzz targets of parsers that read files by name: a folder of their own, and files out of the
// bytes of one input.
#pragma once

#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/error.h"

namespace opo {

struct FuzzFolder {
  FuzzFolder() : path((std::filesystem::temp_directory_path() / "opo_fuzz_XXXXXX").string()) {
    OPO_CHECK(::mkdtemp(path.data()) != nullptr);
  }
  FuzzFolder(const FuzzFolder&) = delete;
  FuzzFolder& operator=(const FuzzFolder&) = delete;
  ~FuzzFolder() { std::filesystem::remove_all(path); }

  std::string operator/(std::string_view name) const { return path + "/" + std::string(name); }

  // Returns the file's path.
  std::string Write(std::string_view name, std::string_view content) const {
    std::ofstream(*this / name, std::ios::binary) << content;
    return *this / name;
  }
  void WriteOrRemove(std::string_view name, std::string_view content) const {
    if (content.empty()) {
      std::filesystem::remove(*this / name);
    } else {
      Write(name, content);
    }
  }

  std::string path;
};

// What stands before the next byte 0xFF, which no JSON or UTF-8 text holds; `bytes` is then what
// stands behind it.
inline std::string_view TakePiece(std::string_view& bytes) {
  const std::size_t end = std::min(bytes.find('\xFF'), bytes.size());
  const std::string_view piece = bytes.substr(0, end);
  bytes.remove_prefix(std::min(end + 1, bytes.size()));
  return piece;
}

inline std::string_view AsText(const unsigned char* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace opo
