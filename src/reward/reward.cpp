#include "reward/reward.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "math/judge.h"
#include "reward/kinds.h"

namespace opo {
namespace {

struct Kind {
  const char* name;
  MakeRewardKind* make;
  std::vector<std::string> settings;  // that it takes, beside those of every kind
};

const std::vector<Kind>& Kinds() {
  static const std::vector<Kind> kinds = {
      {"number", MakeNumberReward, {}},
      {"exact", MakeExactReward, {}},
      {"math", MakeMathReward, {}},
      {"choice", MakeChoiceReward, {}},
      {"regex", MakeRegexReward, {"pattern"}},
      {"format", MakeFormatReward, {"pattern"}},
      {"countdown", MakeCountdownReward, {}},
      {"length", MakeLengthReward, {"max_tokens"}},
      {"overlong", MakeOverlongReward, {"max_tokens", "buffer_tokens"}},
      {"repetition", MakeRepetitionReward, {"ngram"}},
      {"program", MakeProgramReward, {"command", "workers", "timeout_s", "cpu_s", "output_kb"}},
      {"http", MakeHttpReward, {"url", "batch", "retries", "timeout_s", "output_kb"}},
      {"code", MakeCodeReward, {"workers", "timeout_s", "cpu_s", "memory_mb", "output_kb"}},
      {"model", MakeModelReward, {"path"}},
  };
  return kinds;
}

const std::set<std::string> kCommonSettings = {
    "kind", "name", "weight", "on_error", "error_score", "error_limit", "normalize", "clip"};

const Kind& FindKind(const std::string& name, const std::string& where) {
  for (const Kind& kind : Kinds()) {
    if (name == kind.name) return kind;
  }
  const std::string near = NearestName(name, RewardKinds());
  Fail(ErrorCode::kUsage, "{}.kind = \"{}\": unknown; {}known are: {}", where, name,
       near.empty() ? "" : fmt::format("did you mean \"{}\"? ", near),
       fmt::join(RewardKinds(), ", "));
}

// A setting that the kind does not take would be ignored: refused.
void CheckSettings(const Kind& kind, RewardConfig config, const std::string& where) {
  RewardConfig plain;
  for (const std::string& key : FieldsOf(config).Changed(FieldsOf(plain))) {
    const auto& takes = kind.settings;
    if (kCommonSettings.count(key) || std::find(takes.begin(), takes.end(), key) != takes.end()) {
      continue;
    }
    Fail(ErrorCode::kUsage, "{}.{}: the kind \"{}\" takes none; remove it", where, key, kind.name);
  }
}

}  // namespace

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos:
      return "eos";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
  }
  OPO_CHECK(false);
}

const char* VerdictName(Verdict verdict) {
  switch (verdict) {
    case Verdict::kScored:
      return "scored";
    case Verdict::kSkipped:
      return "skipped";
    case Verdict::kError:
      return "error";
  }
  OPO_CHECK(false);
}

