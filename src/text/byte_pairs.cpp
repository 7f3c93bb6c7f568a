#include "text/byte_pairs.h"

#include <bit>
#include <cstddef>
#include <limits>
#include <queue>

#include "base/error.h"

namespace opo {
namespace {

constexpr std::size_t kShortWord = 32;  // up to here scanning beats a heap
constexpr std::int32_t kNoRank = std::numeric_limits<std::int32_t>::max();

std::uint64_t Key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

void MergeShort(const MergeTable& table, std::vector<TokenId>& pieces) {
  MergeTable::Merge pairs[kShortWord];  // pairs[i]: of pieces i and i + 1
  const auto look = [&](std::size_t i) {
    const MergeTable::Merge* merge = table.Find(pieces[i], pieces[i + 1]);
    pairs[i] = merge != nullptr ? *merge : MergeTable::Merge{0, kNoRank, 0};
  };
  for (std::size_t i = 0; i + 1 < pieces.size(); ++i) look(i);
  while (pieces.size() > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < pieces.size(); ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) return;
    pieces[best] = pairs[best].result;
    pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    for (std::size_t i = best + 1; i + 1 < pieces.size(); ++i) pairs[i] = pairs[i + 1];
    if (best > 0) look(best - 1);
    if (best + 1 < pieces.size()) look(best);
  }
}

// A list of pieces and a heap of the pairs that were neighbours once; an entry whose pair is no
// longer there is recognised by its rank and dropped.
void MergeLong(const MergeTable& table, std::vector<TokenId>& pieces) {
  struct Candidate {
    std::int32_t rank;
    std::size_t left;
    bool operator<(const Candidate& other) const {  // the top of the queue is the greatest
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  const std::size_t n = pieces.size();
  constexpr TokenId kGone = -1;
  std::vector<std::size_t> next(n);
  std::vector<std::size_t> previous(n);
  std::priority_queue<Candidate> queue;
  const auto look = [&](std::size_t left) {
    if (next[left] == n) return;
    const MergeTable::Merge* merge = table.Find(pieces[left], pieces[next[left]]);
    if (merge != nullptr) queue.push({merge->rank, left});
  };
  for (std::size_t i = 0; i < n; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // of the first: never read, it has no left neighbour
  }
  for (std::size_t i = 0; i + 1 < n; ++i) look(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const std::size_t right = pieces[top.left] == kGone ? n : next[top.left];
    if (right == n) continue;
    const MergeTable::Merge* merge = table.Find(pieces[top.left], pieces[right]);
    if (merge == nullptr || merge->rank != top.rank) continue;
    pieces[top.left] = merge->result;
    pieces[right] = kGone;
    next[top.left] = next[right];
    if (next[right] != n) previous[next[right]] = top.left;
    if (top.left != 0) look(previous[top.left]);
    look(top.left);
  }
  std::erase(pieces, kGone);
}

}  // namespace

void MergeTable::Reserve(std::size_t num_merges) {
  const std::size_t size = std::bit_ceil(num_merges * 2 + 2);
  slots_.assign(size, Merge{});
  shift_ = 64 - std::countr_zero(size);
}

std::size_t MergeTable::Slot(std::uint64_t key) const {
  return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> shift_);
}

bool MergeTable::Add(TokenId left, TokenId right, std::int32_t rank, TokenId result) {
  OPO_CHECK(left >= 0 && right >= 0);
  const std::uint64_t key = Key(left, right);
  for (std::size_t i = Slot(key);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].key == key) return false;
    if (slots_[i].key == kEmpty) {
      slots_[i] = {key, rank, result};
      return true;
    }
  }
}

const MergeTable::Merge* MergeTable::Find(TokenId left, TokenId right) const {
  const std::uint64_t key = Key(left, right);
  for (std::size_t i = Slot(key);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].key == key) return &slots_[i];
    if (slots_[i].key == kEmpty) return nullptr;
  }
}

void MergePieces(const MergeTable& table, std::vector<TokenId>& pieces, std::vector<TokenId>& out) {
  if (pieces.size() <= kShortWord) {
    MergeShort(table, pieces);
  } else {
    MergeLong(table, pieces);
  }
  out.insert(out.end(), pieces.begin(), pieces.end());
}

}  // namespace opo
