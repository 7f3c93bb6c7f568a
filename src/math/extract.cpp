#include "math/extract.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "math/scan.h"
#include "math/words.h"

namespace opo {
namespace {

constexpr std::size_t kShort = 600;  // a text that may be an answer as a whole

// Cut at a model's end-of-turn marks, drawings taken out.
std::string CutText(std::string_view text) {
  static constexpr std::string_view kMarks[] = {
      "<|im_end|>", "<|im_start|>", "<|endoftext|>",   "<|eot_id|>", "<|end|>",
      "</s>",       "<eos>",        "<|end_of_text|>", "<|return|>", "<end_of_turn>"};
  for (std::size_t at = 0; (at = text.find('<', at)) != kNone; ++at) {
    const bool mark = std::any_of(std::begin(kMarks), std::end(kMarks), [&](std::string_view m) {
      return text.substr(at, m.size()) == m;
    });
    if (mark && !TrimSpace(text.substr(0, at)).empty()) {
      text = text.substr(0, at);
      break;
    }
  }
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

// Where the answer begins after the word "answer" (or "result", "solution") that ends at `at`;
// kNone where the word announces nothing.
std::size_t AfterAnnouncement(std::string_view lower, std::size_t at, bool colon) {
  const auto skip = [&](std::string_view characters) {
    while (at < lower.size() && characters.find(lower[at]) != kNone) ++at;
  };
  if (at < lower.size() && lower[at] == 's') ++at;
  const std::size_t word_end = at;
  skip(" *_");
  if (at >= lower.size()) return kNone;
  if (lower[at] == ':' || lower[at] == '=') return colon ? at + 1 : kNone;
  if (lower[at] == '\n') {
    // A heading: "### Final Answer".
    const std::size_t line = lower.rfind('\n', word_end);
    const std::size_t begin = line == kNone || line == at ? 0 : line + 1;
    return colon && word_end - begin < 24 ? at : kNone;
  }
  for (const std::string_view verb : {"is", "are", "should be", "would be", "will be", "must be",
                                      "equals", "was", "comes out to"}) {
    if (lower.substr(at, verb.size()) == verb &&
        (at + verb.size() == lower.size() || !IsLetter(lower[at + verb.size()]))) {
      return at + verb.size();
    }
  }
  for (const std::string_view link : {"to ", "for ", "of ", "in "}) {  // "to the problem is"
    if (lower.substr(at, link.size()) != link) continue;
    const std::string_view rest = lower.substr(at, 80);
    const std::size_t verb = rest.find(" is");
    if (verb != kNone && rest.substr(0, verb).find_first_of(".\n") == kNone) return at + verb + 3;
  }
  return kNone;
}

// The last phrase that announces an answer.
Marked FindAnchor(std::string_view lower) {
  static constexpr std::string_view kPhrases[] = {
      "r\xc3\xa9ponse:",
      "r\xc3\xa9ponse :",
      "r\xc3\xa9ponse est",
      "respuesta es",
      "respuesta:",
      "antwort ist",
      "antwort:",
      "antwort lautet",
      "risposta:",
      "resposta:",
      "jawaban:",
      "\xe7\xad\x94\xe6\xa1\x88",                                  // da an (Chinese)
      "\xe7\xad\x94\xe3\x81\x88",                                  // kotae (Japanese)
      "\xe5\x9b\x9e\xe7\xad\x94",                                  // hui da
      "\xeb\x8b\xb5:",                                             // dap (Korean)
      "\xd1\x82\xd0\xb2\xd0\xb5\xd1\x82:",                         // otvet:
      "\xd8\xa7\xd9\x84\xd8\xa5\xd8\xac\xd8\xa7\xd8\xa8\xd8\xa9",  // al-ijaba
      "\xd8\xa7\xd9\x84\xd8\xac\xd9\x88\xd8\xa7\xd8\xa8"};         // al-jawab
  Marked best;
  for (std::size_t at = lower.size(); at-- > 0 && best.begin == kNone;) {
    const auto c = static_cast<unsigned char>(lower[at]);
    if (c != 'a' && c != 'r' && c != 's' && c != 'j' && c < 0x80) continue;
    const std::string_view rest = lower.substr(at);
    const bool starts = at == 0 || !IsLetter(lower[at - 1]);
    if (c < 0x80 && !starts) continue;
    for (const auto& [word, colon] : {std::pair<std::string_view, bool>{"answer", true},
                                      {"result", false},
                                      {"solution", false}}) {
      if (rest.substr(0, word.size()) != word) continue;
      const std::size_t begin = AfterAnnouncement(lower, at + word.size(), colon);
      if (begin != kNone) best = {begin, "the answer is"};
    }
    for (const std::string_view phrase : kPhrases) {
      if (rest.substr(0, phrase.size()) == phrase) best = {at + phrase.size(), "the answer is"};
    }
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
      if (next == text.size() || text[next] != '\\') return i;
      i = next - 1;
      continue;
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

// Program code is no answer, whatever number stands in it: dunder names, quoted arguments, calls of
// names that are no functions of mathematics.
bool LooksLikeCode(std::string_view text) {
  if (text.size() > 400) return false;
  if (text.find("__") != kNone || text.find("('") != kNone || text.find("(\"") != kNone ||
      text.find("['") != kNone || text.find("lambda:") != kNone ||
      text.find("lambda x:") != kNone || text.find("lambda _:") != kNone) {
    return true;
  }
  for (std::size_t i = 0; i < text.size();) {
    if (!IsLetter(text[i])) {
      ++i;
      continue;
    }
    const std::size_t begin = i;
    while (i < text.size() && IsLetter(text[i])) ++i;
    const std::string_view word = text.substr(begin, i - begin);
    const bool command = begin > 0 && text[begin - 1] == '\\';
    if (!command && word.size() >= 4 && i < text.size() && text[i] == '(' &&
        LowerCopy(word) == word && PlainFunction(word) == nullptr && !IsGreek(word)) {
      return true;
    }
  }
  return false;
}

// Prose rather than a formula: begins with letters that are no function's name.
bool StartsWithWord(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size() &&
         (IsLetter(text[end]) || static_cast<unsigned char>(text[end]) >= 0x80 ||
          (text[end] == '\'' && end > 0 && end + 1 < text.size() && IsLetter(text[end + 1])))) {
    ++end;
  }
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
    // "The answer is 12, since $x=3$."
    if (!starts && (IsDigit(sentence[0]) || sentence[0] == '-')) {
      const std::string number = FirstNumberIn(sentence.substr(0, math[0].begin));
      if (!number.empty()) return {number};
    }
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

// What the last sentence says something is, where that is a formula: "the point is (3, 5)."
std::string_view AfterVerb(std::string_view text) {
  text = TrimSpace(text);
  while (!text.empty() && (text.back() == '.' || text.back() == '*')) text.remove_suffix(1);
  constexpr std::size_t kLongest = 60;
  const std::size_t from = text.size() > kLongest ? text.size() - kLongest : 0;
  std::size_t begin = kNone;
  for (const std::string_view verb : {" is ", " are ", " equals ", " be ", " get ", " gives "}) {
    const std::size_t at = text.rfind(verb);
    if (at != kNone && at >= from && (begin == kNone || at + verb.size() > begin)) {
      begin = at + verb.size();
    }
  }
  if (begin == kNone) return {};
  std::string_view rest = TrimSpace(text.substr(begin));
  if (rest.empty() || rest.find('\n') != kNone || !HasDigit(rest)) return {};
  const char c = rest[0];
  const bool formula = IsDigit(c) || c == '(' || c == '[' || c == '{' || c == '-' || c == '\\' ||
                       c == '$' || c == '|';
  if (!formula || StartsWithWord(rest) || rest.find(". ") != kNone) return {};
  return CountWords(rest) <= 1 ? rest : std::string_view();
}

// The last statement of a text that announces no answer.
FinalAnswer FromTail(std::string_view text) {
  const std::vector<Span> math = FindMath(text);
  if (!math.empty()) {
    // A later sentence with a number says more than a formula before it.
    const std::string_view after = text.substr(math.back().end);
    const std::size_t begin = std::min(after.find(". "), after.find('\n'));
    if (begin != kNone) {
      const std::string number = LastNumberIn(after.substr(begin + 1));
      if (!number.empty()) return {{number}, "the last number"};
    }
  }
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
  const std::string_view stated = AfterVerb(text);
  if (!stated.empty()) return {{std::string(stated), number}, "the last statement"};
  if (!number.empty()) return {{number}, "the last number"};
  if (close != kNone && close > 2) {
    const std::size_t open = text.rfind("**", close - 1);
    if (open != kNone && open + 2 < close && close - open < 60) {
      return {{std::string(text.substr(open + 2, close - open - 2))}, "bold"};
    }
  }
  if (!math.empty()) return {{std::string(math.back().content)}, "the last formula"};
  return {};
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
    // "The solution is to add them. ..." announces nothing.
    const bool goes_on = text.size() - anchor.begin > 200;
    if (!readings.empty() && (!goes_on || HasDigit(readings[0]) || readings[0].size() < 24)) {
      return {std::move(readings), std::string(anchor.how)};
    }
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
    if (const std::string_view stated = AfterVerb(whole); !stated.empty()) {  // "x is 5"
      answer.readings.insert(answer.readings.begin(), std::string(stated));
    }
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
    const bool goes_on = text.size() > 3 && text.substr(text.size() - 3) == "...";
    while (
        !text.empty() && !goes_on &&
        (text.back() == '.' || text.back() == ',' || text.back() == ';' || text.back() == '\n')) {
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
  if (text.find('<') == kNone) return FindIn(text, false, false);
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
  if (const std::string_view stated = AfterVerb(whole); !stated.empty() && StartsWithWord(whole)) {
    answer.readings.insert(answer.readings.begin(), std::string(stated));
  }
  if (CountWords(whole) > 4 && FindMath(whole).size() == 1) {
    answer.readings.insert(answer.readings.begin(), std::string(FindMath(whole)[0].content));
  }
  return answer;
}

char ChoiceLetter(std::string_view text, bool alone) {
  text = TrimAnswer(text);
  // \textbf{(B)} 12
  if (text.size() > 6 && text[0] == '\\') {
    const std::size_t open = text.find('{');
    const std::string_view name = text.substr(1, open == kNone ? 0 : open - 1);
    const std::size_t close = text.find('}');
    if (close != kNone && (name.substr(0, 4) == "text" || name == "mathrm" || name == "mathbf" ||
                           name == "mbox" || name == "textbf")) {
      const std::string_view inside = text.substr(open + 1, close - open - 1);
      if (alone && !TrimAnswer(text.substr(close + 1)).empty()) return '\0';
      return ChoiceLetter(inside, alone || inside.size() < 4);
    }
  }
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
  // Words behind the letter are the choice's text; single letters are further choices.
  std::size_t word = 1;
  while (word < text.size() && IsSpace(text[word])) ++word;
  const bool further = word < text.size() && text[word] >= 'A' && text[word] <= 'J' &&
                       (word + 1 == text.size() || !IsLetter(text[word + 1]));
  if (further) return '\0';
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
