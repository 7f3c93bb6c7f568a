// opo generate, opo chat: a model's answers.
#include <cstdio>
#include <iostream>
#include <map>

#include "app/command.h"
#include "app/sampling.h"
#include "base/error.h"
#include "base/pack.h"
#include "train/exchange.h"
#include "train/signal_guard.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

struct GenerateArguments {
  ModelOptions model;
  SamplingOptions sampling;
  std::string prompt;
  std::string input;
  idx n = 1;
  bool json = false;
  bool quiet = false;
};

void CheckRoom(idx prompt_tokens, idx new_tokens, const ModelConfig& model,
               const std::string& where) {
  if (model.max_position == 0 || prompt_tokens + new_tokens <= model.max_position) return;
  Fail(ErrorCode::kInput,
       "{}: {} tokens and {} new ones exceed the model's {} positions; shorten the prompt or "
       "--max-new-tokens",
       where, prompt_tokens, new_tokens, model.max_position);
}

// Answers as they are complete, in the order of their prompts and samples.
class AnswerWriter {
 public:
  AnswerWriter(std::span<const RolloutGroup> groups, const std::vector<JsonLine>& lines, bool json)
      : groups_(groups), lines_(lines), json_(json) {
    for (const RolloutGroup& group : groups) done_.emplace_back(group.rollouts.size(), false);
  }

  void Done(const TokenEvent& event) {
    done_[static_cast<std::size_t>(event.group)][static_cast<std::size_t>(event.sample)] = true;
    while (g_ < done_.size() && done_[g_][s_]) {
      Write(groups_[g_].rollouts[s_]);
      if (++s_ < done_[g_].size()) continue;
      s_ = 0;
      ++g_;
    }
  }

 private:
  void Write(const Rollout& r) const {
    if (!json_) {
      fmt::print("[{}.{}] {}\n", g_ + 1, s_ + 1, ForStdout(r.text));
      std::fflush(stdout);
      return;
    }
    ordered_json line;
    const ordered_json& from = lines_[g_].object;
    if (from.contains("id")) line["id"] = from["id"];
    line["prompt"] = g_;
    line["sample"] = s_;
    line["text"] = r.text;
    line["ids"] = r.tokens;
    line["logprobs"] = r.logprobs;
    line["finish_reason"] = FinishReasonName(r.finish);
    PrintJsonLine(line);
  }

  std::span<const RolloutGroup> groups_;
  const std::vector<JsonLine>& lines_;
  bool json_;
  std::vector<std::vector<bool>> done_;
  std::size_t g_ = 0, s_ = 0;  // the next one to write
};

// The lines of the input at all ranks; the root alone reads it.
std::vector<JsonLine> SharedLines(const GenerateArguments& args, Comm& comm) {
  if (args.input.empty()) return {{{{"prompt", args.prompt}}, "--prompt"}};
  std::vector<JsonLine> lines;
  if (comm.root()) lines = ReadJsonLines(args.input);
  if (comm.alone()) return lines;
  Packer out;
  for (const JsonLine& line : lines) {
    out.Put(line.object.dump());
    out.Put(line.where);
  }
  const std::string all = comm.Broadcast(out.Take());
  lines.clear();
  for (Unpacker in(all); !in.done();) {
    const auto object = in.Get<std::string>();
    lines.push_back({ordered_json::parse(object), in.Get<std::string>()});
  }
  return lines;
}

template <class T>
void RunGenerate(const GenerateArguments& args) {
  Comm& comm = Comm::World();
  const std::vector<JsonLine> lines = SharedLines(args, comm);
  if (lines.empty()) Fail(ErrorCode::kInput, "{}: holds no prompts", args.input);
  LoadedModel<T> loaded(args.model.model);
  CheckBias(args.sampling.config, loaded.model.config().vocab_size, ErrorCode::kUsage,
            "--logit-bias");
  std::vector<RolloutGroup> groups(lines.size());
  std::map<std::uint64_t, idx> occurrences;
  idx answers = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const auto& [line, where] = lines[i];
    SamplingConfig own = args.sampling.config;
    idx n = args.n;
    ReadSamplingKeys(line, where, own, n);
    CheckBias(own, loaded.model.config().vocab_size, ErrorCode::kInput, where + ": `logit_bias`");
    groups[i].prompt = PromptOf(line, loaded.prompts, where);
    CheckRoom(static_cast<idx>(groups[i].prompt.size()), own.max_new_tokens, loaded.model.config(),
              where);
    std::string id;
    if (line.contains("id")) {
      const ordered_json& value = line["id"];
      if (!value.is_string() && !value.is_number_integer()) {
        Fail(ErrorCode::kInput, "{}: `id`: must be a text or a whole number", where);
      }
      id = value.is_string() ? value.get<std::string>() : value.dump();
    }
    const std::uint64_t key = PromptKey(id, groups[i].prompt, 0);
    groups[i].key = key + static_cast<std::uint64_t>(occurrences[key]++);
    groups[i].rollouts.resize(static_cast<std::size_t>(n));
    groups[i].sampling = std::move(own);
    answers += n;
  }
  const bool stream = !args.json && answers == 1 && comm.alone();
  AnswerProgress progress(CeilDiv(answers, comm.size()), args.quiet || !comm.root());
  AnswerWriter writer(groups, lines, args.json);
  ShareGroups(comm, groups, InTurn(comm, groups.size()), [&](std::span<RolloutGroup> own) {
    Generate(loaded.model, loaded.tokenizer, own, args.sampling.config,
             [&](const TokenEvent& event) {
               if (stream) {
                 const std::string text = ForStdout(event.text);
                 std::fwrite(text.data(), 1, text.size(), stdout);
                 std::fflush(stdout);
               } else if (event.done && comm.alone()) {
                 writer.Done(event);
               }
               progress.Add(event);
             });
  });
  if (stream) fmt::print("\n");
  if (comm.alone() || !comm.root()) return;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
      writer.Done({static_cast<idx>(g), static_cast<idx>(s), 0, {}, true});
    }
  }
}

