// opo variance: the gradient-variance lab. Samples answers, takes their gradients' inner products,
// and says how much variance each baseline leaves (docs/variance.md).
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "algo/variance.h"
#include "app/command.h"
#include "app/sampling.h"
#include "base/clock.h"
#include "base/fields.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/rng.h"
#include "eval/metrics.h"
#include "train/evaluate.h"
#include "train/learner.h"
#include "train/sample_gradients.h"
#include "train/scoring.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

struct VarianceArguments {
  ModelOptions model;
  SamplingOptions sampling;
  std::string data = "arithmetic";
  ProblemKeys keys;
  std::string system;
  RewardOptions reward;
  std::vector<double> exponents = {1};
  std::string out;
  idx prompts = 0;
  idx n = 16;
  idx memory_mb = 4096;
  idx resamples = 2000;
  bool price = false;
  bool json = false;
  bool quiet = false;
};

constexpr std::size_t kPoints = 2000;  // of the scatter in variance.json
constexpr idx kSamplesAtOnce = 512;    // sampled together

// The policy whose gradients are taken: packed for backward passes, the f32 masters dropped.
template <class T>
struct LabModel {
  explicit LabModel(const std::string& path)
      : tokenizer(Tokenizer::Load(TokenizerPath(path))),
        weights(LoadWeights(path, SlabOf::kTrained, Heads{})),
        packed(weights, true),
        model(packed) {
    weights.slab = Buffer<float>();
  }
  Tokenizer tokenizer;
  Weights weights;
  PackedWeights<T> packed;
  Transformer<T> model;
};

// What the norms of a prompt's answers cost, beside a backward pass for each of them.
struct Price {
  double single_s = 0, norms_s = 0, products_s = 0;
  double largest_difference = 0;  // of a norm, relative
};

template <class T>
Price MeasurePrice(LabModel<T>& lab, const RolloutGroup& group, idx memory_bytes,
                   float inv_temperature) {
  Price price;
  LearnerConfig config;
  config.memory_bytes = memory_bytes;
  config.inv_temperature = inv_temperature;
  Learner<T> learner(lab.model, lab.weights.layout, config);
  Buffer<float> grad(lab.weights.layout.size);
  std::vector<double> single(group.rollouts.size());
  const auto passes = [&] {
    for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
      RolloutGroup one;
      one.prompt = group.prompt;
      one.rollouts = {group.rollouts[s]};
      one.rollouts.front().advantage = 1;
      one.rollouts.front().token_advantages.clear();
      const LearnGroup learn{&one, {1.0}};
      std::fill_n(grad.data(), grad.size(), 0.0f);
      learner.Accumulate({&learn, 1}, OnPolicyLoss, grad.data());
      single[s] = 0;
      for (idx i = 0; i < grad.size(); i += 4096) {
        single[s] +=
            ActiveKernels().sum_squares(grad.data() + i, std::min<idx>(4096, grad.size() - i));
      }
    }
  };
  SampleGradients<T> gradients(lab.model, lab.weights.layout, memory_bytes, inv_temperature);
  std::vector<double> norms;
  // The faster of two: the first also pays for memory that it touches first.
  const auto timed = [](const auto& work) {
    double best = 0;
    for (int repeat = 0; repeat < 2; ++repeat) {
      const double start = Seconds();
      work();
      const double seconds = Seconds() - start;
      best = repeat == 0 ? seconds : std::min(best, seconds);
    }
    return best;
  };
  price.single_s = timed(passes);
  price.norms_s = timed([&] { norms = gradients.Compute(group, GradientProducts::kNorms).norms; });
  price.products_s = timed([&] { gradients.Compute(group, GradientProducts::kAll); });
  for (std::size_t s = 0; s < single.size(); ++s) {
    if (single[s] == 0) continue;
    price.largest_difference =
        std::max(price.largest_difference, std::abs(norms[s] / single[s] - 1));
  }
  return price;
}

// A group's answers that count: scored, and not empty.
VarianceGroup GroupOf(const RolloutGroup& group, const std::vector<double>& products) {
  VarianceGroup out;
  std::vector<std::size_t> kept;
  for (std::size_t s = 0; s < group.rollouts.size(); ++s) {
    if (group.rollouts[s].scored() && !group.rollouts[s].tokens.empty()) kept.push_back(s);
  }
  for (const std::size_t s : kept) {
    const Rollout& rollout = group.rollouts[s];
    double weight = 0;
    for (std::size_t t = 0; t < rollout.tokens.size(); ++t) {
      weight += 1 - 2 * std::exp(static_cast<double>(rollout.logprobs[t])) +
                static_cast<double>(rollout.sum_sqs[t]);
    }
    out.rewards.push_back(rollout.reward);
    out.lengths.push_back(static_cast<double>(rollout.length()));
    out.token_weights.push_back(weight);
    for (const std::size_t other : kept) {
      out.products.push_back(products[s * group.rollouts.size() + other]);
    }
  }
  return out;
}

