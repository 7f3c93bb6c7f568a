// An answer, in LaTeX or plain text, as tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace opo {

enum class TokenKind {
  kNumber,    // digits with an optional point and exponent
  kSymbol,    // a letter, a Greek letter's name, a named constant
  kFunction,  // its canonical name: sin, asin, log, sqrt, ...
  kText,      // words: units, names, remarks
  kMark,      // an operator, bracket, separator or structural command; text says which
};

struct MathToken {
  TokenKind kind = TokenKind::kMark;
  std::string text;
  bool space = false;   // white space stands before it
  bool quoted = false;  // kText that came from \text{} and the like
};

// Marks: + - * / ^ _ ! ' % deg ( ) [ ] { } \{ \} | , ; : & \\ = < <= > >= != ~ in notin -> cup cap
// setminus pm mp frac binom choose overline lfloor rfloor lceil rceil sum prod int lim mid inf
// emptyset R begin:NAME end:NAME dots and or.
// Reads at most `kMaxAnswerBytes` bytes and returns nothing for longer texts.
inline constexpr std::size_t kMaxAnswerBytes = 10'000;
std::vector<MathToken> LexMath(std::string_view text);

// LaTeX and plain text in one alphabet: Unicode signs as commands, control characters that came
// from unescaped \f, \t, \b as those commands, doubled backslashes before commands as one.
std::string NormaliseText(std::string_view text);

}  // namespace opo
