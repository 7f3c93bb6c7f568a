// [critic]: its keys, what they must satisfy, and what they stand for; rollout.window, which an
// algorithm with a critic has; and PPO-max's recipe.
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"
#include "base/fields.h"
#include "train/config.h"

namespace opo {
namespace {

// Keys of [critic] that are set to something.
std::vector<std::string_view> SetKeys(const CriticSettings& c) {
  const CriticSettings standard;
  std::vector<std::string_view> set;
  const auto note = [&](std::string_view key, bool changed) {
    if (changed) set.push_back(key);
  };
  note("init", c.init != standard.init);
  note("lr", c.lr != standard.lr);
  note("schedule", c.schedule != standard.schedule);
  note("warmup_steps", c.warmup_steps != standard.warmup_steps);
  note("clip_value", c.clip_value != standard.clip_value);
  note("value_coef", c.value_coef != standard.value_coef);
  note("pretrain_steps", c.pretrain_steps != standard.pretrain_steps);
  return set;
}

std::vector<std::string_view> AlgorithmsWithCritic() {
  std::vector<std::string_view> names;
  for (const Algorithm& algorithm : Algorithms()) {
    if ((algorithm.needs & kNeedsCritic) != 0) names.push_back(algorithm.name);
  }
  return names;
}

// Of rollout.window.
void ValidateWindow(const TrainConfig& c) {
  const auto usage = ErrorCode::kUsage;
  const idx window = c.rollout.window;
  if (c.algorithm.name != "t_ppo") {
    if (window == 0) return;
    Fail(
        usage,
        "rollout.window = {}: is of \"t_ppo\", which learns from unfinished answers; remove it, or "
        "set algorithm.name = \"t_ppo\"",
        window);
  }
  if (window == 0) {
    Fail(usage,
         "rollout.window = 0: \"t_ppo\" samples so many tokens of an answer a step; set it below "
         "rollout.max_new_tokens = {}",
         c.rollout.max_new_tokens);
  }
  if (c.algorithm.exact) {
    Fail(usage,
         "rollout.window = {}: an answer that goes on was begun by another policy, which "
         "algorithm.exact refuses; set algorithm.exact = false",
         window);
  }
  if (SharesCritic(c)) {
    Fail(usage,
         "critic.init = \"shared\": the critic of \"t_ppo\" learns whole answers, its policy "
         "windows of them; set critic.init = \"policy\"");
  }
  if (KlInReward(c.algorithm)) {
    Fail(usage,
         "algorithm.kl_in = \"reward\": \"t_ppo\" has the reward of finished answers alone; set "
         "it to \"loss\"");
  }
  if (c.rollout.dynamic_sampling) {
    Fail(usage,
         "rollout.dynamic_sampling: compares finished answers to a prompt, which rollout.window "
         "does not wait for; remove one of them");
  }
  if (!c.rollout.stop.empty()) {
    Fail(usage,
         "rollout.stop: a stop text could begin in one window and end in the next; remove it, or "
         "rollout.window");
  }
  if (c.algorithm.multi_objective_aggregation != "sum_then_normalize") {
    Fail(usage,
         "algorithm.multi_objective_aggregation: compares the finished answers to a prompt, which "
         "rollout.window does not wait for; remove it");
  }
}

}  // namespace

void VisitFields(Fields& f, CriticSettings& c) {
  f.Field("init", c.init,
          "what it begins as: \"policy\", a copy with a value head of zeros; \"shared\", a value "
          "head on the policy itself; or a reward model or language model, a folder or GGUF file");
  f.Field("lr", c.lr, "its peak learning rate; 0: train.lr", Range(0, 1));
  f.Field("schedule", c.schedule, "its schedule; empty: train.schedule",
          OneOf({"", "constant", "linear", "cosine"}));
  f.Field("warmup_steps", c.warmup_steps, "its warm-up; -1: train.warmup_steps", Range(-1, 1e9));
  f.Field("clip_value", c.clip_value,
          "a value's loss counts no way beyond so far from where the step began; 0: none, -1: the "
          "algorithm's own",
          AtLeast(kOwn));
  f.Field("value_coef", c.value_coef, "of a shared one: the value loss counts so much in the loss",
          AtLeast(0));
  f.Field("pretrain_steps", c.pretrain_steps,
          "of train.steps, the first so many in which it learns and the policy does not",
          Range(0, 1e9));
}

void TakeRecipe(const Fields& fields, TrainConfig& c) {
  if (c.algorithm.name != "ppo_max") return;
  const auto take = [&](std::string_view key, auto& setting, auto value) {
    if (!fields.IsGiven(key)) setting = value;
  };
  take("algorithm.kl_coef", c.algorithm.kl_coef, 0.05);
  take("algorithm.kl_in", c.algorithm.kl_in, "reward");
  std::vector<std::string_view> models;
  for (std::size_t i = 0; i < c.reward.size(); ++i) {
    RewardConfig& term = c.reward[i];
    if (term.weight == 0) continue;  // only watched
    take(fmt::format("reward.{}.normalize", i), term.normalize, "whiten");
    if (term.normalize != "none") take(fmt::format("reward.{}.clip", i), term.clip, 0.8);
    if (term.kind == "model") models.push_back(term.path);
  }
  if (models.size() == 1) take("critic.init", c.critic.init, models.front());
  if (!SharesCritic(c)) {
    // At most 10: where train.max_tokens ends the run, train.steps says nothing of its length.
    take("critic.pretrain_steps", c.critic.pretrain_steps, std::min<idx>(10, c.train.steps / 10));
  }
}

void ValidateCritic(const TrainConfig& c) {
  const auto usage = ErrorCode::kUsage;
  ValidateWindow(c);
  const CriticSettings& critic = c.critic;
  const std::vector<std::string_view> set = SetKeys(critic);
  if (!NeedsCritic(c)) {
    if (set.empty()) return;
    Fail(usage, "critic.{}: algorithm.name = \"{}\" has no critic; remove [critic], or take {}",
         set.front(), c.algorithm.name, fmt::join(AlgorithmsWithCritic(), ", "));
  }
  if (SharesCritic(c)) {
    for (const std::string_view key : set) {
      if (key != "lr" && key != "schedule" && key != "warmup_steps" && key != "pretrain_steps") {
        continue;
      }
      Fail(
          usage,
          "critic.{}: a shared critic is a part of the policy, which one optimizer updates; remove "
          "it, or set critic.init = \"policy\"",
          key);
    }
  } else if (critic.value_coef != CriticSettings().value_coef) {
    Fail(usage,
         "critic.value_coef = {}: is of critic.init = \"shared\"; this critic has a loss and an "
         "optimizer of its own: set critic.lr instead",
         critic.value_coef);
  }
  if (critic.pretrain_steps >= c.train.steps) {
    Fail(usage, "critic.pretrain_steps = {}: of train.steps = {} none is left for the policy",
         critic.pretrain_steps, c.train.steps);
  }
  if (critic.warmup_steps > c.train.steps) {
    Fail(usage, "critic.warmup_steps = {}: more than train.steps = {}", critic.warmup_steps,
         c.train.steps);
  }
}

bool NeedsCritic(const TrainConfig& config) {
  return (FindAlgorithm(config.algorithm.name).needs & kNeedsCritic) != 0;
}

bool SharesCritic(const TrainConfig& config) {
  return NeedsCritic(config) && config.critic.init == kSharedCritic;
}

double ValueClip(const TrainConfig& config) {
  return config.critic.clip_value == kOwn ? FindAlgorithm(config.algorithm.name).critic.clip_value
                                          : config.critic.clip_value;
}

OptimizerConfig CriticOptimizer(const TrainConfig& config) {
  OptimizerConfig optimizer = config.train;
  const CriticSettings& critic = config.critic;
  if (critic.lr > 0) optimizer.lr = critic.lr;
  if (!critic.schedule.empty()) optimizer.schedule = critic.schedule;
  if (critic.warmup_steps >= 0) optimizer.warmup_steps = critic.warmup_steps;
  return optimizer;
}

}  // namespace opo
