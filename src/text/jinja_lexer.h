// Templates cut into tokens, with Jinja's rules for white space. Internal to the chat template.
#pragma once

#include <string>
#include <vector>

namespace opo::jinja {

enum class TokenType {
  kData,
  kOutputBegin,
  kOutputEnd,
  kTagBegin,
  kTagEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  std::string text;
  int line = 1;
};

// With the rules of trim_blocks and lstrip_blocks: the newline after a tag or comment goes, and so
// does the blank start of a line before one. The last token is a kEnd. Throws Error(kInput) naming
// template and line.
std::vector<Token> Lex(const std::string& source, const std::string& name);

}  // namespace opo::jinja
