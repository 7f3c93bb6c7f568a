// opo bench decode | step: a model at work, as tokens per second and against its floor.
#include <algorithm>
#include <cstdio>

#include "app/bench.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "data/built_in.h"
#include "train/floor.h"
#include "train/learner.h"
#include "train/optimizer.h"
#include "train/plan.h"
#include "train/step_metrics.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

SamplingConfig BenchSampling(const BenchArguments& args) {
  SamplingConfig sampling;
  sampling.max_new_tokens = args.max_new_tokens;
  sampling.ignore_eos = args.ignore_eos;
  return sampling;
}

// `prompts` different prompts of `tokens` arbitrary tokens, one sample each.
std::vector<RolloutGroup> ArbitraryGroups(idx vocab, idx prompts, idx tokens) {
  std::vector<RolloutGroup> groups(static_cast<std::size_t>(prompts));
  for (idx i = 0; i < prompts; ++i) {
    RolloutGroup& group = groups[static_cast<std::size_t>(i)];
    group.key = static_cast<std::uint64_t>(i);
    group.rollouts.resize(1);
    for (idx t = 0; t < tokens; ++t) {
      group.prompt.push_back(static_cast<TokenId>(
          MixBits(group.key, static_cast<std::uint64_t>(t)) % static_cast<std::uint64_t>(vocab)));
    }
  }
  return groups;
}

// The best of some repeats, each part by itself.
struct DecodeTimes {
  double all = 1e30;     // seconds of everything
  double prompt = 1e30;  // until each sample has its first token
  double rest = 1e30;    // for the other tokens
};

template <class T>
DecodeTimes MeasureDecode(LoadedModel<T>& loaded, std::vector<RolloutGroup> groups,
                          const SamplingConfig& sampling, idx repeats) {
  DecodeTimes best;
  for (idx repeat = 0; repeat < repeats; ++repeat) {
    double first = 0;
    const double start = Seconds();
    Generate(loaded.model, loaded.tokenizer, std::span(groups), sampling, [&](const TokenEvent&) {
      if (first == 0) first = Seconds();
    });
    const double end = Seconds();
    best.all = std::min(best.all, end - start);
    best.prompt = std::min(best.prompt, first - start);
    best.rest = std::min(best.rest, end - first);
  }
  return best;
}

// Null where there is nothing to divide.
ordered_json RateOf(idx tokens, double seconds) {
  if (tokens == 0) return nullptr;
  return static_cast<double>(tokens) / seconds;
}

std::string Shown(const ordered_json& rate) {
  return rate.is_null() ? "-" : fmt::format("{:.0f}", rate.get<double>());
}

}  // namespace

std::vector<RolloutGroup> BenchGroups(const PromptRenderer& renderer, idx prompts, idx samples) {
  std::vector<RolloutGroup> groups;
  const std::vector<Problem> problems = ArithmeticProblems(false);
  for (idx i = 0; i < prompts; ++i) {
    RolloutGroup group;
    group.prompt =
        renderer.Render(problems[static_cast<std::size_t>(i) % problems.size()].messages);
    group.key = static_cast<std::uint64_t>(i);
    group.rollouts.resize(static_cast<std::size_t>(samples));
    groups.push_back(std::move(group));
  }
  return groups;
}

template <class T>
void BenchDecode(const BenchArguments& args) {
  LoadedModel<T> loaded(args.model.model);
  const idx vocab = loaded.model.config().vocab_size;
  const idx longest = loaded.model.config().max_position;
  ordered_json out = BenchHeader();
  out["prefill"] = ordered_json::array();
  out["decode"] = ordered_json::array();

  SamplingConfig sampling = BenchSampling(args);
  sampling.ignore_eos = true;
  sampling.max_new_tokens = 1;
  if (!args.json) fmt::print("{:>8} {:>8} {:>12} {:>8}\n", "prompts", "tokens", "prefill t/s", "s");
  for (const auto& [prompts, tokens] :
       {std::pair<idx, idx>{1, 512}, std::pair<idx, idx>{1, 2048}, std::pair<idx, idx>{16, 43}}) {
    if (longest > 0 && tokens >= longest) continue;
    const double took =
        MeasureDecode(loaded, ArbitraryGroups(vocab, prompts, tokens), sampling, args.repeats)
            .prompt;
    const double rate = static_cast<double>(prompts * tokens) / took;
    out["prefill"].push_back({{"prompts", prompts},
                              {"prompt_tokens", tokens},
                              {"tokens_per_s", rate},
                              {"seconds", took}});
    if (!args.json) fmt::print("{:>8} {:>8} {:>12.0f} {:>8.2f}\n", prompts, tokens, rate, took);
  }

  sampling.max_new_tokens = args.max_new_tokens;
  if (!args.json) {
    fmt::print("\n{:>5} {:>12} {:>8} {:>12} {:>12}\n", "B", "tokens/s", "s", "prefill t/s",
               "decode t/s");
  }
  for (const idx batch : args.batches) {
    auto groups = args.prompt_tokens > 0 ? ArbitraryGroups(vocab, batch, args.prompt_tokens)
                                         : BenchGroups(loaded.prompts, std::max<idx>(1, batch / 8),
                                                       std::min<idx>(batch, 8));
    idx samples = 0, prompt_tokens = 0;
    for (const RolloutGroup& group : groups) {
      samples += static_cast<idx>(group.rollouts.size());
      prompt_tokens += static_cast<idx>(group.prompt.size());
    }
    sampling.slots = samples;  // all at once, so that the first tokens end the prefill
    const DecodeTimes times = MeasureDecode(loaded, std::move(groups), sampling, args.repeats);
    const ordered_json all = RateOf(samples * args.max_new_tokens, times.all);
    const ordered_json prefill = RateOf(prompt_tokens, times.prompt);
    const ordered_json decode = RateOf(samples * (args.max_new_tokens - 1), times.rest);
    out["decode"].push_back({{"batch", samples},
                             {"tokens_per_s", all},
                             {"seconds", times.all},
                             {"prefill_tokens_per_s", prefill},
                             {"decode_tokens_per_s", decode}});
    if (!args.json) {
      fmt::print("{:>5} {:>12} {:>8.2f} {:>12} {:>12}\n", samples, Shown(all), times.all,
                 Shown(prefill), Shown(decode));
      std::fflush(stdout);
    }
  }
  if (args.json) PrintJsonLine(out);
}

