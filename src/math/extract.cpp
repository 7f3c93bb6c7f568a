#include "math/extract.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "math/scan.h"
#include "math/words.h"

namespace opo {
namespace {

constexpr std::size_t kShort = 200;  // a text that may be an answer as a whole

// Cut at a model's end-of-turn marks, drawings taken out.
std::string CutText(std::string_view text) {
  std::size_t end = text.size();
  for (const std::string_view mark :
       {"<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "</s>",
        "<|end_of_text|>", "<|return|>", "<eos>", "<end_of_turn>"}) {
    const std::size_t at = text.find(mark);
    if (at != kNone && at < end && !TrimSpace(text.substr(0, at)).empty()) end = at;
  }
  text = text.substr(0, end);
  std::string out;
  for (;;) {
    const std::size_t begin = text.find("[asy]");
    if (begin == kNone) break;
    out += text.substr(0, begin);
    const std::size_t close = text.find("[/asy]", begin);
    if (close == kNone) return out;
    text.remove_prefix(close + 6);
  }
  out += text;
  return out;
}

struct Marked {
  std::size_t begin = kNone;  // of what follows the mark
  std::string_view how;
};

// The last of the phrases that announce an answer.
Marked FindAnchor(std::string_view lower) {
  struct Phrase {
    std::string_view text;
    bool word;  // begins a word
  };
  static constexpr std::array<Phrase, 30> kPhrases = {{
      {"answer is", true},
      {"answer:", true},
      {"answers are", true},
      {"answer =", true},
      {"answer to the problem is", true},
      {"answers:", true},
      {"answer**:", true},
      {"answer:**", true},
      {"result is", true},
      {"answer would be", true},
      {"answer should be", true},
      {"solution is", true},
      {"solutions are", true},
      {"answer will be", true},
      {"r\xc3\xa9ponse:", true},
      {"r\xc3\xa9ponse :", true},
      {"r\xc3\xa9ponse est", true},
      {"respuesta es", true},
      {"respuesta:", true},
      {"antwort ist", true},
      {"antwort:", true},
      {"risposta:", true},
      {"\xe7\xad\x94\xe6\xa1\x88", false},                                  // da an (Chinese)
      {"\xe7\xad\x94\xe3\x81\x88", false},                                  // kotae (Japanese)
      {"\xe5\x9b\x9e\xe7\xad\x94", false},                                  // hui da
      {"\xd0\xbe\xd1\x82\xd0\xb2\xd0\xb5\xd1\x82:", false},                 // otvet:
      {"\xd8\xa7\xd9\x84\xd8\xa5\xd8\xac\xd8\xa7\xd8\xa8\xd8\xa9", false},  // al-ijaba
      {"\xd8\xa7\xd9\x84\xd8\xac\xd9\x88\xd8\xa7\xd8\xa8", false},          // al-jawab
      {"answer\n", true},
      {"answer is:", true},
  }};
  Marked best;
  for (const Phrase& phrase : kPhrases) {
    std::size_t at = lower.rfind(phrase.text);
    while (at != kNone && phrase.word && at > 0 && IsLetter(lower[at - 1])) {
      at = at == 0 ? kNone : lower.rfind(phrase.text, at - 1);
    }
    if (at == kNone) continue;
    const std::size_t begin = at + phrase.text.size();
    if (best.begin == kNone || begin > best.begin) best = {begin, "the answer is"};
  }
  // "A: 13" at the start of a line.
  for (const std::string_view line : {"\na:", "\nans:", "\nfinal:"}) {
    const std::size_t at = lower.rfind(line);
    if (at != kNone && (best.begin == kNone || at + line.size() > best.begin)) {
      best = {at + line.size(), "A:"};
    }
  }
  if (best.begin == kNone && (lower.substr(0, 2) == "a:" || lower.substr(0, 6) == "final:")) {
    best = {lower[0] == 'a' ? std::size_t{2} : std::size_t{6}, "A:"};
  }
  return best;
}

bool HasDigit(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return IsDigit(c); });
}

// A lone name such as "x" or "ABCD" is not an answer where something better stands by.
bool IsBareName(std::string_view math) {
  math = TrimAnswer(math);
  return !HasDigit(math) && math.find('\\') == kNone && math.find_first_of("=<>+-*/^(") == kNone;
}

