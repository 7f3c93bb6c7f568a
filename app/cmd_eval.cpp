// opo eval: what a model's answers on data sets are worth (docs/evaluation.md).
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>

#include "app/command.h"
#include "app/sampling.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/pack.h"
#include "base/utf8.h"
#include "data/built_in.h"
#include "eval/journal.h"
#include "eval/summary.h"
#include "model/load.h"
#include "train/evaluate.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

struct EvalArguments {
  ModelOptions model;
  SamplingOptions sampling;
  std::vector<std::string> data = {"arithmetic"};
  ProblemKeys keys;
  std::string system;
  RewardOptions reward;
  RewardOptions judge = {.kind = "", .set = {}};
  std::string against;
  std::string reference;
  std::string pass_rates;
  std::string out;
  bool training_part = false;
  idx prompts = 0;
  idx n = 1;
  idx chunk = 0;
  SummarySettings summary;
  bool json = false;
  bool quiet = false;
};

// A set, and the answers to its problems as they come in.
struct EvalSet {
  std::string name;
  std::vector<Problem> problems;
  std::vector<std::vector<Answer>> answers;  // of each problem; empty: not yet
  double seconds = 0;
};

// math500 of sets/math500.jsonl, and a built-in set as it is called.
std::string SetName(const std::string& source) {
  return IsBuiltIn(source) ? source : Printable(std::filesystem::path(source).stem().string());
}

std::vector<EvalSet> LoadSets(const EvalArguments& args) {
  LoadOptions options;
  options.keys = args.keys;
  options.held_out = !args.training_part;
  std::vector<EvalSet> sets;
  std::map<std::string, std::string> sources;
  for (const std::string& source : args.data) {
    EvalSet& set = sets.emplace_back();
    set.name = SetName(source);
    const auto [known, fresh] = sources.try_emplace(set.name, source);
    if (!fresh) {
      Fail(ErrorCode::kUsage, "--data: {} and {} are both called {}; rename one, or leave it out",
           known->second, source, set.name);
    }
    set.problems = LoadProblems(source, options);
    if (args.prompts > 0 && static_cast<idx>(set.problems.size()) > args.prompts) {
      set.problems.resize(static_cast<std::size_t>(args.prompts));
    }
    set.answers.resize(set.problems.size());
  }
  return sets;
}

// The reference's KL is over the policy's tokens: both must mean the same by them.
void CheckVocabulary(const Tokenizer& policy, const Tokenizer& reference, idx policy_vocab,
                     idx reference_vocab, const std::string& path) {
  if (policy.vocab_size() == reference.vocab_size() && policy_vocab == reference_vocab &&
      policy.FirstDifference(reference) < 0) {
    return;
  }
  Fail(ErrorCode::kInput,
       "--reference {}: has another vocabulary than the model; a KL divergence needs the same one",
       path);
}

// XXH3-128 of all weights as they are read: other weights have another one, wherever they lie.
std::string ModelDigest(const std::string& path) {
  const std::unique_ptr<ModelSource> source = OpenModel(path);
  Digest digest;
  std::vector<float> values;
  for (const TensorSpec& spec : ListTensors(source->config())) {
    values.resize(static_cast<std::size_t>(spec.size()));
    source->Read(spec, values);
    digest.Add(std::span<const float>(values));
  }
  return digest.Hex();
}

