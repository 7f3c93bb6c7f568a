#include "text/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cctype>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"

namespace opo {
namespace {

// \s of the original engines is Unicode's White_Space; PCRE2's own \s has U+180E besides.
#define OPO_WS R"(\p{Z}\t-\r\x{85})"

constexpr std::string_view kGpt2Pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" OPO_WS "\\p{L}\\p{N}]+|[" OPO_WS
    "]+(?![^" OPO_WS "])|[" OPO_WS "]+";

// Digits are cut out first, each alone, and end the piece before them: so white space before a
// digit is at the end of its piece, where nothing is left over for the next word.
constexpr std::string_view kSmolLmPattern =
    "\\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?[^" OPO_WS "\\p{L}\\p{N}]+|[" OPO_WS
    "]+(?![^" OPO_WS "\\p{N}])|[" OPO_WS "]+";

// Llama 3 and Qwen 2 differ only in how many digits go together.
#define OPO_LLAMA3_PATTERN(numbers)                                                    \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers "| ?[^" OPO_WS \
  "\\p{L}\\p{N}]+[\\r\\n]*|[" OPO_WS "]*[\\r\\n]+|[" OPO_WS "]+(?![^" OPO_WS "])|[" OPO_WS "]+"
#define OPO_LLAMA3_HF(numbers)                                          \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers \
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

constexpr PreTokenizerSpec kSpecs[] = {
    {PreTokenizer::kGpt2, "gpt-2", kGpt2Pattern, "", false, false},
    {PreTokenizer::kSmolLm, "smollm", kSmolLmPattern, "", false, false},
    {PreTokenizer::kLlama3, "llama-bpe", OPO_LLAMA3_PATTERN("\\p{N}{1,3}"),
     OPO_LLAMA3_HF("\\p{N}{1,3}"), true, false},
    {PreTokenizer::kQwen2, "qwen2", OPO_LLAMA3_PATTERN("\\p{N}"), OPO_LLAMA3_HF("\\p{N}"), false,
     true},
};

}  // namespace

const PreTokenizerSpec& SpecOf(PreTokenizer kind) {
  for (const PreTokenizerSpec& spec : kSpecs) {
    if (spec.kind == kind) return spec;
  }
  CheckFailed(__FILE__, __LINE__, "every pre-tokenizer has a spec");
}

const PreTokenizerSpec* FindPreTokenizerByGgufName(std::string_view name) {
  if (name == "llama3" || name == "llama-v3") name = "llama-bpe";
  for (const PreTokenizerSpec& spec : kSpecs) {
    if (spec.name == name) return &spec;
  }
  return nullptr;
}

const PreTokenizerSpec* FindPreTokenizerByRegex(std::string_view hf_regex) {
  for (const PreTokenizerSpec& spec : kSpecs) {
    if (!hf_regex.empty() && spec.hf_regex == hf_regex) return &spec;
  }
  return nullptr;
}

std::string_view Gpt2HfRegex() {
  return "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
}

std::string LiteralRegex(std::string_view text) {
  std::string regex;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       static_cast<unsigned char>(c) >= 0x80 ||
                       static_cast<unsigned char>(c) <= ' ';
    if (!plain) regex += '\\';
    regex += c;
  }
  return regex;
}

namespace {

constexpr std::uint32_t kMatchLimit = 10'000'000;  // of an expression that a file brings

// An expression of Oniguruma as PCRE2 writes it. Only what means the same to both goes through:
// white space is spelled out, and what differs is refused by name.
class RegexTranslation {
 public:
  RegexTranslation(std::string_view regex, const std::string& source)
      : regex_(regex), source_(source) {}

  std::string Run() {
    bool in_class = false;
    for (; pos_ < regex_.size(); ++pos_) {
      const char c = regex_[pos_];
      if (c == '\\') {
        Escape(in_class);
        continue;
      }
      if (in_class) {
        if (c == '[') Refuse("a class in a class");
        if (regex_.substr(pos_, 2) == "&&") Refuse("the intersection of classes");
        if (c == ']') in_class = false;
      } else if (c == '[') {
        in_class = true;
        if (regex_.substr(pos_ + 1, 1) == "^") out_ += regex_[pos_++];
        if (regex_.substr(pos_ + 1, 1) == "]") Refuse("an empty class");
      } else if (c == '(' && regex_.substr(pos_ + 1, 1) == "?") {
        Group();
      } else if (c == ')' && IsOneOf(pos_ + 1, "*+{")) {
        Refuse("a group that is repeated, which may take exponential time");
      } else if (c == '^' || c == '$') {
        Refuse("an anchor");
      } else if (c == '}' && regex_.substr(pos_ + 1, 1) == "+") {
        Refuse("}+");
      }
      out_ += regex_[pos_];
    }
    return out_;
  }

