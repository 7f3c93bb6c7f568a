// opo explain: what an algorithm makes of given rewards and lengths. opo algorithms: all of them.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "algo/algorithm.h"
#include "app/command.h"
#include "base/error.h"
#include "base/fields.h"
#include "train/config.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

struct ExplainArguments {
  std::string algorithm;
  std::string rewards, lengths, groups, greedy, gradient_norms;
  std::string probs, sum_sqs, penalties;
  std::string values, unfinished;
  std::string length_exponent;
  std::vector<std::string> settings;
  bool json = false;
};

std::vector<std::string_view> Split(std::string_view text, char by) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t at = text.find(by);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

template <class T>
std::vector<T> Numbers(const char* option, std::string_view text) {
  std::vector<T> numbers;
  for (std::string_view part : Split(text, ',')) {
    while (part.starts_with(' ')) part.remove_prefix(1);
    while (part.ends_with(' ')) part.remove_suffix(1);
    T value = 0;
    const auto [end, code] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (code != std::errc() || end != part.data() + part.size() ||
        !std::isfinite(static_cast<double>(value))) {
      Fail(ErrorCode::kUsage, "{}: '{}' is not {} number; write them as 1,0,1", option, part,
           std::is_integral_v<T> ? "a whole" : "a finite");
    }
    numbers.push_back(value);
  }
  return numbers;
}

// "0.5,0.8;0.3": those of the tokens of each answer.
std::vector<std::vector<double>> TokenNumbers(const char* option, const std::string& text) {
  std::vector<std::vector<double>> answers;
  for (const std::string_view part : Split(text, ';')) {
    answers.push_back(part.empty() ? std::vector<double>() : Numbers<double>(option, part));
  }
  return answers;
}

// Groups are numbered in the order in which they come.
std::vector<idx> GroupNumbers(const std::string& text) {
  std::vector<idx> numbers;
  std::set<idx> seen;
  idx before = 0;
  for (const idx label : Numbers<idx>("--groups", text)) {
    if (numbers.empty() || label != before) {
      if (!seen.insert(label).second) {
        Fail(ErrorCode::kUsage, "--groups: the answers of group {} do not stand together", label);
      }
    }
    numbers.push_back(static_cast<idx>(seen.size()) - 1);
    before = label;
  }
  return numbers;
}

void CheckCount(const char* option, std::size_t given, std::size_t wanted, const char* of) {
  if (given == wanted) return;
  Fail(ErrorCode::kUsage, "{}: {} given for {} {}", option, given, wanted, of);
}

// What the algorithm looks at, and numbers that it refers to.
struct ExplainInput {
  RewardBatch batch;
  std::vector<std::vector<float>> logprobs, sum_sqs, values;
};

void CheckTokens(const char* option, const std::vector<std::vector<double>>& tokens,
                 const std::vector<idx>& lengths) {
  CheckCount(option, tokens.size(), lengths.size(), "answers");
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (static_cast<idx>(tokens[i].size()) == lengths[i]) continue;
    Fail(ErrorCode::kUsage, "{}: answer {} has {} tokens and {} numbers", option, i, lengths[i],
         tokens[i].size());
  }
}

std::vector<std::vector<float>> Probabilities(const char* option,
                                              const std::vector<std::vector<double>>& tokens,
                                              double (*map)(double)) {
  std::vector<std::vector<float>> result;
  for (const auto& answer : tokens) {
    result.emplace_back();
    for (const double value : answer) {
      if (value <= 0 || value > 1) {
        Fail(ErrorCode::kUsage, "{}: {} is not above 0 and at most 1", option, value);
      }
      result.back().push_back(static_cast<float>(map(value)));
    }
  }
  return result;
}

