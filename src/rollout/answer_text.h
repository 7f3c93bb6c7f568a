// An answer's text as its tokens come in, and the stop strings that end it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace opo {

// The text is cut before the stop string that is complete first; of several that end at the same
// character, before the longest. How the text is split into tokens makes no difference.
class AnswerText {
 public:
  // `stops` must outlive this; empty ones never match.
  AnswerText(const Tokenizer& tokenizer, const std::vector<std::string>& stops)
      : decoder_(tokenizer), stops_(&stops) {}

  // Adds a token's text. True where that completes a stop string: the text is then cut, and final.
  bool Push(TokenId token);
  // The answer has ended without a stop string: what the decoder held back comes out.
  void End();

  const std::string& text() const { return text_; }
  // What is new since the last call, without an end that may be a stop string's beginning, until
  // Push has said true or End was called. Valid until the next Push or End.
  std::string_view Certain();

 private:
  StreamDecoder decoder_;
  const std::vector<std::string>* stops_;
  std::string text_;
  std::size_t told_ = 0;  // characters that Certain has given out
  bool final_ = false;
};

}  // namespace opo