// Everything that answers depend on.
ordered_json JournalHead(const EvalArguments& args, const std::vector<EvalSet>& sets,
                         const PromptRenderer& prompts, const RewardSet& rewards) {
  const SamplingConfig& s = args.sampling.config;
  ordered_json head;
  head["opo_eval"] = 1;
  head["model"] = ModelDigest(args.model.model);
  head["reference"] = args.reference.empty() ? "" : ModelDigest(args.reference);
  head["dtype"] = args.model.dtype;
  head["isa_fingerprint"] = IsaFingerprint();
  for (const EvalSet& set : sets) {
    std::string all;
    for (const Problem& problem : set.problems) {
      Packer packed;
      packed.Put(problem.id);
      packed.Put(prompts.Render(problem.messages));
      packed.Put(problem.answer);
      packed.Put(problem.extra.dump());
      all += packed.Take();
    }
    head["data " + set.name] = HexDigest(all);
  }
  head["n"] = args.n;
  head["temperature"] = s.temperature;
  head["top_k"] = s.top_k;
  head["top_p"] = s.top_p;
  head["min_p"] = s.min_p;
  head["repetition_penalty"] = s.repetition_penalty;
  head["presence_penalty"] = s.presence_penalty;
  head["frequency_penalty"] = s.frequency_penalty;
  ordered_json& biases = head["logit_bias"] = ordered_json::array();
  for (const auto& [id, bias] : s.logit_bias) biases.push_back({id, fmt::format("{}", bias)});
  head["stop"] = s.stop;
  head["max_new_tokens"] = s.max_new_tokens;
  head["seed"] = s.seed;
  head["reward"] = args.reward.kind;
  head["reward_set"] = args.reward.set;
  for (const auto& [name, digest] : rewards.Digests()) {
    head[name == "judge" ? "judge_model" : "reward_model"] = digest;
  }
  if (!args.judge.kind.empty()) {
    head["judge"] = args.judge.kind;
    head["judge_set"] = args.judge.set;
  }
  return head;
}

ordered_json SettingsJson(const EvalArguments& args) {
  const SamplingConfig& s = args.sampling.config;
  const SummarySettings& m = args.summary;
  return {
      {"n", args.n},
      {"k", m.k},
      {"temperature", s.temperature},
      {"top_p", s.top_p},
      {"top_k", s.top_k},
      {"min_p", s.min_p},
      {"max_new_tokens", s.max_new_tokens},
      {"seed", s.seed},
      {"reward", args.reward.kind},
      {"judge", args.judge.kind},
      {"pass_threshold", m.pass_threshold},
      {"dtype", args.model.dtype},
      {"bleu",
       {{"order", m.bleu.order}, {"tokenizer", m.bleu.tokenizer}, {"smoothing", m.bleu.smoothing}}},
      {"bootstrap_resamples", kBootstrapResamples}};
}

// The problems of a set that have no answers yet; the root knows which.
std::vector<idx> MissingProblems(const EvalSet& set, Comm& comm) {
  std::vector<idx> missing;
  for (std::size_t i = 0; i < set.answers.size(); ++i) {
    if (set.answers[i].empty()) missing.push_back(static_cast<idx>(i));
  }
  Packer out;
  out.Put(missing);
  const std::string bytes = comm.Broadcast(out.Take());
  Unpacker(bytes).Get(missing);
  return missing;
}

// JSON lines {"id", "prompt", "pass_rate", "samples"}, of the problems that have a scored answer.
void WritePassRates(const std::string& path, const std::vector<EvalSet>& sets,
                    const SummarySettings& settings) {
  std::string lines;
  for (const EvalSet& set : sets) {
    for (std::size_t i = 0; i < set.problems.size(); ++i) {
      const ProblemScore score =
          ScoreProblems(set.answers[i], settings.samples, settings.pass_threshold).front();
      if (score.n == 0) continue;
      ordered_json line;
      if (!set.problems[i].id.empty()) line["id"] = set.problems[i].id;
      line["prompt"] = PromptText(set.problems[i]);
      line["pass_rate"] = score.reward_mean;
      line["samples"] = score.n;
      lines += line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
    }
  }
  WriteFileAtomically(path, lines);
}

void PrintAnswers(const std::vector<EvalSet>& sets) {
  for (const EvalSet& set : sets) {
    for (const std::vector<Answer>& answers : set.answers) {
      for (const Answer& a : answers) {
        ordered_json line;
        if (sets.size() > 1) line["set"] = set.name;
        line["problem"] = a.problem;
        line["sample"] = a.sample;
        line["prompt"] = a.prompt;
        line["gold"] = a.gold;
        line["text"] = a.text;
        line["length"] = a.length;
        line["finish_reason"] = FinishReasonName(a.finish);
        line["reward"] = a.reward.value;
        line["verdict"] = VerdictName(a.reward.verdict);
        line["note"] = a.reward.note;
        PrintJsonLine(line);
      }
    }
  }
}

