// opo tokenize, opo render, opo logprobs, opo init, opo doctor: for checks against other systems,
// and of this one.
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <thread>

#include "app/command.h"
#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "format/quote.h"
#include "model/load.h"
#include "text/chat_template.h"
#include "train/floor.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

struct TokenizeArguments {
  std::string model, input = "-";
  bool special = false;
};

void RunTokenize(const TokenizeArguments& args) {
  const Tokenizer tokenizer = Tokenizer::Load(TokenizerPath(args.model));
  const PromptRenderer prompts(tokenizer);
  for (const auto& [line, where] : ReadJsonLines(args.input)) {
    std::vector<TokenId> ids;
    if (line.contains("text") && line["text"].is_string()) {
      ids = tokenizer.Encode(line["text"].get<std::string>(), args.special);
    } else {
      ids = PromptOf(line, prompts, where);
    }
    PrintJsonLine({{"ids", ids}});
  }
}

struct RenderArguments {
  std::string model, template_file, input = "-";
};

// A template that was read once, or why it cannot be used.
struct ParsedTemplate {
  std::optional<ChatTemplate> chat;
  std::string error;
};

ParsedTemplate ParseTemplate(const std::string& source, const std::string& name) {
  ParsedTemplate parsed;
  try {
    parsed.chat.emplace(source, name);
  } catch (const Error& e) {
    parsed.error = e.what();
  }
  return parsed;
}

// The names that a line gives to its template, and the model's own tokens where it has none. As in
// transformers `variables` come last, and a token that is null is a name that does not exist.
ordered_json RenderVariables(const ordered_json& line, const ordered_json& model_tokens,
                             const std::string& where) {
  ordered_json variables = model_tokens;
  for (const char* name : {"bos_token", "eos_token", "tools", "documents"}) {
    if (line.contains(name) && !line[name].is_null()) variables[name] = line[name];
  }
  if (!line.contains("variables")) return variables;
  if (!line["variables"].is_object()) {
    Fail(ErrorCode::kInput, "{}: `variables` is not an object of names and values", where);
  }
  variables.update(line["variables"]);
  return variables;
}

// A template that a line names: a file in the folder of the input, or below it. What stands in a
// file must not choose what else of this machine is read and printed.
std::string BesideInput(const std::filesystem::path& folder, const std::string& name,
                        const std::string& where) {
  const std::filesystem::path path(name);
  if (path.empty() || path.is_absolute() || name.find('\0') != std::string::npos ||
      std::find(path.begin(), path.end(), "..") != path.end()) {
    Fail(ErrorCode::kInput,
         "{}: `template` is {}, must be the name of a file beside the input; others are given with "
         "--template",
         where, Quote(name));
  }
  return (folder / path).string();
}

void RunRender(const RenderArguments& args) {
  ordered_json model_tokens = ordered_json::object();
  std::map<std::string, ParsedTemplate> templates;
  if (!args.model.empty()) {
    const Tokenizer tokenizer = Tokenizer::Load(TokenizerPath(args.model));
    if (tokenizer.chat_template().empty()) {
      Fail(ErrorCode::kInput, "{}: has no chat template; give one with --template", args.model);
    }
    templates.emplace(args.model, ParseTemplate(tokenizer.chat_template(), "chat_template"));
    const TokenId eos = tokenizer.eos_ids().empty() ? -1 : tokenizer.eos_ids().front();
    for (const auto& [name, id] :
         {std::pair{"bos_token", tokenizer.bos_id()}, std::pair{"eos_token", eos}}) {
      if (id >= 0) model_tokens[name] = tokenizer.SpecialText(id);
    }
  }
  const std::filesystem::path folder =
      args.input == "-" ? "" : std::filesystem::path(args.input).parent_path();
  for (const auto& [line, where] : ReadJsonLines(args.input)) {
    std::string name = args.model.empty() ? args.template_file : args.model;
    if (name.empty()) {
      if (!line.contains("template") || !line["template"].is_string()) {
        Fail(ErrorCode::kInput, "{}: names no `template`; give one with --template or --model",
             where);
      }
      name = BesideInput(folder, line["template"].get<std::string>(), where);
    }
    if (!line.contains("messages") || !line["messages"].is_array()) {
      Fail(ErrorCode::kInput, "{}: `messages` is not a list", where);
    }
    const ordered_json generation = line.value("add_generation_prompt", ordered_json(false));
    if (!generation.is_boolean()) {
      Fail(ErrorCode::kInput, "{}: `add_generation_prompt` is neither true nor false", where);
    }
    const ordered_json variables = RenderVariables(line, model_tokens, where);
    auto found = templates.find(name);
    if (found == templates.end()) {
      found = templates.emplace(name, ParseTemplate(ReadFile(name), name)).first;
    }
    const ParsedTemplate& parsed = found->second;
    ordered_json result;
    try {
      if (!parsed.chat.has_value()) Fail(ErrorCode::kInput, "{}", parsed.error);
      result["text"] = parsed.chat->Render(line["messages"], generation.get<bool>(), variables);
    } catch (const Error& e) {
      result["error"] = e.what();
    }
    PrintJsonLine(result);
  }
}