double LengthCv(const VarianceGroup& group) {
  return *DeviationOf(group.lengths) / *MeanOf(group.lengths);
}

// Over all answers; 0 where one does not vary.
double RewardLengthCorrelation(const std::vector<VarianceGroup>& groups) {
  std::vector<double> rewards;
  std::vector<double> lengths;
  for (const VarianceGroup& group : groups) {
    rewards.insert(rewards.end(), group.rewards.begin(), group.rewards.end());
    lengths.insert(lengths.end(), group.lengths.begin(), group.lengths.end());
  }
  return CorrelationOf(lengths, rewards).value_or(0);
}

ordered_json OptionalNumber(const std::optional<double>& value) {
  return value.has_value() ? ordered_json(*value) : ordered_json(nullptr);
}

void PutInterval(ordered_json& out, const Interval& interval) {
  out["low"] = interval.low;
  out["high"] = interval.high;
}

struct LabResult {
  std::vector<VarianceGroup> groups;
  std::vector<std::string> prompts;  // of each group
  idx left_out = 0;                  // prompts with too few answers that count
  idx compared_tokens = 0, mismatched_tokens = 0;
  double sampling_s = 0, gradients_s = 0;
  std::optional<Price> price;
};

ordered_json JsonOf(const VarianceArguments& args, const LabResult& lab,
                    const VarianceReport& report) {
  ordered_json out;
  out["schema"] = 1;
  out["model"] = args.model.model;
  out["data"] = args.data;
  out["prompts"] = lab.groups.size();
  out["samples"] = args.n;
  out["temperature"] = args.sampling.config.temperature;
  out["max_new_tokens"] = args.sampling.config.max_new_tokens;
  out["seed"] = args.sampling.config.seed;
  out["reward"] = args.reward.kind;
  out["prompts_left_out"] = lab.left_out;
  const auto range = [](const std::optional<Interval>& interval, const char* low, const char* high,
                        ordered_json& to) {
    to[low] = interval.has_value() ? ordered_json(interval->low) : ordered_json(nullptr);
    to[high] = interval.has_value() ? ordered_json(interval->high) : ordered_json(nullptr);
  };
  for (const auto& row : report.rows) {
    ordered_json e;
    e["name"] = row.estimator.name();
    if (row.estimator.weights == BaselineWeights::kLength) e["exponent"] = row.estimator.exponent;
    e["cross_fitted"]["variance"] = row.cross_fitted.value;
    PutInterval(e["cross_fitted"], row.cross_fitted);
    e["cross_fitted"]["relative_to_none"] = row.relative_to_none.value;
    e["cross_fitted"]["relative_low"] = row.relative_to_none.low;
    e["cross_fitted"]["relative_high"] = row.relative_to_none.high;
    e["in_sample"]["variance"] = row.in_sample.value;
    PutInterval(e["in_sample"], row.in_sample);
    e["in_sample"]["bias"] = row.bias;
    out["estimators"].push_back(e);
  }
  out["gradient_norm"] = report.gradient_norm;
  ordered_json& fit = out["fit"];
  fit["slope"] = report.slope.value;
  PutInterval(fit, report.slope);
  fit["r2"] = report.r2;
  fit["within_slope"] = report.within_slope.value;
  fit["within_low"] = report.within_slope.low;
  fit["within_high"] = report.within_slope.high;
  fit["within_r2"] = report.within_r2;
  fit["points"] = ordered_json::array();
  std::size_t all = 0;
  for (const VarianceGroup& group : lab.groups) all += group.size();
  const std::size_t every = std::max<std::size_t>(1, (all + kPoints - 1) / kPoints);
  std::size_t at = 0;
  ordered_json& gain = out["gain"];
  gain["length_over_mean"] = report.length_over_mean.value;
  gain["length_over_mean_low"] = report.length_over_mean.low;
  gain["length_over_mean_high"] = report.length_over_mean.high;
  gain["optimal_over_mean"] = report.optimal_over_mean.value;
  gain["optimal_over_mean_low"] = report.optimal_over_mean.low;
  gain["optimal_over_mean_high"] = report.optimal_over_mean.high;
  gain["length_of_possible"] = OptionalNumber(report.of_possible);
  range(report.of_possible_interval, "low", "high", gain);
  gain["length_of_possible_from_none"] = OptionalNumber(report.of_possible_from_none);
  range(report.of_possible_from_none_interval, "from_none_low", "from_none_high", gain);
  for (std::size_t g = 0; g < lab.groups.size(); ++g) {
    const VarianceGroup& group = lab.groups[g];
    ordered_json p;
    p["prompt"] = lab.prompts[g];
    p["samples"] = group.size();
    p["reward_mean"] = std::accumulate(group.rewards.begin(), group.rewards.end(), 0.0) /
                       static_cast<double>(group.size());
    p["length_cv"] = LengthCv(group);
    p["b_mean"] = report.prompts[g][1].baseline;
    p["b_length"] = report.prompts[g][3].baseline;
    p["b_star"] = report.prompts[g].back().baseline;
    for (std::size_t row = 0; row < report.rows.size(); ++row) {
      p["variance"][report.rows[row].estimator.name()] = report.prompts[g][row].cross_fitted;
    }
    out["per_prompt"].push_back(p);
    for (std::size_t i = 0; i < group.size(); ++i) {
      if (at++ % every != 0) continue;
      fit["points"].push_back({group.lengths[i], group.products[i * group.size() + i]});
    }
  }
  double reward = 0;
  double cv = 0;
  for (const auto& p : out["per_prompt"]) {
    reward += p["reward_mean"].get<double>();
    cv += p["length_cv"].get<double>();
  }
  const double num = static_cast<double>(lab.groups.size());
  out["reward_mean"] = reward / num;
  out["length_cv"] = cv / num;
  out["reward_length_correlation"] = RewardLengthCorrelation(lab.groups);
  out["compared_tokens"] = lab.compared_tokens;
  out["mismatched_tokens"] = lab.mismatched_tokens;
  out["sampling_s"] = lab.sampling_s;
  out["gradients_s"] = lab.gradients_s;
  if (lab.price.has_value()) {
    out["price"] = {{"single_passes_s", lab.price->single_s},
                    {"norms_s", lab.price->norms_s},
                    {"products_s", lab.price->products_s},
                    {"largest_difference", lab.price->largest_difference}};
  }
  return out;
}