std::size_t SentenceEnd(std::string_view text) {
  int dollars = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '$' && (i == 0 || text[i - 1] != '\\')) ++dollars;
    if (text[i] == '\n' && dollars % 2 == 0) {
      std::size_t next = i;
      while (next < text.size() && IsSpace(text[next])) ++next;
      if (next < text.size() && text[next] == '\\') continue;
      return i;
    }
    if (text[i] == '.' && dollars % 2 == 0) {
      if (i + 1 == text.size()) return i;
      if (IsSpace(text[i + 1]) || text[i + 1] == '*') {
        std::size_t next = i + 1;
        while (next < text.size() && (IsSpace(text[next]) || text[next] == '*')) ++next;
        if (next == text.size() || !IsDigit(text[next])) return i;
      }
    }
  }
  return text.size();
}

// Program code is no answer, whatever number stands in it.
bool LooksLikeCode(std::string_view text) {
  return text.find("__") != kNone || text.find("('") != kNone || text.find("(\"") != kNone ||
         text.find("['") != kNone;
}

// Prose rather than a formula: begins with letters that are no function's name.
bool StartsWithWord(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size() &&
         (IsLetter(text[end]) || static_cast<unsigned char>(text[end]) >= 0x80))
    ++end;
  const std::string_view word = text.substr(0, end);
  if (end < text.size() && IsDigit(text[end])) return false;
  return end >= 2 && PlainFunction(word) == nullptr && PlainMark(word) == nullptr &&
         !IsGreek(word) && (end > 3 || (end < text.size() && text[end] == ' '));
}

// The answer in what follows an announcement.
std::vector<std::string> FromSegment(std::string_view segment) {
  while (!segment.empty() && (IsSpace(segment.front()) || segment.front() == ':' ||
                              segment.front() == '*' || segment.front() == '=')) {
    segment.remove_prefix(1);
  }
  const std::size_t hope = segment.find("I hope it is correct");
  if (hope != kNone) segment = segment.substr(0, hope);
  if (segment.substr(0, 2) == "\\[" || segment.substr(0, 2) == "$$") {
    const std::vector<Span> display = FindMath(segment);
    if (!display.empty()) return {std::string(display[0].content)};
  }
  const std::string_view sentence = TrimSpace(segment.substr(0, SentenceEnd(segment)));
  std::vector<std::string> readings;
  const std::vector<Span> math = FindMath(sentence);
  if (!math.empty()) {
    // Neighbouring formulas with commas or "and" between them are one answer.
    std::size_t first = 0;
    const bool starts = math[0].begin <= 3;
    if (!starts) {
      first = math.size();
      for (std::size_t i = math.size(); i-- > 0;) {
        if (!IsBareName(math[i].content)) {
          first = i;
          break;
        }
      }
      const std::string_view after = sentence.substr(math.back().end);
      const std::string number = LastNumberIn(after);
      if (first == math.size() && !number.empty()) return {number};
      if (first == math.size()) first = 0;
    }
    std::string joined(math[first].content);
    std::size_t last = first;
    if (starts) {
      while (last + 1 < math.size()) {
        const std::string_view gap =
            TrimSpace(sentence.substr(math[last].end, math[last + 1].begin - math[last].end));
        if (gap != "and" && gap != "," && gap != "or" && gap != ", and" && gap != ", or" &&
            gap != "=" && gap != ";") {
          break;
        }
        joined += gap == "=" ? " = " : " , ";
        joined += math[last + 1].content;
        ++last;
      }
    }
    readings.push_back(joined);
    return readings;
  }
  const std::size_t bold = sentence.find("**");
  std::string_view whole = sentence;
  if (bold != kNone && bold > 0) {
    whole = sentence.substr(0, bold);
    const std::size_t close = sentence.find("**", bold + 2);
    if (close != kNone) whole = sentence.substr(bold + 2, close - bold - 2);
  }
  whole = TrimSpace(whole);
  const std::string number = FirstNumberIn(sentence);
  const bool prose = StartsWithWord(whole);
  if (prose && !number.empty()) readings.push_back(number);
  if (!whole.empty()) readings.emplace_back(whole);
  if (!prose && !number.empty()) readings.push_back(number);
  return readings;
}

// The last statement of a text that announces no answer.
FinalAnswer FromTail(std::string_view text) {
  const std::vector<Span> math = FindMath(text);
  for (std::size_t i = math.size(); i-- > 0 && i + 20 > math.size();) {
    if (IsBareName(math[i].content)) continue;
    return {{std::string(math[i].content)}, "the last formula"};
  }
  const std::size_t close = text.rfind("**");
  if (close != kNone && close > 2) {
    const std::size_t open = text.rfind("**", close - 1);
    if (open != kNone && open + 2 < close && close - open < 60) {
      const std::string_view bold = text.substr(open + 2, close - open - 2);
      if (HasDigit(bold)) return {{std::string(bold)}, "bold"};
    }
  }
  std::string number = LastNumberIn(text);
  if (!number.empty()) return {{number}, "the last number"};
  if (!math.empty()) return {{std::string(math.back().content)}, "the last formula"};
  return {};
}

