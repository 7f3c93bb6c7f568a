// The learner: rollouts and their advantages to a gradient. What the sampler left on the tape is
// taken from there, the other rows are recomputed with the sampler's own forward pass; the
// log-probs of all are compared bit for bit (E1), and a seeded part of the taped rows is recomputed
// as well.
//
// Units and micro-batches (the reason why any memory plan gives the same bits, E6):
// - A unit is a run of consecutive samples of one group, cut by their lengths and unit_tokens
// alone;
//   the prompt's shared rows end the group's last unit. Each unit's rows are padded to a multiple
//   of 32 with zeros, and every sum over rows is one f32 chain over these rows in order.
// - With `pack` consecutive units of up to unit_tokens rows together make a pack, of which the end
//   alone is padded. No sample sees another's rows: each attends to its own segment and its
//   prompt's.
// - A micro-batch is any run of units, or of packs, that fits the memory budget. The chains go on
// from one to the
//   next through memory, so where the cut falls changes nothing. A unit that does not fit alone
//   keeps its layers' inputs only, and each layer is run forward again when its turn comes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "algo/algorithm.h"
#include "rollout/rollout.h"

namespace opo {

// What a token contributes to the loss, before its weight.
struct TokenTerms {
  // The algorithm's, with the derivative of all terms by the log-prob.
  TokenLoss loss;
  double kl = 0;        // what the KL term takes of it, without its coefficient
  double dentropy = 0;  // the derivative by the entropy of the token's distribution
  double dvalue = 0;    // and by what the value head says at its row
  // A critic's loss, without its coefficient where it is a part of the policy's.
  double value_loss = 0;
  bool value_clipped = false;  // its clip is active
  bool demonstrated = false;   // the token is of a demonstration beside the sampled answers
  TokenTerms() = default;
  TokenTerms(const TokenLoss& token_loss) : loss(token_loss) {}  // NOLINT: a loss is such a sum
};

// What the learner's heads say of a token.
struct HeadOutput {
  double policy = 0;  // its log-prob; of a model without logits the value: loss.dlogprob is by it
  double value = 0;   // at its row, where the model has a value head
  operator double() const { return policy; }  // NOLINT: most losses look at nothing else
};

// Of token t of a rollout.
using LossFunction =
    std::function<TokenTerms(const Rollout& rollout, idx t, const HeadOutput& output)>;
// Of the samples' own policy: -A log pi.
inline TokenLoss OnPolicyLoss(const Rollout& rollout, idx t, double) {
  return PolicyGradientLoss({.advantage = rollout.advantage_at(t)});
}

// Rows whose logits the learner takes at once; a multiple of kRowBlock. Smaller chunks make the
// head's weight gradient memory-bound, larger ones only cost memory.
inline constexpr idx kHeadRows = 512;
// Entries of the vocabulary whose gradient, and on policy whose logits, it holds at once for these
// rows, a multiple of kHeadBlock: few enough that it is still in the cache when the products read
// it, and no fewer than the products take at once anyway.
inline constexpr idx kHeadColumns = kGemmK;
static_assert(kHeadColumns % kHeadBlock == 0);

struct LearnerConfig {
  idx unit_tokens = 1024;
  idx memory_bytes = idx{1} << 30;  // of one micro-batch: activations and backward scratch
  float inv_temperature = 1.0f;
  bool pack = false;
};

struct LearnResult {
  double loss = 0;       // the algorithm's
  double demo_loss = 0;  // of demonstrations beside it, which count in nothing else here
  double kl_loss = 0;    // of the KL term, without its coefficient
  idx tokens = 0;        // learned
  idx clipped = 0, clipped_lower = 0;
  double value_loss = 0;  // TokenTerms::value_loss, weighted
  idx value_clipped = 0;
  double value_sum = 0;     // of what the value head said, over the tokens
  double kl_sum = 0;        // sum of rollout - policy log-probs: 0 when on policy
  idx compared_tokens = 0;  // E1
  idx mismatched_tokens = 0;
  double logprob_diff_max = 0;  // of log-probs and values
  // The first of them; the group by its number, -1: there is none.
  idx mismatched_group = -1, mismatched_sample = 0, mismatched_token = 0;
  idx micro_batches = 0;
  idx rows_forward = 0;  // prompt rows and sample rows that were run forward again
  idx rows_learned = 0;  // all rows of the backward pass
  idx rows_rerun = 0;    // of those: run forward a second time, layer by layer
  idx rows_padding = 0;  // zeros between them
  void Add(const LearnResult& other);
};

// A group and the weight of each token of each of its rollouts (algo/algorithm.h, TokenWeights).
struct LearnGroup {
  const RolloutGroup* group = nullptr;
  std::vector<double> weights;
  idx tape_group = -1;  // its place on the tape; -1: it is not there
  // Its loss has terms beside the advantage's: it is learned from even where all advantages are 0.
  bool more_terms = false;
  // Its answers were sampled by these very weights, and its loss asks nothing of the entropy: what
  // was recorded of them (Rollout::norms, log-probs) goes into the gradient before it is compared,
  // and no row's logits are held whole. The same bits, as long as LearnResult::mismatched_tokens is
  // 0; where it is not, the gradient is to be thrown away.
  bool on_policy = false;
};

// The units that a list of groups is cut into. Public for plans and tests.
struct Unit {
  idx group = 0;
  idx first_sample = 0, num_samples = 0;
  bool last = false;   // the prompt's rows follow
  bool joins = false;  // the next unit's rows follow without padding: both are of one pack
  idx sample_rows = 0, prefix_rows = 0;
  idx rows() const { return sample_rows + (last ? prefix_rows : 0); }
};
std::vector<Unit> CutUnits(std::span<const LearnGroup> groups, idx unit_tokens, bool pack = false);

// How many of a step's taped rows are recomputed to prove the tape: under 2% of the step's work.
inline idx RecheckRows(idx taped_rows) { return taped_rows == 0 ? 0 : 32 + taped_rows / 64; }

template <class T>
class Learner {
 public:
  Learner(Transformer<T>& model, const SlabLayout& layout, LearnerConfig config);
  ~Learner();

