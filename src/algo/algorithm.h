// RL algorithms as pure arithmetic: rewards and lengths to advantages, log-probs and advantages to
// token losses. Nothing here knows a tensor, a model or a thread.
//
// Notation of docs/algorithms.md: response i of K has reward r_i and length l_i (trainable tokens,
// EOS counts). All sums are f64, in index order.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace opo {

// A batch of responses as parallel arrays. Responses of one prompt share a group number; groups are
// numbered from 0 and stand together.
struct RewardBatch {
  std::vector<double> rewards;
  std::vector<idx> lengths;
  std::vector<idx> groups;
  // One entry a response too, but filled only for algorithms that need it (Algorithm::needs).
  std::vector<double> greedy_rewards = {};  // of the greedy answer to the same prompt
  std::vector<double> gradient_norms = {};  // |grad log pi(y)|^2 of the response
  // Of its tokens when they were sampled: log-probs, and the sums over the vocabulary of p^2.
  std::vector<std::span<const float>> logprobs = {};
  std::vector<std::span<const float>> sum_sqs = {};
  // What each token takes from the reward, such as a KL penalty; empty where nothing does. An
  // algorithm with one advantage a response takes their sum from its reward.
  std::vector<std::vector<double>> token_penalties = {};
  // The critic's, before each token of the response (kNeedsCritic).
  std::vector<std::span<const float>> values = {};
  // Whether the response goes on after its last token, in a later step; empty: none does.
  std::vector<bool> unfinished = {};
};

struct AdvantageResult {
  // One a response: of each of its tokens, or, where those differ, their mean.
  std::vector<double> advantages;
  std::vector<double> baselines;                      // what was subtracted, one a response
  std::vector<std::vector<double>> token_advantages;  // empty where they do not differ
  // What the critic is to say before each token (kNeedsCritic); else empty.
  std::vector<std::vector<double>> returns = {};
};

inline constexpr double kOwn = -1;  // of a setting: what the algorithm's source takes

// The refinement prompt of quality-aware self-refinement (arXiv 2405.21040), told in our words: the
// paper's wording is unconfirmed.
inline constexpr std::string_view kSrPrompt =
    "Give a response to the query below that is harmless and as useful as it can be: one that "
    "scores 100 out of 100.\n\nQuery: ";

struct AlgorithmConfig {  // [algorithm]
  std::string name = "opo";
  // "" and kOwn: the algorithm's own, which Resolved() fills in.
  std::string loss_agg = {};
  double norm = 0;
  double clip_low = kOwn;
  double clip_high = kOwn;
  double clip_dual = kOwn;
  // Each of one algorithm or family (Algorithm::keys); refused for the others.
  double length_exponent = 1;                      // opo, opo_batch, opo_loo
  bool handle_zero_tail = false;                   // otb
  double gamma = 1;                                // reinforce_pp, those with a critic
  double is_weight_cap = 5;                        // cispo
  std::string em_pg_weight = "reward";             // em_pg
  double rebel_eta = 1;                            // rebel
  double margin_coef = 1;                          // reward_model, aihf
  double center_coef = 0;                          // reward_model, aihf
  double demo_weight = 1;                          // aihf, aihf_direct
  std::string aihf_baseline = "opo";               // aihf
  double step_beta = 0.01;                         // direct_advantage
  double min_gap = 0.1;                            // direct_advantage
  double beta = 0.1;                               // dpo, ipo and what is made of them
  double label_smoothing = 0;                      // of dpo's loss
  bool divide_by_length = true;                    // ipo, sr_ipo
  double sr_lambda = 0.5;                          // sr_dpo, sr_ipo
  std::string sr_prompt = std::string(kSrPrompt);  // sr_dpo, sr_ipo
  std::string multi_objective_aggregation = "sum_then_normalize";
  bool exact = true;
  double kl_coef = 0;
  std::string kl_estimator = {};
  std::string kl_in = "loss";
  double entropy_coef = 0;
  double gae_lambda = 0.95;            // those with a critic
  std::string whiten_advantages = {};  // those with a critic: "yes", "no"; "": the algorithm's own
  double apa_lambda = 0.1;             // apa
  double awr_scale = 0.5;              // awr
  double ptx_coef = 0;                 // ppo, ppo_max
  double kl_target = 0;                // of AdaptedKlCoef; 0: kl_coef stays
  double kl_horizon = 10000;
};

// What the loss of a token looks at.
struct LossToken {
  double policy = 0;   // log-prob by the weights that learn
  double rollout = 0;  // when it was sampled
  double advantage = 0;
  double reference = 0;  // log-prob by the reference (kNeedsReference)
};

// The loss of one token and its derivative by the policy's log-prob.
struct TokenLoss {
  double loss = 0;
  double dlogprob = 0;
  bool clipped = false;        // the clip is active: no gradient (but for CISPO)
  bool clipped_lower = false;  // the dual clip is active (A < 0)
};