struct LogprobsArguments {
  ModelOptions model;
  std::string input = "-";
  double temperature = 1.0;
};

template <class T>
void RunLogprobs(const LogprobsArguments& args) {
  LoadedModel<T> loaded(args.model.model);
  for (const JsonLine& read : ReadJsonLines(args.input)) {
    const ordered_json& line = read.object;
    const std::string& where = read.where;
    RolloutGroup group;
    group.prompt = PromptOf(line, loaded.prompts, where);
    group.rollouts.resize(1);
    try {
      if (line.contains("completion_ids")) {
        group.rollouts[0].tokens = line["completion_ids"].get<std::vector<TokenId>>();
      } else if (line.contains("completion")) {
        group.rollouts[0].tokens =
            loaded.tokenizer.Encode(line["completion"].get<std::string>(), true);
      } else {
        Fail(ErrorCode::kInput, "{}: has neither `completion` nor `completion_ids`", where);
      }
    } catch (const ordered_json::exception& e) {
      Fail(ErrorCode::kInput, "{}: {}", where, e.what());
    }
    if (group.prompt.empty()) Fail(ErrorCode::kInput, "{}: the prompt has no tokens", where);
    for (const auto* ids : {&group.prompt, &group.rollouts[0].tokens}) {
      for (const TokenId id : *ids) {
        if (id < 0 || id >= loaded.model.config().vocab_size) {
          Fail(ErrorCode::kInput, "{}: token id {} is outside the vocabulary of {}", where, id,
               loaded.model.config().vocab_size);
        }
      }
    }
    Rollout& r = group.rollouts[0];
    const ModelConfig& config = loaded.model.config();
    const std::size_t length = r.tokens.size();
    // What stands behind the answer is never fed: the value at its row is the answer's score.
    if (config.has_values) r.tokens.push_back(0);
    Score(loaded.model, std::span(&group, 1), static_cast<float>(1.0 / args.temperature));
    const auto of = [&](const std::vector<float>& numbers) {
      return std::vector<double>(numbers.begin(),
                                 numbers.begin() + static_cast<std::ptrdiff_t>(length));
    };
    ordered_json out;
    if (config.has_logits) {
      out["logprobs"] = of(r.logprobs);
      out["entropy"] = of(r.entropies);
    }
    if (config.has_values) {
      out["values"] = of(r.values);
      out["score"] = r.values.back();
    }
    PrintJsonLine(out);
  }
}

struct InitArguments {
  std::string output;
  ModelConfig config;
  std::uint64_t seed = 1;
  double std = 0.02;
  bool untied = false, value_head = false;
  std::string rope_type = "default";
  double rope_factor = 1;
  idx rope_original_max_position = 0;
};

void RunInit(InitArguments args) {
  const Tokenizer tokenizer = Tokenizer::Bytes();
  ModelConfig& c = args.config;
  if (c.vocab_size == 0) c.vocab_size = tokenizer.vocab_size();
  if (c.vocab_size < tokenizer.vocab_size()) {
    Fail(ErrorCode::kUsage, "--vocab: the byte tokenizer needs {}", tokenizer.vocab_size());
  }
  SetArchitecture(c, c.architecture, "--architecture");
  SetRopeScaling(c, args.rope_type, args.rope_factor, args.rope_original_max_position);
  c.tied_embeddings = !args.untied;
  c.bos_id = tokenizer.bos_id();
  c.pad_id = tokenizer.pad_id();
  c.eos_ids = tokenizer.eos_ids();
  const Heads heads{!args.value_head, args.value_head, args.std, args.seed};
  const Weights weights = InitWeights(c, args.seed, args.std, heads);
  SaveTrained(args.output, weights, "");
  tokenizer.Save(args.output);
  PrintJsonLine({{"model", args.output}, {"weights_digest", weights.DigestHex()}});
}