 private:
  [[noreturn]] void Refuse(std::string_view what) const {
    Fail(ErrorCode::kInput,
         "{}: pre_tokenizer: the expression \"{}\" has {}, which is not supported", source_,
         regex_.substr(0, 200), what);
  }

  bool IsOneOf(std::size_t pos, std::string_view characters) const {
    return pos < regex_.size() && characters.find(regex_[pos]) != characters.npos;
  }

  void Escape(bool in_class) {
    const char c = pos_ + 1 < regex_.size() ? regex_[pos_ + 1] : '\0';
    ++pos_;
    if (c == 's') {
      out_ += in_class ? OPO_WS : "[" OPO_WS "]";
    } else if (c == 'S' && !in_class) {
      out_ += "[^" OPO_WS "]";
    } else if (c == 'd') {
      out_ += "\\p{Nd}";
    } else if (c == 'p' || c == 'P') {
      const std::size_t close = regex_.find('}', pos_);
      if (regex_.substr(pos_ + 1, 1) != "{" || close == regex_.npos) Refuse("\\p without {");
      out_ += '\\';
      out_ += regex_.substr(pos_, close + 1 - pos_);
      pos_ = close;
    } else if (c == 'r' || c == 'n' || c == 't' || (c > ' ' && c < 0x7F && !std::isalnum(c))) {
      out_ += {'\\', c};
    } else {
      Refuse(fmt::format("the escape \\{}", c > ' ' && c < 0x7F ? std::string(1, c) : "?"));
    }
  }

  void Group() {
    for (const std::string_view known : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!"}) {
      if (regex_.substr(pos_, known.size()) != known) continue;
      out_ += known.substr(0, known.size() - 1);
      pos_ += known.size() - 1;
      return;
    }
    Refuse("a group of a kind");
  }

  const std::string_view regex_;
  const std::string& source_;
  std::string out_;
  std::size_t pos_ = 0;
};

// nullptr where PCRE2 does not take the pattern.
pcre2_code* Compile(std::string_view pattern, std::uint32_t options) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | options, &error, &offset, nullptr);
  // Where there is no JIT: slower, the same.
  if (code != nullptr) pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return code;
}

struct MatchDataFree {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
using MatchData = std::unique_ptr<pcre2_match_data, MatchDataFree>;

MatchData MakeMatchData(const pcre2_code* code) {
  MatchData match(pcre2_match_data_create_from_pattern(code, nullptr));
  OPO_CHECK(match != nullptr);
  return match;
}

// pcre2_match of valid UTF-8 from `pos`.
int Match(const pcre2_code* code, std::string_view text, std::size_t pos, pcre2_match_data* match,
          pcre2_match_context* context) {
  const auto run = [&](std::uint32_t options) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), pos,
                       options | PCRE2_NO_UTF_CHECK, match, context);
  };
  const int found = run(0);
  return found == PCRE2_ERROR_JIT_STACKLIMIT ? run(PCRE2_NO_JIT) : found;
}

// Alphabetic, marks, digits, connectors and joiners.
bool WordAt(std::string_view text, std::size_t pos) {
  static pcre2_code* const word = Compile(
      "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}"
      "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}]",
      PCRE2_ANCHORED);
  OPO_CHECK(word != nullptr);
  return Match(word, text.substr(pos, 4), 0, MakeMatchData(word).get(), nullptr) > 0;
}

}  // namespace

bool StartsWithWord(std::string_view text) {
  if (text.empty()) return false;
  const Utf8Step step = NextUtf8(text, 0);
  return step.kind == Utf8Kind::kCharacter && WordAt(text.substr(0, step.size), 0);
}

bool EndsWithWord(std::string_view text) {
  if (text.empty()) return false;
  std::size_t pos = text.size() - 1;
  while (pos > 0 && text.size() - pos < 4 && (text[pos] & 0xC0) == 0x80) --pos;
  return StartsWithWord(text.substr(pos));
}

struct PieceSplitter::Impl {
  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    pcre2_match_context_free(context);
    for (pcre2_code* code : codes) pcre2_code_free(code);
  }
  // `text` is valid UTF-8.
  void SplitValid(std::string_view text, const std::function<void(std::string_view)>& piece) const;
  void SplitBySteps(std::string_view text,
                    const std::function<void(std::string_view)>& piece) const;
  int Find(std::size_t step, std::string_view text, std::size_t pos, pcre2_match_data* match) const;

  bool steps = false;  // else one expression that matches everywhere
  std::vector<pcre2_code*> codes;
  pcre2_match_context* context = nullptr;
};

