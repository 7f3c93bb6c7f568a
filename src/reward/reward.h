// Rewards: how a finished answer is scored. A reward is a value, a skip, or an error that is
// counted, shown and acted on as the config says; never a silent zero.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fields.h"
#include "base/types.h"
#include "data/problem.h"
#include "text/tokenizer.h"

namespace opo {

enum class FinishReason { kEos, kStop, kLength };
const char* FinishReasonName(FinishReason reason);  // "eos", "stop", "length"

// An answer to be scored; all of it outlives the call.
struct RewardQuery {
  const Problem& problem;
  std::string_view prompt;      // as the model saw it, template applied
  std::string_view completion;  // special tokens left out
  std::span<const TokenId> tokens;
  FinishReason finish;
  std::span<const TokenId> prompt_tokens = {};
};

enum class Verdict {
  kScored,
  kSkipped,  // the reward does not apply to this problem
  kError,    // it could not be computed; `reason` and `note` say why
};

const char* VerdictName(Verdict verdict);  // "scored", "skipped", "error"

struct RewardResult {
  Verdict verdict = Verdict::kScored;
  double value = 0;
  std::string note;    // why, in words: what was extracted, or what went wrong
  std::string reason;  // of an error: a word that the metrics count by, as "timeout"
  std::vector<std::pair<std::string, double>> logged;  // further numbers, for the metrics
};

// One term of the configured reward. `kind` is one of the table in reward.cpp, which lists what
// other settings a kind takes; one that it does not take is refused.
struct RewardConfig {
  std::string kind = "number";
  std::string name = "";  // in metrics and messages; "": the kind
  double weight = 1.0;
  std::string on_error = "fail";  // or "skip" the sample, or "score" it with error_score
  double error_score = 0;
  double error_limit = 0.1;  // a larger part of a step's answers in error ends the run all the same

  std::string pattern = "";               // regex, format
  idx max_tokens = 0;                     // length, overlong; 0: rollout.max_new_tokens
  idx buffer_tokens = 0;                  // overlong
  idx ngram = 3;                          // repetition
  std::vector<std::string> command = {};  // program
  std::string url = "";                   // http
  idx workers = 1;                        // program, code: processes at a time; 0: one a thread
  idx batch = 64;                         // http: answers a request
  idx retries = 3;                        // http
  double timeout_s = 30;                  // program, http, code: wall time of a call
  double cpu_s = 0;                       // program, code: CPU time of a call; 0: timeout_s
  idx memory_mb = 1024;                   // code
  idx output_kb = 1024;                   // program, http, code: largest output of a call
  std::string path = "";                  // model
  std::string normalize = "none";         // or "scale", "whiten": RewardSet::Normalize
  double clip = 0;                        // after that, to [-clip, clip]; 0: not at all
};
void VisitFields(Fields& fields, RewardConfig& config);

// Gives the terms that measure length (length, overlong) their max_tokens where it is 0.
void SetMaxTokens(std::span<RewardConfig> terms, idx max_new_tokens);

using ScoredCallback = std::function<void(std::size_t query)>;

class Reward {
 public:
  virtual ~Reward() = default;
  // As RewardSet::Prepare; once, before the first Score.
  virtual void Prepare(const Tokenizer&, DType) {}
  // XXH3-128 of the weights that it scores with; "": it has none.
  virtual std::string Digest() const { return ""; }
  // results[i] for queries[i]; on_scored(i), on this thread and in any order, as each is there.
  // Never throws for what a completion holds, and ends in bounded time. Throws Error where nothing
  // can be scored at all: a program that cannot be started.
  virtual void Score(std::span<const RewardQuery> queries, std::span<RewardResult> results,
                     const ScoredCallback& on_scored) = 0;
};

// A reward that is a pure function of one answer; answers are scored side by side.
class RuleReward : public Reward {
 public:
  void Score(std::span<const RewardQuery> queries, std::span<RewardResult> results,
             const ScoredCallback& on_scored) final;
  // Must not throw on any completion text, runs in bounded time, keeps no state: is called from
  // several threads at once.
  virtual RewardResult Judge(const RewardQuery& query) const = 0;
};

// The mean and variance of all values so far (PPO-max's historical moments, as its code has them:
// arXiv 2307.04964, OpenLMLab/MOSS-RLHF).
struct RunningMoments {
  double count = 1e-24;
  double mean = 0;
  double var = 1;  // of the population
  void Add(std::span<const double> values);
  // Of the sample; 1 where the values say nothing: fewer than two, or all the same.
  double std() const;
};

// What all terms said of one answer.
struct RewardScores {
  // As [[reward]]. One that is there before the call is not asked for again.
  std::vector<std::optional<RewardResult>> terms;
  // What each adds to the sum, without its weight: nothing where it does not apply.
  std::vector<std::optional<double>> values;
  // The weighted sum of the terms that apply; kSkipped where none does; kError where a term failed
  // whose on_error is "skip".
  RewardResult total;
};

// The configured terms together.
class RewardSet {
 public:
  // Throws Error(kUsage) naming the key, the known kinds, or what is wrong with a setting.
  // With asks = false nothing is made that could be asked: every term's result must be there
  // before Score, as in a replay, where the judges may be gone.
  explicit RewardSet(const std::vector<RewardConfig>& terms, bool asks = true);

