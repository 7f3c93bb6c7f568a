#include "eval/summary.h"

#include <fmt/format.h>

#include <set>

#include "base/error.h"
#include "base/parallel.h"
#include "eval/votes.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

ordered_json Json(const std::optional<double>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json Json(const std::optional<Interval>& interval) {
  if (!interval) return nullptr;
  return {{"value", interval->value}, {"low", interval->low}, {"high", interval->high}};
}

std::set<idx> With(const std::vector<idx>& ks, idx k) {
  std::set<idx> all(ks.begin(), ks.end());
  all.insert(k);
  return all;
}

idx ProblemsOf(std::span<const Answer> answers, idx samples) {
  OPO_CHECK(samples >= 1 && static_cast<idx>(answers.size()) % samples == 0);
  return static_cast<idx>(answers.size()) / samples;
}

std::span<const Answer> Of(std::span<const Answer> answers, idx samples, idx problem) {
  return answers.subspan(static_cast<std::size_t>(problem * samples),
                         static_cast<std::size_t>(samples));
}

// The mean over the problems that have a value.
std::optional<double> MeanOfSome(std::span<const std::optional<double>> values) {
  std::vector<double> there;
  for (const auto& value : values) {
    if (value) there.push_back(*value);
  }
  return MeanOf(there);
}

ordered_json KlOf(std::span<const Answer> answers) {
  double k1 = 0;
  double k3 = 0;
  double tokens = 0;
  for (const Answer& a : answers) {
    k1 += a.kl->k1;
    k3 += a.kl->k3;
    tokens += static_cast<double>(a.length);
  }
  const auto n = static_cast<double>(answers.size());
  if (tokens == 0) return nullptr;
  return {{"k1_token", k1 / tokens},
          {"k3_token", k3 / tokens},
          {"k1_sequence", k1 / n},
          {"k3_sequence", k3 / n}};
}

// What the texts of one problem's answers say.
struct TextScores {
  std::optional<double> self_bleu;
  std::vector<std::optional<double>> distinct;
  std::vector<double> repetition;  // sums over the answers
  double diversity = 0;
  PhraseCounts phrases;
};

constexpr idx kLongestDistinct = 4;

TextScores ScoreTexts(std::span<const Answer> answers, const SummarySettings& settings) {
  TextScores scores;
  std::vector<std::string> texts;
  std::vector<std::vector<std::string>> words;
  scores.repetition.resize(settings.repetition.size());
  for (const Answer& a : answers) {
    texts.push_back(a.text);
    const auto& own = words.emplace_back(Words(a.text));
    for (std::size_t i = 0; i < settings.repetition.size(); ++i) {
      scores.repetition[i] += RepetitionN(own, settings.repetition[i]);
    }
    scores.diversity += Diversity(own);
    const PhraseCounts phrases = CountPhrases(a.text);
    scores.phrases.self_check += phrases.self_check;
    scores.phrases.backtracking += phrases.backtracking;
  }
  scores.self_bleu = SelfBleu(texts, settings.bleu);
  for (idx n = 1; n <= kLongestDistinct; ++n) scores.distinct.push_back(DistinctN(words, n));
  return scores;
}

void PutTexts(std::span<const Answer> answers, idx problems, const SummarySettings& settings,
              ordered_json& out) {
  std::vector<TextScores> scores(static_cast<std::size_t>(problems));
  ParallelFor(problems, [&](idx p) {
    scores[static_cast<std::size_t>(p)] = ScoreTexts(Of(answers, settings.samples, p), settings);
  });
  const auto n = static_cast<double>(answers.size());
  std::vector<std::optional<double>> values;
  const auto mean = [&](const auto& value) {
    values.clear();
    for (const TextScores& s : scores) values.push_back(value(s));
    return Json(MeanOfSome(values));
  };
  const auto per_answer = [&](const auto& value) {
    double sum = 0;
    for (const TextScores& s : scores) sum += static_cast<double>(value(s));
    return sum / n;
  };
  out["self_bleu"] = mean([](const TextScores& s) { return s.self_bleu; });
  for (std::size_t i = 0; i < kLongestDistinct; ++i) {
    out[fmt::format("distinct_{}", i + 1)] =
        mean([&](const TextScores& s) { return s.distinct[i]; });
  }
  for (std::size_t i = 0; i < settings.repetition.size(); ++i) {
    out[fmt::format("rep_{}", settings.repetition[i])] =
        per_answer([&](const TextScores& s) { return s.repetition[i]; });
  }
  out["diversity"] = per_answer([](const TextScores& s) { return s.diversity; });
  out["phrases"] = {
      {"self_check", per_answer([](const TextScores& s) { return s.phrases.self_check; })},
      {"backtracking", per_answer([](const TextScores& s) { return s.phrases.backtracking; })}};
}

ordered_json PerProblem(std::span<const std::string> ids, std::span<const Answer> answers,
                        std::span<const ProblemScore> scores, idx samples) {
  ordered_json list = ordered_json::array();
  for (std::size_t p = 0; p < scores.size(); ++p) {
    idx tokens = 0;
    idx truncated = 0;
    for (const Answer& a : Of(answers, samples, static_cast<idx>(p))) {
      tokens += a.length;
      truncated += a.truncated() ? 1 : 0;
    }
    ordered_json line;
    line["id"] = ids[p];
    line["correct"] = scores[p].correct;
    line["n"] = scores[p].n;
    line["reward_mean"] = scores[p].n > 0 ? ordered_json(scores[p].reward_mean) : ordered_json();
    line["length_mean"] = static_cast<double>(tokens) / static_cast<double>(samples);
    line["truncated"] = truncated;
    list.push_back(std::move(line));
  }
  return list;
}

}  // namespace

