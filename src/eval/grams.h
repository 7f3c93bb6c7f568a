// n-grams of words as numbers. Internal to the text metrics.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/types.h"

namespace opo {

// The n-grams of texts, in their order; equal ones have equal numbers, whichever text they are of.
class Grams {
 public:
  explicit Grams(std::span<const std::vector<std::string>> texts) {
    std::unordered_map<std::string, idx> numbers;
    for (const auto& text : texts) {
      std::vector<idx>& own = words_.emplace_back();
      for (const std::string& word : text) {
        own.push_back(numbers.try_emplace(word, static_cast<idx>(numbers.size())).first->second);
      }
    }
    grams_ = words_;
  }
  const std::vector<std::vector<idx>>& of_texts() const { return grams_; }  // first of words
  // From n to n + 1.
  void Lengthen() {
    std::unordered_map<std::uint64_t, idx> numbers;
    for (std::size_t i = 0; i < grams_.size(); ++i) {
      std::vector<idx>& own = grams_[i];
      const std::size_t n = words_[i].size() - own.size() + 1;
      if (own.empty()) continue;
      own.pop_back();
      for (std::size_t at = 0; at < own.size(); ++at) {
        const auto key = static_cast<std::uint64_t>(own[at]) << 32 |
                         static_cast<std::uint64_t>(words_[i][at + n]);
        own[at] = numbers.try_emplace(key, static_cast<idx>(numbers.size())).first->second;
      }
    }
  }

 private:
  std::vector<std::vector<idx>> words_, grams_;
};

}  // namespace opo