// Reads what is needed, and refuses what is not.
void ReadNeeds(const ExplainArguments& args, const Algorithm& algorithm, ExplainInput& input) {
  RewardBatch& batch = input.batch;
  struct Extra {
    const char* option;
    const std::string& text;
    Needs need;
    const char* what;
  };
  for (const Extra& extra :
       {Extra{"--greedy", args.greedy, kNeedsGreedy,
              "the reward of the greedy answer to each prompt, such as --greedy 1"},
        Extra{"--gradient-norms", args.gradient_norms, kNeedsGradientNorms,
              "the squared norm of each answer's gradient, such as --gradient-norms 2.5,3"},
        Extra{"--probs", args.probs, kNeedsTokenStats,
              "the probability of each token, such as --probs '0.5,0.8;0.25' for two answers"},
        Extra{"--sum-sqs", args.sum_sqs, kNeedsTokenStats,
              "at each token the sum over the vocabulary of squared probabilities, such as "
              "--sum-sqs '0.4,0.7;0.3'"},
        Extra{"--values", args.values, kNeedsCritic,
              "what the critic says before each token, such as --values '0.5,0.6;0.2'"}}) {
    const bool needed = (algorithm.needs & extra.need) != 0;
    if (needed && extra.text.empty()) {
      Fail(ErrorCode::kUsage, "explain: {} needs {}", algorithm.name, extra.what);
    }
    if (!needed && !extra.text.empty()) {
      Fail(ErrorCode::kUsage, "{}: {} does not look at it; leave it out", extra.option,
           algorithm.name);
    }
  }
  if (!args.greedy.empty()) {
    const auto greedy = Numbers<double>("--greedy", args.greedy);
    CheckCount("--greedy", greedy.size(), static_cast<std::size_t>(batch.groups.back() + 1),
               "prompts");
    for (const idx group : batch.groups) {
      batch.greedy_rewards.push_back(greedy[static_cast<std::size_t>(group)]);
    }
  }
  if (!args.gradient_norms.empty()) {
    batch.gradient_norms = Numbers<double>("--gradient-norms", args.gradient_norms);
    CheckCount("--gradient-norms", batch.gradient_norms.size(), batch.rewards.size(), "answers");
    for (const double norm : batch.gradient_norms) {
      if (norm < 0) Fail(ErrorCode::kUsage, "--gradient-norms: {} is negative", norm);
    }
  }
  if (!args.probs.empty()) {
    const auto probs = TokenNumbers("--probs", args.probs);
    CheckTokens("--probs", probs, batch.lengths);
    input.logprobs = Probabilities("--probs", probs, [](double p) { return std::log(p); });
    const auto sums = TokenNumbers("--sum-sqs", args.sum_sqs);
    CheckTokens("--sum-sqs", sums, batch.lengths);
    input.sum_sqs = Probabilities("--sum-sqs", sums, [](double s) { return s; });
    for (const auto& values : input.logprobs) batch.logprobs.emplace_back(values);
    for (const auto& values : input.sum_sqs) batch.sum_sqs.emplace_back(values);
  }
  if (!args.values.empty()) {
    const auto values = TokenNumbers("--values", args.values);
    CheckTokens("--values", values, batch.lengths);
    for (const auto& answer : values) input.values.emplace_back(answer.begin(), answer.end());
    for (const auto& answer : input.values) batch.values.emplace_back(answer);
  }
  if (!args.unfinished.empty()) {
    if (algorithm.name != "t_ppo") {
      Fail(ErrorCode::kUsage, "--unfinished: {} has finished answers only; leave it out",
           algorithm.name);
    }
    for (const idx flag : Numbers<idx>("--unfinished", args.unfinished)) {
      if (flag != 0 && flag != 1) Fail(ErrorCode::kUsage, "--unfinished: {} is not 0 or 1", flag);
      batch.unfinished.push_back(flag == 1);
    }
    CheckCount("--unfinished", batch.unfinished.size(), batch.rewards.size(), "answers");
  }
  if (!args.penalties.empty()) {
    batch.token_penalties = TokenNumbers("--penalties", args.penalties);
    CheckTokens("--penalties", batch.token_penalties, batch.lengths);
  }
}

ExplainInput ReadInput(const ExplainArguments& args, const Algorithm& algorithm) {
  ExplainInput input;
  RewardBatch& batch = input.batch;
  batch.rewards = Numbers<double>("--rewards", args.rewards);
  const std::pair<const char*, const std::string&> per_token[] = {
      {"--probs", args.probs}, {"--values", args.values}, {"--penalties", args.penalties}};
  const auto tokens = std::find_if(std::begin(per_token), std::end(per_token),
                                   [](const auto& option) { return !option.second.empty(); });
  if (!args.lengths.empty()) {
    batch.lengths = Numbers<idx>("--lengths", args.lengths);
  } else if (tokens != std::end(per_token)) {
    for (const auto& answer : TokenNumbers(tokens->first, tokens->second)) {
      batch.lengths.push_back(static_cast<idx>(answer.size()));
    }
  } else {
    Fail(ErrorCode::kUsage, "explain: give the answers' tokens, such as --lengths 10,30,20,40");
  }
  CheckCount("--lengths", batch.lengths.size(), batch.rewards.size(), "rewards");
  constexpr idx kLongest = 1'000'000'000;
  for (const idx length : batch.lengths) {
    if (length < 0 || length > kLongest) {
      Fail(ErrorCode::kUsage, "--lengths: {} is not between 0 and {}", length, kLongest);
    }
  }
  batch.groups.assign(batch.rewards.size(), 0);
  if (!args.groups.empty()) batch.groups = GroupNumbers(args.groups);
  CheckCount("--groups", batch.groups.size(), batch.rewards.size(), "rewards");
  ReadNeeds(args, algorithm, input);
  return input;
}