// The responses of one optimizer step, as parallel arrays, for losses that join several tokens.
// Groups as in RewardBatch.
struct LossBatch {
  std::vector<std::vector<double>> policy;      // log-probs of the tokens by the weights that learn
  std::vector<std::span<const float>> rollout;  // when they were sampled
  std::vector<double> rewards;  // less the sum of the token penalties, where there are any
  std::vector<double> advantages;
  std::vector<idx> groups;
  std::vector<std::span<const float>> reference = {};  // log-probs (kNeedsReference)
  // Of each group, whether it is a demonstration and, behind it, answers sampled to its prompt,
  // instead of a pair (aihf); empty: none is.
  std::vector<bool> demonstrations = {};
  std::vector<std::vector<bool>> learned = {};  // tokens; empty, or one empty: all are
  // One a response: policy - reference, summed over its learned tokens, behind the refinement
  // prompt (kNeedsRefinement).
  std::vector<double> refined = {};
};
using BatchLosses = std::vector<std::vector<TokenLoss>>;  // of each token of each response

// What an algorithm asks for beside rewards and lengths; flags.
enum Needs : unsigned {
  kNeedsNothing = 0,
  kNeedsGroups = 1,         // at least two responses a prompt
  kNeedsGreedy = 2,         // RewardBatch::greedy_rewards
  kNeedsGradientNorms = 4,  // RewardBatch::gradient_norms
  kNeedsTokenStats = 8,     // RewardBatch::logprobs and sum_sqs
  kNeedsCritic = 16,        // RewardBatch::values; AdvantageResult::returns are learned
  kNeedsReference = 32,  // reference log-probs in the loss, which an exact run takes as it is too
  // Instead of sampling, the batch's answers are those of the data (Problem::answers):
  kNeedsDemonstrations = 64,  // one a group
  kNeedsPairs = 128,          // two a group, the chosen one first
  // What learns has a value head instead of logits, whose output at an answer's last token is its
  // score: LossBatch::policy are the head's outputs.
  kNeedsValueHead = 256,
  // Instead of sampling, token ids after token ids of a state, any number a group, each with its
  // reward (Problem::steps).
  kNeedsSteps = 1024,
  kNeedsLearnedReward = 2048,  // a reward model that learns beside the policy scores the answers
  kNeedsRefinement = 4096,     // LossBatch::refined
};

// Two responses of a batch that a loss compares.
struct AnswerPair {
  std::size_t chosen = 0;
  std::size_t rejected = 0;
};

// An algorithm's clip; kOwn where its loss has no such bound.
struct ClipRange {
  double low = 0.2;
  double high = 0.2;
  double dual = 3.0;
};
inline constexpr ClipRange kNoClip = {kOwn, kOwn, kOwn};

// What an algorithm with a critic makes of its values.
struct CriticUse {
  bool whiten = true;     // the advantages, over the batch's tokens
  double clip_value = 0;  // ValueLoss's bound; 0: none
};

struct Algorithm {
  std::string_view name;
  std::string_view summary;  // one line
  std::string_view source;   // paper or code
  std::string_view default_aggregation;
  unsigned needs = kNeedsNothing;
  AdvantageResult (*advantages)(const RewardBatch& batch, const AlgorithmConfig& config);
  // Of one token alone, where policy and rollout differ. `config` is a Resolved() one. At ratio 1
  // its derivative must be that of PolicyGradientLoss, which is what an exact run takes.
  TokenLoss (*token_loss)(const LossToken& token, const AlgorithmConfig& config);
  // Instead, where a token's loss depends on other tokens.
  BatchLosses (*batch_loss)(const LossBatch& batch, const AlgorithmConfig& config) = nullptr;
  std::string_view formula = {};  // plain text, for people
  ClipRange clip = {};            // of the source
  std::string_view keys = {};     // its settings beside the common ones, with spaces between
  // Of a loss of preferences: which responses it compares.
  std::vector<AnswerPair> (*pairs)(std::span<const double> rewards,
                                   std::span<const idx> groups) = nullptr;
  CriticUse critic = {};  // with kNeedsCritic
  std::vector<std::string_view> Keys() const;
  bool HasKey(std::string_view key) const;
};

// The explicit table; order is that of docs/algorithms.md.
std::span<const Algorithm> Algorithms();
// Throws Error(kUsage) naming the nearest known name.
const Algorithm& FindAlgorithm(std::string_view name);

// `config` with the algorithm's own aggregation and clip where nothing else is set.
AlgorithmConfig Resolved(const AlgorithmConfig& config);
// Throws Error(kUsage) where a setting is one that the algorithm does not have, or out of range.
void CheckAlgorithmConfig(const AlgorithmConfig& config);

// How token losses become one number; verl's names.
//   token-mean            sum m L / sum m
//   seq-mean-token-sum    (1/n) sum_i sum_t m L
//   seq-mean-token-mean   (1/n) sum_i (1/l_i) sum_t m L
//   seq-mean-token-sum-norm  (1/(n * norm)) sum m L      (Dr. GRPO's constant normaliser)
// n counts responses with at least one token. Computed once per optimizer step over the whole
// batch. Returns the weight of each token of response i (one number a response); 0 for empty
// responses. Throws Error(kUsage) for an unknown mode, naming the known ones.
std::vector<double> TokenWeights(std::string_view mode, std::span<const idx> lengths, double norm);
std::span<const std::string_view> AggregationModes();