// A cell: "0.3500 [0.2100, 0.4900]", a number, or "-" where there is none.
std::string Cell(const ordered_json& value) {
  if (value.is_object()) {
    return fmt::format("{:.4f} [{:.4f}, {:.4f}]", value["value"].get<double>(),
                       value["low"].get<double>(), value["high"].get<double>());
  }
  if (value.is_number_integer()) return fmt::format("{}", value.get<idx>());
  return value.is_number() ? fmt::format("{:.4f}", value.get<double>()) : "-";
}

// A row a metric, a column a set.
void PrintTable(const ordered_json& summary) {
  std::vector<std::pair<std::string, std::vector<std::string>>> rows = {{"", {}}};
  std::size_t column = 0;
  const auto put = [&](const std::string& name, const ordered_json& value) {
    auto row =
        std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.first == name; });
    if (row == rows.end()) row = rows.insert(rows.end(), {name, {}});
    row->second.resize(column, "-");
    row->second.push_back(Cell(value));
  };
  for (const ordered_json& set : summary["sets"]) {
    rows.front().second.push_back(ForStdout(set["name"].get<std::string>()));
    for (const auto& [key, value] : set.items()) {
      if (key == "name" || value.is_array()) continue;
      if (value.is_object() && !value.contains("low")) {
        for (const auto& [inner, number] : value.items()) put(key + " " + inner, number);
      } else {
        put(key, value);
      }
    }
    ++column;
  }
  std::size_t first = 0;
  for (const auto& row : rows) first = std::max(first, row.first.size());
  for (auto& [name, cells] : rows) {
    cells.resize(column, "-");
    std::string line = fmt::format("{:<{}}", name, first);
    for (std::size_t c = 0; c < column; ++c) {
      std::size_t width = 0;
      for (const auto& row : rows) {
        if (c < row.second.size()) width = std::max(width, row.second[c].size());
      }
      line += fmt::format("  {:<{}}", cells[c], width);
    }
    fmt::print("{}\n", line.substr(0, line.find_last_not_of(' ') + 1));
  }
  const ordered_json& settings = summary["settings"];
  const ordered_json& bleu = settings["bleu"];
  fmt::print(
      "[low, high]: 95% over problems. Right: reward >= {}. Self-BLEU: sacrebleu's, order {}, "
      "tokenizer {}, smoothing {}.\n",
      settings["pass_threshold"].get<double>(), bleu["order"].get<idx>(),
      bleu["tokenizer"].get<std::string>(), bleu["smoothing"].get<std::string>());
}

template <class T>
class Evaluation {
 public:
  explicit Evaluation(const EvalArguments& args)
      : args_(args),
        comm_(Comm::World()),
        sets_(LoadSets(args)),
        loaded_(args.model.model),
        prompts_(loaded_.tokenizer, args.system),
        reward_(Terms(args)) {
    reward_.Prepare(loaded_.tokenizer, args.model.f32() ? DType::kF32 : DType::kBf16);
    const idx vocab = loaded_.model.config().vocab_size;
    CheckBias(args.sampling.config, vocab, ErrorCode::kUsage, "--logit-bias");
    if (!args.reference.empty()) {
      reference_ = std::make_unique<LoadedModel<T>>(args.reference);
      CheckVocabulary(loaded_.tokenizer, reference_->tokenizer, vocab,
                      reference_->model.config().vocab_size, args.reference);
    }
    settings_.samples = args.n;
    settings_.sampling = args.sampling.config;
    settings_.judged = !args.judge.kind.empty();
    if (comm_.root() && !args.against.empty()) {
      others_ =
          ReadJudgedAnswers(args.against + ".answers", JournalHead(args, sets_, prompts_, reward_));
    }
  }

