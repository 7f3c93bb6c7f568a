// What answers' texts say of diversity and repetition, as pure functions. Any bytes are a text:
// what is no UTF-8 counts as characters of one byte each.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace opo {

// Runs of anything but white space (Python's str.split()).
std::vector<std::string> Words(std::string_view text);

struct BleuSettings {
  idx order = 4;                  // of the longest n-grams
  std::string tokenizer = "13a";  // mteval's, or "none": words
  std::string smoothing = "exp";  // of orders without a match: 1 / (2^j total); or "none"
};

// sacrebleu's words of a text: its tokenizer "13a" or "none".
std::vector<std::string> BleuTokens(std::string_view text, const std::string& tokenizer);

// Each text's sentence BLEU, 0 to 100, with all others as its references, as sacrebleu has it with
// effective order. REQUIRES at least two texts. Linear in their sum.
std::vector<double> SelfBleuScores(std::span<const std::string> texts,
                                   const BleuSettings& settings);
// Their mean over the texts that are not empty, white space at the ends aside. Nothing for fewer
// than two of these.
std::optional<double> SelfBleu(std::span<const std::string> texts, const BleuSettings& settings);

// 1 - distinct n-grams / n-grams of words. 0 where there are fewer than n words.
double RepetitionN(std::span<const std::string> words, idx n);
// Distinct n-grams / n-grams of several texts together. Nothing where there are no n-grams.
std::optional<double> DistinctN(std::span<const std::vector<std::string>> texts, idx n);
// The product over n = 2, 3, 4 of 1 - RepetitionN.
double Diversity(std::span<const std::string> words);

// Phrases of a text that check what was said, and that take it back, whatever their case, as whole
// words; of those that overlap, the one that begins first, and of these the longest.
struct PhraseCounts {
  idx self_check = 0, backtracking = 0;
};
PhraseCounts CountPhrases(std::string_view text);

}  // namespace opo