void VisitFields(Fields& f, RewardConfig& c) {
  f.Field("kind", c.kind, "how answers are scored", OneOf(RewardKinds()));
  f.Field("name", c.name, "in the metrics; empty: the kind");
  f.Field("weight", c.weight, "factor in the sum");
  f.Field("on_error", c.on_error,
          "an answer that cannot be scored ends the run, is left out, or gets error_score",
          OneOf({"fail", "skip", "score"}));
  f.Field("error_score", c.error_score, "of such an answer, if on_error = \"score\"");
  f.Field("error_limit", c.error_limit,
          "larger part of a step's answers that may not fail, whatever on_error says", Range(0, 1));
  f.Field("pattern", c.pattern, "regular expression (PCRE2) of regex and format");
  f.Field("max_tokens", c.max_tokens, "longest answer of length and overlong; 0: max_new_tokens",
          Range(0, 1 << 20));
  f.Field("buffer_tokens", c.buffer_tokens,
          "overlong: the last tokens before max_tokens, over which the penalty grows to 1",
          Range(0, 1 << 20));
  f.Field("ngram", c.ngram, "repetition: tokens of what may not be repeated", Range(1, 64));
  f.Field("command", c.command, "program: what to start, with its arguments");
  f.Field("url", c.url, "http: where to post to");
  f.Field("workers", c.workers, "program, code: processes at a time; 0: one a thread",
          Range(0, 256));
  f.Field("batch", c.batch, "http: answers a request", Range(1, 65536));
  f.Field("retries", c.retries, "http: further tries of a request that failed", Range(0, 100));
  f.Field("timeout_s", c.timeout_s, "program, http, code: wall time of a call", Range(0.01, 86400));
  f.Field("cpu_s", c.cpu_s, "program, code: CPU time of a call; 0: timeout_s", Range(0, 86400));
  f.Field("memory_mb", c.memory_mb, "code: address space of a process; 0: any", Range(0, 1 << 20));
  f.Field("output_kb", c.output_kb, "program, http, code: largest output of a call",
          Range(1, 1 << 20));
  f.Field("path", c.path,
          "model: the reward model's folder, with a value head (...ForSequenceClassification)");
  f.Field("normalize", c.normalize,
          "training divides the values by their running deviation (scale), or takes away their "
          "running mean before (whiten)",
          OneOf({"none", "scale", "whiten"}));
  f.Field("clip", c.clip, "then brings them to [-clip, clip]; 0: no", Range(0, 1e12));
}

void SetMaxTokens(std::span<RewardConfig> terms, idx max_new_tokens) {
  for (RewardConfig& term : terms) {
    const bool by_length = term.kind == "length" || term.kind == "overlong";
    if (by_length && term.max_tokens == 0) term.max_tokens = max_new_tokens;
  }
}

std::vector<std::string> RewardKinds() {
  std::vector<std::string> names;
  for (const Kind& kind : Kinds()) names.emplace_back(kind.name);
  return names;
}

bool ReadsAnswers(const std::string& kind) {
  static const std::set<std::string> kinds = {"number", "exact", "math", "choice", "countdown"};
  return kinds.count(kind) > 0;
}

std::string AnswerFound(const std::string& kind, std::string_view gold,
                        std::string_view completion) {
  if (kind == "number") return LastNumber(completion).value_or("");
  if (kind == "exact") return std::string(Trim(completion));
  if (kind == "choice") {
    const char letter = ChosenLetter(completion);
    return letter == 0 ? std::string() : std::string(1, letter);
  }
  OPO_CHECK(ReadsAnswers(kind));
  return JudgeMath(gold, completion).extracted;
}

void RuleReward::Score(std::span<const RewardQuery> queries, std::span<RewardResult> results,
                       const ScoredCallback& on_scored) {
  ParallelFor(static_cast<idx>(queries.size()), [&](idx i) {
    const auto at = static_cast<std::size_t>(i);
    results[at] = Judge(queries[at]);
  });
  for (std::size_t i = 0; i < queries.size(); ++i) on_scored(i);
}

RewardSet::RewardSet(const std::vector<RewardConfig>& terms, bool asks) {
  if (terms.empty()) Fail(ErrorCode::kUsage, "reward: there is none; write a [[reward]] section");
  std::set<std::string> names;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    RewardConfig config = terms[i];
    const std::string where = fmt::format("reward.{}", i);
    for (const auto& [key, value] :
         {std::pair{"weight", config.weight}, std::pair{"error_score", config.error_score}}) {
      if (!std::isfinite(value)) {
        Fail(ErrorCode::kUsage, "{}.{}: must be finite, but is {}", where, key, value);
      }
    }
    const Kind& kind = FindKind(config.kind, where);
    CheckSettings(kind, config, where);
    if (config.name.empty()) config.name = config.kind;
    if (!names.insert(config.name).second) {
      Fail(ErrorCode::kUsage,
           "{}.name: there is another term \"{}\"; give each a name, for the metrics", where,
           config.name);
    }
    terms_.push_back({config, asks ? kind.make(config, where) : nullptr});
  }
}

