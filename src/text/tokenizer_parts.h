// What a tokenizer is made of, as its files say it: what the loaders fill in, what Save writes.
// Internal to the tokenizer.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/byte_pairs.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

namespace opo {

enum class TokenKind : std::uint8_t {
  kNone,      // a hole between the ids
  kOrdinary,  // found by merging
  kSpecial,   // markup; matched only where asked for, skipped in decoded text
  kAdded,     // matched whole in every text, part of decoded text
  kUnused,    // a placeholder: never encoded, decoded like a special token
};

struct TokenEntry {
  std::string text;  // as in the file: of ordinary tokens in the byte alphabet
  TokenKind kind = TokenKind::kNone;
  // Of markup, as tokenizers means them: takes the white space beside it too; only where no word's
  // character is beside it; looked for in normalized text, where all others have been found.
  bool lstrip = false, rstrip = false, single_word = false, normalized = false;
};

struct TokenizerParts {
  std::string source;  // the file, for messages
  std::vector<TokenEntry> tokens;
  std::vector<std::string> merges;  // "left right"
  PreTokenizer pre = PreTokenizer::kGpt2;
  std::vector<std::string> steps;  // of kSteps: the expressions of Split steps
  bool whole_words = false;        // a piece that is a token is taken whole, before any merging
  bool nfc = false;
  TokenId bos = -1;
  bool add_bos = false;  // what others do, kept for them: we leave it to the chat template
  TokenId pad = -1;
  std::vector<TokenId> eos;  // as declared; names known to end a turn are added
  std::string chat_template;

  void Apply(const PreTokenizerSpec& spec) {
    pre = spec.kind;
    whole_words = spec.whole_words;
    nfc = spec.nfc;
  }
  // Where it is one (not -1) that is not there yet.
  void AddEos(TokenId id) {
    if (id >= 0 && std::find(eos.begin(), eos.end(), id) == eos.end()) eos.push_back(id);
  }
};

inline constexpr const char* kSupportedTokenizers =
    "byte-level BPE with Split (Isolated), Digits and ByteLevel steps, no normalizer or NFC";

// GPT-2's byte alphabet: the character that stands for a byte in vocabulary files.
std::string ByteText(std::uint8_t byte);
// Of a whole token; false where a character is not of the alphabet.
bool BytesOfText(std::string_view text, std::string& bytes);

TokenizerParts ReadGgufTokenizer(const std::string& path);
TokenizerParts ParseTokenizerJson(std::string_view text, const std::string& source);
TokenizerParts ReadTokenizerFolder(const std::string& folder);
std::vector<GgufKeyToWrite> GgufTokenizerKeys(const TokenizerParts& parts, idx vocab_size);
void WriteTokenizerFolder(const TokenizerParts& parts, const std::string& folder);

// What ends a turn in the families we load; a model's files often declare only one of its own.
inline constexpr std::string_view kTurnEnds[] = {
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>",
};

// Ids are below this: a file that says otherwise is damaged, and would cost memory.
inline constexpr std::int64_t kMaxTokens = 1 << 22;

struct Tokenizer::Impl {
  // Throws Error(kInput) naming parts.source where the parts contradict each other.
  explicit Impl(TokenizerParts from);

  // Finds markup, special tokens only if asked for; `plain` gets the text between. `normalized`
  // tells which of both kinds of markup is looked for.
  void EncodeMarkup(std::string_view text, bool parse_special, bool normalized,
                    const std::function<void(std::string_view)>& plain,
                    std::vector<TokenId>& ids) const;
  void EncodeOrdinary(std::string_view text, std::vector<TokenId>& ids) const;
  // The longest one that starts at `pos`; -1 where none does.
  TokenId MarkupAt(std::string_view text, std::size_t pos, bool parse_special,
                   bool normalized) const;

  TokenizerParts parts;
  std::vector<std::string> bytes;  // by id
  MergeTable merges;
  PieceSplitter splitter;
  std::array<TokenId, 256> byte_ids{};                    // -1 where a byte has no token
  std::array<std::vector<TokenId>, 256> markup_by_first;  // by first byte, longest first
  bool has_normalized = false;                            // some markup is of that kind
  std::unordered_map<std::string, TokenId> words;         // filled for whole_words only
  std::vector<TokenId> replacement;                       // of a byte that has no token
};

}  // namespace opo
