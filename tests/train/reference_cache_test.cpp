// Log-probs of a reference on disk: what is read is what was written, or it is noticed.
#include "train/reference_cache.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "reference/tiny_model.h"
#include "train/reference.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKey = "0123456789abcdef0123456789abcdef";
constexpr const char* kOther = "0123456789abcdef0123456789abcdee";
const std::vector<idx> kCounts = {3, 0, 2, 5, 1};
const std::vector<float> kNumbers = {-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11};

// In chunks of 2, 1 and 2 groups.
std::string File(std::vector<std::size_t>* ends = nullptr) {
  ReferenceNumbers numbers(kCounts);
  std::string file = ReferenceNumbers::Head(kKey);
  const std::span<const float> all(kNumbers);
  const auto add = [&](std::size_t first, std::size_t count, idx groups) {
    if (ends != nullptr) ends->push_back(file.size());
    file += numbers.Add(all.subspan(first, count), groups);
  };
  add(0, 3, 2);
  add(3, 2, 1);
  add(5, 6, 2);
  EXPECT_TRUE(numbers.complete());
  return file;
}

void ExpectGood(const ReferenceNumbers& numbers) {
  std::size_t at = 0;
  for (idx g = 0; g < numbers.groups(); ++g) {
    const std::span<const float> of = numbers.Of(g);
    ASSERT_EQ(static_cast<idx>(of.size()), kCounts[static_cast<std::size_t>(g)]);
    for (const float x : of) EXPECT_EQ(x, kNumbers[at++]);
  }
}

TEST(ReferenceNumbers, WhatWasWrittenIsRead) {
  const std::string file = File();
  ReferenceNumbers numbers(kCounts);
  EXPECT_EQ(numbers.Read(file, kKey), "");
  EXPECT_TRUE(numbers.complete());
  EXPECT_EQ(numbers.good_bytes(), file.size());
  ExpectGood(numbers);
}

TEST(ReferenceNumbers, AFileThatWasCutIsGoodUpToItsLastWholeChunk) {
  std::vector<std::size_t> ends;
  const std::string file = File(&ends);
  const idx groups[] = {0, 2, 3, 5};
  for (std::size_t size = 0; size < file.size(); ++size) {
    ReferenceNumbers numbers(kCounts);
    const std::string flaw = numbers.Read(std::string_view(file).substr(0, size), kKey);
    std::size_t whole = 0;
    while (whole + 1 < ends.size() && ends[whole + 1] <= size) ++whole;
    EXPECT_EQ(flaw.empty(), size == ends[whole]) << size;
    EXPECT_EQ(numbers.groups(), size < ends[0] ? 0 : groups[whole]) << size;
    EXPECT_EQ(numbers.good_bytes(), size < ends[0] ? 0 : ends[whole]) << size;
    ExpectGood(numbers);
  }
}

TEST(ReferenceNumbers, EveryFlippedByteIsNoticed) {
  const std::string file = File();
  for (std::size_t at = 0; at < file.size(); ++at) {
    for (const int bit : {0, 7}) {
      std::string changed = file;
      changed[at] = static_cast<char>(changed[at] ^ (1 << bit));
      ReferenceNumbers numbers(kCounts);
      EXPECT_NE(numbers.Read(changed, kKey), "") << at;
      EXPECT_FALSE(numbers.complete());
      ExpectGood(numbers);
    }
  }
}

TEST(ReferenceNumbers, OtherDataAndOtherFilesAreRefused) {
  const std::string file = File();
  ReferenceNumbers other(kCounts);
  EXPECT_NE(other.Read(file, kOther).find("another model"), std::string::npos);
  EXPECT_EQ(other.groups(), 0);
  ReferenceNumbers none(kCounts);
  EXPECT_NE(none.Read("GGUF, or anything else that is not ours", kKey), "");
  // A chunk moved to another place, and counts that are not those of the data.
  ReferenceNumbers twice(kCounts);
  EXPECT_NE(twice.Read(file + file.substr(40), kKey), "");
  ReferenceNumbers longer({3, 1, 2, 5, 1});
  EXPECT_NE(longer.Read(file, kKey), "");
  EXPECT_EQ(longer.groups(), 0);
}

class Cache : public testing::Test {
 protected:
  Cache()
      : folder_(fs::path(testing::TempDir()) / ("opo_reference_" + std::to_string(::getpid()))),
        weights_(InitWeights(SmallConfig(), 3, 0.4)),
        tiny_(weights_) {
    fs::remove_all(folder_);
    groups_ = MakeGroups({3, 5, 2}, 2, SmallConfig().vocab_size);
    std::uint32_t seed = 300;
    for (RolloutGroup& group : groups_) {
      for (Rollout& rollout : group.rollouts) {
        rollout.tokens = RandomTokens(2 + seed % 5, seed, SmallConfig().vocab_size);
        ++seed;
      }
    }
  }
  ~Cache() override { fs::remove_all(folder_); }