void RunDoctor() {
  utsname system{};
  ::uname(&system);
  std::string cpu = "unknown";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      cpu = line.substr(line.find(':') + 2);
      break;
    }
  }
  fmt::print("machine   {} {}, {}\n", system.sysname, system.machine, cpu);
  fmt::print("cpus      {} in use of {}\n", NumThreads(), std::thread::hardware_concurrency());
  fmt::print("memory    {} MB available\n", AvailableMemoryBytes() >> 20);
  const std::string chosen(ActiveKernels().name);
  for (const IsaPath& path : IsaPaths()) {
    if (!path.available) {
      fmt::print("isa       {:<12} not on this machine\n", path.name);
      continue;
    }
    SelectIsa(path.name);  // throws where the self-test fails
    fmt::print("isa       {:<12} self-test passed, fingerprint {}{}\n", path.name, IsaFingerprint(),
               path.name == chosen ? "  <- chosen" : "");
  }
  SelectIsa(chosen);

  // The contract on a small random model: decode equals a whole pass, one thread equals all.
  ModelConfig c;
  c.vocab_size = 259;
  c.hidden_size = 96;
  c.intermediate_size = 160;
  c.num_layers = 2;
  c.num_heads = 3;
  c.num_kv_heads = 1;
  c.head_dim = 32;
  c.max_position = 512;
  const PackedWeights<bf16> packed(InitWeights(c, 7, 0.1), false);
  Transformer<bf16> model(packed);
  std::vector<RolloutGroup> groups(2);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (idx i = 0; i < 40; ++i)
      groups[g].prompt.push_back(static_cast<TokenId>((i * 37 + 11 * static_cast<idx>(g)) % 250));
    groups[g].key = g;
    groups[g].rollouts.resize(3);
  }
  SamplingConfig sampling;
  sampling.max_new_tokens = 100;
  sampling.ignore_eos = true;
  const Tokenizer tokenizer = Tokenizer::Bytes();
  Generate(model, tokenizer, std::span(groups), sampling);
  const std::string sampled = RolloutDigest(groups);
  std::vector<RolloutGroup> scored = groups;
  Score(model, std::span(scored), 1.0f);
  const int threads = NumThreads();
  SetNumThreads(threads == 1 ? 2 : 1);
  std::vector<RolloutGroup> again = groups;
  Generate(model, tokenizer, std::span(again), sampling);
  SetNumThreads(threads);
  const bool e1 = RolloutDigest(scored) == sampled;
  const bool e3 = RolloutDigest(again) == sampled;
  fmt::print("E1        sampler = learner: {}\n", e1 ? "same bits" : "DIFFERENT BITS");
  fmt::print("E3        threads: {}\n", e3 ? "same bits" : "DIFFERENT BITS");
  if (!e1 || !e3)
    Fail(ErrorCode::kExactness, "doctor: the exactness contract does not hold on this machine");
}

}  // namespace

void AddTokenize(CLI::App& app, int&) {
  auto args = std::make_shared<TokenizeArguments>();
  CLI::App* verb =
      app.add_subcommand("tokenize", "JSON lines {\"text\"} or {\"messages\"} to {\"ids\"}");
  verb->add_option("--model", args->model, "a .gguf file or a folder with tokenizer files")
      ->required();
  verb->add_option("--input", args->input, "JSON lines; -: standard input")->capture_default_str();
  verb->add_flag("--special", args->special,
                 "markup of special tokens in `text` is not plain text");
  verb->callback([args] { RunTokenize(*args); });
}