// Words of three and more letters that are no command: enough of them make prose.
int CountWords(std::string_view text) {
  int words = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (text[i] == '\\') {
      ++i;
      while (i < text.size() && IsLetter(text[i])) ++i;
      continue;
    }
    const std::size_t begin = i;
    while (i < text.size() && (IsLetter(text[i]) || static_cast<unsigned char>(text[i]) >= 0x80)) {
      ++i;
    }
    if (i - begin >= 2) ++words;
    if (i == begin) ++i;
  }
  return words;
}

FinalAnswer FromBoxes(const std::string& text, std::string_view how) {
  std::vector<Box> boxes = FindBoxes(text);
  while (!boxes.empty() && !boxes.back().closed) {
    if (boxes.size() == 1) return {{}, "unclosed box"};
    boxes.pop_back();
  }
  if (boxes.empty()) return {};
  std::string joined(boxes.back().content);
  std::size_t first = boxes.size() - 1;
  while (first > 0 && boxes.size() - first < 50) {
    const Box& before = boxes[first - 1];
    if (!before.closed || before.frame != boxes.back().frame || before.end > boxes[first].begin ||
        !BoxesJoin(std::string_view(text).substr(before.end, boxes[first].begin - before.end))) {
      break;
    }
    --first;
    joined = std::string(before.content) + " , " + joined;
  }
  return {{joined}, std::string(how)};
}

FinalAnswer FindIn(std::string_view text, bool all_is_answer, bool unfinished) {
  const std::string owned(text);
  FinalAnswer boxed = FromBoxes(owned, "boxed");
  if (!boxed.how.empty()) return boxed;
  const std::size_t hashes = text.rfind("####");
  if (hashes != kNone) {
    std::string_view rest = text.substr(hashes + 4);
    while (!rest.empty() && (IsSpace(rest.front()) || rest.front() == ':' || rest.front() == '#')) {
      rest.remove_prefix(1);
    }
    rest = TrimSpace(rest.substr(0, rest.find('\n')));
    if (!rest.empty()) return {{std::string(rest), FirstNumberIn(rest)}, "####"};
  }
  const std::string lower = LowerCopy(text);
  const Marked anchor = FindAnchor(lower);
  if (anchor.begin != kNone) {
    std::vector<std::string> readings = FromSegment(text.substr(anchor.begin));
    if (!readings.empty()) return {std::move(readings), std::string(anchor.how)};
  }
  if (LooksLikeCode(text)) return {};
  const std::string_view whole = TrimSpace(text);
  if (whole.empty()) return {};
  const bool one_line = whole.find('\n') == kNone;
  const int words = CountWords(whole);
  if (all_is_answer || (whole.size() <= kShort && words <= 3 && (one_line || words == 0))) {
    FinalAnswer answer = FromTail(whole);
    const bool prose = StartsWithWord(whole) && !all_is_answer;
    answer.readings.insert(prose ? answer.readings.end() : answer.readings.begin(),
                           std::string(whole));
    if (!prose || answer.how.empty()) answer.how = "all of it";
    return answer;
  }
  if (unfinished) return {};
  FinalAnswer tail = FromTail(text);
  if (tail.readings.empty() && whole.size() <= kShort) return {{std::string(whole)}, "all of it"};
  return tail;
}

}  // namespace

std::string_view TrimAnswer(std::string_view text) {
  for (bool more = true; more;) {
    more = false;
    text = TrimSpace(text);
    for (const auto& [open, close] : {std::pair<std::string_view, std::string_view>{"$$", "$$"},
                                      {"$", "$"},
                                      {"\\(", "\\)"},
                                      {"\\[", "\\]"},
                                      {"**", "**"},
                                      {"\"", "\""},
                                      {"`", "`"}}) {
      if (text.size() > open.size() + close.size() && text.substr(0, open.size()) == open &&
          text.substr(text.size() - close.size()) == close &&
          text.substr(open.size(), text.size() - open.size() - close.size()).find(open) == kNone) {
        text = text.substr(open.size(), text.size() - open.size() - close.size());
        more = true;
      }
    }
    while (!text.empty() && (text.back() == '.' || text.back() == ',' || text.back() == ';' ||
                             text.back() == '\n')) {
      text.remove_suffix(1);
      more = true;
    }
  }
  return text;
}

