// Pre-tokenizers: how text is cut into the pieces inside which byte pairs are merged.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

namespace opo {

enum class PreTokenizer { kGpt2, kSmolLm, kLlama3, kQwen2 };

// A new pre-tokenizer is one line of the table in pretokenize.cpp.
struct PreTokenizerSpec {
  PreTokenizer kind;
  std::string_view name;     // ours, for messages
  std::string_view pattern;  // PCRE2; matches at every position of any text
  // The expression that tokenizer.json holds in its Split step; "" where the pieces come from
  // ByteLevel's own expression (and Digits).
  std::string_view hf_regex;
  bool whole_words;  // GGUF does not say: a piece that is a token is taken whole, unmerged
  bool nfc;          // GGUF does not say: text is brought to NFC first
};

const PreTokenizerSpec& SpecOf(PreTokenizer kind);
// By the value of `tokenizer.ggml.pre`; nullptr where it is not one of ours.
const PreTokenizerSpec* FindPreTokenizerByGgufName(std::string_view name);
// By the expression of a Split step; nullptr where it is not one of ours.
const PreTokenizerSpec* FindPreTokenizerByRegex(std::string_view hf_regex);

// Cuts text. Bytes that are not UTF-8 are pieces of their own, one for each run of them.
class PieceSplitter {
 public:
  explicit PieceSplitter(PreTokenizer kind);
  PieceSplitter(PieceSplitter&&) noexcept;
  PieceSplitter& operator=(PieceSplitter&&) noexcept;
  ~PieceSplitter();

  // Calls `piece` for every piece in order; together they are `text`. Thread-safe.
  void Split(std::string_view text, const std::function<void(std::string_view)>& piece) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace opo
