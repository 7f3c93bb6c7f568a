// Answers in words.
#pragma once

#include <string>
#include <string_view>

namespace opo {

// Lower case, without punctuation, markup and articles, one space between words.
std::string PlainWords(std::string_view text);

}  // namespace opo
