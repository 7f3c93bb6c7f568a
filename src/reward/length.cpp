// Rewards that see an answer's tokens, not its sense:
//   length      tokens / max_tokens, at most 1: with a negative weight, short answers are better
//   overlong    DAPO's soft punishment (arXiv 2503.14476, equation 13) with L_max = max_tokens and
//               L_cache = buffer_tokens: 0 up to L_max - L_cache, then falling to -1 at L_max
//   repetition  distinct n-grams of tokens / all of them - 1: 0 without any repeated, towards -1
//               (arXiv 2502.03373, appendix C.2, as TRL's get_repetition_penalty_reward)
#include <algorithm>
#include <vector>

#include "base/error.h"
#include "reward/kinds.h"

namespace opo {
namespace {

double Ratio(idx a, idx b) { return static_cast<double>(a) / static_cast<double>(b); }
idx Tokens(const RewardQuery& query) { return static_cast<idx>(query.tokens.size()); }

class LengthReward final : public RuleReward {
 public:
  explicit LengthReward(idx longest) : longest_(longest) {}
  RewardResult Judge(const RewardQuery& query) const override {
    return Scored(std::min(1.0, Ratio(Tokens(query), longest_)),
                  fmt::format("{} tokens", Tokens(query)));
  }

 private:
  idx longest_;
};

class OverlongReward final : public RuleReward {
 public:
  OverlongReward(idx longest, idx buffer) : longest_(longest), buffer_(buffer) {}
  RewardResult Judge(const RewardQuery& query) const override {
    const idx tokens = Tokens(query);
    const idx over = tokens - (longest_ - buffer_);
    const double value = over <= 0 ? 0 : tokens > longest_ ? -1 : -Ratio(over, buffer_);
    return Scored(value, fmt::format("{} tokens", tokens));
  }

 private:
  idx longest_, buffer_;
};

class RepetitionReward final : public RuleReward {
 public:
  explicit RepetitionReward(idx n) : n_(n) {}
  RewardResult Judge(const RewardQuery& query) const override {
    const idx grams = Tokens(query) - n_ + 1;
    if (grams <= 0) return Scored(0, "too short to repeat");
    // Starts of n-grams in the order of what they hold: equal ones become neighbours.
    std::vector<const TokenId*> starts;
    for (idx i = 0; i < grams; ++i) starts.push_back(query.tokens.data() + i);
    std::sort(starts.begin(), starts.end(), [&](const TokenId* a, const TokenId* b) {
      return std::lexicographical_compare(a, a + n_, b, b + n_);
    });
    const auto end =
        std::unique(starts.begin(), starts.end(),
                    [&](const TokenId* a, const TokenId* b) { return std::equal(a, a + n_, b); });
    const idx distinct = end - starts.begin();
    return Scored(Ratio(distinct, grams) - 1,
                  fmt::format("{} of {} {}-grams are distinct", distinct, grams, n_));
  }

 private:
  idx n_;
};

idx Longest(const RewardConfig& config, const std::string& where) {
  if (config.max_tokens == 0) {
    Fail(ErrorCode::kUsage, "{}.max_tokens: is 0; give the longest answer in tokens", where);
  }
  return config.max_tokens;
}

}  // namespace

std::unique_ptr<Reward> MakeLengthReward(const RewardConfig& config, const std::string& where) {
  return std::make_unique<LengthReward>(Longest(config, where));
}

std::unique_ptr<Reward> MakeOverlongReward(const RewardConfig& config, const std::string& where) {
  const idx longest = Longest(config, where);
  if (config.buffer_tokens < 1 || config.buffer_tokens > longest) {
    Fail(ErrorCode::kUsage, "{}.buffer_tokens = {}: must be from 1 to max_tokens = {}", where,
         config.buffer_tokens, longest);
  }
  return std::make_unique<OverlongReward>(longest, config.buffer_tokens);
}

std::unique_ptr<Reward> MakeRepetitionReward(const RewardConfig& config, const std::string&) {
  return std::make_unique<RepetitionReward>(config.ngram);
}

}  // namespace opo
