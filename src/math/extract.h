// Where a text states its final answer. Linear in the text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace opo {

struct FinalAnswer {
  // Readings of the place that was found, best first: later ones count only where earlier ones are
  // no mathematics. Empty: no final answer.
  std::vector<std::string> readings;
  std::string how;  // "boxed", "the answer is", ...
};

// `text` is normalised (NormaliseText).
FinalAnswer FindFinalAnswer(std::string_view text);

// The gold answer: a marked answer within a worked solution, else all of it.
FinalAnswer FindGoldAnswer(std::string_view text);

// The capital letter that a text chooses, or '\0'.
char FindChoice(std::string_view text);

// The letter of "C", "(C)", "C.", "[C]", "(C) Cecile"; '\0' for other texts.
char ChoiceLetter(std::string_view text, bool alone);

// White space, math delimiters and sentence marks at both ends.
std::string_view TrimAnswer(std::string_view text);

}  // namespace opo
