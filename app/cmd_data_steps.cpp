// opo data make-steps: the two data sets of direct advantages (docs/algorithms.md). Of a model's
// solutions, cut into steps, either the states and their rates of right completions, for a critic
// (`opo rm`, algorithm step_critic), or, with that critic, the states' candidate next steps and
// what they are worth (`opo train`, algorithm direct_advantage).
#include <algorithm>
#include <fstream>
#include <set>

#include "app/command.h"
#include "app/sampling.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/logistic.h"
#include "eval/metrics.h"
#include "rollout/steps.h"
#include "train/scoring.h"

namespace opo {
namespace {

using nlohmann::ordered_json;
using Ids = std::vector<TokenId>;

struct StepArguments {
  ModelOptions model;
  SamplingOptions sampling;
  std::string source, out, critic, system;
  ProblemKeys keys;
  RewardOptions reward;
  idx prompts = 0;
  idx solutions = 8;
  idx keep = 0;
  idx completions = 8;
  idx candidates = 4;
  bool quiet = false;
};

// SamplingConfig::step of each kind of sample: they share no draw.
enum Draws : std::uint64_t { kSolutions = 0, kCompletions = 1, kCandidates = 2 };

// A problem's answer so far, a whole number of steps.
struct State {
  Ids ids;             // prompt and steps
  std::size_t prompt;  // tokens of the prompt
};

template <class T>
class StepMaker {
 public:
  explicit StepMaker(const StepArguments& args)
      : args_(args),
        policy_(args.model.model),
        prompts_(policy_.tokenizer, args.system),
        rewards_({args.reward.Term(args.sampling.config.max_new_tokens)}) {
    rewards_.Prepare(policy_.tokenizer, args.model.f32() ? DType::kF32 : DType::kBf16);
    if (args.critic.empty()) return;
    critic_.emplace(args.critic);
    const ModelConfig& config = critic_->model.config();
    if (!config.has_values || config.has_logits) {
      Fail(ErrorCode::kInput,
           "--critic {}: is no model with a score; `opo rm` with algorithm.name = \"step_critic\" "
           "makes one of what this verb writes without --critic",
           args.critic);
    }
    if (policy_.tokenizer.vocab_size() != critic_->tokenizer.vocab_size() ||
        policy_.tokenizer.FirstDifference(critic_->tokenizer) >= 0) {
      Fail(ErrorCode::kInput,
           "--critic {}: has another vocabulary than {}; train it from a model of the same family",
           args.critic, args.model.model);
    }
  }