// On-policy: L = -A * lp as gradient; the reported loss is -A (the surrogate at ratio 1).
TokenLoss PolicyGradientLoss(const LossToken& token);
// The log-likelihood weighted by the advantage, without a ratio: L = -A * lp off policy too.
TokenLoss LikelihoodLoss(const LossToken& token, const AlgorithmConfig& config);
// PPO clip with verl's dual clip (verl core_algos.compute_policy_loss_vanilla): ratio =
// exp(clamp(policy - rollout, -20, 20)) in [1 - clip_low, 1 + clip_high]; clip_dual (verl's
// clip_ratio_c) <= 1 switches the dual clip off.
TokenLoss PpoClipLoss(const LossToken& token, const AlgorithmConfig& config);
// L = -w A lp with the constant w = clamp(ratio, 1 - clip_low, is_weight_cap).
TokenLoss CispoLoss(const LossToken& token, const AlgorithmConfig& config);
// PPO clip on s_i = exp(mean over the response's tokens of policy - rollout), for all its tokens.
BatchLosses GspoLosses(const LossBatch& batch, const AlgorithmConfig& config);
// (D - rebel_eta (r - r'))^2 over the pairs of a group, D the difference of two responses' summed
// policy - rollout. To be weighed by seq-mean-token-sum: then the loss is the mean over pairs.
BatchLosses RebelLosses(const LossBatch& batch, const AlgorithmConfig& config);
// Of pairs: dpo.cpp, ipo.cpp, self_refinement.cpp, online_dpo.cpp, aihf_direct.cpp. To be weighed
// by seq-mean-token-sum: then the loss is the mean over pairs.
BatchLosses DpoLosses(const LossBatch& batch, const AlgorithmConfig& config);
BatchLosses IpoLosses(const LossBatch& batch, const AlgorithmConfig& config);
BatchLosses SrDpoLosses(const LossBatch& batch, const AlgorithmConfig& config);
BatchLosses SrIpoLosses(const LossBatch& batch, const AlgorithmConfig& config);
BatchLosses OnlineDpoLosses(const LossBatch& batch, const AlgorithmConfig& config);
BatchLosses AihfDirectLosses(const LossBatch& batch, const AlgorithmConfig& config);

// The losses of what has a value head: an answer's score is the last of its `policy`. To be weighed
// by seq-mean-token-sum: then they are means over pairs, demonstrations and states.
//
// Bradley-Terry, with s+ and s- the scores of a pair and m the difference of its rewards:
//   -log sigmoid(s+ - s- - margin_coef m) + center_coef (s+ + s-)^2
// and of a demonstration's score and the mean of those of the sampled answers behind it
//   -demo_weight (s - mean s_j) + center_coef (s + mean s_j)^2.
BatchLosses RewardModelLosses(const LossBatch& batch, const AlgorithmConfig& config);
// Cross-entropy of sigmoid(score) with the reward, a rate of right completions in [0, 1].
BatchLosses StepCriticLosses(const LossBatch& batch, const AlgorithmConfig& config);
// 1/2 (A / step_beta - u)^2, u the sum over an answer's tokens of policy - reference.
BatchLosses DirectAdvantageLosses(const LossBatch& batch, const AlgorithmConfig& config);
// Squared error of the log-ratio to the reference: L = (policy - reference - A / apa_lambda)^2.
TokenLoss ApaLoss(const LossToken& token, const AlgorithmConfig& config);

// The critic's loss of one token, 0.5 max((V - G)^2, (clip(V, V_old - clip, V_old + clip) - G)^2)
// with its return G, and the derivative by V in `dlogprob`; without a clip, 0, 0.5 (V - G)^2.
TokenLoss ValueLoss(double value, double old_value, double target, double clip);

// An estimate of KL(policy || reference) from one token, and its derivative by the policy's
// log-prob, with d = policy - reference and verl's clamps (core_algos.kl_penalty_forward):
//   k1   d                  as a loss its mean gradient is 0: for the reward
//   k2   d^2 / 2            as a loss its mean gradient is that of KL(policy || reference)
//   k3   exp(-d) + d - 1    as a loss its mean gradient is that of KL(reference || policy);
//                           d is kept in [-20, 20], the value at most 10: no gradient beyond
struct KlTerm {
  double value = 0;
  double dlogprob = 0;
};
// Throws Error(kUsage) for an unknown estimator, naming the known ones.
KlTerm KlPenalty(std::string_view estimator, double policy, double reference);
std::span<const std::string_view> KlEstimators();
// The KL term's coefficient after a step whose mean estimate was `kl` over `answers` answers
// (Ziegler et al. 2019; verl's AdaptiveKLController): coef (1 + clip(kl / target - 1, -0.2, 0.2)
// answers / horizon).
double AdaptedKlCoef(double coef, double kl, double target, double horizon, idx answers);

}  // namespace opo