struct ChatArguments {
  ModelOptions model;
  SamplingOptions sampling;
  std::string system;
};

// Streams the answer to stdout; the text that came, complete or cut short by SIGINT.
template <class T>
std::string StreamAnswer(LoadedModel<T>& loaded, RolloutGroup& group,
                         const SamplingConfig& config) {
  struct Interrupted {};
  std::string text;
  const SignalGuard signals;  // outside, they end the program
  try {
    Generate(loaded.model, loaded.tokenizer, std::span(&group, 1), config,
             [&](const TokenEvent& event) {
               text += event.text;
               std::cout << ForStdout(event.text) << std::flush;
               if (signals.caught() == SIGINT) throw Interrupted{};
               if (signals.caught() != 0) std::raise(signals.caught());
             });
  } catch (const Interrupted&) {
    group.rollouts.front().finish = FinishReason::kStop;
  }
  std::cout << std::endl;
  return text;
}

template <class T>
void RunChat(const ChatArguments& args) {
  LoadedModel<T> loaded(args.model.model);
  CheckBias(args.sampling.config, loaded.model.config().vocab_size, ErrorCode::kUsage,
            "--logit-bias");
  const PromptRenderer prompts(loaded.tokenizer, args.system);
  const idx positions = loaded.model.config().max_position;
  ordered_json messages = ordered_json::array();
  fmt::print(stderr,
             "Type a message; an empty line or end of input leaves, /reset starts anew, Ctrl-C "
             "stops an answer.\n");
  SamplingConfig config = args.sampling.config;
  for (std::string line;;) {
    fmt::print(stderr, "> ");
    if (!std::getline(std::cin, line)) {
      fmt::print(stderr, "\n");
      return;
    }
    if (line.empty()) return;
    if (line == "/reset") {
      messages = ordered_json::array();
      continue;
    }
    messages.push_back({{"role", "user"}, {"content", line}});
    RolloutGroup group;
    group.prompt = prompts.Render(messages);
    group.key = PromptKey("", group.prompt, 0);
    group.rollouts.resize(1);
    const auto used = static_cast<idx>(group.prompt.size());
    if (positions > 0 && used >= positions) {
      messages.erase(messages.size() - 1);
      fmt::print(stderr,
                 "The conversation would have {} tokens, the model has {} positions: the message "
                 "was not taken. Write a shorter one, or /reset.\n",
                 used, positions);
      continue;
    }
    config.max_new_tokens = args.sampling.config.max_new_tokens;
    if (positions > 0) config.max_new_tokens = std::min(config.max_new_tokens, positions - used);
    const std::string text = StreamAnswer(loaded, group, config);
    if (group.rollouts.front().finish == FinishReason::kLength) {
      fmt::print(stderr, "(cut at {} tokens: {})\n", config.max_new_tokens,
                 config.max_new_tokens < args.sampling.config.max_new_tokens
                     ? "the model has no more positions; /reset starts anew"
                     : "--max-new-tokens");
    }
    messages.push_back({{"role", "assistant"}, {"content", text}});
  }
}

}  // namespace

void AddGenerate(CLI::App& app, int&) {
  auto args = std::make_shared<GenerateArguments>();
  CLI::App* verb = app.add_subcommand("generate", "sample answers: one streamed, or many");
  args->model.Add(*verb);
  args->sampling.Add(*verb, 1.0, 256);
  auto* prompt = verb->add_option("--prompt", args->prompt, "one user message");
  verb->add_option(
          "--input", args->input,
          "JSON lines with `messages`, `prompt` or `prompt_ids`, each with settings of its "
          "own if it likes: `n`, `seed`, `temperature`, ...; - is standard input")
      ->excludes(prompt);
  verb->add_option("-n", args->n, "answers a prompt")
      ->check(CLI::Range(idx{1}, kMaxSamples))
      ->capture_default_str();
  verb->add_flag("--json", args->json,
                 "a JSON line an answer: ids, text, log-probs, finish reason");
  verb->add_flag("--quiet", args->quiet, "no progress line");
  verb->callback([args] {
    if (args->input.empty() && args->prompt.empty()) {
      Fail(ErrorCode::kUsage, "generate: give --prompt TEXT or --input FILE");
    }
    Comm::World();
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

}  // namespace opo
