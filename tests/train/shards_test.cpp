// Shards: how they are dealt to ranks, and the order in which their gradients are added.
#include "train/shards.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "reference/tiny_model.h"

namespace opo {
namespace {

// The least possible maximum of a deal into `ranks` runs, by trying all.
idx BestMaximum(std::span<const idx> work, int ranks) {
  if (ranks == 1) return std::accumulate(work.begin(), work.end(), idx{0});
  idx best = std::numeric_limits<idx>::max();
  for (std::size_t first = 1; first + static_cast<std::size_t>(ranks) - 1 <= work.size(); ++first) {
    const idx here = std::accumulate(work.begin(), work.begin() + static_cast<long>(first), idx{0});
    best = std::min(best, std::max(here, BestMaximum(work.subspan(first), ranks - 1)));
  }
  return best;
}

TEST(DealShards, TheMostThatARankGetsIsLeast) {
  std::uint64_t state = 1;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<idx> work(static_cast<std::size_t>(1) << (trial % 5));
    for (idx& w : work) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      w = static_cast<idx>(state >> 60);  // 0 to 15
    }
    for (int ranks = 1; ranks <= static_cast<int>(std::min<std::size_t>(work.size(), 5)); ++ranks) {
      const ShardDeal deal = DealShards(work, ranks);
      ASSERT_EQ(deal.first.size(), static_cast<std::size_t>(ranks) + 1);
      ASSERT_EQ(deal.first.front(), 0);
      ASSERT_EQ(deal.first.back(), static_cast<idx>(work.size()));
      idx most = 0;
      for (int r = 0; r < ranks; ++r) {
        const idx begin = deal.first[static_cast<std::size_t>(r)];
        const idx end = deal.first[static_cast<std::size_t>(r) + 1];
        ASSERT_LT(begin, end) << "every rank has a shard";
        most = std::max(most, std::accumulate(work.begin() + begin, work.begin() + end, idx{0}));
        for (idx s = begin; s < end; ++s) EXPECT_EQ(deal.RankOf(s), r);
      }
      EXPECT_EQ(most, BestMaximum(work, ranks));
    }
  }
}

TEST(OwnedPart, CoversTheSlabInBlocks) {
  for (const idx size : {idx{16}, kSlabBlock, 3 * kSlabBlock + 16, 100 * kSlabBlock}) {
    for (const int ranks : {1, 2, 3, 7}) {
      idx at = 0;
      for (int r = 0; r < ranks; ++r) {
        const SlabPart part = OwnedPart(size, r, ranks);
        EXPECT_EQ(part.begin, at);
        EXPECT_TRUE(part.begin % kSlabBlock == 0 || part.begin == size);
        at = part.end;
      }
      EXPECT_EQ(at, size);
    }
  }
}

// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), in f32, where the order shows.
TEST(GradientSum, AddsShardsInTheTreesOrder) {
  const SlabLayout layout(TinyConfig());
  for (const idx shards : {1, 2, 4, 8}) {
    GradientSum sum(Comm::Alone(), layout);
    const auto value = [](idx shard, idx i) {
      return static_cast<float>((i * 7919 + shard * 104729) % 1000003) * 1.37e-3f -
             static_cast<float>(shard) * 171.0f;
    };
    const std::vector<idx> work(static_cast<std::size_t>(shards), 1);
    for (int again = 0; again < 2; ++again) {  // buffers are used again
      sum.Run(DealShards(work, 1), [&](idx shard, float* grad, const GradientSum::LayerDone&) {
        for (idx i = 0; i < layout.size; ++i) {
          ASSERT_EQ(grad[i], 0.0f);
          grad[i] = value(shard, i);
        }
      });
      idx different = 0;
      for (idx i = 0; i < layout.size; ++i) {
        std::vector<float> level;
        for (idx s = 0; s < shards; ++s) level.push_back(value(s, i));
        while (level.size() > 1) {
          std::vector<float> next;
          for (std::size_t k = 0; k < level.size(); k += 2) next.push_back(level[k] + level[k + 1]);
          level = next;
        }
        different += sum.sum()[i] == level.front() ? 0 : 1;
      }
      EXPECT_EQ(different, 0) << shards << " shards";
    }
  }
}

}  // namespace
}  // namespace opo
