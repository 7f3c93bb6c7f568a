// Byte pair merging: the lowest rank first, of equal ranks the leftmost.
#pragma once

#include <cstdint>
#include <vector>

#include "base/types.h"

namespace opo {

// (left, right) -> (rank, merged token). Open addressing: merging is one lookup per step.
class MergeTable {
 public:
  struct Merge {
    std::uint64_t key = kEmpty;
    std::int32_t rank = 0;
    TokenId result = 0;
  };

  void Reserve(std::size_t num_merges);  // before the first Add; no more than this many
  // Ids are not negative. False where the pair is there already (the first keeps its rank).
  bool Add(TokenId left, TokenId right, std::int32_t rank, TokenId result);
  const Merge* Find(TokenId left, TokenId right) const;  // nullptr where they do not merge

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // no pair of ids has this key
  std::size_t Slot(std::uint64_t key) const;
  std::vector<Merge> slots_;  // a power of two of them, at most half in use
  int shift_ = 63;
};

// Appends `pieces`, merged as far as the table goes, to `out`. `pieces` is scratch afterwards.
// Time: n log n in the number of pieces.
void MergePieces(const MergeTable& table, std::vector<TokenId>& pieces, std::vector<TokenId>& out);

}  // namespace opo