std::string Percent(double part) { return fmt::format("{:.1f}%", 100 * part); }

void PrintTable(const LabResult& lab, const VarianceReport& report, const ordered_json& json) {
  fmt::print(
      "{} prompts, {} answers each: mean reward {:.3f}, length varies by {:.2f} of its mean "
      "within a prompt, correlation of reward and length {:.2f}\n\n",
      lab.groups.size(), json["samples"].get<idx>(), json["reward_mean"].get<double>(),
      json["length_cv"].get<double>(), json["reward_length_correlation"].get<double>());
  fmt::print("{:<14} {:>12} {:>25} {:>9} {:>17}   {:>12} {:>9}\n", "baseline", "variance",
             "95% interval", "of none", "95% interval", "in sample", "bias");
  for (const auto& row : report.rows) {
    fmt::print("{:<14} {:>12.5g} {:>25} {:>9} {:>17}   {:>12.5g} {:>9.3g}\n", row.estimator.name(),
               row.cross_fitted.value,
               fmt::format("{:.5g} .. {:.5g}", row.cross_fitted.low, row.cross_fitted.high),
               Percent(row.relative_to_none.value),
               fmt::format("{} .. {}", Percent(row.relative_to_none.low),
                           Percent(row.relative_to_none.high)),
               row.in_sample.value, row.bias);
  }
  fmt::print(
      "\nvariance: baselines from a prompt's other answers. in sample: from all of them, which "
      "biases the gradient (norm {:.3g}) by as much as the last column says\n",
      report.gradient_norm);
  const auto fit = [](const char* what, const Interval& slope, double r2) {
    fmt::print("|g|^2 against length, {}: exponent {:.2f} ({:.2f} .. {:.2f}), R^2 {:.2f}\n", what,
               slope.value, slope.low, slope.high, r2);
  };
  fit("all answers", report.slope, report.r2);
  fit("within prompts", report.within_slope, report.within_r2);
  const auto saving = [](const char* who, const Interval& share) {
    fmt::print("{} saves {} of the mean's variance ({} .. {})\n", who, Percent(share.value),
               Percent(share.low), Percent(share.high));
  };
  saving("the length-weighted baseline", report.length_over_mean);
  saving("the optimal baseline", report.optimal_over_mean);
  const auto possible = [](const char* from, const std::optional<double>& value,
                           const std::optional<Interval>& range) {
    if (!value.has_value()) {
      fmt::print(
          "of what is possible from {}: nothing to take, the optimal baseline gains nothing "
          "when it is estimated on the other answers\n",
          from);
      return;
    }
    fmt::print("of what is possible from {} the length takes {}{}\n", from, Percent(*value),
               range.has_value()
                   ? fmt::format(" ({} .. {})", Percent(range->low), Percent(range->high))
                   : " (no interval: what is possible is not above 0 in enough resamples)");
  };
  possible("the mean", report.of_possible, report.of_possible_interval);
  possible("none", report.of_possible_from_none, report.of_possible_from_none_interval);
  if (lab.left_out > 0) {
    fmt::print("{} prompts left out: fewer than {} answers with a reward and a token\n",
               lab.left_out, kVarianceSamples);
  }
  fmt::print(
      "exactness: {} tokens compared, {} differ; {:.1f} s for answers, {:.1f} s for "
      "gradients\n",
      lab.compared_tokens, lab.mismatched_tokens, lab.sampling_s, lab.gradients_s);
  if (lab.price.has_value()) {
    const Price& p = *lab.price;
    fmt::print(
        "the first prompt's norms: {:.2f} s by single backward passes; {:.2f} s at once ({:.2f} "
        "of it), {:.2f} s with all products ({:.2f}); norms differ by {:.1e} at most\n",
        p.single_s, p.norms_s, p.norms_s / p.single_s, p.products_s, p.products_s / p.single_s,
        p.largest_difference);
  }
}

