// BLEU as sacrebleu 2.6 computes it for a sentence.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <unordered_map>

#include "base/error.h"
#include "base/utf8.h"
#include "eval/grams.h"
#include "eval/text_metrics.h"
#include "text/python_text.h"

namespace opo {
namespace {

bool IsAsciiDigit(char c) { return c >= '0' && c <= '9'; }
bool IsPointOrComma(char c) { return c == '.' || c == ','; }

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  std::size_t at = 0;
  for (std::size_t hit = text.find(from); hit != std::string::npos; hit = text.find(from, at)) {
    out.append(text, at, hit - at);
    out += to;
    at = hit + from.size();
  }
  out.append(text, at);
  text = std::move(out);
}

// ASCII punctuation that is a token of its own wherever it stands: all but ' , - .
bool StandsAlone(char c) {
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
         (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

// The four substitutions of mteval-v13a, each from left to right over what the one before left.
// They look at ASCII alone, so that bytes will do for characters.
std::string Separate(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (StandsAlone(c)) {
      out.append({' ', c, ' '});
    } else {
      out += c;
    }
  }
  const auto pairs = [](const std::string& in, const auto& matches, bool space_before,
                        bool space_behind) {
    std::string result;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (i + 1 >= in.size() || !matches(in[i], in[i + 1])) {
        result += in[i];
        continue;
      }
      if (space_before) result += ' ';
      result.append({in[i], ' ', in[i + 1]});
      if (space_behind) result += ' ';
      ++i;
    }
    return result;
  };
  // A point or a comma, unless a digit stands before it; behind it; a dash behind a digit.
  out = pairs(
      out, [](char a, char b) { return !IsAsciiDigit(a) && IsPointOrComma(b); }, false, true);
  out = pairs(
      out, [](char a, char b) { return IsPointOrComma(a) && !IsAsciiDigit(b); }, true, false);
  return pairs(
      out, [](char a, char b) { return IsAsciiDigit(a) && b == '-'; }, false, true);
}

// Without white space at the end, and at the start too.
std::string_view StripRight(std::string_view text) {
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text, at);
    at += step.size;
    if (step.kind != Utf8Kind::kCharacter || !jinja::IsPythonSpace(step.code)) end = at;
  }
  return text.substr(0, end);
}

struct GramCount {
  idx gram = 0, count = 0;
};

std::vector<GramCount> Counted(std::vector<idx> grams) {
  std::sort(grams.begin(), grams.end());
  std::vector<GramCount> counts;
  for (const idx gram : grams) {
    if (counts.empty() || counts.back().gram != gram) counts.push_back({gram, 0});
    ++counts.back().count;
  }
  return counts;
}

// Of each gram, the most that one text has, which one that is, and the most that another has.
struct Most {
  idx count = 0, owner = -1, second = 0;
};

struct BleuCounts {
  idx words = 0, closest = 0;
  std::vector<idx> matches, totals;  // by order
};

double ScoreOf(const BleuCounts& c, const std::string& smoothing) {
  double brevity = 1;
  if (c.words < c.closest) {
    brevity = c.words > 0
                  ? std::exp(1 - static_cast<double>(c.closest) / static_cast<double>(c.words))
                  : 0;
  }
  if (std::all_of(c.matches.begin(), c.matches.end(), [](idx m) { return m == 0; })) return 0;
  double smooth = 1;
  double logs = 0;
  idx orders = 0;  // the effective order: that of the longest n-grams that the text has
  for (std::size_t n = 0; n < c.matches.size() && c.totals[n] > 0; ++n) {
    const auto total = static_cast<double>(c.totals[n]);
    ++orders;
    if (c.matches[n] > 0) {
      logs += std::log(100. * static_cast<double>(c.matches[n]) / total);
    } else if (smoothing == "exp") {
      smooth *= 2;
      logs += std::log(100. / (smooth * total));
    } else {
      return 0;
    }
  }
  return brevity * std::exp(logs / static_cast<double>(orders));
}

}  // namespace

std::vector<std::string> BleuTokens(std::string_view text, const std::string& tokenizer) {
  std::string line(StripRight(text));
  if (tokenizer == "none") return Words(line);
  OPO_CHECK(tokenizer == "13a");
  ReplaceAll(line, "<skipped>", "");
  ReplaceAll(line, "-\n", "");
  ReplaceAll(line, "\n", " ");
  ReplaceAll(line, "&quot;", "\"");
  ReplaceAll(line, "&amp;", "&");
  ReplaceAll(line, "&lt;", "<");
  ReplaceAll(line, "&gt;", ">");
  return Words(Separate(" " + line + " "));
}

std::vector<double> SelfBleuScores(std::span<const std::string> texts,
                                   const BleuSettings& settings) {
  OPO_CHECK(texts.size() >= 2 && settings.order >= 1);
  std::vector<std::vector<std::string>> words;
  for (const std::string& text : texts) words.push_back(BleuTokens(text, settings.tokenizer));
  std::vector<BleuCounts> counts(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    counts[i].words = static_cast<idx>(words[i].size());
    idx best = -1;
    for (std::size_t j = 0; j < texts.size(); ++j) {
      if (j == i) continue;
      const auto length = static_cast<idx>(words[j].size());
      const idx off = std::abs(length - counts[i].words);
      if (best >= 0 && (off > best || (off == best && length >= counts[i].closest))) continue;
      best = off;
      counts[i].closest = length;
    }
  }
  Grams grams(words);
  for (idx order = 1; order <= settings.order; ++order) {
    if (order > 1) grams.Lengthen();
    std::unordered_map<idx, Most> most;
    std::vector<std::vector<GramCount>> counted;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      for (const GramCount& g : counted.emplace_back(Counted(grams.of_texts()[i]))) {
        Most& m = most[g.gram];
        if (g.count > m.count) {
          m = {g.count, static_cast<idx>(i), m.count};
        } else {
          m.second = std::max(m.second, g.count);
        }
      }
    }
    for (std::size_t i = 0; i < texts.size(); ++i) {
      idx matches = 0;
      for (const GramCount& g : counted[i]) {
        const Most& m = most[g.gram];
        matches += std::min(g.count, m.owner == static_cast<idx>(i) ? m.second : m.count);
      }
      counts[i].matches.push_back(matches);
      counts[i].totals.push_back(static_cast<idx>(grams.of_texts()[i].size()));
    }
  }
  std::vector<double> scores;
  for (const BleuCounts& c : counts) scores.push_back(ScoreOf(c, settings.smoothing));
  return scores;
}

std::optional<double> SelfBleu(std::span<const std::string> texts, const BleuSettings& settings) {
  std::vector<std::string> kept;
  for (const std::string& text : texts) {
    if (StripRight(text).empty()) continue;
    kept.push_back(text);
  }
  if (kept.size() < 2) return std::nullopt;
  double sum = 0;
  for (const double score : SelfBleuScores(kept, settings)) sum += score;
  return sum / static_cast<double>(kept.size());
}

}  // namespace opo
