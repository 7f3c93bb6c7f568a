// opo generate, opo chat, opo eval: a model's answers.
#include <cstdio>
#include <iostream>
#include <map>

#include "app/command.h"
#include "base/error.h"
#include "train/evaluate.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

struct SamplingOptions {
  SamplingConfig config;
  std::uint64_t seed = 1;
  void Add(CLI::App& app, double temperature, idx max_new_tokens) {
    config.temperature = temperature;
    config.max_new_tokens = max_new_tokens;
    app.add_option("--temperature", config.temperature, "0: the most likely token")
        ->check(CLI::Range(0.0, 100.0))
        ->capture_default_str();
    app.add_option("--top-k", config.top_k, "0: off")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    app.add_option("--top-p", config.top_p, "1: off")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    app.add_option("--min-p", config.min_p, "0: off")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    app.add_option("--max-new-tokens", config.max_new_tokens, "the longest answer")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--stop", config.stop, "a string that ends an answer (repeatable)")
        ->take_all()
        ->allow_extra_args(false);
    app.add_option("--seed", seed, "of the sampling")->capture_default_str();
    app.add_option("--slots", config.slots, "samples decoded at once; 0: 256")
        ->check(CLI::NonNegativeNumber);
  }
  SamplingConfig Resolved() const {
    SamplingConfig out = config;
    out.seed = seed;
    return out;
  }
};

struct GenerateArguments {
  ModelOptions model;
  SamplingOptions sampling;
  std::string prompt;
  std::string input;
  idx n = 1;
  bool json = false;
};

template <class T>
void RunGenerate(const GenerateArguments& args) {
  LoadedModel<T> loaded(args.model.model);
  std::vector<ordered_json> lines;
  if (!args.input.empty()) {
    lines = ReadJsonLines(args.input);
  } else {
    lines.push_back({{"prompt", args.prompt}});
  }
  std::vector<RolloutGroup> groups(lines.size());
  std::map<std::uint64_t, idx> occurrences;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    groups[i].prompt =
        PromptOf(lines[i], loaded.prompts, fmt::format("{}: line {}", args.input, i + 1));
    const std::string id = lines[i].contains("id") && lines[i]["id"].is_string()
                               ? lines[i]["id"].get<std::string>()
                               : "";
    const std::uint64_t key = PromptKey(id, groups[i].prompt, 0);
    groups[i].key = key + static_cast<std::uint64_t>(occurrences[key]++);
    groups[i].rollouts.resize(static_cast<std::size_t>(args.n));
  }
  const bool stream = !args.json && groups.size() == 1 && args.n == 1;
  StreamDecoder decoder(loaded.tokenizer);
  TokenCallback on_token;
  if (stream) {
    on_token = [&](idx, idx, TokenId token) {
      const std::string text = decoder.Push(token);
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
  }
  Generate(loaded.model, loaded.tokenizer, std::span(groups), args.sampling.Resolved(), on_token);
  if (stream) {
    std::cout << decoder.Flush() << "\n";
    return;
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      const Rollout& r = groups[g].rollouts[s];
      if (!args.json) {
        fmt::print("[{}.{}] {}\n", g + 1, s + 1, r.text);
        continue;
      }
      ordered_json line;
      line["prompt"] = g;
      line["sample"] = s;
      line["text"] = r.text;
      line["ids"] = r.tokens;
      line["logprobs"] = r.logprobs;
      line["finish_reason"] = FinishReasonName(r.finish);
      PrintJsonLine(line);
    }
  }
}

struct ChatArguments {
  ModelOptions model;
  SamplingOptions sampling;
  std::string system;
};

template <class T>
void RunChat(const ChatArguments& args) {
  LoadedModel<T> loaded(args.model.model);
  const PromptRenderer prompts(loaded.tokenizer, args.system);
  ordered_json messages = ordered_json::array();
  fmt::print(stderr, "Type a message; an empty line or end of input leaves, /reset starts anew.\n");
  SamplingConfig config = args.sampling.Resolved();
  for (std::string line; fmt::print(stderr, "> "), std::getline(std::cin, line);) {
    if (line.empty()) break;
    if (line == "/reset") {
      messages = ordered_json::array();
      continue;
    }
    messages.push_back({{"role", "user"}, {"content", line}});
    RolloutGroup group;
    group.prompt = prompts.Render(messages);
    group.key = PromptKey("", group.prompt, 0);
    group.rollouts.resize(1);
    StreamDecoder decoder(loaded.tokenizer);
    Generate(loaded.model, loaded.tokenizer, std::span(&group, 1), config,
             [&](idx, idx, TokenId token) { std::cout << decoder.Push(token) << std::flush; });
    std::cout << decoder.Flush() << std::endl;
    messages.push_back({{"role", "assistant"}, {"content", group.rollouts.front().text}});
  }
}

