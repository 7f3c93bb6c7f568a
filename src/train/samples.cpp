#include "train/samples.h"

#include <algorithm>
#include <cmath>

#include "base/utf8.h"

namespace opo {

using nlohmann::ordered_json;

namespace {
// The text, or the whole characters of its beginning; sets `cut` where that is less.
std::string Bounded(std::string text, bool& cut) {
  if (text.size() <= kSampleTextBytes) return text;
  cut = true;
  std::size_t end = 0;
  for (std::size_t next = 0; next <= kSampleTextBytes; next += NextUtf8(text, next).size) {
    end = next;
  }
  text.resize(end);
  return text;
}

double Rounded(double x) { return std::round(x * 1e4) / 1e4; }

// Of the first n tokens.
ordered_json TokensOf(const Rollout& rollout, std::size_t n, const Tokenizer& tokenizer) {
  ordered_json text = ordered_json::array();
  ordered_json logprob = ordered_json::array();
  ordered_json entropy = ordered_json::array();
  ordered_json advantage = ordered_json::array();
  StreamDecoder decoder(tokenizer);
  for (std::size_t t = 0; t < n; ++t) {
    std::string piece = decoder.Push(rollout.tokens[t]);
    if (t + 1 == rollout.tokens.size()) piece += decoder.Flush();
    text.push_back(std::move(piece));
    if (!rollout.logprobs.empty()) {
      logprob.push_back(Rounded(static_cast<double>(rollout.logprobs[t])));
      entropy.push_back(Rounded(static_cast<double>(rollout.entropies[t])));
    }
    if (!rollout.token_advantages.empty()) {
      advantage.push_back(Rounded(rollout.token_advantages[t]));
    }
  }
  ordered_json tokens = {{"text", text}};
  if (!logprob.empty()) {
    tokens["logprob"] = logprob;
    tokens["entropy"] = entropy;
  }
  if (!advantage.empty()) tokens["advantage"] = advantage;
  return tokens;
}

// How many tokens of each answer are written, by group and sample.
std::vector<std::vector<std::size_t>> ShareTokens(std::span<const RolloutGroup> groups, idx room) {
  std::size_t left = static_cast<std::size_t>(room);
  std::vector<std::vector<std::size_t>> shares(groups.size());
  for (const bool learns : {true, false}) {
    for (std::size_t g = 0; g < groups.size(); ++g) {
      const std::vector<Rollout>& rollouts = groups[g].rollouts;
      shares[g].resize(rollouts.size());
      const bool does = std::any_of(rollouts.begin(), rollouts.end(),
                                    [](const Rollout& r) { return r.has_advantage(); });
      if (does != learns) continue;
      for (std::size_t s = 0; s < rollouts.size(); ++s) {
        shares[g][s] = std::min(left, rollouts[s].tokens.size());
        left -= shares[g][s];
      }
    }
  }
  return shares;
}
}  // namespace

std::vector<ordered_json> SampleLines(idx step, std::span<const RolloutGroup> groups,
                                      std::span<const Problem> problems,
                                      const PromptRenderer& prompts, const Tokenizer& tokenizer,
                                      const MonitorConfig& config) {
  groups = groups.first(std::min(groups.size(), static_cast<std::size_t>(config.samples_per_step)));
  const auto shares = ShareTokens(groups, config.tokens_per_step);
  std::vector<ordered_json> lines;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const Problem& problem = problems[static_cast<std::size_t>(groups[g].problem)];
    bool cut_prompt = false;
    const std::string input = Bounded(prompts.RenderText(problem.messages), cut_prompt);
    const std::string gold = Bounded(problem.answer, cut_prompt);
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      const Rollout& rollout = groups[g].rollouts[s];
      bool cut = cut_prompt;
      ordered_json line;
      line["training/global_step"] = step;
      line["step"] = step;
      line["group"] = g;
      line["sample"] = s;
      line["problem"] = groups[g].problem;
      line["input"] = input;
      line["output"] = Bounded(rollout.text, cut);
      line["gts"] = gold;
      line["score"] = rollout.scores.total.value;
      line["verdict"] = VerdictName(rollout.scores.total.verdict);
      line["note"] = Bounded(rollout.scores.total.note, cut);
      line["reward"] = rollout.reward;
      line["baseline"] = rollout.baseline;
      line["advantage"] = rollout.advantage;
      line["finish_reason"] = FinishReasonName(rollout.finish);
      line["length"] = rollout.length();
      if (cut) line["cut"] = true;
      if (shares[g][s] > 0) line["tokens"] = TokensOf(rollout, shares[g][s], tokenizer);
      lines.push_back(std::move(line));
    }
  }
  return lines;
}

}  // namespace opo
