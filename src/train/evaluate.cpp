#include "train/evaluate.h"

#include "base/error.h"
#include "eval/summary.h"
#include "train/exchange.h"
#include "train/reference.h"

namespace opo {
namespace {

Answer AnswerOf(const Problem& problem, idx number, idx sample, const Rollout& rollout,
                bool with_reference, bool judged) {
  Answer answer;
  answer.problem = number;
  answer.sample = sample;
  const auto& last = problem.messages.back();
  const auto content = last.find("content");
  if (content != last.end() && content->is_string()) answer.prompt = content->get<std::string>();
  answer.gold = problem.answer;
  answer.text = rollout.text;
  answer.length = rollout.length();
  answer.finish = rollout.finish;
  answer.reward = rollout.scores.total;
  if (judged) {
    // Without the judge, which applies to every answer.
    const std::optional<RewardResult>& own = rollout.scores.terms.front();
    if (own->verdict != Verdict::kScored) answer.reward = *own;
    answer.judge = rollout.scores.values.back().value_or(0);
  }
  for (const float h : rollout.entropies) answer.entropy += h;
  if (with_reference) {
    KlSums& kl = answer.kl.emplace();
    for (std::size_t t = 0; t < rollout.logprobs.size(); ++t) {
      kl.Add(rollout.logprobs[t], rollout.reference_logprobs[t]);
    }
  }
  return answer;
}

}  // namespace

std::vector<RolloutGroup> GroupsToEvaluate(const PromptRenderer& prompts,
                                           std::span<const Problem> problems, std::size_t first,
                                           std::size_t count, idx samples) {
  std::vector<RolloutGroup> groups;
  for (std::size_t i = first; i < first + count; ++i) {
    RolloutGroup& group = groups.emplace_back();
    group.problem = group.number = static_cast<idx>(i);
    group.prompt = prompts.Render(problems[i].messages);
    group.key = PromptKey(problems[i].id, group.prompt, 0);
    group.rollouts.resize(static_cast<std::size_t>(samples));
  }
  return groups;
}

template <class T>
EvalResult Evaluate(Transformer<T>& model, const Tokenizer& tokenizer,
                    const PromptRenderer& prompts, std::span<const Problem> problems,
                    RewardSet& reward, const EvalSettings& settings, Comm& comm,
                    Transformer<T>* reference) {
  std::vector<RolloutGroup> groups =
      GroupsToEvaluate(prompts, problems, 0, problems.size(), settings.samples);
  SamplingConfig sampling = settings.sampling;
  sampling.step = kEvaluationStep;
  ShareGroups(comm, groups, InTurn(comm, groups.size()), [&](std::span<RolloutGroup> own) {
    Generate(model, tokenizer, own, sampling, settings.on_token);
    ScoreGroups(own, problems, prompts, reward, settings.place);
    if (reference == nullptr) return;
    std::vector<const RolloutGroup*> sampled;
    for (const RolloutGroup& group : own) sampled.push_back(&group);
    BatchLogProbs logprobs = ScoreAgain(*reference, sampled, sampling.inv_temperature());
    for (std::size_t g = 0; g < own.size(); ++g) {
      for (std::size_t s = 0; s < own[g].rollouts.size(); ++s) {
        own[g].rollouts[s].reference_logprobs = std::move(logprobs[g][s]);
      }
    }
  });
  if (settings.place.journal != nullptr) settings.place.journal->Share(comm);
  EvalResult result;
  double sum = 0;
  idx scored = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    for (std::size_t sample = 0; sample < groups[i].rollouts.size(); ++sample) {
      const Rollout& rollout = groups[i].rollouts[sample];
      if (rollout.scored()) {
        sum += rollout.reward;
        ++scored;
      }
      result.answers.push_back(AnswerOf(problems[i], static_cast<idx>(i), static_cast<idx>(sample),
                                        rollout, reference != nullptr, settings.judged));
    }
  }
  result.pass_rate = scored > 0 ? sum / static_cast<double>(scored) : 0;
  return result;
}

void PutEvalMetrics(const EvalResult& result, const std::string& source, idx samples,
                    nlohmann::ordered_json& metrics) {
  metrics[fmt::format("val-core/{}/reward/mean@{}", source, samples)] = result.pass_rate;
  const std::string aux = fmt::format("val-aux/{}/", source);
  const std::vector<ProblemScore> scores = ScoreProblems(result.answers, samples, kPassThreshold);
  for (const idx k : PowersUpTo(samples)) {
    const std::optional<double> pass = MeanOf(PassValues(scores, k));
    if (pass) metrics[fmt::format("{}reward/pass@{}", aux, k)] = *pass;
  }
  const LengthSummary length = SummariseLengths(result.answers, samples);
  if (length.mean) metrics[aux + "response_length/mean"] = *length.mean;
  metrics[aux + "response_length/clip_ratio"] = length.truncated;
  if (length.entropy) metrics[aux + "entropy"] = *length.entropy;
}

template EvalResult Evaluate<float>(Transformer<float>&, const Tokenizer&, const PromptRenderer&,
                                    std::span<const Problem>, RewardSet&, const EvalSettings&,
                                    Comm&, Transformer<float>*);
template EvalResult Evaluate<bf16>(Transformer<bf16>&, const Tokenizer&, const PromptRenderer&,
                                   std::span<const Problem>, RewardSet&, const EvalSettings&, Comm&,
                                   Transformer<bf16>*);

}  // namespace opo