void AddRender(CLI::App& app, int&) {
  auto args = std::make_shared<RenderArguments>();
  CLI::App* verb = app.add_subcommand(
      "render",
      "conversations through a chat template: JSON lines in, {\"text\"} or {\"error\"} out");
  auto* file = verb->add_option("--template", args->template_file,
                                "a Jinja file, for every line; without it (and --model) each line "
                                "names its `template`, a path from the input's folder");
  verb->add_option("--model", args->model,
                   "a .gguf file or a folder with tokenizer files: its own template, and its "
                   "bos_token and eos_token for lines without")
      ->excludes(file);
  verb->add_option(
          "--input", args->input,
          "lines with `messages` and, as far as they differ from these defaults, "
          "`add_generation_prompt` (false), `bos_token`, `eos_token`, `tools`, `documents` "
          "and `variables` (an object of further names); -: standard input")
      ->capture_default_str();
  verb->footer(
      "One line comes out for each line in, in order. A template that refuses a conversation, or "
      "that asks for what\nis outside the subset of Jinja, gives {\"error\"} with file, line and "
      "reason, and the next line follows.");
  verb->callback([args] { RunRender(*args); });
}

void AddLogprobs(CLI::App& app, int&) {
  auto args = std::make_shared<LogprobsArguments>();
  CLI::App* verb =
      app.add_subcommand("logprobs",
                         "log-probs and entropy of given completions: JSON lines in, JSON lines "
                         "out; of a model with a "
                         "value head its values before each token, and the score behind the last");
  args->model.Add(*verb);
  verb->add_option(
          "--input", args->input,
          "lines with `messages`, `prompt` or `prompt_ids`, and `completion` or `completion_ids`")
      ->capture_default_str();
  verb->add_option("--temperature", args->temperature, "of the softmax")
      ->check(CLI::Range(1e-3, 100.0))
      ->capture_default_str();
  verb->callback([args] { RunInDtype(*args, RunLogprobs<bf16>, RunLogprobs<float>); });
}

void AddInit(CLI::App& app, int&) {
  auto args = std::make_shared<InitArguments>();
  ModelConfig& c = args->config;
  c.hidden_size = 64;
  c.intermediate_size = 192;
  c.num_layers = 2;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.max_position = 1024;
  CLI::App* verb = app.add_subcommand("init", "a fresh, seeded model of any shape, byte-level");
  verb->add_option("output", args->output, "the Hugging Face folder to write")->required();
  verb->add_option("--architecture", c.architecture, "which arithmetic")
      ->check(CLI::IsMember(ArchitectureNames()))
      ->capture_default_str();
  verb->add_option("--vocab", c.vocab_size, "vocabulary size; 0: the byte tokenizer's");
  verb->add_option("--hidden", c.hidden_size, "width of the residual stream")
      ->capture_default_str();
  verb->add_option("--ffn", c.intermediate_size, "width of the MLP")->capture_default_str();
  verb->add_option("--layers", c.num_layers, "transformer blocks")->capture_default_str();
  verb->add_option("--heads", c.num_heads, "query heads")->capture_default_str();
  verb->add_option("--kv-heads", c.num_kv_heads, "key and value heads; divides --heads")
      ->capture_default_str();
  verb->add_option("--head-dim", c.head_dim, "width of a head, even")->capture_default_str();
  verb->add_option("--max-position", c.max_position, "longest sequence, tokens")
      ->capture_default_str();
  verb->add_option("--rope-theta", c.rope_theta, "base of the rotary frequencies")
      ->capture_default_str();
  verb->add_option("--rope-type", args->rope_type,
                   "how the rotary embedding is stretched for long contexts")
      ->check(CLI::IsMember(kRopeTypeNames))
      ->capture_default_str();
  verb->add_option("--rope-factor", args->rope_factor, "by how much")
      ->check(CLI::Range(1.0, 1e6))
      ->capture_default_str();
  verb->add_option("--rope-original", args->rope_original_max_position,
                   "context before that, tokens (llama3, yarn); 0: --max-position / --rope-factor")
      ->capture_default_str();
  verb->add_option("--seed", args->seed, "of the weights")->capture_default_str();
  verb->add_option("--std", args->std, "deviation of the weights")->capture_default_str();
  verb->add_flag("--untied", args->untied, "an LM head of its own");
  verb->add_flag("--value-head", args->value_head,
                 "a value head in place of the LM head: a reward model");
  verb->callback([args] { RunInit(*args); });
}

void AddDoctor(CLI::App& app, int&) {
  CLI::App* verb = app.add_subcommand(
      "doctor", "the machine, the instruction-set path, and the exactness self-test");
  verb->callback([] { RunDoctor(); });
}

}  // namespace opo