// `count` of the problems, drawn by the seed, in the data's order; 0: all.
std::vector<Problem> Subset(std::vector<Problem> problems, idx count, std::uint64_t seed) {
  if (count == 0 || count >= static_cast<idx>(problems.size())) return problems;
  std::vector<std::pair<double, std::size_t>> order;
  for (std::size_t i = 0; i < problems.size(); ++i) {
    order.emplace_back(UniformDraw({seed, kEvaluationStep, i, 0, 0}), i);
  }
  std::sort(order.begin(), order.end());
  std::vector<std::size_t> chosen;
  for (idx i = 0; i < count; ++i) chosen.push_back(order[static_cast<std::size_t>(i)].second);
  std::sort(chosen.begin(), chosen.end());
  std::vector<Problem> out;
  for (const std::size_t i : chosen) out.push_back(std::move(problems[i]));
  return out;
}

template <class T>
void RunVariance(const VarianceArguments& args) {
  const SamplingConfig& asked = args.sampling.config;
  if (asked.truncates() || asked.changes_logits() || asked.temperature <= 0) {
    Fail(ErrorCode::kUsage,
         "variance: the gradient is that of the distribution that was sampled; leave out top-p, "
         "top-k, min-p, penalties and logit-bias, and give a temperature above 0");
  }
  for (const double exponent : args.exponents) {
    if (std::isfinite(exponent)) continue;
    Fail(ErrorCode::kUsage, "--length-exponent: {} is no exponent; give numbers such as 1,1.6",
         exponent);
  }
  LabModel<T> lab(args.model.model);
  const PromptRenderer prompts(lab.tokenizer, args.system);
  LoadOptions data;
  data.keys = args.keys;
  data.held_out = true;
  const std::vector<Problem> problems =
      Subset(LoadProblems(args.data, data), args.prompts, asked.seed);
  RewardSet reward({args.reward.Term(asked.max_new_tokens)});
  reward.Prepare(lab.tokenizer, args.model.f32() ? DType::kF32 : DType::kBf16);
  SamplingConfig sampling = asked;
  sampling.step = kEvaluationStep;
  const idx memory_bytes = args.memory_mb << 20;
  SampleGradients<T> gradients(lab.model, lab.weights.layout, memory_bytes,
                               sampling.inv_temperature());

  LabResult result;
  const std::size_t at_once = static_cast<std::size_t>(std::max<idx>(1, kSamplesAtOnce / args.n));
  std::optional<Progress> progress;
  if (!args.quiet) progress.emplace(static_cast<idx>(problems.size()), "prompt");
  for (std::size_t first = 0; first < problems.size(); first += at_once) {
    const std::size_t count = std::min(at_once, problems.size() - first);
    std::vector<RolloutGroup> groups = GroupsToEvaluate(prompts, problems, first, count, args.n);
    double start = Seconds();
    Generate(lab.model, lab.tokenizer, std::span(groups), sampling);
    ScoreGroups(groups, problems, prompts, reward, {});
    result.sampling_s += Seconds() - start;
    for (std::size_t g = 0; g < count; ++g) {
      start = Seconds();
      const SampleGradientsResult sums = gradients.Compute(groups[g], GradientProducts::kAll);
      result.gradients_s += Seconds() - start;
      result.compared_tokens += sums.compared_tokens;
      result.mismatched_tokens += sums.mismatched_tokens;
      VarianceGroup group = GroupOf(groups[g], sums.products);
      if (group.size() < kVarianceSamples) {
        ++result.left_out;
      } else {
        result.groups.push_back(std::move(group));
        result.prompts.push_back(PromptText(problems[first + g]));
      }
      if (args.price && !result.price.has_value()) {
        result.price = MeasurePrice(lab, groups[g], memory_bytes, sampling.inv_temperature());
      }
      if (progress.has_value()) progress->Update(static_cast<idx>(first + g) + 1, "");
    }
  }
  progress.reset();
  if (result.mismatched_tokens > 0) {
    Fail(ErrorCode::kExactness, "{} of {} log-probs differ from the sampler's: {}",
         result.mismatched_tokens, result.compared_tokens, kContractBroken);
  }
  if (result.groups.empty()) {
    Fail(ErrorCode::kWork, "variance: no prompt has {} answers with a reward and a token",
         kVarianceSamples);
  }
  for (const VarianceGroup& group : result.groups) {
    for (const double product : group.products) {
      if (!std::isfinite(product)) {
        Fail(ErrorCode::kWork, "variance: a gradient of the model is not finite");
      }
    }
  }
  const VarianceReport report =
      AnalyseVariance(result.groups, args.exponents, asked.seed, args.resamples);
  const ordered_json json = JsonOf(args, result, report);
  if (!args.out.empty()) {
    MakeFolder(args.out);
    WriteFileAtomically(args.out + "/variance.json",
                        json.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n");
  }
  if (args.json) {
    PrintJsonLine(json);
  } else {
    PrintTable(result, report, json);
  }
}

}  // namespace