struct EvalArguments {
  ModelOptions model;
  SamplingOptions sampling;
  std::string data = "arithmetic";
  std::string system;
  RewardConfig reward;
  idx n = 1;
  bool json = false;
};

template <class T>
void RunEval(const EvalArguments& args) {
  LoadedModel<T> loaded(args.model.model);
  const PromptRenderer prompts(loaded.tokenizer, args.system);
  const std::vector<Problem> problems =
      args.data == "arithmetic" ? ArithmeticProblems(true) : LoadProblems(args.data);
  if (problems.empty()) Fail(ErrorCode::kInput, "{}: holds no problems", args.data);
  const auto reward = MakeReward({args.reward});
  EvalSettings settings;
  settings.samples = args.n;
  settings.sampling = args.sampling.Resolved();
  const EvalResult result =
      Evaluate(loaded.model, loaded.tokenizer, prompts, std::span(problems), *reward, settings);
  if (args.json) {
    for (const Answer& a : result.answers) {
      PrintJsonLine(
          {{"prompt", a.prompt}, {"gold", a.gold}, {"text", a.text}, {"reward", a.reward}});
    }
    PrintJsonLine(
        {{"problems", problems.size()}, {"samples", args.n}, {"pass_rate", result.pass_rate}});
    return;
  }
  fmt::print("{} problems, {} samples each: mean reward {:.4f}\n", problems.size(), args.n,
             result.pass_rate);
}

}  // namespace

void AddGenerate(CLI::App& app, int&) {
  auto args = std::make_shared<GenerateArguments>();
  CLI::App* verb = app.add_subcommand("generate", "sample answers: one streamed, or many");
  args->model.Add(*verb);
  args->sampling.Add(*verb, 1.0, 256);
  auto* prompt = verb->add_option("--prompt", args->prompt, "one user message");
  verb->add_option("--input", args->input, "JSON lines with `messages`, `prompt` or `prompt_ids`")
      ->excludes(prompt);
  verb->add_option("-n", args->n, "answers a prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_flag("--json", args->json,
                 "a JSON line an answer: ids, text, log-probs, finish reason");
  verb->callback([args] {
    if (args->input.empty() && args->prompt.empty()) {
      Fail(ErrorCode::kUsage, "generate: give --prompt TEXT or --input FILE");
    }
    RunInDtype(*args, RunGenerate<bf16>, RunGenerate<float>);
  });
}

void AddChat(CLI::App& app, int&) {
  auto args = std::make_shared<ChatArguments>();
  CLI::App* verb = app.add_subcommand("chat", "talk to a model");
  args->model.Add(*verb);
  args->sampling.Add(*verb, 0.7, 512);
  verb->add_option("--system", args->system, "a system message");
  verb->callback([args] { RunInDtype(*args, RunChat<bf16>, RunChat<float>); });
}

void AddEval(CLI::App& app, int&) {
  auto args = std::make_shared<EvalArguments>();
  CLI::App* verb = app.add_subcommand("eval", "mean reward of a model on a data set");
  args->model.Add(*verb);
  args->sampling.Add(*verb, 0.0, 256);
  verb->add_option("--data", args->data, "arithmetic (its held-out part), or JSON lines")
      ->capture_default_str();
  verb->add_option("--system", args->system, "a system message put before each problem");
  verb->add_option("--reward", args->reward.kind, "how answers are scored")
      ->check(CLI::IsMember(RewardKinds()))
      ->capture_default_str();
  verb->add_option("--pattern", args->reward.pattern, "of the regex and format rewards");
  verb->add_option("-n", args->n, "answers a problem")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_flag("--json", args->json, "a JSON line an answer, then one with the mean");
  verb->callback([args] { RunInDtype(*args, RunEval<bf16>, RunEval<float>); });
}

}  // namespace opo
