// Words, their n-grams, and phrases.
#include <algorithm>
#include <array>
#include <unordered_set>

#include "base/error.h"
#include "base/utf8.h"
#include "eval/grams.h"
#include "eval/text_metrics.h"
#include "text/python_text.h"

namespace opo {
namespace {

constexpr std::array<std::string_view, 17> kSelfCheck = {
    "check",           "checks",       "checking",     "double-check", "double check",
    "double-checking", "recheck",      "re-check",     "verify",       "verifies",
    "verifying",       "verification", "sanity check", "make sure",    "let me see if",
    "is that right",   "is this right"};
constexpr std::array<std::string_view, 26> kBacktracking = {"wait",
                                                            "hold on",
                                                            "hmm",
                                                            "actually",
                                                            "on second thought",
                                                            "let me reconsider",
                                                            "reconsider",
                                                            "let me rethink",
                                                            "rethink",
                                                            "let me re-evaluate",
                                                            "re-evaluate",
                                                            "let me try again",
                                                            "let's try again",
                                                            "try again",
                                                            "start over",
                                                            "go back",
                                                            "going back",
                                                            "scratch that",
                                                            "alternatively",
                                                            "another approach",
                                                            "a different approach",
                                                            "i made a mistake",
                                                            "i made an error",
                                                            "that's not right",
                                                            "that is not right",
                                                            "that's wrong"};

bool IsWordByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || static_cast<unsigned char>(c) >= 0x80;
}

// The longest phrase of `phrases` that stands at `at` as whole words; 0: none.
template <std::size_t N>
std::size_t PhraseAt(std::string_view text, std::size_t at,
                     const std::array<std::string_view, N>& phrases) {
  std::size_t longest = 0;
  for (const std::string_view phrase : phrases) {
    const std::size_t end = at + phrase.size();
    if (phrase.size() > longest && text.substr(at).starts_with(phrase) &&
        (end == text.size() || !IsWordByte(text[end]))) {
      longest = phrase.size();
    }
  }
  return longest;
}

// Lower case in ASCII, white space as one space, the typographic apostrophe as the plain one.
std::string Plain(std::string_view text) {
  constexpr std::string_view kApostrophe = "\xe2\x80\x99";
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (text.substr(i, 3) == kApostrophe) {
      out += '\'';
      i += 2;
    } else if (c == ' ' || (c >= '\t' && c <= '\r')) {
      if (out.empty() || out.back() != ' ') out += ' ';
    } else {
      out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> Words(std::string_view text) {
  std::vector<std::string> words;
  bool within = false;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text, at);
    if (step.kind == Utf8Kind::kCharacter && jinja::IsPythonSpace(step.code)) {
      within = false;
    } else {
      if (!within) words.emplace_back();
      within = true;
      words.back().append(text.substr(at, step.size));
    }
    at += step.size;
  }
  return words;
}

double RepetitionN(std::span<const std::string> words, idx n) {
  const std::vector<std::string> text(words.begin(), words.end());
  const auto distinct = DistinctN({&text, 1}, n);
  return distinct ? 1 - *distinct : 0;
}

std::optional<double> DistinctN(std::span<const std::vector<std::string>> texts, idx n) {
  OPO_CHECK(n >= 1);
  Grams grams(texts);
  for (idx order = 1; order < n; ++order) grams.Lengthen();
  std::unordered_set<idx> distinct;
  idx all = 0;
  for (const auto& text : grams.of_texts()) {
    distinct.insert(text.begin(), text.end());
    all += static_cast<idx>(text.size());
  }
  if (all == 0) return std::nullopt;
  return static_cast<double>(distinct.size()) / static_cast<double>(all);
}

double Diversity(std::span<const std::string> words) {
  double product = 1;
  for (idx n = 2; n <= 4; ++n) product *= 1 - RepetitionN(words, n);
  return product;
}

PhraseCounts CountPhrases(std::string_view raw) {
  const std::string text = Plain(raw);
  PhraseCounts counts;
  for (std::size_t at = 0; at < text.size();) {
    const bool begins = IsWordByte(text[at]) && (at == 0 || !IsWordByte(text[at - 1]));
    const std::size_t check = begins ? PhraseAt(text, at, kSelfCheck) : 0;
    const std::size_t back = begins ? PhraseAt(text, at, kBacktracking) : 0;
    if (check == 0 && back == 0) {
      ++at;
      continue;
    }
    ++(check > back ? counts.self_check : counts.backtracking);
    at += std::max(check, back);
  }
  return counts;
}

}  // namespace opo
