#include "text/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/error.h"
#include "text/utf8.h"

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

struct PieceSplitter::Impl {
  Impl() = default;
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
  // `text` is valid UTF-8.
  void SplitValid(std::string_view text, pcre2_match_data* match,
                  const std::function<void(std::string_view)>& piece) const;

  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
};

PieceSplitter::PieceSplitter(PreTokenizer kind) : impl_(std::make_unique<Impl>()) {
  const std::string_view pattern = SpecOf(kind).pattern;
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Anchored here, not at the match: there it would switch the JIT off.
  impl_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_ANCHORED, &error, &offset, nullptr);
  OPO_CHECK(impl_->code != nullptr);
  pcre2_jit_compile(impl_->code, PCRE2_JIT_COMPLETE);  // where there is no JIT: slower, the same
  impl_->context = pcre2_match_context_create(nullptr);
  OPO_CHECK(impl_->context != nullptr);
  // A run of white space is stepped back through once: linear, however long it is.
  pcre2_set_match_limit(impl_->context, UINT32_MAX);
  pcre2_set_depth_limit(impl_->context, UINT32_MAX);
}

PieceSplitter::PieceSplitter(PieceSplitter&&) noexcept = default;
PieceSplitter& PieceSplitter::operator=(PieceSplitter&&) noexcept = default;
PieceSplitter::~PieceSplitter() = default;

void PieceSplitter::Impl::SplitValid(std::string_view text, pcre2_match_data* match,
                                     const std::function<void(std::string_view)>& piece) const {
  std::size_t pos = 0;
  while (pos < text.size()) {
    const auto run = [&](std::uint32_t options) {
      return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), pos,
                         options | PCRE2_NO_UTF_CHECK, match, context);
    };
    int found = run(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(PCRE2_NO_JIT);
    if (found < 0) {
      Fail(ErrorCode::kWork, "cutting a text of {} bytes into words failed at byte {} (PCRE2 {})",
           text.size(), pos, found);
    }
    const std::size_t end = pcre2_get_ovector_pointer(match)[1];
    OPO_CHECK(end > pos);
    piece(text.substr(pos, end - pos));
    pos = end;
  }
}

void PieceSplitter::Split(std::string_view text,
                          const std::function<void(std::string_view)>& piece) const {
  struct MatchDataFree {
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };
  const std::unique_ptr<pcre2_match_data, MatchDataFree> match(
      pcre2_match_data_create_from_pattern(impl_->code, nullptr));
  OPO_CHECK(match != nullptr);
  std::size_t start = 0;
  std::size_t pos = 0;
  bool valid = true;  // of [start, pos)
  const auto finish = [&] {
    const std::string_view part = text.substr(start, pos - start);
    if (part.empty()) return;
    if (valid) {
      impl_->SplitValid(part, match.get(), piece);
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
