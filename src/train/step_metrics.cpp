#include "train/step_metrics.h"

#include <algorithm>

namespace opo {

using nlohmann::ordered_json;

StepWork WorkOf(std::span<const RolloutGroup> groups, const LearnResult& learned) {
  StepWork work;
  for (const RolloutGroup& group : groups) {
    // Given answers count where they were scored.
    const auto ran = [](const Rollout& r) { return !r.logprobs.empty() || !r.values.empty(); };
    if (!std::any_of(group.rollouts.begin(), group.rollouts.end(), ran)) continue;
    work.rows_sampled += static_cast<idx>(group.prompt.size()) - 1;
    for (const Rollout& rollout : group.rollouts) work.tokens_sampled += rollout.length();
    if (group.greedy.has_value()) {
      work.rows_sampled += static_cast<idx>(group.prompt.size()) - 1;
      work.tokens_sampled += group.greedy->length();
    }
  }
  work.rows_sampled += work.tokens_sampled;
  work.rows_recomputed = learned.rows_forward + learned.rows_rerun;
  work.rows_learned = learned.rows_learned;
  work.tokens_learned = learned.tokens;
  return work;
}

void PutRolloutMetrics(std::span<const RolloutGroup> groups, ordered_json& metrics) {
  Spread response;
  Spread prompt;
  Spread entropy;
  Spread surprise;
  double clipped = 0;
  for (const RolloutGroup& group : groups) {
    prompt.Add(static_cast<double>(group.prompt.size()));
    for (const Rollout& rollout : group.rollouts) {
      response.Add(static_cast<double>(rollout.length()));
      clipped += rollout.finish == FinishReason::kLength ? 1 : 0;
      for (const float h : rollout.entropies) entropy.Add(static_cast<double>(h));
      for (const float lp : rollout.logprobs) surprise.Add(-static_cast<double>(lp));
    }
  }
  const double n = static_cast<double>(response.count);
  response.Put(metrics, "response_length");
  metrics["response_length/clip_ratio"] = clipped / n;
  metrics["completions/mean_length"] = response.mean();
  metrics["completions/clipped_ratio"] = clipped / n;
  prompt.Put(metrics, "prompt_length");
  if (entropy.count > 0) {
    metrics["actor/entropy"] = entropy.mean();
    metrics["actor/perplexity"] = std::exp(surprise.mean());
  }
}

void PutLearnMetrics(std::span<const RolloutGroup> groups, const LearnResult& learned,
                     ordered_json& metrics) {
  double w_sum = 0;
  double power = 0;
  double n = 0;
  const double tokens = static_cast<double>(std::max<idx>(1, learned.tokens));
  metrics["actor/ppo_kl"] = learned.kl_sum / tokens;
  metrics["actor/pg_clipfrac"] = static_cast<double>(learned.clipped) / tokens;
  metrics["actor/pg_clipfrac_lower"] = static_cast<double>(learned.clipped_lower) / tokens;
  metrics["learn/tokens"] = learned.tokens;
  metrics["learn/micro_batches"] = learned.micro_batches;
  metrics["learn/padding"] =
      static_cast<double>(learned.rows_padding) /
      static_cast<double>(std::max<idx>(1, learned.rows_learned + learned.rows_padding));
  for (const RolloutGroup& group : groups) {
    for (const Rollout& rollout : group.rollouts) {
      if (rollout.sum_sqs.size() != rollout.tokens.size()) return;  // given, and not scored
      double w = 0;
      for (std::size_t t = 0; t < rollout.tokens.size(); ++t) {
        w += 1 - 2 * std::exp(static_cast<double>(rollout.logprobs[t])) +
             static_cast<double>(rollout.sum_sqs[t]);
      }
      w_sum += w;
      power += rollout.advantage * rollout.advantage * std::max(w, 0.0);
      n += 1;
    }
  }
  const double signal = std::pow(metrics.at("actor/grad_norm").get<double>(), 2);
  metrics["variance_proxy/proxy1_signal_strength"] = signal;
  metrics["variance_proxy/proxy2_total_power"] = power / n;
  metrics["variance_proxy/proxy3_pure_noise"] =
      n > 1 ? std::max(0.0, (power / n - signal) / (n - 1)) : 0.0;
  metrics["variance_proxy/expected_w"] = w_sum / n;
}

void PutValueMetrics(std::span<const RolloutGroup> groups, ordered_json& metrics) {
  Spread values;
  Spread returns;
  double errors = 0;
  const auto each = [&](const auto& visit) {
    for (const RolloutGroup& group : groups) {
      for (const Rollout& rollout : group.rollouts) {
        for (std::size_t t = 0; t < rollout.returns.size(); ++t) {
          visit(static_cast<double>(rollout.values[t]), rollout.returns[t]);
        }
      }
    }
  };
  each([&](double value, double target) {
    values.Add(value);
    returns.Add(target);
    errors += target - value;
  });
  values.Put(metrics, "critic/values");
  returns.Put(metrics, "critic/returns");
  if (returns.count < 2) return;
  const double n = static_cast<double>(returns.count);
  double error_squares = 0;
  double squares = 0;
  each([&](double value, double target) {
    error_squares += std::pow(target - value - errors / n, 2);
    squares += std::pow(target - returns.mean(), 2);
  });
  metrics["critic/vf_explained_var"] = 1 - error_squares / (n - 1) / (squares / (n - 1) + 1e-5);
}

void PutValueLoss(const LearnResult& learned, idx updates, ordered_json& metrics) {
  const double tokens = static_cast<double>(std::max<idx>(1, learned.tokens));
  metrics["critic/vf_loss"] = learned.value_loss / static_cast<double>(updates);
  metrics["critic/vf_clipfrac"] = static_cast<double>(learned.value_clipped) / tokens;
  metrics["critic/vpred_mean"] = learned.value_sum / tokens;
}

void PutPerformanceMetrics(const ModelConfig& model, std::span<const RolloutGroup> groups,
                           const LearnResult& learned, double gemm_rate, ordered_json& metrics) {
  const double step_seconds = metrics.at("timing_s/step").get<double>();
  const StepWork work = WorkOf(groups, learned);
  idx total_tokens = 0;
  for (const RolloutGroup& group : groups) {
    total_tokens += static_cast<idx>(group.prompt.size() * group.rollouts.size());
    for (const Rollout& rollout : group.rollouts) total_tokens += rollout.length();
    if (group.greedy.has_value()) total_tokens += group.greedy->length();
  }
  const double floor = FloorFlops(model, work) / gemm_rate;
  metrics["perf/total_num_tokens"] = total_tokens;
  metrics["perf/throughput"] = static_cast<double>(total_tokens) / step_seconds;
  metrics["perf/time_per_step"] = step_seconds;
  if (metrics.contains("timing_s/gen")) {
    metrics["perf/gen_tokens_per_s"] = static_cast<double>(work.tokens_sampled) /
                                       std::max(1e-9, metrics.at("timing_s/gen").get<double>() +
                                                          metrics.value("timing_s/gen_max", 0.0));
  }
  metrics["perf/gemm_rate"] = gemm_rate;
  metrics["perf/mfu/actor"] = floor / step_seconds;
  metrics["perf/floor_s"] = floor;
  metrics["perf/ratio_to_floor"] = step_seconds / floor;
  metrics["perf/cpu_memory_used_gb"] = static_cast<double>(PeakRssBytes()) / 1e9;
}

}  // namespace opo
