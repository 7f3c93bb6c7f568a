// opo bench gemm | decode | step: what this machine does, as ratios in one run.
#include <algorithm>
#include <cstdio>

#include "app/command.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/parallel.h"
#include "train/floor.h"
#include "train/learner.h"
#include "train/optimizer.h"
#include "train/step_metrics.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

struct BenchArguments {
  ModelOptions model;
  idx prompts = 16, samples = 8, max_new_tokens = 64, repeats = 1;
  bool ignore_eos = false;
  bool json = false;
  double seconds = 0.3;
};

ordered_json Header() {
  ordered_json out;
  out["isa"] = ActiveKernels().name;
  out["threads"] = NumThreads();
  return out;
}

template <class T>
void BenchGemm(const BenchArguments& args) {
  struct Shape {
    const char* what;
    idx n, k;
  };
  const std::vector<Shape> shapes = {{"qkv", 960, 576},      {"o", 576, 576},
                                     {"gate_up", 3072, 576}, {"down", 576, 1536},
                                     {"head", 49152, 576},   {"dgate_up", 576, 3072}};
  ordered_json out = Header();
  out["gemm"] = ordered_json::array();
  if (!args.json)
    fmt::print("{:<10} {:>6} {:>6} {:>6} {:>10}\n", "product", "M", "N", "K", "GFLOP/s");
  for (const Shape& shape : shapes) {
    Buffer<float> w(shape.n * shape.k);
    for (idx i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 17) * 0.01f;
    PackedMatrix<T> packed;
    packed.Pack(w.data(), shape.k, shape.n, shape.k);
    for (const idx m : {idx{1}, idx{8}, idx{32}, idx{128}, idx{1024}}) {
      Buffer<T> a(m * shape.k);
      Buffer<float> c(m * shape.n);
      GemmArgs<T> gemm;
      gemm.a = a.data();
      gemm.lda = shape.k;
      gemm.m = m;
      gemm.c = c.data();
      gemm.ldc = shape.n;
      Gemm(gemm, packed);
      double best = 1e30;
      for (const double end = Seconds() + args.seconds; Seconds() < end;) {
        const double start = Seconds();
        Gemm(gemm, packed);
        best = std::min(best, Seconds() - start);
      }
      const double rate =
          2.0 * static_cast<double>(m * shape.n) * static_cast<double>(shape.k) / best;
      out["gemm"].push_back(
          {{"product", shape.what}, {"m", m}, {"n", shape.n}, {"k", shape.k}, {"flops", rate}});
      if (!args.json) {
        fmt::print("{:<10} {:>6} {:>6} {:>6} {:>10.0f}\n", shape.what, m, shape.n, shape.k,
                   rate / 1e9);
      }
    }
  }
  if (args.json) PrintJsonLine(out);
}

// The demo's questions, as many as asked for.
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

SamplingConfig BenchSampling(const BenchArguments& args) {
  SamplingConfig sampling;
  sampling.max_new_tokens = args.max_new_tokens;
  sampling.ignore_eos = args.ignore_eos;
  return sampling;
}

template <class T>
void BenchDecode(const BenchArguments& args) {
  LoadedModel<T> loaded(args.model.model);
  ordered_json out = Header();
  out["decode"] = ordered_json::array();
  if (!args.json) fmt::print("{:>5} {:>12} {:>12}\n", "B", "tokens/s", "s");
  for (const idx batch : {idx{1}, idx{8}, idx{32}, idx{64}, idx{128}}) {
    auto groups = BenchGroups(loaded.prompts, std::max<idx>(1, batch / 8), std::min<idx>(batch, 8));
    BenchArguments forced = args;
    forced.ignore_eos = true;
    const double start = Seconds();
    Generate(loaded.model, loaded.tokenizer, std::span(groups), BenchSampling(forced));
    const double took = Seconds() - start;
    const double rate = static_cast<double>(batch * args.max_new_tokens) / took;
    out["decode"].push_back({{"batch", batch}, {"tokens_per_s", rate}, {"seconds", took}});
    if (!args.json) fmt::print("{:>5} {:>12.0f} {:>12.2f}\n", batch, rate, took);
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
  const double rate =
      MeasureGemmRate(weights.config, sizeof(T) == 2 ? DType::kBf16 : DType::kF32, 0.5);
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
    const double floor = FloorFlops(weights.config, WorkOf(groups, result)) / rate;
    ordered_json out = Header();
    out["step_s"] = end - start;
    out["generate_s"] = gen_end - start;
    out["learn_s"] = learn_end - gen_end;
    out["adamw_s"] = update_end - learn_end;
    out["pack_s"] = end - update_end;
    out["tokens"] = tokens;
    out["compared_tokens"] = result.compared_tokens;
    out["mismatched_tokens"] = result.mismatched_tokens;
    out["gemm_rate"] = rate;
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

}  // namespace

void AddBench(CLI::App& app, int&) {
  CLI::App* bench = app.add_subcommand("bench", "measure this machine: gemm, decode, step");
  bench->require_subcommand(1);
  auto args = std::make_shared<BenchArguments>();
  const auto add = [&](const char* name, const char* help, bool needs_model) {
    CLI::App* verb = bench->add_subcommand(name, help);
    args->model.Add(*verb, needs_model);
    verb->add_flag("--json", args->json, "an object on stdout");
    if (needs_model) {
      verb->add_option("--max-new-tokens", args->max_new_tokens, "tokens of a sample")
          ->check(CLI::Range(1, 1 << 16))
          ->capture_default_str();
    }
    return verb;
  };
  CLI::App* gemm = add("gemm", "the matrix products of a 135M model", false);
  gemm->add_option("--seconds", args->seconds, "a shape")->capture_default_str();
  gemm->callback([args] { RunInDtype(*args, BenchGemm<bf16>, BenchGemm<float>); });
  CLI::App* decode = add("decode", "tokens per second by batch, sampling included", true);
  decode->callback([args] { RunInDtype(*args, BenchDecode<bf16>, BenchDecode<float>); });
  CLI::App* step = add("step", "a whole training step, its parts, its floor", true);
  step->add_option("--prompts", args->prompts, "prompts of the step")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  step->add_option("--samples", args->samples, "samples a prompt")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  step->add_option("--repeats", args->repeats, "the fastest of so many")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  step->add_flag("--ignore-eos", args->ignore_eos, "every sample runs to its end");
  step->callback([args] { RunInDtype(*args, BenchStep<bf16>, BenchStep<float>); });
}

}  // namespace opo