void RewardSet::Score(std::span<const RewardQuery> queries, std::span<RewardScores> scores,
                      const std::function<void(std::size_t, std::size_t)>& on_scored) {
  OPO_CHECK(queries.size() == scores.size());
  const auto tell = [&](std::size_t term, std::size_t query) {
    if (on_scored) on_scored(term, query);
  };
  for (RewardScores& s : scores) s.terms.resize(terms_.size());
  for (std::size_t t = 0; t < terms_.size(); ++t) {
    const RewardConfig& config = terms_[t].config;
    std::vector<std::size_t> asked;
    std::vector<RewardQuery> unknown;
    for (std::size_t i = 0; i < queries.size(); ++i) {
      if (scores[i].terms[t].has_value()) continue;
      asked.push_back(i);
      unknown.push_back(queries[i]);
    }
    std::vector<RewardResult> results(unknown.size());
    const auto explain = [&](std::size_t i, const RewardResult& result) {
      return fmt::format("problem {}, {}; the answer was: {}",
                         queries[i].problem.id.empty() ? "without an id" : queries[i].problem.id,
                         result.note, queries[i].completion);
    };
    const auto take = [&](std::size_t k) {
      RewardResult& result = results[k];
      if (result.verdict == Verdict::kScored && !std::isfinite(result.value)) {
        result = RewardError("nonfinite", fmt::format("its value is {}", result.value));
      }
      if (result.verdict == Verdict::kError && config.on_error == "fail") {
        Fail(ErrorCode::kWork,
             "the reward \"{}\" failed ({}): {}\nreward.{}.on_error = \"skip\" or \"score\" would "
             "go on",
             config.name, result.reason, explain(asked[k], result), t);
      }
      scores[asked[k]].terms[t] = result;
      if (result.verdict != Verdict::kError) tell(t, asked[k]);
    };
    OPO_CHECK(terms_[t].reward != nullptr || unknown.empty());
    if (!unknown.empty()) terms_[t].reward->Score(unknown, results, take);
    idx errors = 0;
    std::size_t last = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      OPO_CHECK(scores[i].terms[t].has_value());
      if (scores[i].terms[t]->verdict != Verdict::kError) continue;
      ++errors;
      last = i;
    }
    const double part = static_cast<double>(errors) / static_cast<double>(scores.size());
    if (errors > 0 && part > config.error_limit) {
      Fail(ErrorCode::kWork,
           "the reward \"{}\" failed on {} of {} answers, more than reward.{}.error_limit = {}; "
           "the last ({}): {}",
           config.name, errors, scores.size(), t, config.error_limit, scores[last].terms[t]->reason,
           explain(last, *scores[last].terms[t]));
    }
    for (const std::size_t i : asked) {
      if (scores[i].terms[t]->verdict == Verdict::kError) tell(t, i);
    }
  }
  for (RewardScores& s : scores) Sum(s);
}

void RewardSet::Sum(RewardScores& scores) const {
  RewardResult& total = scores.total = {};
  scores.values.assign(terms_.size(), std::nullopt);
  bool any = false;
  for (std::size_t t = 0; t < terms_.size(); ++t) {
    const RewardConfig& config = terms_[t].config;
    const RewardResult& term = *scores.terms[t];
    total.note += (total.note.empty() ? "" : "; ") + term.note;
    if (term.verdict == Verdict::kSkipped) continue;
    any = true;
    if (term.verdict == Verdict::kError && config.on_error == "skip") {
      total.verdict = Verdict::kError;
      total.reason = term.reason;
      continue;
    }
    scores.values[t] = term.verdict == Verdict::kError ? config.error_score : term.value;
    total.value += config.weight * *scores.values[t];
  }
  if (!any) total.verdict = Verdict::kSkipped;
  if (total.verdict != Verdict::kScored) total.value = 0;
}

void RewardSet::Prepare(const Tokenizer& policy, DType dtype) {
  for (const Term& term : terms_) {
    if (term.reward != nullptr) term.reward->Prepare(policy, dtype);
  }
}

