// The vocabulary of answers: commands, functions, Greek letters, units.
#pragma once

#include <string>
#include <string_view>

namespace opo {

enum class CommandKind {
  kNothing,       // spacing and style
  kText,          // \text{words}
  kFont,          // \mathrm{...}
  kSkipArgument,  // \phantom{...}
  kEnvironment,   // \begin, \end
  kSize,          // \left, \right, \big
  kMark,          // LatexMark gives the token
  kFunction,      // LatexFunction
  kSymbol,        // anything else: SymbolName
};
CommandKind CommandClass(std::string_view command);
const char* LatexMark(std::string_view command);
const char* LatexFunction(std::string_view command);
std::string SymbolName(std::string_view command);

const char* PlainFunction(std::string_view word);  // null: not a function's name
const char* PlainMark(std::string_view word);      // "infty", "oo", ...; null
bool IsGreek(std::string_view word);
bool IsUnit(std::string_view word);
bool IsUnitLetter(char c);
bool IsUnitExpression(std::string_view text);  // "m/s^2", "km"

const char* BaseWord(std::string_view word);   // "two" as a number's base: "2"; null
const char* ScaleWord(std::string_view word);  // "million": its value; null
// Words before a value that make another value of it: "not", "less than".
bool ChangesMeaning(std::string_view words);

// Letters that are a word rather than a product of variables.
bool LooksLikeWord(std::string_view letters);

}  // namespace opo
