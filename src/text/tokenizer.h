// Byte-level BPE: text to token ids and back. Loaded from a GGUF's metadata or from the files of a
// Hugging Face folder (tokenizer.json, or vocab.json + merges.txt).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace opo {

struct GgufKeyToWrite;  // format/gguf.h

class Tokenizer {
 public:
  // `model_path`: a .gguf file or a folder. Throws Error(kInput) naming file and field.
  static Tokenizer Load(const std::string& model_path);
  // Of the text of a tokenizer.json alone; `source` stands for it in errors.
  static Tokenizer FromJson(std::string_view text, const std::string& source = "tokenizer.json");
  // The tiny models' own: one token a byte (ids 0..255), then <|endoftext|>, <|im_start|>,
  // <|im_end|>. Its chat template writes the messages' contents, each followed by a newline.
  static Tokenizer Bytes();

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Markup of special tokens in `text` is plain text unless `parse_special`. Adds no BOS. Any bytes
  // are accepted, valid UTF-8 or not; Decode(..., false) gives the same bytes back. The exceptions
  // are the model's own: Qwen 2 brings text to NFC first, SmolLM's vocabulary lacks 21 bytes (six
  // control characters, bytes that UTF-8 never or hardly uses), which become U+FFFD, and added
  // tokens with lstrip or rstrip take white space with them.
  std::vector<TokenId> Encode(std::string_view text, bool parse_special = false) const;
  std::string Decode(std::span<const TokenId> ids, bool skip_special = true) const;
  // The bytes of one token ("" for a special token when skipped). Ids out of range: "".
  std::string TokenBytes(TokenId id, bool skip_special = true) const;

  // The first of this vocabulary's ids that stands for other bytes in `other`, special tokens
  // included; -1 where none does. `other` may know further ones.
  TokenId FirstDifference(const Tokenizer& other) const;

  idx vocab_size() const;  // one more than the highest id
  TokenId bos_id() const;  // -1 where there is none
  TokenId pad_id() const;
  // What ends a turn: as declared, the first one first, and the special tokens that do by name
  // (<|im_end|>, <|endoftext|>, <|eot_id|>, <|end_of_text|>, <|eom_id|>).
  const std::vector<TokenId>& eos_ids() const;
  const std::string& chat_template() const;   // Jinja source; "" where the model has none
  std::string SpecialText(TokenId id) const;  // "<|im_end|>"; "" for ordinary tokens and -1

  // Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json, which transformers
  // loads. They hold one eos token, the first; the others belong in generation_config.json.
  void Save(const std::string& folder) const;
  // The same for a GGUF, as llama.cpp reads it, for a model of `vocab_size` (what it has beyond our
  // tokens is named [PAD...]). Throws Error(kInput) where GGUF has no way to say what we do.
  std::vector<GgufKeyToWrite> GgufKeys(idx vocab_size) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns a stream of tokens into text without ever splitting a UTF-8 character: bytes of an
// unfinished character are held back. Invalid bytes come out as U+FFFD.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string Push(TokenId id);  // text that is complete now, possibly ""
  std::string Flush();           // what was held back

 private:
  const Tokenizer& tokenizer_;
  std::string held_;
};

}  // namespace opo
