#include "algo/algorithm.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "algo/advantages.h"
#include "algo/preference.h"
#include "base/error.h"
#include "base/fields.h"

namespace opo {
namespace {

constexpr std::string_view kTokenMean = "token-mean";
constexpr std::string_view kTokenSum = "seq-mean-token-sum";
constexpr std::string_view kGae =
    "A_t = delta_t + gamma lambda A_(t+1), delta_t = r_t + gamma V_(t+1) - V_t, lambda = "
    "gae_lambda, V behind the last token = 0, whitened over the batch's tokens if "
    "whiten_advantages; the critic learns G_t = A_t + V_t, before the whitening";
constexpr std::string_view kPpoKeys = "gamma gae_lambda whiten_advantages ptx_coef";

constexpr Algorithm kAlgorithms[] = {
    {.name = "opo",
     .summary = "reward minus the prompt's length-weighted mean",
     .source = "arXiv 2505.23585",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups,
     .advantages = OpoAdvantages,
     .token_loss = PpoClipLoss,
     .formula =
         "A_i = r_i - b, b = sum_j l_j^e r_j / sum_j l_j^e over the group, e = length_exponent",
     .keys = "length_exponent"},
    {.name = "opo_batch",
     .summary = "reward minus the batch's length-weighted mean",
     .source = "microsoft/LMOps opo",
     .default_aggregation = kTokenMean,
     .advantages = OpoBatchAdvantages,
     .token_loss = PpoClipLoss,
     .formula =
         "A_i = r_i - b, b = sum_j l_j^e r_j / sum_j l_j^e over the batch, e = length_exponent",
     .keys = "length_exponent"},
    {.name = "opo_loo",
     .summary = "reward minus the length-weighted mean of the prompt's other answers",
     .source = "opo, made unbiased; not in its paper",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups,
     .advantages = OpoLooAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_i = r_i - b_i, b_i = sum_{j != i} l_j^e r_j / sum_{j != i} l_j^e over the "
                "group, e = length_exponent",
     .keys = "length_exponent"},
    {.name = "opo_exact",
     .summary = "reward minus the prompt's mean weighted by squared gradient norms",
     .source = "Greensmith et al. 2004",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups | kNeedsGradientNorms,
     .advantages = OpoExactAdvantages,
     .token_loss = PpoClipLoss,
     .formula =
         "A_i = r_i - b, b = sum_j n_j r_j / sum_j n_j over the group, n = |grad log pi(y)|^2"},
    {.name = "otb",
     .summary = "reward minus a mean at each token, weighted by the logits' gradient so far",
     .source = "verl docs/algo/otb.md",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups | kNeedsTokenStats,
     .advantages = OtbAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_it = G_it - B_t, B_t = sum_i W_it G_it / sum_i W_it over the group's answers "
                "with a token t, W_it = sum_{s <= t} (1 - 2 p_is + sum_v p_is(v)^2)",
     .keys = "handle_zero_tail"},
    {.name = "reinforce",
     .summary = "reward minus the batch's mean",
     .source = "Williams 1992",
     .default_aggregation = kTokenMean,
     .advantages = ReinforceAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_i = r_i - mean r over the batch"},
    {.name = "grpo",
     .summary = "reward minus the prompt's mean, divided by its std",
     .source = "arXiv 2402.03300",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups,
     .advantages = GrpoAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_i = (r_i - mean r) / (std r + 1e-6) over the group, std with K - 1"},
    {.name = "dr_grpo",
     .summary = "reward minus the prompt's mean",
     .source = "arXiv 2503.20783",
     .default_aggregation = "seq-mean-token-sum-norm",
     .needs = kNeedsGroups,
     .advantages = DrGrpoAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_i = r_i - mean r over the group"},
    {.name = "dapo",
     .summary = "grpo with a wider upper clip; with dynamic sampling and the reward overlong",
     .source = "arXiv 2503.14476",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups,
     .advantages = DapoAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_i = (r_i - mean r) / (std r + 1e-6) over the group",
     .clip = {.low = 0.2, .high = 0.28, .dual = 0}},
    {.name = "rloo",
     .summary = "reward minus the mean of the prompt's other answers",
     .source = "arXiv 2402.14740",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups,
     .advantages = RlooAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_i = r_i - mean_{j != i} r_j over the group"},
    {.name = "remax",
     .summary = "reward minus that of the greedy answer to the prompt",
     .source = "arXiv 2310.10505",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGreedy,
     .advantages = RemaxAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_it = G_it - r(greedy answer), G_it = r_i - sum_{s >= t} penalty_is"},
    {.name = "reinforce_pp",
     .summary = "returns of the tokens, whitened over the batch's tokens (REINFORCE++)",
     .source = "arXiv 2501.03262",
     .default_aggregation = kTokenMean,
     .advantages = ReinforcePpAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_it = (G_it - mean G) / sqrt(var G + 1e-8) over the batch's tokens, var with "
                "N - 1; G_it = r_it + gamma G_i(t+1)",
     .keys = "gamma"},
    {.name = "reinforce_pp_baseline",
     .summary = "reward minus the prompt's mean, whitened over the batch's tokens",
     .source = "arXiv 2501.03262",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups,
     .advantages = ReinforcePpBaselineAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_i = (c_i - mean c) / sqrt(var c + 1e-8) over the batch's tokens, var with "
                "N - 1; c_i = r_i - mean r over the group"},
    {.name = "gspo",
     .summary = "grpo's advantage, the clip on a sequence's ratio",
     .source = "arXiv 2507.18071",
     .default_aggregation = "seq-mean-token-mean",
     .needs = kNeedsGroups,
     .advantages = GspoAdvantages,
     .token_loss = nullptr,
     .batch_loss = GspoLosses,
     .formula = "A_i = (r_i - mean r) / (std r + 1e-6) over the group; L_i = -min(s_i A_i, "
                "clip(s_i, 1 - clip_low, 1 + clip_high) A_i), s_i = exp(mean_t log ratio_it)",
     .clip = {.low = 3e-4, .high = 4e-4, .dual = kOwn}},
    {.name = "cispo",
     .summary = "grpo's advantage, the ratio as a capped constant weight",
     .source = "arXiv 2506.13585",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups,
     .advantages = CispoAdvantages,
     .token_loss = CispoLoss,
     .formula = "A_i = (r_i - mean r) / (std r + 1e-6) over the group; L_it = -w_it A_i log pi, "
                "w_it = clip(ratio_it, 1 - clip_low, is_weight_cap) without gradient",
     .clip = {.low = 1, .high = kOwn, .dual = kOwn},
     .keys = "is_weight_cap"},
    {.name = "raft",
     .summary = "likelihood of the right answers",
     .source = "arXiv 2504.11343",
     .default_aggregation = kTokenMean,
     .advantages = RaftAdvantages,
     .token_loss = LikelihoodLoss,
     .formula = "A_i = 1 where r_i > 0, else 0; L_it = -A_i log pi, no ratio",
     .clip = kNoClip},
    {.name = "raft_pp",
     .summary = "raft with ratio and clip (RAFT++)",
     .source = "arXiv 2504.11343",
     .default_aggregation = kTokenMean,
     .advantages = RaftPpAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_i = 1 where r_i > 0, else 0"},
    {.name = "reinforce_rej",
     .summary = "the reward itself, -1 or 1, without groups that are all right or all wrong",
     .source = "arXiv 2504.11343",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups,
     .advantages = ReinforceRejAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_i = r_i, 0 where the group's rewards are all equal; a group's lowest reward of "
                "0 counts as -1"},
    {.name = "em_pg",
     .summary = "likelihood weighted by the reward, several updates without ratio",
     .source = "arXiv 2504.18587",
     .default_aggregation = kTokenSum,
     .advantages = EmPgAdvantages,
     .token_loss = LikelihoodLoss,
     .formula = "L_it = -A_i log pi, no ratio; A_i = r_i (reward), r_i / mean r over the group "
                "(posterior), r_i - mean r (centred)",
     .clip = kNoClip,
     .keys = "em_pg_weight"},
    {.name = "rebel",
     .summary = "regression of log-ratio differences onto reward differences of pairs",
     .source = "arXiv 2404.16767",
     .default_aggregation = kTokenSum,
     .needs = kNeedsGroups,
     .advantages = RebelAdvantages,
     .token_loss = nullptr,
     .batch_loss = RebelLosses,
     .formula = "L = mean over the group's pairs of ((h - h') - eta (r - r'))^2, h_i = sum_t log "
                "ratio_it, eta = rebel_eta; where h = 0 its gradient has A_i = 4 eta (r_i - "
                "mean_{j != i} r_j)",
     .clip = kNoClip,
     .keys = "rebel_eta"},
    {.name = "reward_model",
     .summary = "a score that ranks the chosen answer of each pair first",
     .source = "Bradley and Terry 1952; TRL RewardTrainer",
     .default_aggregation = kTokenSum,
     .needs = kNeedsPairs | kNeedsValueHead,
     .advantages = NoAdvantages,
     .token_loss = nullptr,
     .batch_loss = RewardModelLosses,
     .formula = "L = -log sigmoid(s+ - s- - margin_coef m) + center_coef (s+ + s-)^2, m the "
                "row's margin",
     .clip = kNoClip,
     .keys = "margin_coef center_coef"},
    {.name = "step_critic",
     .summary = "a score whose sigmoid is the chance that a partial answer ends right",
     .source = "arXiv 2412.18279",
     .default_aggregation = kTokenSum,
     .needs = kNeedsSteps | kNeedsValueHead,
     .advantages = NoAdvantages,
     .token_loss = nullptr,
     .batch_loss = StepCriticLosses,
     .formula = "L = -MC log V - (1 - MC) log(1 - V), V = sigmoid(s), MC the state's rate of right "
                "completions",
     .clip = kNoClip},
    {.name = "direct_advantage",
     .summary = "offline regression of a step's log-ratio onto its advantage by a frozen critic",
     .source = "arXiv 2412.18279",
     .default_aggregation = kTokenSum,
     .needs = kNeedsSteps | kNeedsReference,
     .advantages = DirectAdvantageAdvantages,
     .token_loss = nullptr,
     .batch_loss = DirectAdvantageLosses,
     .formula =
         "L_i = 1/2 (A_i / step_beta - sum_t log pi / pi_ref)^2, A_i = Q_i - mean Q over the "
         "state's candidate steps; states whose max A - min A is below min_gap are left out",
     .clip = kNoClip,
     .keys = "step_beta min_gap"},
    {.name = "aihf",
     .summary = "policy steps on a reward that learns from demonstrations, pairs and the policy",
     .source = "arXiv 2406.06874",
     .default_aggregation = kTokenMean,
     .needs = kNeedsGroups | kNeedsLearnedReward,
     .advantages = AihfAdvantages,
     .token_loss = PpoClipLoss,
     .formula =
         "A_i = R(y_i) - b, b of opo or rloo (aihf_baseline); R by L = -demo_weight (R(demo) "
         "- mean_i R(y_i)) - log sigmoid(R+ - R- - margin_coef m) + center_coef (R + R')^2",
     .keys = "aihf_baseline demo_weight margin_coef center_coef"},
    {.name = "dpo",
     .summary = "the chosen answer of a pair above the rejected one, against a reference",
     .source = "arXiv 2305.18290",
     .default_aggregation = kTokenSum,
     .needs = kNeedsPairs | kNeedsReference,
     .advantages = DpoAdvantages,
     .token_loss = nullptr,
     .batch_loss = DpoLosses,
     .formula = "L = mean over pairs of -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h), h = "
                "h_chosen - h_rejected, h_i = sum_t log(pi / reference), e = label_smoothing; A: "
                "where pi = reference",
     .clip = kNoClip,
     .keys = "beta label_smoothing",
     .pairs = GivenPairs},
    {.name = "ipo",
     .summary = "dpo with a squared loss, which stops at a margin",
     .source = "arXiv 2310.12036",
     .default_aggregation = kTokenSum,
     .needs = kNeedsPairs | kNeedsReference,
     .advantages = IpoAdvantages,
     .token_loss = nullptr,
     .batch_loss = IpoLosses,
     .formula = "L = mean over pairs of (h - 1 / (2 beta))^2, h = h_chosen - h_rejected, h_i = "
                "sum_t log(pi / reference), / l_i where divide_by_length; A: where pi = reference",
     .clip = kNoClip,
     .keys = "beta divide_by_length",
     .pairs = GivenPairs},
    {.name = "sr_dpo",
     .summary = "dpo with a margin of the policy's own judgement of the pair (Sr-DPO)",
     .source = "arXiv 2405.21040",
     .default_aggregation = kTokenSum,
     .needs = kNeedsPairs | kNeedsReference | kNeedsRefinement,
     .advantages = SrDpoAdvantages,
     .token_loss = nullptr,
     .batch_loss = SrDpoLosses,
     .formula =
         "L = mean over pairs of -log sigmoid(beta h - sr_lambda Delta), h as dpo's, Delta = "
         "beta h behind the refinement prompt, without gradient; A: where pi = reference",
     .clip = kNoClip,
     .keys = "beta label_smoothing sr_lambda sr_prompt",
     .pairs = GivenPairs},
    {.name = "sr_ipo",
     .summary = "ipo with a margin of the policy's own judgement of the pair (Sr-IPO)",
     .source = "arXiv 2405.21040",
     .default_aggregation = kTokenSum,
     .needs = kNeedsPairs | kNeedsReference | kNeedsRefinement,
     .advantages = SrIpoAdvantages,
     .token_loss = nullptr,
     .batch_loss = SrIpoLosses,
     .formula =
         "L = mean over pairs of (h - sr_lambda Delta - 1 / (2 beta))^2, h as ipo's, Delta = "
         "beta h behind the refinement prompt, without gradient; A: where pi = reference",
     .clip = kNoClip,
     .keys = "beta divide_by_length sr_lambda sr_prompt",
     .pairs = GivenPairs},
    {.name = "online_dpo",
     .summary = "dpo on the best and the worst of a prompt's sampled answers",
     .source = "arXiv 2402.04792, 2405.07863",
     .default_aggregation = kTokenSum,
     .needs = kNeedsGroups | kNeedsReference,
     .advantages = OnlineDpoAdvantages,
     .token_loss = nullptr,
     .batch_loss = OnlineDpoLosses,
     .formula = "dpo's L, chosen and rejected being the group's best and worst answer by reward; "
                "none where all rewards are equal; A: where pi = reference",
     .clip = kNoClip,
     .keys = "beta label_smoothing",
     .pairs = BestAndWorst},
    {.name = "aihf_direct",
     .summary = "dpo on pairs and the likelihood of demonstrations (AIHF without a reward model)",
     .source = "arXiv 2406.06874",
     .default_aggregation = kTokenSum,
     .needs = kNeedsPairs | kNeedsDemonstrations | kNeedsReference,
     .advantages = AihfDirectAdvantages,
     .token_loss = nullptr,
     .batch_loss = AihfDirectLosses,
     .formula = "L = dpo's L of the pairs + demo_weight * mean over demonstrations of -sum_t log "
                "pi; A: where pi = reference",
     .clip = kNoClip,
     .keys = "beta label_smoothing demo_weight",
     .pairs = GivenPairs},
    {.name = "sft",
     .summary = "likelihood of the data's own answers: supervised fine-tuning",
     .source = "TRL SFTTrainer",
     .default_aggregation = kTokenMean,
     .needs = kNeedsDemonstrations,
     .advantages = SftAdvantages,
     .token_loss = LikelihoodLoss,
     .formula = "L_it = -log pi, over the assistant's tokens of the given answers",
     .clip = kNoClip},
    {.name = "ppo",
     .summary = "generalised advantages by a critic, whitened, clipped ratio",
     .source = "arXiv 1707.06347, 1506.02438",
     .default_aggregation = kTokenMean,
     .needs = kNeedsCritic,
     .advantages = PpoAdvantages,
     .token_loss = PpoClipLoss,
     .formula = kGae,
     .keys = kPpoKeys,
     .critic = {.whiten = true, .clip_value = 0.5}},
    {.name = "ppo_max",
     .summary =
         "ppo constrained by its reward: whitened, clipped, less a token KL; a pre-trained critic",
     .source = "arXiv 2307.04964",
     .default_aggregation = kTokenMean,
     .needs = kNeedsCritic,
     .advantages = PpoAdvantages,
     .token_loss = PpoClipLoss,
     .formula = kGae,
     .clip = {.low = 0.2, .high = 0.2, .dual = 0},
     .keys = kPpoKeys,
     .critic = {.whiten = false, .clip_value = 0.2}},
    {.name = "t_ppo",
     .summary = "ppo on a window of each answer; unfinished ones go on in the next step",
     .source = "arXiv 2506.15050",
     .default_aggregation = kTokenMean,
     .needs = kNeedsCritic,
     .advantages = TPpoAdvantages,
     .token_loss = PpoClipLoss,
     .formula = "A_t = delta_t + gamma lambda A_(t+1), delta_t = r_t + gamma V_(t+1) - V_t, "
                "whitened; V behind the last token: 0 of a finished answer, else V at that token "
                "(EGAE); the critic learns sum_{s >= t} gamma^(s-t) r_s of finished answers",
     .clip = {.low = 0.2, .high = 0.28, .dual = 0},
     .keys = "gamma gae_lambda whiten_advantages",
     .critic = {.whiten = true, .clip_value = 0.5}},
    {.name = "apa",
     .summary = "regression of the log-ratio to the reference onto a critic's advantages",
     .source = "arXiv 2306.02231",
     .default_aggregation = kTokenMean,
     .needs = kNeedsCritic | kNeedsReference,
     .advantages = PpoAdvantages,
     .token_loss = ApaLoss,
     .formula = "L_t = (log pi - log pi_ref - A_t / apa_lambda)^2; A_t = delta_t + gamma lambda "
                "A_(t+1), delta_t = r_t + gamma V_(t+1) - V_t, whitened",
     .clip = kNoClip,
     .keys = "gamma gae_lambda whiten_advantages apa_lambda",
     .critic = {.whiten = true, .clip_value = 0}},
    {.name = "awr",
     .summary = "likelihood weighted by the exponential of a critic's advantages",
     .source = "arXiv 1910.00177, 2306.02231",
     .default_aggregation = kTokenMean,
     .needs = kNeedsCritic,
     .advantages = AwrAdvantages,
     .token_loss = LikelihoodLoss,
     .formula = "L_t = -exp(awr_scale a_t) log pi, no ratio; a_t = delta_t + gamma lambda a_(t+1), "
                "delta_t = r_t + gamma V_(t+1) - V_t, whitened",
     .clip = kNoClip,
     .keys = "gamma gae_lambda whiten_advantages awr_scale",
     .critic = {.whiten = true, .clip_value = 0}},
};

// Settings of one algorithm or family, and whether `config` has them at something else.
struct OwnSetting {
  std::string_view key;
  bool changed;
};

std::vector<OwnSetting> OwnSettings(const AlgorithmConfig& config) {
  const AlgorithmConfig standard;
  return {{"length_exponent", config.length_exponent != standard.length_exponent},
          {"handle_zero_tail", config.handle_zero_tail != standard.handle_zero_tail},
          {"gamma", config.gamma != standard.gamma},
          {"is_weight_cap", config.is_weight_cap != standard.is_weight_cap},
          {"em_pg_weight", config.em_pg_weight != standard.em_pg_weight},
          {"rebel_eta", config.rebel_eta != standard.rebel_eta},
          {"margin_coef", config.margin_coef != standard.margin_coef},
          {"center_coef", config.center_coef != standard.center_coef},
          {"demo_weight", config.demo_weight != standard.demo_weight},
          {"aihf_baseline", config.aihf_baseline != standard.aihf_baseline},
          {"step_beta", config.step_beta != standard.step_beta},
          {"min_gap", config.min_gap != standard.min_gap},
          {"beta", config.beta != standard.beta},
          {"label_smoothing", config.label_smoothing != standard.label_smoothing},
          {"divide_by_length", config.divide_by_length != standard.divide_by_length},
          {"sr_lambda", config.sr_lambda != standard.sr_lambda},
          {"sr_prompt", config.sr_prompt != standard.sr_prompt},
          {"gae_lambda", config.gae_lambda != standard.gae_lambda},
          {"whiten_advantages", config.whiten_advantages != standard.whiten_advantages},
          {"apa_lambda", config.apa_lambda != standard.apa_lambda},
          {"awr_scale", config.awr_scale != standard.awr_scale},
          {"ptx_coef", config.ptx_coef != standard.ptx_coef}};
}

}  // namespace

std::span<const Algorithm> Algorithms() { return kAlgorithms; }

std::vector<std::string_view> Algorithm::Keys() const {
  std::vector<std::string_view> list;
  for (std::string_view rest = keys; !rest.empty();) {
    const std::size_t end = std::min(rest.find(' '), rest.size());
    list.push_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return list;
}

bool Algorithm::HasKey(std::string_view key) const {
  const std::vector<std::string_view> list = Keys();
  return std::find(list.begin(), list.end(), key) != list.end();
}

const Algorithm& FindAlgorithm(std::string_view name) {
  std::vector<std::string> known;
  for (const Algorithm& algorithm : kAlgorithms) {
    if (algorithm.name == name) return algorithm;
    known.emplace_back(algorithm.name);
  }
  const std::string near = NearestName(name, known);
  Fail(ErrorCode::kUsage, "unknown algorithm '{}'; {}known are: {}", name,
       near.empty() ? "" : fmt::format("did you mean '{}'? ", near), fmt::join(known, ", "));
}

AlgorithmConfig Resolved(const AlgorithmConfig& config) {
  const Algorithm& algorithm = FindAlgorithm(config.name);
  AlgorithmConfig resolved = config;
  if (resolved.loss_agg.empty()) resolved.loss_agg = algorithm.default_aggregation;
  if (resolved.clip_low == kOwn) resolved.clip_low = algorithm.clip.low;
  if (resolved.clip_high == kOwn) resolved.clip_high = algorithm.clip.high;
  if (resolved.clip_dual == kOwn) resolved.clip_dual = algorithm.clip.dual;
  if (resolved.whiten_advantages.empty()) {
    resolved.whiten_advantages = algorithm.critic.whiten ? "yes" : "no";
  }
  return resolved;
}

void CheckAlgorithmConfig(const AlgorithmConfig& config) {
  const Algorithm& algorithm = FindAlgorithm(config.name);
  for (const auto& [key, changed] : OwnSettings(config)) {
    if (!changed || algorithm.HasKey(key)) continue;
    std::vector<std::string_view> having;
    for (const Algorithm& other : kAlgorithms) {
      if (other.HasKey(key)) having.push_back(other.name);
    }
    Fail(ErrorCode::kUsage, "algorithm.{}: \"{}\" has no such setting; it is one of {}: remove it",
         key, config.name, fmt::join(having, ", "));
  }
  const std::pair<const char*, double> clips[] = {{"clip_low", config.clip_low},
                                                  {"clip_high", config.clip_high},
                                                  {"clip_dual", config.clip_dual}};
  const double own[] = {algorithm.clip.low, algorithm.clip.high, algorithm.clip.dual};
  for (std::size_t i = 0; i < std::size(clips); ++i) {
    const auto& [key, value] = clips[i];
    if (value == kOwn) continue;
    if (value < 0) {
      Fail(ErrorCode::kUsage,
           "algorithm.{} = {}: must be at least 0, or -1 for the algorithm's own", key, value);
    }
    if (own[i] == kOwn) {
      Fail(ErrorCode::kUsage, "algorithm.{}: the loss of \"{}\" has no such bound: remove it", key,
           config.name);
    }
  }
  if (config.kl_target > 0 && config.kl_coef <= 0) {
    Fail(ErrorCode::kUsage,
         "algorithm.kl_target = {}: adapts algorithm.kl_coef, which is {}; set it to where the "
         "controller begins, such as 0.05",
         config.kl_target, config.kl_coef);
  }
  const std::string aggregation = Resolved(config).loss_agg;
  const bool of_answers =
      algorithm.pairs != nullptr || (algorithm.needs & (kNeedsValueHead | kNeedsSteps)) != 0;
  if (of_answers && aggregation != kTokenSum) {
    Fail(ErrorCode::kUsage,
         "algorithm.loss_agg = \"{}\": the loss of \"{}\" is a mean over answers or pairs, which "
         "only {} "
         "gives: remove it",
         aggregation, config.name, kTokenSum);
  }
  if (aggregation != "seq-mean-token-mean") return;
  // The variants of OPO weigh answers by the gradients' squared norms under a sum over tokens.
  const bool has_exponent = algorithm.HasKey("length_exponent");
  if (config.name.starts_with("opo") && !(has_exponent && config.length_exponent <= 0)) {
    Fail(ErrorCode::kUsage,
         "algorithm.loss_agg = \"seq-mean-token-mean\": divides each answer by its length, for "
         "which the baseline of \"{}\" is the wrong one; take token-mean{}",
         config.name, has_exponent ? ", or algorithm.length_exponent = -1" : "");
  }
  if (config.name == "rebel") {
    Fail(ErrorCode::kUsage,
         "algorithm.loss_agg = \"seq-mean-token-mean\": \"rebel\" regresses sums over an answer's "
         "tokens; take seq-mean-token-sum");
  }
}

}  // namespace opo
