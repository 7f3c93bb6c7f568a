// opo bench decode | step: a model at work, as tokens per second and against its floor.
#include <algorithm>
#include <cstdio>

#include "app/bench.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "train/floor.h"
#include "train/learner.h"
#include "train/optimizer.h"
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
    Generate(loaded.model, loaded.tokenizer, std::span(groups), sampling, [&](idx, idx, TokenId) {
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

template <class T>
void BenchStep(const BenchArguments& args) {
  Weights weights = LoadWeights(args.model.model);
  const Tokenizer tokenizer = Tokenizer::Load(args.model.model);
  const PromptRenderer prompts(tokenizer);
  PackedWeights<T> packed(weights, true);
  Transformer<T> model(packed);
  Learner<T> learner(model, weights.layout, LearnerConfig{});
  AdamW optimizer(weights.layout, OptimizerConfig{});
  Buffer<float> grad(weights.layout.size);
  const BestRate rate = MeasureBestRate<T>(weights.config, 0.5);
  auto groups = BenchGroups(prompts, args.prompts, args.samples);
  ordered_json best;
  for (idx repeat = 0; repeat < args.repeats; ++repeat) {
    const double start = Seconds();
    Generate(model, tokenizer, std::span(groups), BenchSampling(args));
    const double gen_end = Seconds();
    idx tokens = 0;
    std::vector<LearnGroup> learn;
    for (RolloutGroup& group : groups) {
      for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
        tokens += group.rollouts[s].length();
        group.rollouts[s].advantage = s % 2 == 0 ? 0.5 : -0.5;
      }
    }
    const double weight = 1.0 / static_cast<double>(tokens);
    for (const RolloutGroup& group : groups) {
      learn.push_back({&group, std::vector<double>(group.rollouts.size(), weight)});
    }
    std::fill_n(grad.data(), grad.size(), 0.0f);
    const LearnResult result = learner.Accumulate(
        learn, [](double, double, double a) { return PolicyGradientLoss(a); }, grad.data());
    const double learn_end = Seconds();
    const double norm = GradientNorm(grad);
    optimizer.Step(weights.slab, grad, 1e-5, norm > 1 ? 1 / norm : 1.0);
    const double update_end = Seconds();
    packed.Update(weights);
    const double end = Seconds();
    const double floor = FloorFlops(weights.config, WorkOf(groups, result)) / rate.flops;
    ordered_json out = BenchHeader();
    out["step_s"] = end - start;
    out["generate_s"] = gen_end - start;
    out["learn_s"] = learn_end - gen_end;
    out["adamw_s"] = update_end - learn_end;
    out["pack_s"] = end - update_end;
    out["tokens"] = tokens;
    out["compared_tokens"] = result.compared_tokens;
    out["mismatched_tokens"] = result.mismatched_tokens;
    out["gemm_rate"] = rate.flops;
    out["gemm_rate_of"] = rate.whose;
    out["floor_s"] = floor;
    out["ratio"] = (end - start) / floor;
    out["peak_rss_bytes"] = PeakRssBytes();
    if (best.is_null() || out["step_s"].get<double>() < best["step_s"].get<double>()) best = out;
  }
  if (args.json) {
    PrintJsonLine(best);
    return;
  }
  for (const auto& [name, value] : best.items()) fmt::print("{:<20} {}\n", name, value.dump());
}

template void BenchDecode<float>(const BenchArguments&);
template void BenchDecode<bf16>(const BenchArguments&);
template void BenchStep<float>(const BenchArguments&);
template void BenchStep<bf16>(const BenchArguments&);

}  // namespace opo