AlgorithmConfig ReadSettings(const ExplainArguments& args) {
  AlgorithmConfig config;
  config.name = args.algorithm;
  Fields fields = FieldsOf(config);
  for (const std::string& setting : args.settings) fields.Set(setting);
  if (!args.length_exponent.empty()) fields.Set("length_exponent=" + args.length_exponent);
  if (config.name != args.algorithm) {
    Fail(ErrorCode::kUsage, "--set name: the algorithm is that of --algo");
  }
  CheckAlgorithmConfig(config);
  return Resolved(config);
}

// A number for one prompt, one a prompt for several; one an answer where they differ in a prompt.
ordered_json Baseline(const std::vector<double>& baselines, const std::vector<idx>& groups) {
  std::vector<double> of_groups;
  for (std::size_t i = 0; i < baselines.size(); ++i) {
    if (groups[i] == static_cast<idx>(of_groups.size())) of_groups.push_back(baselines[i]);
    if (baselines[i] != of_groups.back()) return baselines;
  }
  return of_groups.size() == 1 ? ordered_json(of_groups[0]) : ordered_json(of_groups);
}

// "clip_low = 0.2, ...": what the formula and the loss refer to.
std::string Settings(const Algorithm& algorithm, const AlgorithmConfig& config) {
  AlgorithmConfig copy = config;
  const std::string printed = FieldsOf(copy).Print();
  std::string settings;
  const auto add = [&](std::string_view key) {
    for (const std::string_view line : Split(printed, '\n')) {
      if (!line.starts_with(key) || !line.substr(key.size()).starts_with(" = ")) continue;
      settings.append(settings.empty() ? "" : ", ").append(line);
    }
  };
  for (const std::string_view key : algorithm.Keys()) add(key);
  if (config.clip_low != kOwn) add("clip_low");
  if (config.clip_high != kOwn) add("clip_high");
  if (config.clip_dual != kOwn) add("clip_dual");
  if (config.loss_agg == "seq-mean-token-sum-norm") add("norm");
  return settings;
}

void PrintForPeople(const Algorithm& algorithm, const RewardBatch& batch,
                    const AdvantageResult& result, const std::vector<double>& weights,
                    const AlgorithmConfig& config) {
  fmt::print("{}: {}\nsource     {}\nformula    {}\nloss_agg   {}\n", algorithm.name,
             algorithm.summary, algorithm.source, algorithm.formula, config.loss_agg);
  const std::string settings = Settings(algorithm, config);
  if (!settings.empty()) fmt::print("settings   {}\n", settings);
  fmt::print("\n");
  fmt::print("{:>6}{:>7}{:>10}{:>9}{:>12}{:>12}{:>14}\n", "answer", "prompt", "reward", "tokens",
             "baseline", "advantage", "token weight");
  for (std::size_t i = 0; i < batch.rewards.size(); ++i) {
    fmt::print("{:>6}{:>7}{:>10.6g}{:>9}{:>12.6f}{:>12.6f}{:>14.6g}\n", i, batch.groups[i],
               batch.rewards[i], batch.lengths[i], result.baselines[i], result.advantages[i],
               weights[i]);
  }
  const auto print_tokens = [](const char* title, const std::vector<std::vector<double>>& answers) {
    if (answers.empty()) return;
    fmt::print("\n{}\n", title);
    for (std::size_t i = 0; i < answers.size(); ++i) {
      fmt::print("{:>6}  ", i);
      for (const double value : answers[i]) fmt::print("{:>12.6f}", value);
      fmt::print("\n");
    }
  };
  print_tokens("advantages of the tokens (above: their mean)", result.token_advantages);
  print_tokens("what the critic learns to say before them", result.returns);
}