  // Everything that rows depend on.
  std::string SettingsDigest(const std::vector<Problem>& problems) const {
    const SamplingConfig& s = args_.sampling.config;
    ordered_json all = {args_.model.model,
                        args_.model.dtype,
                        IsaFingerprint(),
                        args_.critic,
                        args_.system,
                        args_.reward.kind,
                        args_.reward.set,
                        args_.solutions,
                        args_.keep,
                        args_.completions,
                        args_.candidates,
                        s.temperature,
                        s.top_p,
                        s.top_k,
                        s.min_p,
                        s.max_new_tokens,
                        s.seed};
    for (const Problem& problem : problems) {
      all.push_back({problem.id, problem.messages, problem.answer});
    }
    return HexDigest(all.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
  }

  std::vector<ordered_json> RowsOf(std::span<const Problem> problems, idx number) {
    const Problem& problem = problems[static_cast<std::size_t>(number)];
    const std::vector<State> states = StatesOf(problems, number);
    std::vector<ordered_json> rows;
    const std::vector<std::vector<Ids>> continued = Continue(states, number);
    const std::vector<std::vector<double>> rewards = RewardsOf(problems, number, states);
    for (std::size_t i = 0; i < states.size(); ++i) {
      const State& state = states[i];
      ordered_json row = {{"problem", number}, {"id", problem.id}, {"prompt", problem.messages}};
      row["state"] = policy_.tokenizer.Decode(
          std::span(state.ids).subspan(state.prompt, state.ids.size() - state.prompt));
      row["state_ids"] = state.ids;
      if (!critic_) {
        double right = 0;
        for (const double reward : rewards[i]) right += reward >= kPassThreshold ? 1 : 0;
        row["values"] = {right / static_cast<double>(rewards[i].size())};
        row["completions"] = rewards[i].size();
        rows.push_back(std::move(row));
        continue;
      }
      if (continued[i].size() < 2) continue;  // nothing to compare
      row["step_ids"] = continued[i];
      for (const Ids& step : continued[i]) row["steps"].push_back(policy_.tokenizer.Decode(step));
      double mean = 0;
      for (const double value : rewards[i]) {
        mean += value / static_cast<double>(rewards[i].size());
      }
      row["values"] = rewards[i];
      for (const double value : rewards[i]) row["advantages"].push_back(value - mean);
      rows.push_back(std::move(row));
    }
    return rows;
  }

 private:
  RolloutGroup GroupOf(const State& state, idx samples, idx number) const {
    RolloutGroup group;
    group.prompt = state.ids;
    group.key = PromptKey("", state.ids, 0);
    group.problem = number;
    group.rollouts.resize(static_cast<std::size_t>(samples));
    // An answer has the same room whether it is sampled at once or from a state on.
    group.sampling = args_.sampling.config;
    group.sampling->max_new_tokens -= static_cast<idx>(state.ids.size() - state.prompt);
    return group;
  }
  SamplingConfig Sampling(Draws draws) const {
    SamplingConfig sampling = args_.sampling.config;
    sampling.step = draws;
    return sampling;
  }
  void Sample(std::vector<RolloutGroup>& groups, Draws draws,
              const std::vector<std::string>& stop = {}) {
    for (RolloutGroup& group : groups) {
      group.sampling->step = draws;
      group.sampling->stop = stop;
    }
    Generate(policy_.model, policy_.tokenizer, std::span(groups), Sampling(draws));
  }
  // Whole answers, from a state on and before it, to their rewards.
  void Reward(std::span<const Problem> problems, std::vector<RolloutGroup>& groups,
              std::span<const State> states) {
    std::vector<RolloutGroup> whole = groups;
    for (std::size_t g = 0; g < whole.size(); ++g) {
      const State& state = states[g];
      for (Rollout& rollout : whole[g].rollouts) {
        Ids answer(state.ids.begin() + static_cast<std::ptrdiff_t>(state.prompt), state.ids.end());
        answer.insert(answer.end(), rollout.tokens.begin(), rollout.tokens.end());
        rollout.text = policy_.tokenizer.Decode(answer);
        rollout.tokens = std::move(answer);
      }
    }
    ScoreGroups(whole, problems, prompts_, rewards_);
    for (std::size_t g = 0; g < whole.size(); ++g) {
      for (std::size_t s = 0; s < whole[g].rollouts.size(); ++s) {
        groups[g].rollouts[s].reward = whole[g].rollouts[s].reward;
      }
    }
  }

  std::vector<State> StatesOf(std::span<const Problem> problems, idx number) {
    const Problem& problem = problems[static_cast<std::size_t>(number)];
    const Ids prompt = prompts_.Render(problem.messages);
    const State begin = {prompt, prompt.size()};
    std::vector<RolloutGroup> groups = {GroupOf(begin, args_.solutions, number)};
    Sample(groups, kSolutions);
    Reward(problems, groups, {&begin, 1});
    std::vector<State> states = {begin};
    std::set<Ids> seen = {prompt};
    for (const Rollout& solution : Chosen(groups.front().rollouts)) {
      for (const std::size_t end : StepEnds(policy_.tokenizer, solution.tokens)) {
        State state = begin;
        state.ids.insert(state.ids.end(), solution.tokens.begin(),
                         solution.tokens.begin() + static_cast<std::ptrdiff_t>(end));
        const bool over = end == solution.tokens.size();  // nothing follows
        const bool full =
            static_cast<idx>(end) >= args_.sampling.config.max_new_tokens ||
            static_cast<idx>(state.ids.size()) >= policy_.model.config().max_position - 1;
        if (!over && !full && seen.insert(state.ids).second) states.push_back(std::move(state));
      }
    }
    return states;
  }

  // --keep solutions, right and wrong ones as evenly as there are.
  std::vector<Rollout> Chosen(const std::vector<Rollout>& solutions) const {
    const auto keep = static_cast<std::size_t>(args_.keep);
    if (keep == 0 || keep >= solutions.size()) return solutions;
    std::vector<Rollout> right, wrong, chosen;
    for (const Rollout& s : solutions) (s.reward >= kPassThreshold ? right : wrong).push_back(s);
    for (std::size_t i = 0; chosen.size() < keep; ++i) {
      for (const std::vector<Rollout>* from : {&right, &wrong}) {
        if (i < from->size() && chosen.size() < keep) chosen.push_back((*from)[i]);
      }
    }
    return chosen;
  }

  // The rewards of completions of each state; or what its candidates are worth.
  std::vector<std::vector<double>> RewardsOf(std::span<const Problem> problems, idx number,
                                             std::span<const State> states) {
    std::vector<std::vector<double>> values(states.size());
    if (!critic_) {
      std::vector<RolloutGroup> groups;
      for (const State& state : states) groups.push_back(GroupOf(state, args_.completions, number));
      Sample(groups, kCompletions);
      Reward(problems, groups, states);
      for (std::size_t i = 0; i < groups.size(); ++i) {
        for (const Rollout& rollout : groups[i].rollouts) values[i].push_back(rollout.reward);
      }
      return values;
    }
    std::vector<RolloutGroup> scored = candidates_;
    for (RolloutGroup& group : scored) {
      for (Rollout& rollout : group.rollouts) rollout.tokens.push_back(rollout.tokens.back());
    }
    Score(critic_->model, std::span(scored), 1.0f);
    Reward(problems, candidates_, states);
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      for (std::size_t s = 0; s < candidates_[i].rollouts.size(); ++s) {
        const Rollout& rollout = candidates_[i].rollouts[s];
        const double score = static_cast<double>(scored[i].rollouts[s].values.back());
        const bool ends = rollout.finish == FinishReason::kEos;
        values[i].push_back(ends ? (rollout.reward >= kPassThreshold ? 1.0 : 0.0) : Sigmoid(score));
      }
    }
    return values;
  }

