// opo data make-pairs: preferences from sampled answers and a verifier.
#include <algorithm>

#include "app/command.h"
#include "app/sampling.h"
#include "base/error.h"
#include "base/file.h"
#include "reward/reward.h"
#include "train/evaluate.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kProblemsAtOnce = 32;

struct PairArguments {
  ModelOptions model;
  SamplingOptions sampling;
  RewardOptions reward;
  std::string source;
  std::string out;
  std::string system;
  LoadOptions load;
  idx samples = 8;
  idx prompts = 0;
  bool quiet = false;
};

struct PairCounts {
  idx pairs = 0, ties = 0;
};

ordered_json Reply(const Rollout& rollout) {
  ordered_json message;
  message["role"] = "assistant";
  message["content"] = rollout.text;
  return ordered_json::array({std::move(message)});
}

// The best and the worst answer that ended by itself, of equal ones the first; nothing where they
// are equally good, or the same text.
void WritePair(const Problem& problem, const RolloutGroup& group, PartialFile& out,
               PairCounts& counts) {
  const Rollout* best = nullptr;
  const Rollout* worst = nullptr;
  for (const Rollout& rollout : group.rollouts) {
    if (!rollout.scored() || rollout.finish == FinishReason::kLength) continue;
    if (best == nullptr || rollout.reward > best->reward) best = &rollout;
    if (worst == nullptr || rollout.reward < worst->reward) worst = &rollout;
  }
  if (best == nullptr || best->reward == worst->reward || best->text == worst->text) {
    ++counts.ties;
    return;
  }
  ++counts.pairs;
  ordered_json row;
  row["prompt"] = problem.messages;
  row["chosen"] = Reply(*best);
  row["rejected"] = Reply(*worst);
  row["margin"] = best->reward - worst->reward;
  row["score_chosen"] = best->reward;
  row["score_rejected"] = worst->reward;
  if (!problem.id.empty()) row["id"] = problem.id;
  row["data_source"] = problem.data_source;
  const std::string line = row.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  out.Write(line.data(), line.size());
}

template <class T>
void RunMakePairs(const PairArguments& args) {
  std::vector<Problem> problems = LoadProblems(args.source, args.load);
  if (args.prompts > 0 && args.prompts < static_cast<idx>(problems.size())) {
    problems.resize(static_cast<std::size_t>(args.prompts));
  }
  LoadedModel<T> loaded(args.model.model);
  CheckBias(args.sampling.config, loaded.model.config().vocab_size, ErrorCode::kUsage,
            "--logit-bias");
  const PromptRenderer prompts(loaded.tokenizer, args.system);
  RewardSet rewards({args.reward.Term(args.sampling.config.max_new_tokens)});
  rewards.Prepare(loaded.tokenizer, args.model.f32() ? DType::kF32 : DType::kBf16);
  AnswerProgress progress(static_cast<idx>(problems.size()) * args.samples, args.quiet);
  SamplingConfig sampling = args.sampling.config;
  sampling.step = kEvaluationStep;
  PartialFile out(args.out);
  PairCounts counts;
  for (std::size_t first = 0; first < problems.size(); first += kProblemsAtOnce) {
    const std::size_t count = std::min(kProblemsAtOnce, problems.size() - first);
    std::vector<RolloutGroup> groups =
        GroupsToEvaluate(prompts, problems, first, count, args.samples);
    Generate(loaded.model, loaded.tokenizer, std::span<RolloutGroup>(groups), sampling,
             [&](const TokenEvent& event) { progress.Add(event); });
    ScoreGroups(groups, problems, prompts, rewards);
    for (const RolloutGroup& group : groups) {
      WritePair(problems[static_cast<std::size_t>(group.problem)], group, out, counts);
    }
  }
  if (counts.pairs == 0) {
    Fail(ErrorCode::kWork,
         "data make-pairs: none of {} problems has two answers that differ in reward and end by "
         "themselves; raise --samples or --max-new-tokens, or take other problems or another "
         "--reward",
         problems.size());
  }
  out.Commit();
  fmt::print(stderr, "{}: {} pairs; {} problems without a difference are left out\n", args.out,
             counts.pairs, counts.ties);
  PrintJsonLine({{"out", args.out},
                 {"problems", problems.size()},
                 {"pairs", counts.pairs},
                 {"ties", counts.ties}});
}

}  // namespace

void AddMakePairs(CLI::App& data, int&) {
  auto args = std::make_shared<PairArguments>();
  CLI::App* verb = data.add_subcommand(
      "make-pairs",
      "sample answers, score them, and write the best and the worst of each problem as a pair");
  verb->add_option("DATA", args->source, "problems: a data file or a built-in set")->required();
  verb->add_option("-o,--out", args->out,
                   "file to write: a line {prompt, chosen, rejected, margin}")
      ->required();
  args->model.Add(*verb);
  verb->add_option("--samples", args->samples, "answers a problem")
      ->check(CLI::Range(idx{2}, idx{4096}))
      ->capture_default_str();
  verb->add_option("--prompts", args->prompts, "problems, the first ones; 0: all")
      ->check(CLI::Range(idx{0}, idx{1'000'000'000}));
  verb->add_option("--system", args->system, "a system message put before each prompt");
  args->sampling.Add(*verb, 1.0, 256);
  args->reward.Add(*verb);
  AddProblemKeys(*verb, args->load.keys);
  verb->add_option("--size", args->load.size, "problems of a built-in set")
      ->check(CLI::Range(idx{1}, idx{10'000'000}))
      ->capture_default_str();
  verb->add_option("--data-seed", args->load.seed, "seed of a built-in set")->capture_default_str();
  verb->add_flag("--held-out", args->load.held_out, "its held-out part: a tenth of the size");
  verb->add_flag("--quiet", args->quiet, "no progress line");
  verb->callback([args] {
    CheckProblemKeys(args->load.keys);
    if (DataFormatOf(args->out) != DataFormat::kJsonLines) {
      Fail(ErrorCode::kUsage, "data make-pairs: {} must end in .jsonl", args->out);
    }
    RunInDtype(*args, RunMakePairs<bf16>, RunMakePairs<float>);
  });
}

}  // namespace opo
