#include "text/python_text.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "base/utf8.h"

namespace opo::jinja {
namespace {

struct ClassRange {
  std::uint32_t first;
  unsigned classes;
};
struct CaseRun {  // first, first + step ... last each change by delta
  std::uint32_t first, last, step;
  std::int32_t delta;
};
struct LongCase {
  std::uint32_t code;
  const char* upper;
  const char* lower;
  const char* title;
};

#include "text/character_table.inc"

template <std::size_t N>
const CaseRun* FindRun(const CaseRun (&runs)[N], std::uint32_t code) {
  const CaseRun* run =
      std::upper_bound(std::begin(runs), std::end(runs), code,
                       [](std::uint32_t c, const CaseRun& r) { return c < r.first; });
  if (run == std::begin(runs)) return nullptr;
  --run;
  return code <= run->last && (code - run->first) % run->step == 0 ? run : nullptr;
}

enum class Case { kUpper, kLower, kTitle };

void AppendCase(std::uint32_t code, Case to, std::string& out) {
  const LongCase* special =
      std::lower_bound(std::begin(kLongCases), std::end(kLongCases), code,
                       [](const LongCase& entry, std::uint32_t c) { return entry.code < c; });
  if (special != std::end(kLongCases) && special->code == code) {
    out += to == Case::kUpper   ? special->upper
           : to == Case::kLower ? special->lower
                                : special->title;
    return;
  }
  const CaseRun* run = nullptr;
  if (to == Case::kTitle) run = FindRun(kToTitle, code);
  if (run == nullptr) run = to == Case::kLower ? FindRun(kToLower, code) : FindRun(kToUpper, code);
  AppendUtf8(run == nullptr
                 ? code
                 : static_cast<std::uint32_t>(static_cast<std::int32_t>(code) + run->delta),
             out);
}

// Calls change(code, position, out) for characters; other bytes are copied.
template <class Change>
std::string Changed(std::string_view text, Change change) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    if (step.kind == Utf8Kind::kCharacter) {
      change(step.code, pos, out);
    } else {
      out.append(text, pos, step.size);
    }
    pos += step.size;
  }
  return out;
}

constexpr std::uint32_t kSigma = 0x3A3;
constexpr std::uint32_t kFinalSigma = 0x3C2;
constexpr std::uint32_t kSmallSigma = 0x3C3;

// Lower case, a piece at a time: keeps whether a cased letter stands before (ignorable ones aside).
class Lowering {
 public:
  explicit Lowering(std::string_view text) {
    if (text.find("\xCE\xA3") == text.npos) return;
    // From the end: does a cased letter follow, ignorable ones aside?
    std::vector<std::pair<std::size_t, std::uint32_t>> codes;
    for (std::size_t pos = 0; pos < text.size();) {
      const Utf8Step step = NextUtf8(text, pos);
      codes.emplace_back(pos, step.kind == Utf8Kind::kCharacter ? step.code : 0);
      pos += step.size;
    }
    bool cased = false;
    for (auto code = codes.rbegin(); code != codes.rend(); ++code) {
      if (code->second == kSigma && !cased) last_sigmas_.push_back(code->first);
      const unsigned classes = ClassOf(code->second);
      if ((classes & kCaseIgnorable) == 0) cased = (classes & kCased) != 0;
    }
  }
  void Append(std::uint32_t code, std::size_t pos, std::string& out) {
    if (code == kSigma) {
      const bool last = std::binary_search(last_sigmas_.rbegin(), last_sigmas_.rend(), pos);
      AppendUtf8(last && cased_before_ ? kFinalSigma : kSmallSigma, out);
    } else {
      AppendCase(code, Case::kLower, out);
    }
    See(code);
  }
  void See(std::uint32_t code) {
    const unsigned classes = ClassOf(code);
    if ((classes & kCaseIgnorable) == 0) cased_before_ = (classes & kCased) != 0;
  }

 private:
  std::vector<std::size_t> last_sigmas_;  // descending
  bool cased_before_ = false;
};

}  // namespace

unsigned ClassOf(std::uint32_t code) {
  const ClassRange* range =
      std::upper_bound(std::begin(kClasses), std::end(kClasses), code,
                       [](std::uint32_t c, const ClassRange& r) { return c < r.first; });
  return std::prev(range)->classes;  // the first range begins at 0
}

std::string ToUpper(std::string_view text) {
  return Changed(text, [](std::uint32_t code, std::size_t, std::string& out) {
    AppendCase(code, Case::kUpper, out);
  });
}

std::string ToLower(std::string_view text) {
  Lowering lowering(text);
  return Changed(text, [&](std::uint32_t code, std::size_t pos, std::string& out) {
    lowering.Append(code, pos, out);
  });
}

std::string ToTitle(std::string_view text) {
  Lowering lowering(text);
  bool inside = false;
  return Changed(text, [&](std::uint32_t code, std::size_t pos, std::string& out) {
    if (inside) {
      lowering.Append(code, pos, out);
    } else {
      AppendCase(code, Case::kTitle, out);
      lowering.See(code);
    }
    inside = (ClassOf(code) & kCased) != 0;
  });
}

std::string Capitalize(std::string_view text) {
  Lowering lowering(text);
  return Changed(text, [&](std::uint32_t code, std::size_t pos, std::string& out) {
    if (pos == 0) {
      AppendCase(code, Case::kTitle, out);
      lowering.See(code);
    } else {
      lowering.Append(code, pos, out);
    }
  });
}

std::string SwapCase(std::string_view text) {
  Lowering lowering(text);
  return Changed(text, [&](std::uint32_t code, std::size_t pos, std::string& out) {
    const unsigned classes = ClassOf(code);
    if ((classes & kUpper) != 0) {
      lowering.Append(code, pos, out);
      return;
    }
    if ((classes & kLower) != 0) {
      AppendCase(code, Case::kUpper, out);
    } else {
      AppendUtf8(code, out);
    }
    lowering.See(code);
  });
}

bool IsPythonSpace(std::uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsLineEnd(std::uint32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace opo::jinja
