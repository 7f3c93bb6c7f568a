#include "math/scan.h"

#include <algorithm>

namespace opo {
namespace {

// For each '{' the place of its '}'; kNone elsewhere. Escaped braces are not counted.
std::vector<std::size_t> MatchBraces(std::string_view text) {
  std::vector<std::size_t> match(text.size(), kNone);
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '{') {
      open.push_back(i);
    } else if (text[i] == '}' && !open.empty()) {
      match[open.back()] = i;
      open.pop_back();
    }
  }
  return match;
}

// The end of a command with its arguments: \frac{1}{2}, \sqrt[3]{x}; linear, no nesting of scans.
std::size_t CommandEnd(std::string_view text, std::size_t at) {
  ++at;
  while (at < text.size() && IsLetter(text[at])) ++at;
  while (at < text.size() && (text[at] == '{' || text[at] == '[')) {
    int depth = 0;
    std::size_t end = at;
    const std::size_t limit = std::min(text.size(), at + 400);
    for (; end < limit; ++end) {
      if (text[end] == '{' || text[end] == '[') ++depth;
      if ((text[end] == '}' || text[end] == ']') && --depth == 0) break;
    }
    if (end == limit) return at;
    at = end + 1;
  }
  return at;
}

// The number-like spans of a text outside of words: -1,000.99, 2/3, 25%, \frac{2}{5}, 10^{3}.
template <class Visit>
void VisitNumbers(std::string_view text, const Visit& visit) {
  std::size_t i = 0;
  while (i < text.size()) {
    const bool command =
        text[i] == '\\' && (text.substr(i, 5) == "\\frac" || text.substr(i, 6) == "\\dfrac" ||
                            text.substr(i, 6) == "\\tfrac" || text.substr(i, 5) == "\\sqrt");
    const bool digit =
        IsDigit(text[i]) || (text[i] == '.' && i + 1 < text.size() && IsDigit(text[i + 1]));
    if (!command && !digit) {
      ++i;
      continue;
    }
    if (digit && i > 0 &&
        (IsLetter(text[i - 1]) || text[i - 1] == '_' || text[i - 1] == '^' ||
         (text[i - 1] == '{' && i > 1 && (text[i - 2] == '^' || text[i - 2] == '_')))) {
      ++i;
      while (i < text.size() && (IsLetter(text[i]) || IsDigit(text[i]))) ++i;
      continue;
    }
    std::size_t begin = i;
    std::size_t groups = 0;
    while (i < text.size()) {
      const char c = text[i];
      if (c == '\\') {
        const std::size_t end = CommandEnd(text, i);
        const std::string_view name = text.substr(i, end - i);
        if (name.size() < 2 || name.substr(0, 5) == "\\text") break;
        const bool math = name.find('{') != kNone || name == "\\pi" || name == "\\%" ||
                          name == "\\cdot" || name == "\\times" || name == "\\infty";
        if (!math) {
          if (name == "\\" && i + 1 < text.size() && text[i + 1] == '%') i += 2;
          break;
        }
        i = end;
        continue;
      }
      // 1 000 000
      if (c == ' ' && i - begin <= 3 + groups * 4 && i + 3 < text.size() && IsDigit(text[i - 1]) &&
          text[begin] != '0' && IsDigit(text[i + 1]) && IsDigit(text[i + 2]) &&
          IsDigit(text[i + 3]) && !(i + 4 < text.size() && IsDigit(text[i + 4]))) {
        i += 4;
        ++groups;
        continue;
      }
      if (IsDigit(c) || c == '%' || c == '!' || c == '\'') {
        ++i;
        continue;
      }
      const char next = i + 1 < text.size() ? text[i + 1] : ' ';
      if ((c == '.' || c == ',' || c == ':') && IsDigit(next)) {
        ++i;
        continue;
      }
      if ((c == '/' || c == '*' || c == '^' || c == '+' || c == '-') &&
          (IsDigit(next) || next == '\\' || next == '{' || next == '(')) {
        if (next == '{' || next == '(') {
          const std::size_t size = text.substr(i + 1, 30).find(next == '{' ? '}' : ')');
          if (size == kNone) break;
          const std::size_t end = i + 1 + size;
          i = end + 1;
        } else {
          ++i;
        }
        continue;
      }
      if ((c == 'e' || c == 'E') &&
          (IsDigit(next) ||
           ((next == '-' || next == '+') && i + 2 < text.size() && IsDigit(text[i + 2])))) {
        i += 2;
        continue;
      }
      break;
    }
    if (i == begin) ++i;
    // "2A": letters on both sides of digits are a word, unless they are a unit behind.
    std::size_t start = begin;
    if (start > 0 && text[start - 1] == '-' &&
        (start == 1 ||
         !(IsLetter(text[start - 2]) || IsDigit(text[start - 2]) || text[start - 2] == ')'))) {
      --start;
    } else if (start > 1 && text[start - 1] == '$' && text[start - 2] == '-') {
      visit(start, i, true);
      continue;
    } else if (start > 0 && text[start - 1] == '+' && (start == 1 || IsSpace(text[start - 2]))) {
      --start;
    }
    visit(start, i, false);
  }
}

std::string NumberAt(std::string_view text, std::size_t begin, std::size_t end, bool negative) {
  std::string number = (negative ? "-" : "") + std::string(text.substr(begin, end - begin));
  std::string_view rest = text.substr(end);
  if (!rest.empty() && rest[0] == ' ') rest.remove_prefix(1);
  const std::string word = LowerCopy(rest.substr(0, 7));
  if ((!rest.empty() && rest[0] == '%') || rest.substr(0, 2) == "\\%" ||
      word.substr(0, 7) == "percent" || word.substr(0, 3) == "pct") {
    number += "%";
  }
  return number;
}