void RunExplain(const ExplainArguments& args) {
  const Algorithm& algorithm = FindAlgorithm(args.algorithm);
  AlgorithmConfig config = ReadSettings(args);
  const ExplainInput input = ReadInput(args, algorithm);
  const RewardBatch& batch = input.batch;
  const AdvantageResult result = algorithm.advantages(batch, config);
  std::vector<double> numbers = result.advantages;
  for (const auto& tokens : result.token_advantages) {
    numbers.insert(numbers.end(), tokens.begin(), tokens.end());
  }
  for (const double advantage : numbers) {
    if (std::isfinite(advantage)) continue;
    Fail(ErrorCode::kUsage, "explain: an advantage is {}; give smaller numbers", advantage);
  }
  if (config.norm == 0) {  // in training rollout.max_new_tokens, of which nothing is known here
    config.norm = static_cast<double>(
        std::max<idx>(1, *std::max_element(batch.lengths.begin(), batch.lengths.end())));
  }
  const std::vector<double> weights = TokenWeights(config.loss_agg, batch.lengths, config.norm);
  if (!args.json) return PrintForPeople(algorithm, batch, result, weights, config);
  ordered_json out = {{"algorithm", algorithm.name},
                      {"baseline", Baseline(result.baselines, batch.groups)},
                      {"baselines", result.baselines},
                      {"advantages", result.advantages}};
  if (!result.token_advantages.empty()) out["token_advantages"] = result.token_advantages;
  if (!result.returns.empty()) out["returns"] = result.returns;
  out["loss_agg"] = config.loss_agg;
  if (config.loss_agg == "seq-mean-token-sum-norm") out["norm"] = config.norm;
  out["token_weights"] = weights;
  out["formula"] = algorithm.formula;
  out["source"] = algorithm.source;
  PrintJsonLine(out);
}

void RunAlgorithms(bool json) {
  for (const Algorithm& algorithm : Algorithms()) {
    if (json) {
      PrintJsonLine({{"algorithm", algorithm.name},
                     {"summary", algorithm.summary},
                     {"formula", algorithm.formula},
                     {"loss_agg", algorithm.default_aggregation},
                     {"source", algorithm.source}});
    } else {
      fmt::print("{:<22} {} ({})\n", algorithm.name, algorithm.summary, algorithm.source);
    }
  }
}

}  // namespace

void AddExplain(CLI::App& app, int&) {
  auto args = std::make_shared<ExplainArguments>();
  CLI::App* verb = app.add_subcommand(
      "explain", "what an algorithm makes of rewards and lengths: baseline, advantages, weights");
  verb->add_option("--algo", args->algorithm, "see `opo algorithms`")->required();
  verb->add_option("--rewards", args->rewards, "of the answers: 1,0,1,0")->required();
  verb->add_option("--lengths", args->lengths,
                   "their tokens: 10,30,20,40; not needed beside --probs, --values or --penalties");
  verb->add_option("--groups", args->groups,
                   "the prompt of each answer: 0,0,1,1 (default: all of one prompt)");
  verb->add_option("--greedy", args->greedy,
                   "remax: the reward of the greedy answer to each prompt");
  verb->add_option("--length-exponent", args->length_exponent,
                   "opo, opo_batch, opo_loo: algorithm.length_exponent");
  verb->add_option("--probs", args->probs,
                   "otb: probabilities of the tokens, answers apart by ';': '0.5,0.8;0.25'");
  verb->add_option("--sum-sqs", args->sum_sqs,
                   "otb: at each token the sum over the vocabulary of squared probabilities");
  verb->add_option("--gradient-norms", args->gradient_norms,
                   "algorithms with measured norms: the squared norm of each answer's gradient");
  verb->add_option("--penalties", args->penalties,
                   "what each token takes from the reward, such as a KL term: '0,0.1;0.2'");
  verb->add_option("--values", args->values,
                   "algorithms with a critic: what it says before each token: '0.5,0.6;0.2'");
  verb->add_option("--unfinished", args->unfinished,
                   "t_ppo: 1 for each answer that goes on after its last token: 0,1");
  verb->add_option("--set", args->settings, "a key of [algorithm], such as loss_agg=token-mean");
  verb->add_flag("--json", args->json,
                 "one object: baseline (a number for one prompt, else one a prompt; one an answer "
                 "where it leaves the answer out), baselines (one an answer), advantages, "
                 "token_weights, formula, source");
  verb->callback([args] { RunExplain(*args); });
}

void AddAlgorithms(CLI::App& app, int&) {
  auto json = std::make_shared<bool>(false);
  CLI::App* verb = app.add_subcommand("algorithms", "every algorithm, a line each");
  verb->add_flag("--json", *json, "as JSON lines, with the formula");
  verb->callback([json] { RunAlgorithms(*json); });
}

}  // namespace opo