std::map<std::string, std::string> RewardSet::Digests() const {
  std::map<std::string, std::string> digests;
  for (const Term& term : terms_) {
    const std::string digest = term.reward == nullptr ? "" : term.reward->Digest();
    if (!digest.empty()) digests[term.config.name] = digest;
  }
  return digests;
}

void RunningMoments::Add(std::span<const double> values) {
  if (values.empty()) return;
  const auto n = static_cast<double>(values.size());
  double own_mean = 0;
  double own_sum = 0;  // of squares
  for (const double v : values) own_mean += v;
  own_mean /= n;
  for (const double v : values) own_sum += (v - own_mean) * (v - own_mean);
  const double all = count + n;
  const double delta = own_mean - mean;
  var = (own_sum + var * count + delta * delta * count * n / all) / all;
  mean += delta * n / all;
  count = all;
}

double RunningMoments::std() const {
  constexpr double kLeast = 1e-8;  // what the first count leaves of equal values is below
  const double std = count > 1 ? std::sqrt(var * count / (count - 1)) : 0;
  return std > kLeast ? std : 1;
}

double RewardSet::Term::Normalized(double value) const {
  if (config.normalize == "whiten") value -= moments.mean;
  if (has_moments()) value /= moments.std();
  return config.clip > 0 ? std::clamp(value, -config.clip, config.clip) : value;
}

bool RewardSet::normalizes() const {
  return std::any_of(terms_.begin(), terms_.end(), [](const Term& t) { return t.changes(); });
}

void RewardSet::Normalize(std::span<RewardScores* const> batch,
                          std::span<RewardScores* const> others) {
  for (std::size_t t = 0; t < terms_.size(); ++t) {
    Term& term = terms_[t];
    if (!term.changes()) continue;
    std::vector<double> values;
    for (const RewardScores* scores : batch) {
      if (scores->values[t]) values.push_back(*scores->values[t]);
    }
    if (term.has_moments()) term.moments.Add(values);
    for (const auto& list : {batch, others}) {
      for (RewardScores* scores : list) {
        if (!scores->values[t]) continue;
        scores->terms[t]->logged.emplace_back("score", *scores->values[t]);
        scores->values[t] = term.Normalized(*scores->values[t]);
      }
    }
  }
  for (const auto& list : {batch, others}) {
    for (RewardScores* scores : list) {
      if (scores->total.verdict != Verdict::kScored) continue;
      double& total = scores->total.value = 0;
      for (std::size_t t = 0; t < terms_.size(); ++t) {
        if (scores->values[t]) total += terms_[t].config.weight * *scores->values[t];
      }
    }
  }
}

std::map<std::string, RunningMoments> RewardSet::moments() const {
  std::map<std::string, RunningMoments> all;
  for (const Term& term : terms_) {
    if (term.has_moments()) all[term.config.name] = term.moments;
  }
  return all;
}

void RewardSet::SetMoments(const std::map<std::string, RunningMoments>& moments,
                           const std::string& where) {
  for (Term& term : terms_) {
    if (!term.has_moments()) continue;
    const auto it = moments.find(term.config.name);
    if (it == moments.end()) {
      Fail(ErrorCode::kInput, "{}: has no running moments of the reward \"{}\"; begin a new run",
           where, term.config.name);
    }
    term.moments = it->second;
  }
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::optional<std::string_view> LastTag(std::string_view text, std::string_view tag) {
  const std::string open = fmt::format("<{}>", tag);
  const std::string close = fmt::format("</{}>", tag);
  const std::size_t end = text.rfind(close);
  if (end == std::string_view::npos) return std::nullopt;
  const std::size_t begin = text.substr(0, end).rfind(open);
  if (begin == std::string_view::npos) return std::nullopt;
  return text.substr(begin + open.size(), end - begin - open.size());
}

std::string Excerpt(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  if (text.size() <= kLongest) return fmt::format("'{}'", text);
  std::size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return fmt::format("'{}...'", text.substr(0, end));
}

}  // namespace opo
