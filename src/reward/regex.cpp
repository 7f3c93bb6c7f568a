// The kinds "regex" (the first match in the completion: its group 1 is the gold answer, or there is
// no group) and "format" (the whole completion matches; without a pattern: thoughts and an answer
// in their tags, as in DeepSeek-R1). PCRE2 syntax, UTF-8 classes.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "reward/kinds.h"

namespace opo {
namespace {

// A match that needs more is an error. PCRE2 counts its match limit anew at each start position, so
// pattern items tried are counted here too, over the whole match.
constexpr std::uint32_t kMatchLimit = 1'000'000;
constexpr std::int64_t kItemLimit = 5'000'000;
constexpr std::uint32_t kHeapLimitKib = 64 * 1024;

int CountItem(pcre2_callout_block*, void* counter) {
  auto& items = *static_cast<std::int64_t*>(counter);
  return ++items > kItemLimit ? PCRE2_ERROR_MATCHLIMIT : 0;
}

std::string PcreMessage(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

template <auto kFree>
struct Freer {
  template <class T>
  void operator()(T* p) const {
    kFree(p);
  }
};
using Code = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;

Code Compile(const std::string& pattern, const std::string& where) {
  if (pattern.empty()) Fail(ErrorCode::kUsage, "{}.pattern: is missing; give one", where);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Models can write invalid UTF-8: such bytes match nothing, instead of failing the match.
  constexpr std::uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF |
                                     PCRE2_AUTO_CALLOUT | PCRE2_NEVER_BACKSLASH_C;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), kOptions,
                          &error, &offset, nullptr));
  if (!code) {
    Fail(ErrorCode::kUsage, "{}.pattern: {} at offset {} of {}", where, PcreMessage(error), offset,
         Excerpt(pattern));
  }
  return code;
}

struct Match {
  int count = 0;  // as pcre2_match: groups set plus one, PCRE2_ERROR_NOMATCH, or another error
  std::optional<std::string> group1;
};

Match Run(const pcre2_code* code, std::string_view text, std::uint32_t options) {
  const MatchContext context(pcre2_match_context_create(nullptr));
  const MatchData data(pcre2_match_data_create_from_pattern(code, nullptr));
  if (!context || !data) return {PCRE2_ERROR_NOMEMORY, {}};
  std::int64_t items = 0;
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  pcre2_set_callout(context.get(), CountItem, &items);
  Match match;
  const char* begin = text.empty() ? "" : text.data();  // PCRE2 takes no null pointer
  match.count = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(begin), text.size(), 0, options,
                            data.get(), context.get());
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data.get());
  // \K in a lookahead can set an end before the start: then there is no text.
  if (match.count >= 2 && offsets[2] != PCRE2_UNSET && offsets[2] <= offsets[3]) {
    match.group1 = std::string(text.substr(offsets[2], offsets[3] - offsets[2]));
  }
  return match;
}

RewardResult MatchError(int code) {
  return RewardError("pattern", "pattern: " + PcreMessage(code));
}

constexpr const char* kThinkAnswer = R"((?s)\s*<think>(?:(?!</?(?:think|answer)>).)*+</think>\s*)"
                                     R"(<answer>(?:(?!</?(?:think|answer)>).)*+</answer>\s*)";

class RegexReward final : public RuleReward {
 public:
  explicit RegexReward(Code code) : code_(std::move(code)) {
    pcre2_pattern_info(code_.get(), PCRE2_INFO_CAPTURECOUNT, &groups_);
  }

  RewardResult Judge(const RewardQuery& query) const override {
    const std::string& gold = query.problem.answer;
    if (groups_ > 0 && gold.empty()) return NoGoldAnswer();
    const Match match = Run(code_.get(), query.completion, 0);
    if (match.count == PCRE2_ERROR_NOMATCH) return Scored(false, "no match");
    if (match.count < 0) return MatchError(match.count);
    if (groups_ == 0) return Scored(true, "match");
    if (!match.group1) return Scored(false, "group 1 took no part in the match");
    const std::string_view found = Trim(*match.group1);
    return Scored(found == Trim(gold), "found " + Excerpt(found));
  }

 private:
  Code code_;
  std::uint32_t groups_ = 0;
};

class FormatReward final : public RuleReward {
 public:
  explicit FormatReward(Code code) : code_(std::move(code)) {}

  RewardResult Judge(const RewardQuery& query) const override {
    const Match match = Run(code_.get(), query.completion, PCRE2_ANCHORED | PCRE2_ENDANCHORED);
    if (match.count == PCRE2_ERROR_NOMATCH) return Scored(false, "not of the format");
    if (match.count < 0) return MatchError(match.count);
    return Scored(true, "of the format");
  }

 private:
  Code code_;
};

}  // namespace

std::unique_ptr<Reward> MakeRegexReward(const RewardConfig& config, const std::string& where) {
  return std::make_unique<RegexReward>(Compile(config.pattern, where));
}

std::unique_ptr<Reward> MakeFormatReward(const RewardConfig& config, const std::string& where) {
  return std::make_unique<FormatReward>(
      Compile(config.pattern.empty() ? kThinkAnswer : config.pattern, where));
}

}  // namespace opo