PieceSplitter::PieceSplitter(PreTokenizer kind) : impl_(std::make_unique<Impl>()) {
  // Anchored here, not at the match: there it would switch the JIT off.
  impl_->codes = {Compile(SpecOf(kind).pattern, PCRE2_ANCHORED)};
  OPO_CHECK(impl_->codes[0] != nullptr);
  impl_->context = pcre2_match_context_create(nullptr);
  OPO_CHECK(impl_->context != nullptr);
  // A run of white space is stepped back through once: linear, however long it is.
  pcre2_set_match_limit(impl_->context, UINT32_MAX);
  pcre2_set_depth_limit(impl_->context, UINT32_MAX);
}

PieceSplitter::PieceSplitter(const std::vector<std::string>& hf_regexes, const std::string& source)
    : impl_(std::make_unique<Impl>()) {
  impl_->steps = true;
  impl_->context = pcre2_match_context_create(nullptr);
  OPO_CHECK(impl_->context != nullptr);
  pcre2_set_match_limit(impl_->context, kMatchLimit);
  for (const std::string& regex : hf_regexes) {
    pcre2_code* code = Compile(RegexTranslation(regex, source).Run(), 0);
    if (code == nullptr) {
      Fail(ErrorCode::kInput, "{}: pre_tokenizer: the expression \"{}\" is not one of PCRE2",
           source, regex.substr(0, 200));
    }
    impl_->codes.push_back(code);
    if (Match(code, "", 0, MakeMatchData(code).get(), impl_->context) != PCRE2_ERROR_NOMATCH) {
      Fail(ErrorCode::kInput, "{}: pre_tokenizer: the expression \"{}\" matches an empty text",
           source, regex.substr(0, 200));
    }
  }
}

PieceSplitter::PieceSplitter(PieceSplitter&&) noexcept = default;
PieceSplitter& PieceSplitter::operator=(PieceSplitter&&) noexcept = default;
PieceSplitter::~PieceSplitter() = default;

int PieceSplitter::Impl::Find(std::size_t step, std::string_view text, std::size_t pos,
                              pcre2_match_data* match) const {
  const int found = Match(codes[step], text, pos, match, context);
  if (found > 0 || (steps && found == PCRE2_ERROR_NOMATCH)) return found;
  Fail(steps ? ErrorCode::kInput : ErrorCode::kWork,
       "cutting a text of {} bytes into words failed at byte {} (PCRE2 {}){}", text.size(), pos,
       found, steps ? "; the tokenizer's own expression takes too long" : "");
}

void PieceSplitter::Impl::SplitValid(std::string_view text,
                                     const std::function<void(std::string_view)>& piece) const {
  if (steps) {
    SplitBySteps(text, piece);
    return;
  }
  const MatchData match = MakeMatchData(codes[0]);
  for (std::size_t pos = 0; pos < text.size();) {
    Find(0, text, pos, match.get());
    const std::size_t end = pcre2_get_ovector_pointer(match.get())[1];
    OPO_CHECK(end > pos);
    piece(text.substr(pos, end - pos));
    pos = end;
  }
}

void PieceSplitter::Impl::SplitBySteps(std::string_view text,
                                       const std::function<void(std::string_view)>& piece) const {
  std::vector<std::string_view> pieces = {text};
  std::vector<std::string_view> cut;
  for (std::size_t step = 0; step < codes.size(); ++step) {
    const MatchData match = MakeMatchData(codes[step]);
    cut.clear();
    for (const std::string_view part : pieces) {
      std::size_t done = 0;
      for (std::size_t pos = 0; pos < part.size() && Find(step, part, pos, match.get()) > 0;) {
        const std::size_t* found = pcre2_get_ovector_pointer(match.get());
        if (found[1] <= found[0]) {  // where a look around lets it match nothing: no piece
          pos = found[0] < part.size() ? found[0] + NextUtf8(part, found[0]).size : part.size();
          continue;
        }
        if (found[0] > done) cut.push_back(part.substr(done, found[0] - done));
        cut.push_back(part.substr(found[0], found[1] - found[0]));
        done = pos = found[1];
      }
      if (done < part.size()) cut.push_back(part.substr(done));
    }
    pieces.swap(cut);
  }
  for (const std::string_view one : pieces) piece(one);
}

void PieceSplitter::Split(std::string_view text,
                          const std::function<void(std::string_view)>& piece) const {
  std::size_t start = 0;
  std::size_t pos = 0;
  bool valid = true;  // of [start, pos)
  const auto finish = [&] {
    const std::string_view part = text.substr(start, pos - start);
    if (part.empty()) return;
    if (valid) {
      impl_->SplitValid(part, piece);
    } else {
      piece(part);
    }
  };
  while (pos < text.size()) {
    const Utf8Step step = NextUtf8(text, pos);
    if ((step.kind == Utf8Kind::kCharacter) != valid) {
      finish();
      valid = !valid;
      start = pos;
    }
    pos += step.size;
  }
  finish();
}

}  // namespace opo