std::vector<ProblemScore> ScoreProblems(std::span<const Answer> answers, idx samples,
                                        double pass_threshold) {
  std::vector<ProblemScore> scores(static_cast<std::size_t>(ProblemsOf(answers, samples)));
  for (std::size_t p = 0; p < scores.size(); ++p) {
    ProblemScore& score = scores[p];
    for (const Answer& a : Of(answers, samples, static_cast<idx>(p))) {
      if (!a.scored()) continue;
      ++score.n;
      score.correct += a.reward.value >= pass_threshold ? 1 : 0;
      score.reward_mean += a.reward.value;
    }
    if (score.n > 0) score.reward_mean /= static_cast<double>(score.n);
  }
  return scores;
}

std::vector<double> PassValues(std::span<const ProblemScore> problems, idx k) {
  std::vector<double> values;
  for (const ProblemScore& p : problems) {
    if (p.n >= k) values.push_back(PassAtK(p.n, p.correct, k));
  }
  return values;
}

LengthSummary SummariseLengths(std::span<const Answer> answers, idx samples) {
  LengthSummary summary;
  std::vector<double> lengths;
  double tokens = 0;
  double entropy = 0;
  for (const Answer& a : answers) {
    lengths.push_back(static_cast<double>(a.length));
    tokens += lengths.back();
    entropy += a.entropy;
    summary.truncated += a.truncated() ? 1 : 0;
  }
  if (answers.empty()) return summary;
  summary.truncated /= static_cast<double>(answers.size());
  summary.mean = MeanOf(lengths);
  summary.std = DeviationOf(lengths);
  if (tokens > 0) summary.entropy = entropy / tokens;
  std::vector<double> within;
  for (idx p = 0; p < ProblemsOf(answers, samples); ++p) {
    const std::span<const double> own(lengths.data() + p * samples,
                                      static_cast<std::size_t>(samples));
    const double mean = *MeanOf(own);
    const auto deviation = DeviationOf(own);
    if (deviation && mean > 0) within.push_back(*deviation / mean);
  }
  summary.cv_within = MeanOf(within);
  return summary;
}

