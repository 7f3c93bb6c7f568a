#include "train/evaluate.h"

#include "base/error.h"
#include "train/exchange.h"

namespace opo {

template <class T>
EvalResult Evaluate(Transformer<T>& model, const Tokenizer& tokenizer,
                    const PromptRenderer& prompts, std::span<const Problem> problems,
                    RewardSet& reward, const EvalSettings& settings, Comm& comm) {
  std::vector<RolloutGroup> groups(problems.size());
  std::vector<int> owner;
  for (std::size_t i = 0; i < problems.size(); ++i) {
    owner.push_back(static_cast<int>(i) % comm.size());
    groups[i].problem = groups[i].number = static_cast<idx>(i);
    groups[i].prompt = prompts.Render(problems[i].messages);
    groups[i].key = PromptKey(problems[i].id, groups[i].prompt, 0);
    groups[i].rollouts.resize(static_cast<std::size_t>(settings.samples));
  }
  SamplingConfig sampling = settings.sampling;
  sampling.step = kEvaluationStep;
  ShareGroups(comm, groups, owner, [&](std::span<RolloutGroup> own) {
    Generate(model, tokenizer, own, sampling, settings.on_token);
    ScoreGroups(own, problems, prompts, reward, settings.place);
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
      const auto& last = problems[i].messages.back();
      const auto content = last.find("content");
      result.answers.push_back(
          {static_cast<idx>(i), static_cast<idx>(sample),
           content != last.end() && content->is_string() ? content->get<std::string>() : "",
           problems[i].answer, rollout.text, rollout.length(), rollout.finish,
           rollout.scores.total});
    }
  }
  result.pass_rate = scored > 0 ? sum / static_cast<double>(scored) : 0;
  return result;
}

template EvalResult Evaluate<float>(Transformer<float>&, const Tokenizer&, const PromptRenderer&,
                                    std::span<const Problem>, RewardSet&, const EvalSettings&,
                                    Comm&);
template EvalResult Evaluate<bf16>(Transformer<bf16>&, const Tokenizer&, const PromptRenderer&,
                                   std::span<const Problem>, RewardSet&, const EvalSettings&,
                                   Comm&);

}  // namespace opo