  // Fills scores[i] for queries[i], term after term. on_scored(term, i) is called for each value or
  // skip as it comes, and for errors when they are known to be within the limit. Throws
  // Error(kWork), with the answer that did it, for an error whose on_error is "fail" and for more
  // errors than error_limit.
  void Score(std::span<const RewardQuery> queries, std::span<RewardScores> scores,
             const std::function<void(std::size_t term, std::size_t query)>& on_scored = {});

  // Loads the models among the terms, to be run in `dtype`. Throws Error(kInput) where one is no
  // reward model, or one of another tokenizer than the policy's: it reads the policy's tokens.
  void Prepare(const Tokenizer& policy, DType dtype);
  // Of the terms that are models, by name: XXH3-128 of their weights.
  std::map<std::string, std::string> Digests() const;

  // What a training batch makes of the values, for terms with `normalize` or `clip`: the running
  // moments first take in the values of the batch in order; then each value, those of `others` too,
  // is divided by the deviation ("scale"), or loses the mean before ("whiten"), is clipped, and the
  // answers are summed anew. Of several ranks all call it with the whole batch.
  void Normalize(std::span<RewardScores* const> batch, std::span<RewardScores* const> others = {});
  bool normalizes() const;
  // By the terms' names, of those with `normalize`: a run's state.
  std::map<std::string, RunningMoments> moments() const;
  // Throws Error(kInput) where a term has none, naming `where`.
  void SetMoments(const std::map<std::string, RunningMoments>& moments, const std::string& where);

  std::size_t size() const { return terms_.size(); }
  const std::string& name(std::size_t term) const { return terms_[term].config.name; }
  double weight(std::size_t term) const { return terms_[term].config.weight; }

 private:
  struct Term {
    RewardConfig config;
    std::unique_ptr<Reward> reward;
    RunningMoments moments = {};
    bool has_moments() const { return config.normalize != "none"; }
    bool changes() const { return has_moments() || config.clip > 0; }
    double Normalized(double value) const;
  };
  void Sum(RewardScores& scores) const;
  std::vector<Term> terms_;
};

std::vector<std::string> RewardKinds();

// The kinds that compare an answer with the gold one, and so can be voted on.
bool ReadsAnswers(const std::string& kind);
// The answer that such a kind reads in a completion, in the form that it compares; "": none. Of
// "math" and "countdown" it is mathematics, of the others equal answers are equal texts.
std::string AnswerFound(const std::string& kind, std::string_view gold,
                        std::string_view completion);

}  // namespace opo