  void Run() {
    if (!args_.out.empty() && comm_.root()) OpenJournal();
    idx answers = 0;
    std::vector<std::vector<idx>> missing;
    for (const EvalSet& set : sets_) {
      missing.push_back(MissingProblems(set, comm_));
      answers += static_cast<idx>(missing.back().size()) * args_.n;
    }
    AnswerProgress progress(CeilDiv(answers, comm_.size()), args_.quiet || !comm_.root());
    settings_.on_token = [&](const TokenEvent& event) { progress.Add(event); };
    for (std::size_t s = 0; s < sets_.size(); ++s) Sample(sets_[s], missing[s]);
  }

  void Report() {
    if (!args_.pass_rates.empty()) WritePassRates(args_.pass_rates, sets_, args_.summary);
    const ordered_json summary = Summary();
    if (!args_.out.empty()) {
      WriteFileAtomically(
          args_.out, summary.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n");
    }
    if (!args_.json) return PrintTable(summary);
    PrintAnswers(sets_);
    PrintJsonLine(summary);
  }

 private:
  static std::vector<RewardConfig> Terms(const EvalArguments& args) {
    const idx max_new_tokens = args.sampling.config.max_new_tokens;
    std::vector<RewardConfig> terms = {args.reward.Term(max_new_tokens)};
    if (args.judge.kind.empty()) return terms;
    terms.push_back(args.judge.Term(max_new_tokens));
    terms.back().name = "judge";
    terms.back().weight = 0;
    return terms;
  }

  // The other evaluation's answers to a set, problem after problem.
  std::vector<Answer> OthersOf(const EvalSet& set) const {
    std::vector<Answer> all;
    if (args_.against.empty()) return all;
    for (std::size_t i = 0; i < set.problems.size(); ++i) {
      const auto it = others_.answers.find({set.name, static_cast<idx>(i)});
      if (it == others_.answers.end()) {
        Fail(ErrorCode::kInput, "--against {}: has no answers to problem {} of {}; finish it first",
             args_.against, i, set.name);
      }
      all.insert(all.end(), it->second.begin(), it->second.end());
    }
    return all;
  }

  void OpenJournal() {
    journal_ = std::make_unique<EvalJournal>(args_.out + ".answers",
                                             JournalHead(args_, sets_, prompts_, reward_), args_.n);
    for (EvalSet& set : sets_) {
      for (std::size_t i = 0; i < set.problems.size(); ++i) Take(set, static_cast<idx>(i));
    }
  }

  // The answers to a problem from the journal, if they are there.
  void Take(EvalSet& set, idx problem) {
    const auto it = journal_->answers().find({set.name, problem});
    if (it == journal_->answers().end()) return;
    std::vector<Answer> answers = std::move(it->second);
    journal_->answers().erase(it);
    Keep(set, problem, std::move(answers));
  }

  void Keep(EvalSet& set, idx problem, std::vector<Answer> answers) {
    const Problem& of = set.problems[static_cast<std::size_t>(problem)];
    const auto& last = of.messages.back();
    const auto content = last.find("content");
    for (Answer& a : answers) {
      a.problem = problem;
      a.gold = of.answer;
      if (content != last.end() && content->is_string()) a.prompt = content->get<std::string>();
    }
    set.answers[static_cast<std::size_t>(problem)] = std::move(answers);
  }

  void Sample(EvalSet& set, const std::vector<idx>& missing) {
    // Without a journal nothing is gained by stopping on the way.
    idx chunk = static_cast<idx>(missing.size());
    if (!args_.out.empty()) {
      chunk = args_.chunk > 0 ? args_.chunk : CeilDiv(kDefaultSlots * comm_.size(), args_.n);
    }
    const double start = Seconds();
    for (std::size_t begin = 0; begin < missing.size(); begin += static_cast<std::size_t>(chunk)) {
      const std::size_t end = std::min(missing.size(), begin + static_cast<std::size_t>(chunk));
      std::vector<Problem> problems;
      for (std::size_t i = begin; i < end; ++i) {
        problems.push_back(set.problems[static_cast<std::size_t>(missing[i])]);
      }
      EvalResult result =
          Evaluate(loaded_.model, loaded_.tokenizer, prompts_, std::span<const Problem>(problems),
                   reward_, settings_, comm_, reference_ ? &reference_->model : nullptr);
      if (!comm_.root()) continue;
      std::string lines;
      for (std::size_t i = begin; i < end; ++i) {
        const auto first =
            result.answers.begin() + static_cast<std::ptrdiff_t>(i - begin) * args_.n;
        std::vector<Answer> own(std::make_move_iterator(first),
                                std::make_move_iterator(first + args_.n));
        if (journal_ == nullptr) {
          Keep(set, missing[i], std::move(own));
        } else {
          lines += JournalLine(set.name, missing[i], own);
        }
      }
      if (journal_ == nullptr) continue;
      journal_->Append(lines);
      for (std::size_t i = begin; i < end; ++i) Take(set, missing[i]);
    }
    set.seconds = Seconds() - start;
  }

  ordered_json Summary() const {
    ordered_json summary;
    summary["schema"] = 1;
    summary["model"] = args_.model.model;
    if (!args_.reference.empty()) summary["reference"] = args_.reference;
    if (!args_.against.empty()) summary["against"] = args_.against;
    summary["settings"] = SettingsJson(args_);
    double reward = 0;
    idx scored = 0;
    idx problems = 0;
    ordered_json list = ordered_json::array();
    for (const EvalSet& set : sets_) {
      std::vector<std::string> ids;
      std::vector<Answer> answers;
      for (std::size_t i = 0; i < set.problems.size(); ++i) {
        const std::string& id = set.problems[i].id;
        ids.push_back(id.empty() ? fmt::to_string(i) : id);
        answers.insert(answers.end(), set.answers[i].begin(), set.answers[i].end());
      }
      for (const Answer& a : answers) {
        if (!a.scored()) continue;
        reward += a.reward.value;
        ++scored;
      }
      problems += static_cast<idx>(ids.size());
      ordered_json one =
          SummariseSet(set.name, ids, answers, args_.summary, OthersOf(set), others_.samples);
      ordered_json per_problem = std::move(one["per_problem"]);
      one.erase("per_problem");
      one["seconds"] = set.seconds;
      one["per_problem"] = std::move(per_problem);
      list.push_back(std::move(one));
    }
    summary["problems"] = problems;
    summary["samples"] = args_.n;
    summary["pass_rate"] = scored > 0 ? reward / static_cast<double>(scored) : 0;
    summary["sets"] = std::move(list);
    return summary;
  }

  const EvalArguments& args_;
  Comm& comm_;
  std::vector<EvalSet> sets_;
  LoadedModel<T> loaded_;
  std::unique_ptr<LoadedModel<T>> reference_;
  PromptRenderer prompts_;
  RewardSet reward_;
  EvalSettings settings_;
  JudgedAnswers others_;
  std::unique_ptr<EvalJournal> journal_;  // the root's, with --out
};

template <class T>
void RunEval(const EvalArguments& args) {
  Evaluation<T> evaluation(args);
  evaluation.Run();
  if (Comm::World().root()) evaluation.Report();
}

void Check(EvalArguments& args) {
  CheckProblemKeys(args.keys);
  SummarySettings& summary = args.summary;
  summary.samples = args.n;
  summary.reward = args.reward.kind;
  summary.seed = args.sampling.config.seed;
  if (summary.k.empty()) summary.k = PowersUpTo(args.n);
  std::sort(summary.k.begin(), summary.k.end());
  summary.k.erase(std::unique(summary.k.begin(), summary.k.end()), summary.k.end());
  if (summary.k.back() > args.n) {
    Fail(ErrorCode::kUsage, "--k {}: is more than the -n {} answers a problem; raise -n",
         summary.k.back(), args.n);
  }
  if (!args.against.empty() && args.judge.kind.empty()) {
    Fail(ErrorCode::kUsage, "--against: needs --judge, which prefers one of two answers");
  }
  if (!args.judge.set.empty() && args.judge.kind.empty()) {
    Fail(ErrorCode::kUsage, "--judge-set: needs --judge, whose setting it is");
  }
  if (args.chunk > 0 && args.out.empty()) {
    Fail(ErrorCode::kUsage, "--chunk: needs --out, beside which finished problems are kept");
  }
}

}  // namespace