  // The unique candidate steps of each state; those that were cut short are none.
  std::vector<std::vector<Ids>> Continue(std::span<const State> states, idx number) {
    std::vector<std::vector<Ids>> steps(states.size());
    if (!critic_) return steps;
    candidates_.clear();
    for (const State& state : states)
      candidates_.push_back(GroupOf(state, args_.candidates, number));
    Sample(candidates_, kCandidates, {"\n"});
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      std::vector<Rollout> kept;
      for (Rollout& rollout : candidates_[i].rollouts) {
        if (rollout.finish == FinishReason::kLength) continue;
        if (std::find(steps[i].begin(), steps[i].end(), rollout.tokens) != steps[i].end()) continue;
        steps[i].push_back(rollout.tokens);
        kept.push_back(std::move(rollout));
      }
      candidates_[i].rollouts = std::move(kept);
    }
    return steps;
  }

  const StepArguments& args_;
  LoadedModel<T> policy_;
  PromptRenderer prompts_;
  RewardSet rewards_;
  std::optional<LoadedModel<T>> critic_;
  std::vector<RolloutGroup> candidates_;  // of the problem at hand
};

// The rows of a file that was begun with the same settings, up to the last problem that is whole:
// one is known to be where a later one follows. Returns the first problem that is missing.
idx KeepWhole(const std::string& path, const std::string& settings) {
  if (!Exists(path)) return 0;
  const std::string text = ReadFile(path);
  std::size_t kept = 0;  // bytes of rows of problems before `last`
  idx last = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // a kill cut it short
    std::string fault;
    const auto row =
        TryParseJson<ordered_json>(std::string_view(text).substr(begin, end - begin), fault);
    const bool ours = row && row->is_object() &&
                      row->value("settings", ordered_json()) == settings &&
                      row->contains("problem") && (*row)["problem"].is_number_integer();
    if (!ours) {
      Fail(ErrorCode::kUsage,
           "--out {}: is there, and was not made by this command with these settings; remove it, "
           "or name another",
           path);
    }
    const idx problem = (*row)["problem"].get<idx>();
    if (problem != last) kept = begin;
    last = problem;
    begin = end + 1;
  }
  WriteFileAtomically(path, text.substr(0, kept));
  return last;
}

