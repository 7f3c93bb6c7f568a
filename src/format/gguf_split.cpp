// Models in several GGUF files, as llama.cpp's gguf-split cuts them: the first part holds the
// metadata, and every part says which one it is (split.no, from 0), of how many (split.count), and
// how many tensors there are in all (split.tensors.count).
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "format/gguf.h"
#include "format/quote.h"

namespace opo {
namespace {

constexpr const char* kNo = "split.no";
constexpr const char* kCount = "split.count";
constexpr const char* kTensors = "split.tensors.count";
constexpr const char* kCure = "fetch all parts of the model into one folder again";

// 1 for a model in one file.
std::int64_t NumParts(const GgufFile& file) {
  if (!file.Has(kCount)) return 1;
  const std::int64_t count = file.GetInt(kCount);
  if (count < 0 || count > 99999) {  // what the names have room for
    Fail(ErrorCode::kInput, "{}: metadata key '{}' is {}, must be from 0 to 99999", file.path(),
         kCount, count);
  }
  return count == 0 ? 1 : count;
}

// "-00002-of-00003.gguf"
std::string Suffix(std::int64_t number, std::int64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", number, count);
}

// The path of the parts without their suffix.
std::string Stem(const GgufFile& file, std::int64_t count) {
  const std::int64_t number = file.GetInt(kNo);
  const std::string suffix =
      number >= 0 && number < count ? Suffix(number + 1, count) : Suffix(1, count);
  if (number < 0 || number >= count || !file.path().ends_with(suffix)) {
    Fail(ErrorCode::kInput,
         "{}: says that it is part {} of {}, but is not named *{}; give the parts their names back",
         file.path(), number + 1, count, suffix);
  }
  return file.path().substr(0, file.path().size() - suffix.size());
}

}  // namespace

GgufFile GgufFile::Open(const std::string& path) {
  const auto open = [](const std::string& part_path) {
    auto file = std::make_shared<MappedFile>(part_path);
    GgufFile part = ParseOne(file->bytes(), part_path);
    part.parts_.front().file = std::move(file);
    return part;
  };
  GgufFile given = open(path);
  const std::int64_t count = NumParts(given);
  std::vector<GgufFile> files;
  if (count == 1) {
    files.push_back(std::move(given));
    return Join(std::move(files));
  }
  const std::string stem = Stem(given, count);
  for (std::int64_t number = 1; number <= count; ++number) {
    const std::string part_path = stem + Suffix(number, count);
    try {
      files.push_back(part_path == path ? std::move(given) : open(part_path));
    } catch (const Error& e) {
      Fail(e.code(), "{} (part {} of {} of a split model; {})", e.what(), number, count, kCure);
    }
  }
  return Join(std::move(files));
}

GgufFile GgufFile::ParseParts(std::span<const GgufBytes> parts) {
  OPO_CHECK(!parts.empty());
  std::vector<GgufFile> files;
  for (const GgufBytes& part : parts) files.push_back(ParseOne(part.bytes, part.name));
  return Join(std::move(files));
}

// One model of its parts, after checking that they are that.
GgufFile GgufFile::Join(std::vector<GgufFile> files) {
  GgufFile joined = std::move(files.front());
  const std::int64_t count = NumParts(joined);
  if (count != std::ssize(files)) {
    Fail(ErrorCode::kInput, "{}: is of a model in {} parts, {} are here; {}", joined.path(), count,
         files.size(), kCure);
  }
  if (count == 1) return joined;
  std::map<std::string, std::size_t> owners;
  for (const GgufTensor& tensor : joined.tensors_) owners.emplace(tensor.name, 0);
  for (std::size_t i = 0; i < files.size(); ++i) {
    GgufFile& file = i == 0 ? joined : files[i];
    if (file.GetInt(kNo) != static_cast<std::int64_t>(i)) {
      Fail(ErrorCode::kInput, "{}: metadata key '{}' is {}, must be {} in part {}; {}", file.path(),
           kNo, file.GetInt(kNo), i, i + 1, kCure);
    }
    if (i == 0) continue;
    // What a later part says too, it must say as the first does.
    for (const auto& [key, entry] : file.metadata_) {
      if (key == kNo) continue;
      const auto it = joined.metadata_.find(key);
      if (it == joined.metadata_.end() || it->second.value != entry.value) {
        Fail(ErrorCode::kInput,
             "{}: metadata key {} is not as in {}: these are parts of two models; {}", file.path(),
             Quote(key), joined.path(), kCure);
      }
    }
    for (const char* key : {kCount, kTensors}) {
      if (!file.Has(key)) {
        Fail(ErrorCode::kInput, "{}: metadata key '{}' is absent; {}", file.path(), key, kCure);
      }
    }
    for (GgufTensor& tensor : file.tensors_) {
      tensor.part = i;
      const auto [it, is_new] = owners.emplace(tensor.name, i);
      if (!is_new) {
        Fail(ErrorCode::kInput, "{}: tensor {} is in {} too; {}", file.path(), Quote(tensor.name),
             joined.parts_[it->second].path, kCure);
      }
      joined.tensors_.push_back(std::move(tensor));
    }
    joined.parts_.push_back(std::move(file.parts_.front()));
  }
  if (joined.GetInt(kTensors) != std::ssize(joined.tensors_)) {
    Fail(ErrorCode::kInput, "{}: metadata key '{}' is {}, the {} parts hold {} tensors; {}",
         joined.path(), kTensors, joined.GetInt(kTensors), count, joined.tensors_.size(), kCure);
  }
  return joined;
}

}  // namespace opo
