// A tokenizer as a GGUF's metadata, as llama.cpp's converter writes it: read and written.
#include <algorithm>

#include "base/error.h"
#include "format/gguf.h"
#include "text/tokenizer_parts.h"

namespace opo {
namespace {

std::int32_t GgufTokenType(TokenKind kind) {
  switch (kind) {
    case TokenKind::kOrdinary:
      return 1;
    case TokenKind::kSpecial:
      return 3;
    case TokenKind::kAdded:
      return 4;
    case TokenKind::kNone:
    case TokenKind::kUnused:
      return 5;
  }
  CheckFailed(__FILE__, __LINE__, "every kind has a type");
}

// Whoever reads the file finds these by their names.
bool EndsTurnByName(const TokenEntry& token) {
  return token.kind == TokenKind::kSpecial &&
         std::find(std::begin(kTurnEnds), std::end(kTurnEnds), token.text) != std::end(kTurnEnds);
}

}  // namespace

TokenizerParts ReadGgufTokenizer(const std::string& path) {
  const GgufFile file = GgufFile::Open(path);
  TokenizerParts parts;
  parts.source = path;
  const std::string& model = file.GetString("tokenizer.ggml.model");
  if (model != "gpt2") {
    Fail(ErrorCode::kInput, "{}: tokenizer.ggml.model is \"{}\"; supported is \"gpt2\" ({})", path,
         model, kSupportedTokenizers);
  }
  const std::string& pre = file.GetString("tokenizer.ggml.pre");
  const PreTokenizerSpec* spec = FindPreTokenizerByGgufName(pre);
  if (spec == nullptr) {
    Fail(ErrorCode::kInput,
         "{}: tokenizer.ggml.pre is \"{}\"; supported are gpt-2, smollm, llama-bpe and qwen2", path,
         pre);
  }
  parts.Apply(*spec);

  const std::vector<std::string>& tokens = file.GetStrings("tokenizer.ggml.tokens");
  if (tokens.empty() || static_cast<std::int64_t>(tokens.size()) > kMaxTokens) {
    Fail(ErrorCode::kInput, "{}: tokenizer.ggml.tokens has {} entries; supported are 1 to {}", path,
         tokens.size(), kMaxTokens);
  }
  std::vector<std::int64_t> types(tokens.size(), 1);
  if (file.Has("tokenizer.ggml.token_type")) types = file.GetInts("tokenizer.ggml.token_type");
  if (types.size() != tokens.size()) {
    Fail(ErrorCode::kInput, "{}: tokenizer.ggml.token_type has {} entries for {} tokens", path,
         types.size(), tokens.size());
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    TokenKind kind = TokenKind::kOrdinary;
    switch (types[i]) {
      case 1:  // normal
        break;
      case 2:  // unknown
      case 3:  // control
        kind = TokenKind::kSpecial;
        break;
      case 4:  // user defined
        kind = TokenKind::kAdded;
        break;
      case 5:  // unused
        kind = TokenKind::kUnused;
        break;
      default:
        Fail(ErrorCode::kInput,
             "{}: tokenizer.ggml.token_type of token {} is {}; supported are 1 "
             "to 5",
             path, i, types[i]);
    }
    parts.tokens.push_back({tokens[i], kind});
  }
  parts.merges = file.GetStrings("tokenizer.ggml.merges");

  const auto id = [&](const char* key) -> TokenId {
    if (!file.Has(key)) return -1;
    const std::int64_t value = file.GetInt(key);
    if (value < 0 || value >= static_cast<std::int64_t>(tokens.size())) {
      Fail(ErrorCode::kInput, "{}: {} is {}, the vocabulary has {} tokens", path, key, value,
           tokens.size());
    }
    return static_cast<TokenId>(value);
  };
  parts.bos = id("tokenizer.ggml.bos_token_id");
  // Where the file does not say, llama.cpp adds it for Llama 3 alone.
  parts.add_bos = parts.pre == PreTokenizer::kLlama3;
  if (file.Has("tokenizer.ggml.add_bos_token")) {
    parts.add_bos = file.GetBool("tokenizer.ggml.add_bos_token");
  }
  parts.pad = id("tokenizer.ggml.padding_token_id");
  parts.AddEos(id("tokenizer.ggml.eos_token_id"));
  parts.AddEos(id("tokenizer.ggml.eot_token_id"));
  parts.AddEos(id("tokenizer.ggml.eom_token_id"));
  if (file.Has("tokenizer.chat_template")) {
    parts.chat_template = file.GetString("tokenizer.chat_template");
  }
  return parts;
}

std::vector<GgufKeyToWrite> GgufTokenizerKeys(const TokenizerParts& parts, idx vocab_size) {
  if (parts.pre == PreTokenizer::kSteps) {
    Fail(ErrorCode::kInput,
         "{}: its pre-tokenizer has no name in GGUF, where {} are known; convert into a folder "
         "instead",
         parts.source, "gpt-2, smollm, llama-bpe and qwen2");
  }
  for (const TokenEntry& token : parts.tokens) {
    if (!token.lstrip && !token.rstrip && !token.single_word) continue;
    Fail(ErrorCode::kInput,
         "{}: added token '{}' takes the white space beside it or stands alone (lstrip, rstrip, "
         "single_word), which a GGUF cannot say; convert into a folder instead",
         parts.source, token.text);
  }
  const PreTokenizerSpec& spec = SpecOf(parts.pre);
  if (parts.whole_words != spec.whole_words || parts.nfc != spec.nfc) {
    Fail(ErrorCode::kInput,
         "{}: {} is not what the pre-tokenizer {} does in every GGUF, and the file cannot say it; "
         "convert into a folder instead",
         parts.source,
         parts.nfc != spec.nfc ? fmt::format("NFC normalisation {}", parts.nfc ? "on" : "off")
                               : fmt::format("model.ignore_merges = {}", parts.whole_words),
         spec.name);
  }
  if (std::ssize(parts.tokens) > vocab_size) {
    Fail(ErrorCode::kInput,
         "{}: has {} tokens, the model's vocabulary {}; they do not belong "
         "together",
         parts.source, parts.tokens.size(), vocab_size);
  }
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  for (idx id = 0; id < vocab_size; ++id) {
    const bool ours = id < std::ssize(parts.tokens);
    const TokenEntry token = ours ? parts.tokens[static_cast<std::size_t>(id)] : TokenEntry{};
    const bool named = token.kind != TokenKind::kNone;
    tokens.push_back(named ? token.text : fmt::format("[PAD{}]", id));
    types.push_back(GgufTokenType(token.kind));
  }
  std::vector<GgufKeyToWrite> keys = {
      {"tokenizer.ggml.model", "gpt2"},
      {"tokenizer.ggml.pre", std::string(spec.name)},
      {"tokenizer.ggml.tokens", std::move(tokens)},
      {"tokenizer.ggml.token_type", std::move(types)},
      {"tokenizer.ggml.merges", parts.merges},
  };
  const auto id_key = [&](const std::string& name, TokenId id) {
    if (id >= 0) keys.push_back({"tokenizer.ggml." + name, static_cast<std::uint32_t>(id)});
  };
  id_key("bos_token_id", parts.bos);
  std::vector<TokenId> ends;
  for (const TokenId id : parts.eos) {
    const bool first = ends.empty();
    if (first || !EndsTurnByName(parts.tokens[static_cast<std::size_t>(id)])) ends.push_back(id);
  }
  constexpr const char* kEndKeys[] = {"eos_token_id", "eot_token_id", "eom_token_id"};
  if (ends.size() > std::size(kEndKeys)) {
    Fail(ErrorCode::kInput, "{}: {} tokens end a turn, a GGUF has room for {}", parts.source,
         ends.size(), std::size(kEndKeys));
  }
  for (std::size_t i = 0; i < ends.size(); ++i) id_key(kEndKeys[i], ends[i]);
  id_key("padding_token_id", parts.pad);
  keys.push_back({"tokenizer.ggml.add_bos_token", parts.add_bos});
  if (!parts.chat_template.empty())
    keys.push_back({"tokenizer.chat_template", parts.chat_template});
  return keys;
}

}  // namespace opo
