#include "data/prompt_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

namespace opo {
namespace {

// The prompts of a step (from 0) of `count`, out of one set.
std::vector<idx> Step(idx size, idx count, idx step, std::uint64_t seed) {
  return PromptOrder({size}, {1}, seed).Take(step * count, count);
}

TEST(PromptOrder, EveryEpochIsAPermutationAndEpochsDiffer) {
  std::vector<idx> epochs[2];
  for (idx step = 0; step < 20; ++step) {
    for (const idx i : Step(70, 7, step, 1)) epochs[step / 10].push_back(i);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  for (auto& epoch : epochs) {
    EXPECT_FALSE(std::is_sorted(epoch.begin(), epoch.end()));
    std::sort(epoch.begin(), epoch.end());
    for (idx i = 0; i < 70; ++i) EXPECT_EQ(epoch[static_cast<std::size_t>(i)], i);
  }
}

TEST(PromptOrder, StepsThatCrossAnEpochContinueTheSequence) {
  // The same sequence, cut in steps of 3 and of 12, and one step longer than an epoch.
  std::vector<idx> by3;
  std::vector<idx> by12;
  for (idx step = 0; step < 8; ++step) {
    for (const idx i : Step(5, 3, step, 9)) by3.push_back(i);
  }
  for (idx step = 0; step < 2; ++step) {
    for (const idx i : Step(5, 12, step, 9)) by12.push_back(i);
  }
  EXPECT_EQ(by3, by12);
}

TEST(PromptOrder, IsPureInSeedAndStep) {
  EXPECT_EQ(Step(100, 10, 3, 5), Step(100, 10, 3, 5));
  EXPECT_NE(Step(100, 10, 3, 5), Step(100, 10, 3, 6));
  EXPECT_EQ(Step(1, 3, 2, 5), (std::vector<idx>{0, 0, 0}));
}

TEST(PromptOrder, ShufflesEvenly) {
  // All 6 orders of 3 problems, 6000 seeds: 1000 each, standard deviation 29.
  std::map<std::vector<idx>, int> counts;
  for (std::uint64_t seed = 0; seed < 6000; ++seed) ++counts[Step(3, 3, 0, seed)];
  EXPECT_EQ(counts.size(), 6U);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(PromptOrder, IsTheOrderThatOlderRunsHad) {
  // Recorded before there were several sets: a run must go on as it began.
  EXPECT_EQ(PromptOrder({70}, {1}, 1).Take(64, 12),
            (std::vector<idx>{15, 48, 45, 41, 1, 55, 42, 31, 16, 37, 0, 19}));
}

TEST(PromptOrder, AnyCutGivesTheSameSequence) {
  const PromptOrder order({5, 300, 17}, {1, 2.5, 0.1}, 4);
  const std::vector<idx> whole = order.Take(0, 5000);
  idx at = 0;
  for (idx count = 1; at + count <= 5000; at += count, count = count * 7 % 311 + 1) {
    const auto part = order.Take(at, count);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + at)) << at;
  }
  EXPECT_TRUE(order.Take(999, 0).empty());
}

TEST(PromptOrder, SetsAreMixedByTheirWeights) {
  const PromptOrder order({10, 20, 30}, {1, 2, 0.0001}, 4);
  std::vector<idx> counts(3);
  for (const idx i : order.Take(0, 9000)) ++counts[i < 10 ? 0 : i < 30 ? 1 : 2];
  // Largest remainders of 333.3, 666.6 and 0.03, and at least one.
  EXPECT_EQ(counts, (std::vector<idx>{9 * 333, 9 * 666, 9}));
  EXPECT_NE(PromptOrder({10, 20}, {1, 2}, 4).Take(0, 50),
            PromptOrder({10, 20}, {1, 2}, 5).Take(0, 50));
}

TEST(PromptOrder, WithinASetOfSeveralEveryEpochIsAPermutation) {
  const PromptOrder order({7, 11}, {1, 1}, 4);
  std::vector<idx> first, second;
  for (const idx i : order.Take(0, 4000)) (i < 7 ? first : second).push_back(i);
  for (std::size_t e = 0; (e + 1) * 7 <= first.size(); ++e) {
    const std::set<idx> epoch(first.begin() + static_cast<std::ptrdiff_t>(7 * e),
                              first.begin() + static_cast<std::ptrdiff_t>(7 * e + 7));
    EXPECT_EQ(epoch.size(), 7U);
  }
  for (std::size_t e = 0; (e + 1) * 11 <= second.size(); ++e) {
    const std::set<idx> epoch(second.begin() + static_cast<std::ptrdiff_t>(11 * e),
                              second.begin() + static_cast<std::ptrdiff_t>(11 * e + 11));
    EXPECT_EQ(epoch.size(), 11U);
  }
  EXPECT_EQ(first.size(), 2000U);
}

TEST(PromptOrder, WithoutShufflingTheFilesOrderIsKept) {
  EXPECT_EQ(PromptOrder({3}, {1}, 4, false).Take(2, 5), (std::vector<idx>{2, 0, 1, 2, 0}));
}

}  // namespace
}  // namespace opo
