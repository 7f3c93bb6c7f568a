// kind = "model": a reward model reads prompt and answer as the policy's tokens and says one
// number, at their last token as transformers' ...ForSequenceClassification has it: the last one
// that is no padding. Nothing is added to an answer that ended at the longest length.
#include <algorithm>
#include <deque>

#include "base/error.h"
#include "base/file.h"
#include "model/transformer.h"
#include "model/weights.h"
#include "reward/kinds.h"

namespace opo {
namespace {

constexpr idx kRows = 2048;  // of a forward pass, where an answer has no more

class Engine {
 public:
  virtual ~Engine() = default;
  virtual void Score(std::span<const RewardQuery> queries, std::span<RewardResult> results) = 0;
  virtual std::string Digest() const = 0;
};

template <class T>
class EngineOf : public Engine {
 public:
  explicit EngineOf(const std::string& path)
      : path_(path), packed_(FrozenWeights<T>(path)), model_(*packed_) {}

  void Score(std::span<const RewardQuery> queries, std::span<RewardResult> results) override {
    for (std::size_t first = 0; first < queries.size();) first = ScoreSome(queries, first, results);
    const std::string flaw = packed_->FindFlaw();
    if (flaw.empty()) return;
    Fail(ErrorCode::kExactness,
         "{}: the reward model's packed weights changed in memory after they were packed: {}: no "
         "reward was used. `opo doctor` checks this machine",
         path_, flaw);
  }
  std::string Digest() const override { return packed_->base_digest(); }

 private:
  static bool SamePrompt(const RewardQuery& a, const RewardQuery& b) {
    return std::ranges::equal(a.prompt_tokens, b.prompt_tokens);
  }

  // The queries from `first` on that one forward pass takes; answers to one prompt stand together
  // and share its rows. Returns where it ended.
  std::size_t ScoreSome(std::span<const RewardQuery> queries, std::size_t first,
                        std::span<RewardResult> results) {
    std::deque<Segment<T>> segments;
    std::deque<std::vector<TokenId>> inputs;
    std::vector<Run<T>> prefixes, runs;
    std::vector<std::size_t> scored;  // one a run
    const Segment<T>* prefix = nullptr;
    idx rows = 0;
    const auto add = [&](std::vector<Run<T>>& list, std::span<const TokenId> tokens) -> Run<T>& {
      Run<T>& run = list.emplace_back();
      run.segment = &segments.emplace_back(&model_.pool());
      run.tokens = tokens.data();
      run.count = std::ssize(tokens);
      rows += run.count;
      return run;
    };
    std::size_t at = first;
    for (; at < queries.size(); ++at) {
      const RewardQuery& query = queries[at];
      OPO_CHECK(!query.prompt_tokens.empty());
      const bool fresh = at == first || !SamePrompt(queries[at - 1], query);
      const idx prompt = std::ssize(query.prompt_tokens);
      const idx shared = prompt - 1;
      const idx end = End(query);  // tokens that are read
      if (rows > 0 && rows + end - (fresh ? 0 : shared) > kRows) break;
      if (fresh) prefix = nullptr;
      if (end > model_.config().max_position) {
        results[at] =
            RewardError("length", fmt::format("prompt and answer have {} tokens, the reward model "
                                              "{} has {} positions",
                                              end, path_, model_.config().max_position));
        continue;
      }
      scored.push_back(at);
      if (end < prompt) {  // the prompt itself ends in padding
        add(runs, query.prompt_tokens.first(static_cast<std::size_t>(end)));
        continue;
      }
      if (prefix == nullptr && shared > 0) {
        Run<T>& run = add(prefixes, query.prompt_tokens.first(static_cast<std::size_t>(shared)));
        run.outputs = false;
        prefix = run.segment;
      }
      std::vector<TokenId>& input = inputs.emplace_back(1, query.prompt_tokens.back());
      input.insert(input.end(), query.tokens.begin(), query.tokens.begin() + (end - prompt));
      add(runs, input).prefix = prefix;
    }
    const std::size_t answers = runs.size();
    if (answers == 0) return at;
    idx outputs = 0;
    for (const Run<T>& run : runs) outputs += run.count;
    runs.insert(runs.end(), prefixes.begin(), prefixes.end());
    hidden_.Reserve(outputs * model_.ld());
    last_.Reserve(static_cast<idx>(answers) * model_.ld());
    model_.Forward(runs, hidden_.data());
    idx row = 0;
    for (std::size_t i = 0; i < answers; ++i) {
      row += runs[i].count;
      std::copy_n(hidden_.data() + (row - 1) * model_.ld(), model_.ld(),
                  last_.data() + static_cast<idx>(i) * model_.ld());
    }
    std::vector<float> values(answers);
    model_.Values(last_.data(), static_cast<idx>(answers), values.data());
    for (std::size_t i = 0; i < answers; ++i) {
      results[scored[i]] = Scored(static_cast<double>(values[i]), "the reward model's score");
    }
    return at;
  }

