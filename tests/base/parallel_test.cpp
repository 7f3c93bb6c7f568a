#include "base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <vector>

namespace opo {
namespace {

class ParallelTest : public testing::Test {
 protected:
  void TearDown() override { SetNumThreads(0); }
};

TEST_F(ParallelTest, EachTaskRunsExactlyOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    SetNumThreads(threads);
    EXPECT_EQ(NumThreads(), threads);
    for (const idx n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(n));
      ParallelFor(n, [&](idx i) { ++runs[static_cast<std::size_t>(i)]; });
      for (const auto& r : runs) ASSERT_EQ(r, 1);
    }
  }
}

TEST_F(ParallelTest, ChunksCoverTheRangeWithoutOverlap) {
  SetNumThreads(3);
  for (const idx n : {0, 1, 9, 10, 11, 99}) {
    std::vector<std::atomic<int>> covered(static_cast<std::size_t>(n));
    ParallelChunks(n, 10, [&](idx begin, idx end) {
      EXPECT_LE(end - begin, 10);
      EXPECT_EQ(begin % 10, 0);
      for (idx i = begin; i < end; ++i) ++covered[static_cast<std::size_t>(i)];
    });
    for (const auto& c : covered) ASSERT_EQ(c, 1);
  }
}

TEST_F(ParallelTest, ACallWithinATaskRunsToItsEnd) {
  SetNumThreads(3);
  std::atomic<int> sum{0};
  ParallelFor(20, [&](idx i) {
    ParallelFor(10, [&](idx j) { sum += static_cast<int>(i * 10 + j); });
    ++sum;
  });
  EXPECT_EQ(sum, 199 * 200 / 2 + 20);
}

TEST_F(ParallelTest, ManyShortCallsAndChangesOfThreadsLoseNothing) {
  std::atomic<idx> sum{0};
  idx want = 0;
  for (int round = 0; round < 3000; ++round) {
    if (round % 100 == 0) SetNumThreads(1 + round / 100 % 4);
    const idx n = 1 + round % 5;
    ParallelFor(n, [&](idx i) { sum += i + round; });
    want += n * (n - 1) / 2 + n * round;
  }
  EXPECT_EQ(sum, want);
}

// What the caller wrote is seen by the tasks, what the tasks wrote by the caller.
TEST_F(ParallelTest, ResultsAreSeenWithoutFurtherCare) {
  SetNumThreads(2);
  std::vector<idx> values(64, 1);
  for (int round = 0; round < 2000; ++round) {
    ParallelFor(64, [&](idx i) {
      values[static_cast<std::size_t>(i)] += values[static_cast<std::size_t>(i)] % 3;
    });
    for (std::size_t i = 1; i < values.size(); ++i) ASSERT_EQ(values[i], values[0]);
  }
}

TEST_F(ParallelTest, ZeroThreadsStandForAllCpus) {
  SetNumThreads(0);
  EXPECT_GE(NumThreads(), 1);
}

TEST_F(ParallelTest, WhatATaskThrowsArrives) {
  for (const int threads : {1, 2, 4}) {
    SetNumThreads(threads);
    for (int round = 0; round < 50; ++round) {
      std::atomic<int> ran = 0;
      EXPECT_THROW(ParallelFor(1000,
                               [&](idx i) {
                                 ++ran;
                                 if (i % 7 == 3) throw std::bad_alloc();
                               }),
                   std::bad_alloc);
      EXPECT_LT(ran, 1000) << "the others are left out";
      // The pool is as good as before, and so are calls from within.
      std::atomic<idx> sum = 0;
      ParallelFor(100, [&](idx i) { ParallelFor(2, [&](idx) { sum += i; }); });
      EXPECT_EQ(sum, 9900);
    }
  }
  SetNumThreads(0);
}

}  // namespace
}  // namespace opo
