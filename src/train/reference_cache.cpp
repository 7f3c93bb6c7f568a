#include "train/reference_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/hash.h"
#include "kernels/kernels.h"
#include "train/exchange.h"
#include "train/reference.h"

namespace opo {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic = "opo-ref1";
constexpr std::size_t kKeyDigits = 32;
constexpr std::size_t kChunkHead = 16;  // groups, numbers
constexpr std::size_t kHashBytes = 8;
constexpr idx kChunkTokens = 1 << 14;  // of prompts and answers: what a kill may lose

std::uint64_t ReadU64(std::string_view bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

void PutU64(std::string& bytes, std::uint64_t value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::uint64_t HashOfChunk(idx first_group, std::string_view chunk) {
  std::string all;
  PutU64(all, static_cast<std::uint64_t>(first_group));
  all += chunk;
  return Hash64(all);
}

}  // namespace

ReferenceNumbers::ReferenceNumbers(std::vector<idx> counts) : firsts_(1, 0) {
  for (const idx count : counts) {
    OPO_CHECK(count >= 0);
    firsts_.push_back(firsts_.back() + static_cast<std::size_t>(count));
  }
}

std::string ReferenceNumbers::Head(std::string_view key) {
  OPO_CHECK(key.size() == kKeyDigits);
  return std::string(kMagic) + std::string(key);
}

std::string ReferenceNumbers::Read(std::string_view bytes, std::string_view key) {
  OPO_CHECK(groups_ == 0);
  const std::string head = Head(key);
  if (!bytes.starts_with(kMagic)) return "it is no file of reference log-probs";
  if (!bytes.starts_with(head)) return "it is of another model, other data or another machine";
  good_bytes_ = head.size();
  const auto all = static_cast<std::uint64_t>(firsts_.size() - 1);
  while (good_bytes_ < bytes.size()) {
    const std::string_view rest = bytes.substr(good_bytes_);
    const std::string damaged = fmt::format("it is damaged from byte {} on, behind {} of {} groups",
                                            good_bytes_, groups_, all);
    if (rest.size() < kChunkHead + kHashBytes) return damaged;
    const std::uint64_t groups = ReadU64(rest);
    const std::uint64_t numbers = ReadU64(rest.substr(8));
    const auto first = static_cast<std::size_t>(groups_);
    if (groups == 0 || groups > all - first) return damaged;
    const std::size_t end = first + static_cast<std::size_t>(groups);
    if (numbers != firsts_[end] - firsts_[first]) return damaged;
    if (numbers > (rest.size() - kChunkHead - kHashBytes) / sizeof(float)) return damaged;
    const std::size_t size = kChunkHead + static_cast<std::size_t>(numbers) * sizeof(float);
    if (ReadU64(rest.substr(size)) != HashOfChunk(groups_, rest.substr(0, size))) return damaged;
    numbers_.resize(firsts_[end]);
    if (numbers > 0) {
      std::memcpy(numbers_.data() + firsts_[first], rest.data() + kChunkHead,
                  static_cast<std::size_t>(numbers) * sizeof(float));
    }
    groups_ += static_cast<idx>(groups);
    good_bytes_ += size + kHashBytes;
  }
  return "";
}

std::string ReferenceNumbers::Add(std::span<const float> numbers, idx groups) {
  const auto first = static_cast<std::size_t>(groups_);
  const std::size_t end = first + static_cast<std::size_t>(groups);
  OPO_CHECK(groups > 0 && end < firsts_.size());
  OPO_CHECK(numbers.size() == firsts_[end] - firsts_[first]);
  std::string chunk;
  PutU64(chunk, static_cast<std::uint64_t>(groups));
  PutU64(chunk, numbers.size());
  chunk.append(reinterpret_cast<const char*>(numbers.data()), numbers.size_bytes());
  PutU64(chunk, HashOfChunk(groups_, chunk));
  numbers_.insert(numbers_.end(), numbers.begin(), numbers.end());
  groups_ += groups;
  good_bytes_ += chunk.size();
  return chunk;
}

std::span<const float> ReferenceNumbers::Of(idx group) const {
  OPO_CHECK(group >= 0 && group < groups_);
  const auto g = static_cast<std::size_t>(group);
  return std::span(numbers_).subspan(firsts_[g], firsts_[g + 1] - firsts_[g]);
}

namespace {

void MakeFolder(const std::string& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) Fail(ErrorCode::kWork, "{}: cannot be made: {}", folder, failed.message());
}

// A key of all that the numbers follow from, and how many each group has.
template <class T>
std::string KeyOf(const typename CachedReference<T>::Parts& parts, std::vector<idx>& counts) {
  Digest digest;
  const auto text = [&](const std::string& part) {
    const std::uint64_t size = part.size();
    digest.Add(std::span<const std::uint64_t>(&size, 1));
    digest.Add(std::span<const char>(part));
  };
  text(parts.weights_digest);
  text(IsaFingerprint());
  text(sizeof(T) == 2 ? "bf16" : "f32");
  digest.Add(std::span<const float>(&parts.inv_temperature, 1));
  for (idx g = 0; g < parts.groups; ++g) {
    const RolloutGroup group = parts.group(g);
    const auto tokens = [&](const std::vector<TokenId>& ids) {
      const std::uint64_t size = ids.size();
      digest.Add(std::span<const std::uint64_t>(&size, 1));
      digest.Add(std::span<const TokenId>(ids));
    };
    tokens(group.prompt);
    const std::uint64_t answers = group.rollouts.size();
    digest.Add(std::span<const std::uint64_t>(&answers, 1));
    idx& count = counts.emplace_back();
    for (const Rollout& rollout : group.rollouts) {
      tokens(rollout.tokens);
      count += rollout.length();
    }
  }
  return digest.Hex();
}

}  // namespace

template <class T>
CachedReference<T>::CachedReference(const Parts& parts, Comm& comm) : numbers_({}) {
  std::vector<idx> counts;
  const std::string key = KeyOf<T>(parts, counts);
  numbers_ = ReferenceNumbers(std::move(counts));
  const std::string path = parts.folder + "/" + key + ".logprobs";
  std::string bytes;
  std::unique_ptr<FileLock> lock;
  std::string held;  // by whom the file is written now
  if (comm.root() && parts.writes) {
    MakeFolder(parts.folder);
    try {
      lock = std::make_unique<FileLock>(parts.folder + "/" + key + ".lock", path);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUsage) throw;
      held = error.what();
    }
  }
  if (comm.root() && Exists(path)) bytes = ReadFile(path);
  if (!comm.alone()) bytes = comm.Broadcast(std::move(bytes));
  if (!bytes.empty()) {
    const std::string flaw = numbers_.Read(bytes, key);
    if (!flaw.empty() && comm.root()) {
      fmt::print(stderr, "{}: {}; what is missing is computed again\n", path, flaw);
    }
  }
  bytes = {};
  computed_ = parts.groups - numbers_.groups();
  if (computed_ == 0) return;