  // Adds to `grad` (a slab) the gradient of sum over tokens of weight * loss, but for those that
  // Rollout::learned leaves out. Groups without any gradient are skipped. The groups' part of the
  // tape is used up. Throws Error(kUsage) where one unit exceeds the memory budget even layer by
  // layer, saying how much it needs, and Error(kExactness), naming the place, where the tape is no
  // longer what the sampler wrote. `layer_done(l)`, if there is one, is called where nothing more
  // will be added to a layer; it may not be called at all.
  LearnResult Accumulate(std::span<const LearnGroup> groups, const LossFunction& loss, float* grad,
                         Tape<T>* tape = nullptr,
                         const std::function<void(idx layer)>& layer_done = {});

  // E1 alone, without a gradient: recomputes the group's rows and compares. What was not recorded
  // (log-probs or values of given answers) is not compared.
  LearnResult Compare(const RolloutGroup& group);

  // Recomputes `max_rows` of the groups' rows on the tape (all, if there are fewer) and compares
  // every bit of their records. Which ones, (seed, step) decides: windows of prompts and samples;
  // the keys and values of the rows before a window are the tape's own.
  struct RecheckResult {
    idx rows = 0, mismatched = 0;
    std::string place;  // of the first that differs
  };
  RecheckResult Recheck(std::span<const RolloutGroup> groups, const Tape<T>& tape,
                        std::uint64_t seed, std::uint64_t step, idx max_rows);

  // Bytes that one row of a micro-batch takes: scratch of the backward pass, and, where it is not
  // on the tape, its record and its share of a KV page.
  idx row_bytes(Record record = Record::kAll) const;

 private:
  struct OpenGroup;
  struct MicroBatch;
  // A unit, and how its rows that are not on the tape are recorded.
  struct PlannedUnit {
    Unit unit;
    Record record;
  };
  // Of a unit, or of those of a pack; `bytes` gets what they take together.
  std::vector<PlannedUnit> Plan(std::span<const LearnGroup> groups, std::span<const Unit> pack,
                                const Tape<T>* tape, idx& bytes) const;
  void RunMicroBatch(std::span<const LearnGroup> groups, std::span<const PlannedUnit> units,
                     const LossFunction& loss, float* grad, Tape<T>* tape,
                     const std::function<void(idx)>& layer_done, LearnResult& result);
  void Head(std::span<const LearnGroup> groups, MicroBatch& micro, const LossFunction* loss,
            float* grad, LearnResult& result);
  // What the head says of a row, and what the loss then wants of its logits.
  struct RowResult {
    TokenTerms terms;
    TokenStats stats;
    HeadParts parts;  // where the row's norm was known: what was seen of it
    TokenId id = -1;  // -1: padding
    float coef = 0, entropy_coef = 0;
  };
  // dhidden_ and d(head) from hidden_ and the logits: those in logits_, or, where the rows' norms
  // are `known`, computed on the way, which fills the results' HeadParts.
  void LogitsGrad(std::span<RowResult> results, bool known, float* dhead);
  // Throws Error(kExactness) where a segment of the tape differs from its seals.
  void CheckTaped(const Segment<T>& taped, const LearnGroup& group, idx sample) const;
  void CheckTaped(const typename Tape<T>::Group& taped, const LearnGroup& group) const;
  void AddLookup(std::span<const TokenId> tokens, std::span<const GradRow<T>> rows);

  Transformer<T>& model_;
  const SlabLayout& layout_;
  LearnerConfig config_;
  std::unique_ptr<OpenGroup> open_;  // the group whose units are not all done
  // The embedding lookup's gradient: rows by token, in row order; joined with the head's at the
  // end.
  std::map<TokenId, std::vector<float>> lookup_;
  Buffer<T> hidden_, dlogits_;
  Buffer<float> logits_, values_, dvalues_, dhidden_, dhead_rows_, dresidual_;
};

}  // namespace opo
