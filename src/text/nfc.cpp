#include "text/nfc.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <unordered_map>
#include <vector>

#include "base/utf8.h"

namespace opo {
namespace {

struct Decomposition {
  std::uint32_t code;
  std::uint32_t first;
  std::uint32_t second;
};

struct ClassRange {
  std::uint32_t first;
  std::uint32_t last;
  std::uint8_t combining_class;
};

#include "text/nfc_table.inc"

// Hangul syllables are arithmetic over three alphabets.
constexpr std::uint32_t kSyllables = 0xAC00;
constexpr std::uint32_t kLeads = 0x1100;
constexpr std::uint32_t kVowels = 0x1161;
constexpr std::uint32_t kTails = 0x11A7;  // index 0: no tail
constexpr std::uint32_t kNumLeads = 19;
constexpr std::uint32_t kNumVowels = 21;
constexpr std::uint32_t kNumTails = 28;
constexpr std::uint32_t kNumSyllables = kNumLeads * kNumVowels * kNumTails;

struct Tables {
  Tables() {
    for (const Decomposition& d : kPairs) {
      decompositions.emplace(d.code, &d);
      compositions.emplace(std::uint64_t{d.first} << 32 | d.second, d.code);
    }
    for (const Decomposition& d : kOneWay) decompositions.emplace(d.code, &d);
  }
  std::unordered_map<std::uint32_t, const Decomposition*> decompositions;
  std::unordered_map<std::uint64_t, std::uint32_t> compositions;
};

const Tables& TheTables() {
  static const Tables tables;
  return tables;
}

std::uint8_t CombiningClass(std::uint32_t code) {
  if (code < 0x300) return 0;
  const auto* range =
      std::lower_bound(std::begin(kClasses), std::end(kClasses), code,
                       [](const ClassRange& r, std::uint32_t c) { return r.last < c; });
  return range != std::end(kClasses) && range->first <= code ? range->combining_class : 0;
}

void Decompose(std::uint32_t code, std::vector<std::uint32_t>& out) {
  if (code - kSyllables < kNumSyllables) {
    const std::uint32_t i = code - kSyllables;
    out.push_back(kLeads + i / (kNumVowels * kNumTails));
    out.push_back(kVowels + i / kNumTails % kNumVowels);
    if (i % kNumTails != 0) out.push_back(kTails + i % kNumTails);
    return;
  }
  const auto found = TheTables().decompositions.find(code);
  if (code < 0xC0 || found == TheTables().decompositions.end()) {
    out.push_back(code);
    return;
  }
  Decompose(found->second->first, out);  // the table is at most four deep
  if (found->second->second != 0) Decompose(found->second->second, out);
}

std::uint32_t Compose(std::uint32_t first, std::uint32_t second) {  // 0: they do not
  if (first - kLeads < kNumLeads && second - kVowels < kNumVowels) {
    return kSyllables + ((first - kLeads) * kNumVowels + (second - kVowels)) * kNumTails;
  }
  if (first - kSyllables < kNumSyllables && (first - kSyllables) % kNumTails == 0 &&
      second > kTails && second < kTails + kNumTails) {
    return first + (second - kTails);
  }
  const auto found = TheTables().compositions.find(std::uint64_t{first} << 32 | second);
  return found == TheTables().compositions.end() ? 0 : found->second;
}

// Unicode standard, section 3.11: order marks by class, then compose each with the last starter
// unless a mark between them blocks it.
void FlushNfc(std::vector<std::uint32_t>& codes, std::string& out) {
  for (std::size_t begin = 0; begin < codes.size();) {
    if (CombiningClass(codes[begin]) == 0) {
      ++begin;
      continue;
    }
    std::size_t end = begin;
    while (end < codes.size() && CombiningClass(codes[end]) != 0) ++end;
    std::stable_sort(
        codes.begin() + static_cast<std::ptrdiff_t>(begin),
        codes.begin() + static_cast<std::ptrdiff_t>(end),
        [](std::uint32_t a, std::uint32_t b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end;
  }
  std::vector<std::uint32_t> composed;
  std::size_t starter = codes.size();  // index in `composed`; this value: none yet
  for (const std::uint32_t code : codes) {
    const std::uint8_t own = CombiningClass(code);
    if (starter < composed.size()) {
      const bool adjacent = starter + 1 == composed.size();
      const std::uint8_t last = adjacent ? 0 : CombiningClass(composed.back());
      if (adjacent || (last != 0 && last < own)) {
        if (const std::uint32_t both = Compose(composed[starter], code); both != 0) {
          composed[starter] = both;
          continue;
        }
      }
    }
    if (own == 0) starter = composed.size();
    composed.push_back(code);
  }
  for (const std::uint32_t code : composed) AppendUtf8(code, out);
  codes.clear();
}

}  // namespace

bool IsPlainNfc(std::string_view text) {
  // U+0300 is CC 80; every lead byte below CC starts a character that NFC keeps.
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0xCC; });
}

std::string ToNfc(std::string_view text) {
  std::string out;
  std::vector<std::uint32_t> codes;
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    if (step.kind == Utf8Kind::kCharacter) {
      Decompose(step.code, codes);
    } else {
      FlushNfc(codes, out);
      out.append(text, pos, step.size);
    }
    pos += step.size;
  }
  FlushNfc(codes, out);
  return out;
}

}  // namespace opo