  CachedReference<float>::Parts Parts() {
    return {.model = tiny_.model,
            .weights_digest = weights_.DigestHex(),
            .inv_temperature = 1,
            .groups = static_cast<idx>(groups_.size()),
            .group = [this](idx g) { return groups_[static_cast<std::size_t>(g)]; },
            .folder = folder_.string()};
  }
  // The only file of numbers in the folder.
  std::string Path() const {
    std::string path;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().extension() == ".logprobs") path = entry.path().string();
    }
    return path;
  }
  void ExpectTheModels(const CachedReference<float>& cached) {
    const std::vector<int> owner(groups_.size(), 0);
    const BatchLogProbs want = ScoreShared(tiny_.model, groups_, owner, 1.0f, Comm::Alone());
    std::vector<RolloutGroup> filled = groups_;
    const std::vector<idx> numbers = {0, 1, 2};
    cached.Fill(filled, numbers);
    for (std::size_t g = 0; g < filled.size(); ++g) {
      for (std::size_t s = 0; s < filled[g].rollouts.size(); ++s) {
        const Rollout& rollout = filled[g].rollouts[s];
        EXPECT_EQ(rollout.reference_logprobs, want[g][s]);
        EXPECT_EQ(rollout.reference_seal, SealOfReference(rollout));
      }
    }
  }

  fs::path folder_;
  Weights weights_;
  TinyModel<float> tiny_;
  std::vector<RolloutGroup> groups_;
};

TEST_F(Cache, ComputesOnceAndReadsAfterwards) {
  const CachedReference<float> first(Parts(), Comm::Alone());
  EXPECT_EQ(first.computed(), 3);
  ExpectTheModels(first);
  const CachedReference<float> second(Parts(), Comm::Alone());
  EXPECT_EQ(second.computed(), 0);
  ExpectTheModels(second);
}

TEST_F(Cache, WhatIsDamagedIsToldOfAndComputedAgain) {
  const CachedReference<float> first(Parts(), Comm::Alone());
  std::string bytes = ReadFile(Path());
  bytes[bytes.size() / 2] ^= 4;
  WriteFileAtomically(Path(), bytes);
  testing::internal::CaptureStderr();
  const CachedReference<float> second(Parts(), Comm::Alone());
  EXPECT_NE(testing::internal::GetCapturedStderr().find("it is damaged from byte 40 on"),
            std::string::npos);
  EXPECT_EQ(second.computed(), 3);
  ExpectTheModels(second);
  EXPECT_EQ(CachedReference<float>(Parts(), Comm::Alone()).computed(), 0) << "and kept";
  // A foreign file under this name.
  WriteFileAtomically(Path(), "something else");
  testing::internal::CaptureStderr();
  EXPECT_EQ(CachedReference<float>(Parts(), Comm::Alone()).computed(), 3);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("no file of reference log-probs"),
            std::string::npos);
  EXPECT_EQ(CachedReference<float>(Parts(), Comm::Alone()).computed(), 0);
}

TEST_F(Cache, AnotherModelTemperatureOrTokenIsAnotherFile) {
  const CachedReference<float> first(Parts(), Comm::Alone());
  auto warmer = Parts();
  warmer.inv_temperature = 2;
  EXPECT_EQ(CachedReference<float>(warmer, Comm::Alone()).computed(), 3);
  auto other = Parts();
  other.weights_digest += "0";
  EXPECT_EQ(CachedReference<float>(other, Comm::Alone()).computed(), 3);
  for (TokenId* token : {&groups_[1].prompt[0], &groups_[2].rollouts[1].tokens.back()}) {
    const TokenId before = std::exchange(*token, *token == 0 ? 1 : 0);
    EXPECT_EQ(CachedReference<float>(Parts(), Comm::Alone()).computed(), 3);
    *token = before;
  }
  EXPECT_EQ(CachedReference<float>(Parts(), Comm::Alone()).computed(), 0);
}

TEST_F(Cache, AReplayKeepsNothingAndAFolderThatCannotBeMadeIsAnError) {
  auto parts = Parts();
  parts.writes = false;
  const CachedReference<float> cached(parts, Comm::Alone());
  EXPECT_EQ(cached.computed(), 3);
  EXPECT_FALSE(fs::exists(folder_));
  WriteFileAtomically(folder_.string(), "a file");
  try {
    CachedReference<float>(Parts(), Comm::Alone());
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kWork);
  }
}

TEST_F(Cache, WhileAnotherWritesTheFileNothingIsKept) {
  const CachedReference<float> first(Parts(), Comm::Alone());
  const std::string path = Path();
  const FileLock lock(path.substr(0, path.size() - 9) + ".lock", path);
  fs::remove(path);
  testing::internal::CaptureStderr();
  const CachedReference<float> second(Parts(), Comm::Alone());
  EXPECT_NE(testing::internal::GetCapturedStderr().find("is not kept"), std::string::npos);
  ExpectTheModels(second);
  EXPECT_FALSE(fs::exists(path));
}

}  // namespace
}  // namespace opo