FinalAnswer FindFinalAnswer(std::string_view raw) {
  const std::string cut = CutText(raw);
  std::string_view text = cut;
  // What a model thinks before it answers is not its answer.
  bool unfinished = false;
  std::size_t thought = kNone;
  for (const std::string_view tag : {"</think>", "</thinking>", "</reasoning>", "</REASONING_END>",
                                     "</thought>", "</Think>", "<|end_of_thought|>"}) {
    const std::size_t at = text.rfind(tag);
    if (at != kNone && (thought == kNone || at + tag.size() > thought)) thought = at + tag.size();
  }
  if (thought != kNone) {
    text = text.substr(thought);
  } else {
    unfinished = text.find("<think>") != kNone;
  }
  for (const std::string_view tag : {"answer", "final_answer", "solution", "ANSWER"}) {
    const std::string open = "<" + std::string(tag) + ">";
    const std::size_t at = text.rfind(open);
    if (at == kNone) continue;
    std::string_view content = text.substr(at + open.size());
    content = content.substr(0, content.find("</"));
    if (TrimSpace(content).empty()) return {};
    return FindIn(content, true, false);
  }
  return FindIn(text, false, unfinished);
}

FinalAnswer FindGoldAnswer(std::string_view raw) {
  const std::string text = CutText(raw);
  FinalAnswer boxed = FromBoxes(text, "boxed");
  if (!boxed.readings.empty()) return boxed;
  const std::size_t hashes = text.rfind("####");
  if (hashes != kNone) {
    const std::string_view rest = TrimSpace(std::string_view(text).substr(hashes + 4));
    if (!rest.empty()) return {{std::string(rest.substr(0, rest.find('\n')))}, "####"};
  }
  const Marked anchor = FindAnchor(LowerCopy(text));
  if (anchor.begin != kNone) {
    std::vector<std::string> readings = FromSegment(std::string_view(text).substr(anchor.begin));
    if (!readings.empty()) return {std::move(readings), std::string(anchor.how)};
  }
  const std::string_view whole = TrimSpace(text);
  if (whole.empty()) return {};
  FinalAnswer answer{{std::string(whole)}, "all of it"};
  if (CountWords(whole) > 4 && FindMath(whole).size() == 1) {
    answer.readings.insert(answer.readings.begin(), std::string(FindMath(whole)[0].content));
  }
  return answer;
}

char ChoiceLetter(std::string_view text, bool alone) {
  text = TrimAnswer(text);
  const bool bracket = !text.empty() && (text.front() == '(' || text.front() == '[');
  if (bracket) text = TrimSpace(text.substr(1));
  if (text.empty() || text[0] < 'A' || text[0] > 'J') return '\0';
  const char letter = text[0];
  text.remove_prefix(1);
  text = bracket ? TrimSpace(text) : text;
  if (bracket) {
    if (text.empty() || (text[0] != ')' && text[0] != ']')) return '\0';
    text.remove_prefix(1);
    if (TrimSpace(text).empty()) return letter;
    return alone ? '\0' : letter;
  }
  if (text.empty()) return letter;
  if (alone) return TrimAnswer(text).empty() || TrimSpace(text) == ")" ? letter : '\0';
  if (text[0] == '.' || text[0] == ')' || text[0] == ':' || text[0] == ',') {
    if (text.size() == 1 || !IsDigit(text[1])) return letter;
  }
  if (text[0] == ' ' && text.size() > 1 && text[1] >= 'A' && text[1] <= 'Z') return letter;
  return '\0';
}

char FindChoice(std::string_view text) {
  const std::string lower = LowerCopy(text);
  const auto standalone = [&](std::size_t i) {
    if (text[i] < 'A' || text[i] > 'J') return false;
    const auto joins = [](char c) { return IsLetter(c) || IsDigit(c) || c == '\'' || c == '_'; };
    if (i > 0 && joins(text[i - 1])) return false;
    if (i + 1 < text.size() && joins(text[i + 1])) return false;
    // The article.
    if (text[i] == 'A' && i + 2 < text.size() && text[i + 1] == ' ' && text[i + 2] >= 'a' &&
        text[i + 2] <= 'z') {
      return false;
    }
    return true;
  };
  const Marked anchor = FindAnchor(lower);
  if (anchor.begin != kNone) {
    for (std::size_t i = anchor.begin; i < text.size() && i < anchor.begin + 40; ++i) {
      if (standalone(i)) return text[i];
    }
  }
  const std::string_view start = TrimSpace(text);
  if (!start.empty()) {
    const std::size_t first = static_cast<std::size_t>(start.data() - text.data()) +
                              (start[0] == '(' || start[0] == '*' ? 1 : 0);
    if (first < text.size() && standalone(first) &&
        (first + 1 >= text.size() || text[first + 1] != ' ')) {
      return text[first];
    }
  }
  for (std::size_t i = text.size(); i-- > 0;) {
    if (standalone(i)) return text[i];
  }
  return '\0';
}

}  // namespace opo