// "$5 and $6": an amount and words, not a formula.
bool IsMoney(std::string_view content) {
  if (content.empty() || !IsDigit(content[0]) || content.size() > 200) return false;
  if (content.find_first_of("\\={}^_") != kNone) return false;
  for (std::size_t i = 0; i + 2 < content.size(); ++i) {
    if (IsSpace(content[i]) && IsLetter(content[i + 1]) && IsLetter(content[i + 2])) return true;
  }
  return false;
}

}  // namespace

std::string LowerCopy(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = Lower(c);
  return out;
}

std::string_view TrimSpace(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

std::vector<Box> FindBoxes(std::string_view text) {
  std::vector<Box> boxes;
  if (text.find("box") == kNone) return boxes;
  std::vector<std::size_t> match;
  for (std::size_t at = 0; (at = text.find("box", at)) != kNone; ++at) {
    Box box;
    std::size_t after = at + 3;
    if (text.substr(at, 5) == "boxed") {
      after = at + 5;
      const bool command = at > 0 && text[at - 1] == '\\';
      if (!command && !(after < text.size() && text[after] == '{')) continue;
      if (!command && at > 0 && IsLetter(text[at - 1])) continue;
      box.begin = command ? at - 1 : at;
    } else if (at >= 2 && text[at - 1] == 'f' && text[at - 2] == '\\') {
      box.begin = at - 2;
      box.frame = true;
    } else {
      continue;
    }
    while (after < text.size() && (text[after] == ' ' || text[after] == '\n')) ++after;
    if (after < text.size() && text[after] == '{') {
      if (match.empty()) match = MatchBraces(text);
      if (match[after] != kNone) {
        box.closed = true;
        box.content = text.substr(after + 1, match[after] - after - 1);
        box.end = match[after] + 1;
      }
    } else {  // \boxed 7
      std::size_t end = after;
      while (end < text.size() && end < after + 40 && !IsSpace(text[end]) && text[end] != '$')
        ++end;
      box.content = text.substr(after, end - after);
      box.closed = !box.content.empty();
      box.end = end;
    }
    boxes.push_back(box);
  }
  return boxes;
}

bool BoxesJoin(std::string_view gap) {
  if (gap.size() > 60) return false;
  std::string words;
  bool connective = false;
  std::size_t letters = 0;
  for (std::size_t i = 0; i < gap.size();) {
    if (gap[i] == '\\') {  // commands: spacing, delimiters, \text
      ++i;
      while (i < gap.size() && IsLetter(gap[i])) ++i;
      if (i < gap.size() && !IsLetter(gap[i]) && gap[i] != '{') ++i;
      continue;
    }
    if (gap[i] == ',' || gap[i] == ';' || gap[i] == '&') connective = true;
    if (!IsLetter(gap[i])) {
      ++i;
      continue;
    }
    const std::size_t begin = i;
    while (i < gap.size() && IsLetter(gap[i])) ++i;
    const std::string word = LowerCopy(gap.substr(begin, i - begin));
    if (word == "and" || word == "or") {
      connective = true;
    } else if (word == "then" || word == "final" || word == "finally" || word == "so" ||
               word == "thus" || word == "hence" || word == "therefore" || word == "is" ||
               word == "not" || word == "but" || word == "no") {
      return false;
    } else {
      letters += word.size();
    }
  }
  return connective && letters <= 12;
}

std::vector<Span> FindMath(std::string_view text) {
  std::vector<Span> spans;
  // What does not close once does not close later.
  bool closes[4] = {true, true, true, true};
  for (std::size_t i = 0; i + 1 < text.size();) {
    std::string_view close;
    int kind = -1;
    if (text[i] == '\\') {
      if (text[i + 1] == '(') kind = 0;
      if (text[i + 1] == '[') kind = 1;
      close = kind == 0 ? "\\)" : "\\]";
      if (kind < 0) {
        i += 2;
        continue;
      }
    } else if (text[i] == '$') {
      kind = text[i + 1] == '$' ? 2 : 3;
      close = kind == 2 ? "$$" : "$";
    } else {
      ++i;
      continue;
    }
    const std::size_t skip = kind == 3 ? 1 : 2;
    std::size_t end = closes[kind] ? text.find(close, i + skip) : kNone;
    while (kind >= 2 && end != kNone && text[end - 1] == '\\') {
      end = text.find(close, end + 1);
    }
    if (end == kNone) {
      closes[kind] = false;
      i += skip;
      continue;
    }
    if (kind == 3 && IsMoney(text.substr(i + 1, end - i - 1))) {
      ++i;
      continue;
    }
    spans.push_back({i, end + close.size(), text.substr(i + skip, end - i - skip)});
    i = end + close.size();
  }
  return spans;
}

std::string LastNumberIn(std::string_view text) {
  std::size_t begin = kNone;
  std::size_t end = 0;
  bool negative = false;
  VisitNumbers(text, [&](std::size_t b, std::size_t e, bool n) {
    begin = b;
    end = e;
    negative = n;
  });
  return begin == kNone ? std::string() : NumberAt(text, begin, end, negative);
}

std::string FirstNumberIn(std::string_view text) {
  std::size_t begin = kNone;
  std::size_t end = 0;
  bool negative = false;
  VisitNumbers(text, [&](std::size_t b, std::size_t e, bool n) {
    if (begin != kNone) return;
    begin = b;
    end = e;
    negative = n;
  });
  return begin == kNone ? std::string() : NumberAt(text, begin, end, negative);
}

}  // namespace opo