void AddEval(CLI::App& app, int&) {
  auto args = std::make_shared<EvalArguments>();
  CLI::App* verb = app.add_subcommand(
      "eval", "pass@k, mean@k, maj@k, lengths, entropy, KL and diversity of a model on data sets");
  args->model.Add(*verb);
  args->sampling.Add(*verb, 0.0, 256);
  verb->add_option("--data", args->data,
                   "a data file, or a built-in set (its held-out part) (repeatable)")
      ->allow_extra_args(false)
      ->take_all()
      ->capture_default_str();
  verb->add_flag("--training-part", args->training_part,
                 "of a built-in set, the part that is trained on");
  verb->add_option("--prompts", args->prompts, "the first so many problems of each set; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  AddProblemKeys(*verb, args->keys);
  verb->add_option("--system", args->system, "a system message put before each problem");
  args->reward.Add(*verb);
  args->judge.Add(*verb, "judge", "a second reward that says which of two answers is better");
  verb->add_option("--against", args->against,
                   "--out of an earlier evaluation with the same judge: the win rate against its "
                   "answers is reported");
  verb->add_option("-n", args->n, "answers a problem")
      ->check(CLI::Range(idx{1}, kMaxSamples))
      ->capture_default_str();
  verb->add_option("--k", args->summary.k,
                   "the k of pass@k and maj@k: 1,2,4 (default: powers of two up to n, and n)")
      ->delimiter(',')
      ->check(CLI::Range(idx{1}, kMaxSamples));
  verb->add_option("--pass-threshold", args->summary.pass_threshold,
                   "an answer is right if its reward is at least this")
      ->capture_default_str();
  verb->add_option("--reference", args->reference,
                   "a model of the same vocabulary: the KL divergence from it is reported");
  verb->add_option("--rep-n", args->summary.repetition, "the n of Rep-n: 2,3,4,5")
      ->delimiter(',')
      ->check(CLI::Range(idx{1}, idx{64}))
      ->capture_default_str();
  verb->add_option("--bleu-order", args->summary.bleu.order, "Self-BLEU: the longest n-grams")
      ->check(CLI::Range(idx{1}, idx{16}))
      ->capture_default_str();
  verb->add_option("--bleu-tokenizer", args->summary.bleu.tokenizer,
                   "Self-BLEU: sacrebleu's 13a, or none (white space)")
      ->check(CLI::IsMember({"13a", "none"}))
      ->capture_default_str();
  verb->add_option("--bleu-smoothing", args->summary.bleu.smoothing,
                   "Self-BLEU: of orders without a match")
      ->check(CLI::IsMember({"exp", "none"}))
      ->capture_default_str();
  verb->add_option("--out", args->out,
                   "write the summary to this file; finished problems are kept in FILE.answers, "
                   "from which the same command goes on after a kill");
  verb->add_option("--chunk", args->chunk,
                   "with --out: problems sampled between two saves; 0: about 256 answers a rank")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--pass-rates", args->pass_rates,
                   "write the mean reward of each problem to this file, for data.pass_rates");
  verb->add_flag("--json", args->json, "a JSON line an answer, then one with the summary");
  verb->add_flag("--quiet", args->quiet, "no progress line");
  verb->callback([args] {
    Check(*args);
    Comm::World();
    RunInDtype(*args, RunEval<bf16>, RunEval<float>);
  });
}

}  // namespace opo
