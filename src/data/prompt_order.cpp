#include "data/prompt_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/rng.h"

namespace opo {
namespace {

constexpr idx kBlock = 1000;
constexpr std::uint64_t kPromptOrder = 0x6f72646572;  // keeps these draws apart from others
constexpr std::uint64_t kSetOrder = 0x73657473;

// Fisher-Yates, each draw a pure function of (key, round, position).
void Shuffle(std::span<idx> order, std::uint64_t round, std::uint64_t key) {
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  for (std::uint64_t i = order.size(); i-- > 1;) {
    const auto bits = Philox4x32({low(i), high(i), low(round), high(round)}, {low(key), high(key)});
    const std::uint64_t word = (std::uint64_t{bits[0]} << 32) | bits[1];
    // The upper half of word * (i + 1): from 0 to i, uneven by less than one part in 2^64 / i.
    const auto j =
        static_cast<std::uint64_t>((static_cast<unsigned __int128>(word) * (i + 1)) >> 64);
    std::swap(order[i], order[j]);
  }
}

// How many of kBlock positions each set has: by largest remainder, at least one.
std::vector<idx> Quotas(const std::vector<double>& weights) {
  double sum = 0;
  for (const double w : weights) sum += w;
  std::vector<idx> quotas;
  std::vector<std::pair<double, std::size_t>> remainders;
  for (std::size_t s = 0; s < weights.size(); ++s) {
    const double share = weights[s] / sum * static_cast<double>(kBlock);
    quotas.push_back(std::max<idx>(1, static_cast<idx>(std::floor(share))));
    remainders.emplace_back(std::floor(share) - share, s);  // the largest first
  }
  std::sort(remainders.begin(), remainders.end());
  idx left = kBlock - std::accumulate(quotas.begin(), quotas.end(), idx{0});
  for (std::size_t i = 0; left > 0; i = (i + 1) % remainders.size(), --left) {
    ++quotas[remainders[i].second];
  }
  for (; left < 0; ++left) --*std::max_element(quotas.begin(), quotas.end());
  return quotas;
}

// Reads one set's sequence of permutations from a position on.
class SetReader {
 public:
  SetReader(idx size, std::uint64_t seed, bool shuffle, idx position)
      : size_(size), key_(MixBits(seed, kPromptOrder)), shuffle_(shuffle), position_(position) {}

  idx Next() {
    const idx epoch = position_ / size_;
    const idx within = position_++ % size_;
    if (!shuffle_) return within;
    if (order_.empty() || within == 0) {
      order_.resize(static_cast<std::size_t>(size_));
      std::iota(order_.begin(), order_.end(), idx{0});
      Shuffle(order_, static_cast<std::uint64_t>(epoch), key_);
    }
    return order_[static_cast<std::size_t>(within)];
  }

 private:
  idx size_;
  std::uint64_t key_;
  bool shuffle_;
  idx position_;
  std::vector<idx> order_;
};

}  // namespace

PromptOrder::PromptOrder(std::vector<idx> sizes, const std::vector<double>& weights,
                         std::uint64_t seed, bool shuffle)
    : sizes_(std::move(sizes)), seed_(seed), shuffle_(shuffle) {
  OPO_CHECK(!sizes_.empty() && sizes_.size() == weights.size());
  OPO_CHECK(sizes_.size() <= static_cast<std::size_t>(kBlock));
  for (std::size_t s = 0; s < sizes_.size(); ++s) OPO_CHECK(sizes_[s] > 0 && weights[s] > 0);
  quotas_ = Quotas(weights);
}

std::vector<idx> PromptOrder::Take(idx position, idx count) const {
  OPO_CHECK(position >= 0 && count >= 0);
  const std::size_t num_sets = sizes_.size();
  // Where each set stands at the block's beginning, and where its problems begin.
  const idx first_block = num_sets == 1 ? 0 : position / kBlock;
  std::vector<SetReader> readers;
  std::vector<idx> offsets;
  idx offset = 0;
  for (std::size_t s = 0; s < num_sets; ++s) {
    const std::uint64_t seed = s == 0 ? seed_ : MixBits(seed_, s);
    const idx before = num_sets == 1 ? position : first_block * quotas_[s];
    readers.emplace_back(sizes_[s], seed, shuffle_, before);
    offsets.push_back(offset);
    offset += sizes_[s];
  }
  std::vector<idx> taken;
  if (num_sets == 1) {
    while (count-- > 0) taken.push_back(readers[0].Next());
    return taken;
  }
  std::vector<idx> slots;  // the sets of a block's positions
  for (idx at = first_block * kBlock; at < position + count; ++at) {
    if (at % kBlock == 0) {
      slots.clear();
      for (std::size_t s = 0; s < num_sets; ++s) {
        slots.insert(slots.end(), static_cast<std::size_t>(quotas_[s]), static_cast<idx>(s));
      }
      Shuffle(slots, static_cast<std::uint64_t>(at / kBlock), MixBits(seed_, kSetOrder));
    }
    const auto s = static_cast<std::size_t>(slots[static_cast<std::size_t>(at % kBlock)]);
    const idx within = readers[s].Next();
    if (at >= position) taken.push_back(offsets[s] + within);
  }
  return taken;
}

}  // namespace opo
