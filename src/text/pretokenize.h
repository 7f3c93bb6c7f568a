// Pre-tokenizers: how text is cut into the pieces inside which byte pairs are merged.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace opo {

enum class PreTokenizer { kGpt2, kSmolLm, kLlama3, kQwen2, kSteps };  // kSteps: of a file

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

// The expression of ByteLevel itself, as a Split step would say it.
std::string_view Gpt2HfRegex();
// An expression for just this text.
std::string LiteralRegex(std::string_view text);
// Whether a word's character stands at the start or the end of valid UTF-8, as \w means it.
bool StartsWithWord(std::string_view text);
bool EndsWithWord(std::string_view text);

// Cuts text. Bytes that are not UTF-8 are pieces of their own, one for each run of them.
class PieceSplitter {
 public:
  explicit PieceSplitter(PreTokenizer kind);  // REQUIRES a kind with a spec
  // The Split steps of a tokenizer.json, each cutting the pieces of the one before: what its
  // expression finds and what is between are pieces. Throws Error(kInput) naming `source` and
  // expression where that is not of the kind that means the same to Oniguruma and PCRE2, and in
  // Split where one takes too long.
  PieceSplitter(const std::vector<std::string>& hf_regexes, const std::string& source);
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