double WinRate(std::span<const Answer> answers, std::span<const Answer> others) {
  double wins = 0;
  for (const Answer& a : answers) {
    for (const Answer& b : others) {
      wins += *a.judge > *b.judge ? 1 : *a.judge == *b.judge ? 0.5 : 0;
    }
  }
  return wins / static_cast<double>(answers.size() * others.size());
}

ordered_json SummariseSet(const std::string& name, std::span<const std::string> ids,
                          std::span<const Answer> answers, const SummarySettings& settings,
                          std::span<const Answer> others, idx other_samples) {
  const idx n = settings.samples;
  const std::vector<ProblemScore> scores = ScoreProblems(answers, n, settings.pass_threshold);
  const auto problems = static_cast<idx>(scores.size());
  OPO_CHECK(ids.size() == scores.size());
  ordered_json out;
  out["name"] = name;
  out["problems"] = problems;
  out["answers"] = answers.size();
  std::vector<double> means;
  std::vector<double> rewards;
  std::vector<double> lengths;
  for (const ProblemScore& score : scores) {
    if (score.n > 0) means.push_back(score.reward_mean);
  }
  for (const Answer& a : answers) {
    if (!a.scored()) continue;
    rewards.push_back(a.reward.value);
    lengths.push_back(static_cast<double>(a.length));
  }
  out["scored"] = rewards.size();
  out[fmt::format("mean@{}", n)] = Json(BootstrapMean(means, settings.seed));
  for (const idx k : With(settings.k, 1)) {
    out[fmt::format("pass@{}", k)] = Json(BootstrapMean(PassValues(scores, k), settings.seed));
  }
  std::vector<std::vector<VoteClass>> classes(scores.size());
  const bool votes = ReadsAnswers(settings.reward);
  if (votes) {
    ParallelFor(problems, [&](idx p) {
      classes[static_cast<std::size_t>(p)] =
          VoteClasses(settings.reward, Of(answers, n, p), settings.pass_threshold);
    });
  }
  for (const idx k : With(settings.k, n)) {
    if (k < n && n > kMaxVoters) continue;
    std::vector<double> values(scores.size(), -1);
    if (votes) {
      ParallelFor(problems, [&](idx p) {
        const auto at = static_cast<std::size_t>(p);
        if (scores[at].n >= k) values[at] = MajorityAtK(classes[at], scores[at].n, k);
      });
    }
    std::erase(values, -1.0);
    out[fmt::format("maj@{}", k)] = Json(BootstrapMean(values, settings.seed));
  }
  const LengthSummary length = SummariseLengths(answers, n);
  out["length"] = {{"mean", Json(length.mean)},
                   {"std", Json(length.std)},
                   {"cv_within", Json(length.cv_within)}};
  out["entropy"] = Json(length.entropy);
  out["truncated"] = length.truncated;
  if (!answers.empty() && answers.front().kl) out["kl"] = KlOf(answers);
  if (!answers.empty() && answers.front().judge) {
    std::vector<double> scores_of_judge;
    std::vector<double> wins;
    for (idx p = 0; p < problems; ++p) {
      double sum = 0;
      for (const Answer& a : Of(answers, n, p)) sum += *a.judge;
      scores_of_judge.push_back(sum / static_cast<double>(n));
      if (others.empty()) continue;
      wins.push_back(WinRate(Of(answers, n, p), Of(others, other_samples, p)));
    }
    out["judge"] = Json(BootstrapMean(scores_of_judge, settings.seed));
    if (!others.empty()) out["win_rate"] = Json(BootstrapMean(wins, settings.seed));
  }
  PutTexts(answers, problems, settings, out);
  out["reward_length_correlation"] = Json(CorrelationOf(rewards, lengths));
  out["per_problem"] = PerProblem(ids, answers, scores, n);
  return out;
}

}  // namespace opo