template <class T>
void RunSteps(const StepArguments& args) {
  LoadOptions options;
  options.keys = args.keys;
  std::vector<Problem> problems = LoadProblems(args.source, options);
  if (args.prompts > 0 && static_cast<idx>(problems.size()) > args.prompts) {
    problems.resize(static_cast<std::size_t>(args.prompts));
  }
  StepMaker<T> maker(args);
  const std::string settings = maker.SettingsDigest(problems);
  const idx first = KeepWhole(args.out, settings);
  std::ofstream out(args.out, std::ios::binary | std::ios::app);
  Progress progress(static_cast<idx>(problems.size()), "problem", first);
  idx rows = 0;
  for (idx p = first; p < static_cast<idx>(problems.size()); ++p) {
    for (ordered_json& row : maker.RowsOf(problems, p)) {
      row["settings"] = settings;
      out << row.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << "\n";
      ++rows;
    }
    if (!out.flush()) Fail(ErrorCode::kWork, "--out {}: cannot be written", args.out);
    if (!args.quiet) progress.Update(p + 1, fmt::format("{} states", rows));
  }
  PrintJsonLine({{"out", args.out}, {"problems", problems.size()}, {"rows_now", rows}});
}

}  // namespace

void AddMakeSteps(CLI::App& data) {
  auto args = std::make_shared<StepArguments>();
  CLI::App* verb = data.add_subcommand(
      "make-steps",
      "sample solutions, cut them into lines, and write how often each state ends right; or, with "
      "--critic, its candidate next lines and what they are worth");
  verb->add_option("DATA", args->source, "a data file or a built-in set, with gold answers")
      ->required();
  args->model.Add(*verb);
  verb->add_option(
          "-o,--out", args->out,
          "the .jsonl file to write; one that is there and was made by the same command is "
          "continued")
      ->required();
  verb->add_option("--critic", args->critic,
                   "a model by `opo rm` with algorithm.name = \"step_critic\": write candidates");
  verb->add_option("--system", args->system, "a system message put before each prompt");
  AddProblemKeys(*verb, args->keys);
  args->reward.Add(*verb);
  args->sampling.Add(*verb, 1.0, 256);
  const auto count = [&](const char* name, idx& value, const char* help, idx low) {
    verb->add_option(name, value, help)->check(CLI::Range(low, kMaxSamples))->capture_default_str();
  };
  count("--prompts", args->prompts, "problems to take; 0: all", 0);
  count("--solutions", args->solutions, "answers a problem, whose steps lead to its states", 1);
  count("--keep", args->keep, "of these, right and wrong ones as evenly as there are; 0: all", 0);
  count("--completions", args->completions, "answers from a state on, of which some end right", 1);
  count("--candidates", args->candidates, "with --critic: next lines sampled from a state", 2);
  verb->add_flag("--quiet", args->quiet, "no progress line");
  verb->callback([args] {
    if (!args->sampling.config.stop.empty()) {
      Fail(ErrorCode::kUsage,
           "--stop: steps end at line breaks, and answers where the model ends "
           "them; leave it out");
    }
    CheckProblemKeys(args->keys);
    RunInDtype(*args, RunSteps<bf16>, RunSteps<float>);
  });
}

}  // namespace opo