  std::unique_ptr<AppendFile> file;
  if (!held.empty()) fmt::print(stderr, "{}; what is computed here is not kept\n", held);
  if (lock != nullptr) {
    file = std::make_unique<AppendFile>(path);
    file->Truncate(numbers_.good_bytes());
    if (numbers_.good_bytes() == 0) file->Append(ReferenceNumbers::Head(key));
  }
  while (!numbers_.complete()) {
    std::vector<RolloutGroup> groups;
    for (idx tokens = 0; tokens < kChunkTokens;) {
      const idx g = numbers_.groups() + static_cast<idx>(groups.size());
      if (g == parts.groups) break;
      groups.push_back(parts.group(g));
      for (const Rollout& rollout : groups.back().rollouts) tokens += rollout.length();
      tokens += static_cast<idx>(groups.back().prompt.size());
    }
    comm.Note("reference", 0);
    std::vector<float> numbers;
    for (const auto& group : ScoreShared(parts.model, groups, InTurn(comm, groups.size()),
                                         parts.inv_temperature, comm)) {
      for (const auto& logprobs : group) {
        numbers.insert(numbers.end(), logprobs.begin(), logprobs.end());
      }
    }
    const std::string chunk = numbers_.Add(numbers, static_cast<idx>(groups.size()));
    if (file != nullptr) file->Append(chunk);
    if (parts.progress && comm.root()) parts.progress(numbers_.groups(), parts.groups);
  }
  if (file != nullptr) file->Sync();
}

template <class T>
void CachedReference<T>::Fill(std::span<RolloutGroup> groups, std::span<const idx> numbers) const {
  OPO_CHECK(groups.size() == numbers.size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const std::span<const float> all = numbers_.Of(numbers[g]);
    auto at = all.begin();
    for (Rollout& rollout : groups[g].rollouts) {
      OPO_CHECK(all.end() - at >= rollout.length());
      rollout.reference_logprobs.assign(at, at + rollout.length());
      rollout.reference_seal = SealOfReference(rollout);
      CorruptNumbers("reference", std::span(rollout.reference_logprobs));
      at += rollout.length();
    }
    OPO_CHECK(at == all.end());
  }
}

template class CachedReference<float>;
template class CachedReference<bf16>;

}  // namespace opo