namespace {

constexpr double kRateSeconds = 0.5;  // of one measurement of the best product's rate

// A training step, piece by piece as the trainer takes it.
template <class T>
class StepBench {
 public:
  explicit StepBench(const BenchArguments& args)
      : args_(args),
        weights_(LoadWeights(args.model.model)),
        tokenizer_(Tokenizer::Load(args.model.model)),
        packed_(weights_, true),
        model_(packed_),
        learner_(model_, weights_.layout, Budget(args)),
        optimizer_(weights_.layout, OptimizerConfig{}),
        grad_(weights_.layout.size),
        rate_(MeasureBestRate<T>(weights_.config, kRateSeconds)),
        groups_(args.prompt_tokens > 0
                    ? ArbitraryGroups(weights_.config.vocab_size, args.prompts, args.prompt_tokens)
                    : BenchGroups(PromptRenderer(tokenizer_), args.prompts, args.samples)) {
    for (RolloutGroup& group : groups_) {
      group.rollouts.resize(static_cast<std::size_t>(args.samples));
    }
  }

  // One step between two measurements of the best product's rate, whose mean its floor is by: on a
  // shared machine the rate of a minute ago is another's. Records of at most `tape_bytes` are taken
  // over from the sampler.
  ordered_json Run(idx tape_bytes) {
    const double rate_before = rate_.flops;
    Tape<T> tape;
    tape.max_bytes = tape_bytes;
    const double start = Seconds();
    Generate(model_, tokenizer_, std::span(groups_), BenchSampling(args_), {}, &tape);
    const double gen_end = Seconds();
    const auto recheck = learner_.Recheck(groups_, tape, 1, ++steps_, RecheckRows(tape.rows));
    const double recheck_end = Seconds();
    const std::vector<LearnGroup> learn = Weighted();
    std::fill_n(grad_.data(), grad_.size(), 0.0f);
    const LearnResult result = learner_.Accumulate(learn, OnPolicyLoss, grad_.data(), &tape);
    const double learn_end = Seconds();
    OPO_CHECK(packed_.FindFlaw().empty());
    (void)SlabDigest(grad_.span());
    const double check_end = Seconds();
    const double norm = GradientNorm(grad_);
    optimizer_.Step(weights_.slab, grad_, 1e-5, norm > 1 ? 1 / norm : 1.0);
    const double update_end = Seconds();
    packed_.Update(weights_);
    const double end = Seconds();
    const idx peak_rss = PeakRssBytes();
    rate_ = MeasureBestRate<T>(weights_.config, kRateSeconds);
    const double rate = (rate_before + rate_.flops) / 2;
    const StepWork work = WorkOf(groups_, result);
    const double floor = FloorFlops(weights_.config, work) / rate;
    ordered_json out;
    out["step_s"] = end - start;
    out["generate_s"] = gen_end - start;
    out["recheck_s"] = recheck_end - gen_end;
    out["learn_s"] = learn_end - recheck_end;
    out["check_s"] = check_end - learn_end;
    out["adamw_s"] = update_end - check_end;
    out["pack_s"] = end - update_end;
    out["gemm_rate"] = rate;
    out["floor_s"] = floor;
    out["ratio"] = (end - start) / floor;
    out["tokens"] = work.tokens_sampled;
    out["taped_rows"] = tape.rows;
    out["rechecked_rows"] = recheck.rows;
    out["mismatched_rows"] = recheck.mismatched;
    out["compared_tokens"] = result.compared_tokens;
    out["mismatched_tokens"] = result.mismatched_tokens;
    out["micro_batches"] = result.micro_batches;
    out["peak_rss_bytes"] = peak_rss;
    return out;
  }
  const std::string& whose_rate() const { return rate_.whose; }