void AddVariance(CLI::App& app, int&) {
  auto args = std::make_shared<VarianceArguments>();
  CLI::App* verb = app.add_subcommand(
      "variance",
      "the gradient-variance lab: samples answers, measures their gradients, and says how much "
      "variance each baseline leaves, and how the gradients' norms go with the lengths");
  args->model.Add(*verb);
  args->sampling.Add(*verb, 1.0, 256);
  verb->add_option("--data", args->data, "a data file, or a built-in set (its held-out part)")
      ->capture_default_str();
  AddProblemKeys(*verb, args->keys);
  verb->add_option("--system", args->system, "a system message put before each problem");
  verb->add_option("--prompts", args->prompts,
                   "so many of the data's problems, drawn by the seed; 0: all")
      ->check(CLI::Range(idx{0}, idx{1} << 30))
      ->capture_default_str();
  verb->add_option("-n", args->n, "answers a prompt")
      ->check(CLI::Range(static_cast<idx>(kVarianceSamples), idx{1024}))
      ->capture_default_str();
  args->reward.Add(*verb);
  verb->add_option("--length-exponent", args->exponents,
                   "weigh by length to this power; several: 1,1.6. The first is the one that gains "
                   "are told of")
      ->delimiter(',')
      ->check(CLI::Range(-10.0, 10.0))
      ->capture_default_str();
  verb->add_option("--resamples", args->resamples, "of the bootstrap")
      ->check(CLI::Range(idx{100}, idx{1000000}))
      ->capture_default_str();
  verb->add_option("--memory-mb", args->memory_mb, "for the gradients of a prompt's answers")
      ->check(CLI::Range(idx{1}, idx{1} << 30))
      ->capture_default_str();
  verb->add_option("--out", args->out, "write variance.json into this folder");
  verb->add_flag("--price", args->price,
                 "time the first prompt's norms against a backward pass for each answer");
  verb->add_flag("--json", args->json, "one JSON object on stdout instead of the table");
  verb->add_flag("--quiet", args->quiet, "no progress line");
  verb->callback([args] {
    CheckProblemKeys(args->keys);
    RunInDtype(*args, RunVariance<bf16>, RunVariance<float>);
  });
}

}  // namespace opo
