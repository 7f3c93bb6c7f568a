// A tokenizer as a GGUF's metadata, as llama.cpp's converter writes it.
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

std::vector<GgufKeyToWrite> GgufTokenizerKeys(const TokenizerParts& parts, idx vocab_size) {
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