  // What `opo plan` says of a step like this one, its samples as long as they were on average.
  void AddPlan(idx tape_bytes, ordered_json& run) const {
    TrainConfig config;
    config.model.dtype = sizeof(T) == 2 ? "bf16" : "f32";
    config.rollout.prompts = args_.prompts;
    config.rollout.samples = args_.samples;
    config.rollout.max_new_tokens = args_.max_new_tokens;
    config.run.memory_mb = idx{1} << 30;  // the budgets are the bench's own
    config.run.tape_mb = 0;
    idx prompt_tokens = 0;
    for (const RolloutGroup& group : groups_) {
      prompt_tokens += static_cast<idx>(group.prompt.size());
    }
    prompt_tokens = CeilDiv(prompt_tokens, args_.prompts);
    const idx tokens = CeilDiv(run["tokens"].get<idx>(), args_.prompts * args_.samples);
    MemoryPlan plan = PlanMemory(config, weights_.config, prompt_tokens);
    plan.tape_budget = tape_bytes;
    plan.micro_batch_budget = Budget(args_).memory_bytes;
    plan = PlanStepMemory(config, weights_.config, prompt_tokens, tokens, plan);
    run["planned_s"] = PlanStepTime(config, weights_.config, prompt_tokens, tokens, plan).total();
    run["planned_peak_bytes"] = plan.total();
  }

 private:
  static LearnerConfig Budget(const BenchArguments& args) {
    LearnerConfig config;
    if (args.micro_batch_mb > 0) config.memory_bytes = args.micro_batch_mb << 20;
    return config;
  }
  // Advantages of both signs for all, every token with the same weight.
  std::vector<LearnGroup> Weighted() {
    idx tokens = 0;
    for (RolloutGroup& group : groups_) {
      for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
        tokens += group.rollouts[s].length();
        group.rollouts[s].advantage = s % 2 == 0 ? 0.5 : -0.5;
      }
    }
    std::vector<LearnGroup> learn;
    for (const RolloutGroup& group : groups_) {
      learn.push_back(
          {&group, std::vector<double>(group.rollouts.size(), 1.0 / static_cast<double>(tokens)),
           static_cast<idx>(learn.size())});
      learn.back().on_policy = true;
    }
    return learn;
  }

  const BenchArguments& args_;
  Weights weights_;
  Tokenizer tokenizer_;
  PackedWeights<T> packed_;
  Transformer<T> model_;
  Learner<T> learner_;
  AdamW optimizer_;
  Buffer<float> grad_;
  BestRate rate_;
  std::vector<RolloutGroup> groups_;
  std::uint64_t steps_ = 0;
};

}  // namespace

template <class T>
void BenchStep(const BenchArguments& args) {
  StepBench<T> bench(args);
  struct Plan {
    const char* name;
    idx tape_bytes;
    ordered_json run;  // the one with the median ratio
  };
  // Without the tape first: what it takes is then the process's peak so far.
  std::vector<Plan> plans;
  if (args.tape_mb < 0) {
    plans = {{"recompute", 0, {}}, {"tape", idx{1} << 50, {}}};
  } else {
    plans = {{args.tape_mb == 0 ? "recompute" : "tape", args.tape_mb << 20, {}}};
  }
  ordered_json out = BenchHeader();
  out["gemm_rate_of"] = bench.whose_rate();
  for (Plan& plan : plans) {
    std::vector<ordered_json> runs;
    for (idx repeat = 0; repeat < args.repeats; ++repeat) {
      runs.push_back(bench.Run(plan.tape_bytes));
    }
    std::ranges::sort(runs, {}, [](const ordered_json& run) { return run["ratio"].get<double>(); });
    plan.run = runs[(runs.size() - 1) / 2];
    plan.run["ratio_least"] = runs.front()["ratio"];
    plan.run["ratio_most"] = runs.back()["ratio"];
  }
  // Only now: planning takes memory too.
  for (Plan& plan : plans) {
    bench.AddPlan(plan.tape_bytes, plan.run);
    out[plan.name] = plan.run;
  }
  if (args.json) {
    PrintJsonLine(out);
    return;
  }
  fmt::print("path {}, {} threads, best product by {}\n\n", ActiveKernels().name, NumThreads(),
             bench.whose_rate());
  fmt::print("{:<18}", "");
  for (const Plan& plan : plans) fmt::print(" {:>14}", plan.name);
  fmt::print("\n");
  for (const auto& [name, first] : plans.front().run.items()) {
    fmt::print("{:<18}", name);
    for (const Plan& plan : plans) {
      const ordered_json& value = plan.run[name];
      if (!value.is_number_float()) {
        fmt::print(" {:>14}", value.dump());
      } else if (const auto number = value.get<double>(); number < 1e6) {
        fmt::print(" {:>14.3f}", number);
      } else {
        fmt::print(" {:>14.3e}", number);  // a rate
      }
    }
    fmt::print("\n");
  }
}

template void BenchDecode<float>(const BenchArguments&);
template void BenchDecode<bf16>(const BenchArguments&);
template void BenchStep<float>(const BenchArguments&);
template void BenchStep<bf16>(const BenchArguments&);

}  // namespace opo