  // One behind the last token of prompt and answer that is no padding.
  idx End(const RewardQuery& query) const {
    const TokenId pad = model_.config().pad_id;
    const auto no_pad = [&](TokenId id) { return id != pad; };
    for (const auto& [tokens, before] : {std::pair{query.tokens, std::ssize(query.prompt_tokens)},
                                         std::pair{query.prompt_tokens, std::ptrdiff_t{0}}}) {
      const auto last = std::find_if(tokens.rbegin(), tokens.rend(), no_pad);
      if (last != tokens.rend()) return before + (tokens.rend() - last);
    }
    return 1;  // nothing but padding: transformers takes the first token
  }

  std::string path_;
  std::shared_ptr<const PackedWeights<T>> packed_;
  Transformer<T> model_;
  Buffer<T> hidden_, last_;
};

class ModelReward : public Reward {
 public:
  ModelReward(std::string path, std::string where)
      : path_(std::move(path)), where_(std::move(where)) {}

  void Prepare(const Tokenizer& policy, DType dtype) override {
    const ModelConfig config = CheckpointShape(path_);
    if (!config.has_values || config.has_logits) {
      Fail(ErrorCode::kInput,
           "{}.path: {} has {}; give a reward model: a model for sequence classification with one "
           "label, as transformers or `opo rm` write it",
           where_, path_, config.has_values ? "an LM head besides" : "no value head");
    }
    CheckTokenizer(policy, config);
    if (dtype == DType::kF32) {
      engine_ = std::make_unique<EngineOf<float>>(path_);
    } else {
      engine_ = std::make_unique<EngineOf<bf16>>(path_);
    }
  }

  void Score(std::span<const RewardQuery> queries, std::span<RewardResult> results,
             const ScoredCallback& on_scored) override {
    OPO_CHECK(engine_ != nullptr);
    engine_->Score(queries, results);
    for (std::size_t i = 0; i < queries.size(); ++i) on_scored(i);
  }
  std::string Digest() const override { return engine_ == nullptr ? "" : engine_->Digest(); }

 private:
  // The policy's tokens mean the same to the model; it may know further ones.
  void CheckTokenizer(const Tokenizer& policy, const ModelConfig& config) const {
    const Tokenizer own = Tokenizer::Load(TokenizerPath(path_));
    const bool fits = policy.vocab_size() <= std::min(own.vocab_size(), config.vocab_size);
    const idx differs = fits ? policy.FirstDifference(own) : own.vocab_size();
    if (differs < 0) return;
    Fail(ErrorCode::kInput,
         "{}.path: {} has another tokenizer than the policy (token {} is not the same), but a "
         "reward model reads the policy's tokens; train one from a model with the policy's "
         "tokenizer, or score texts with kind = \"http\" or \"program\"",
         where_, path_, differs);
  }

  std::string path_, where_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace

std::unique_ptr<Reward> MakeModelReward(const RewardConfig& config, const std::string& where) {
  if (config.path.empty()) {
    Fail(ErrorCode::kUsage, "{}.path: is missing; give the reward model's folder", where);
  }
  if (!Exists(config.path)) {
    Fail(ErrorCode::kUsage, "{}.path: there is no {}; give the reward model's folder", where,
         config.path);
  }
  return std::make_unique<ModelReward>(config.path, where);
}

}  // namespace opo
