#include "math/plain_words.h"

#include "math/scan.h"

namespace opo {

std::string PlainWords(std::string_view text) {
  std::string out;
  std::string word;
  const auto flush = [&] {
    if (!word.empty() && word != "a" && word != "an" && word != "the") {
      if (!out.empty()) out += ' ';
      out += word;
    }
    word.clear();
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\') {
      std::size_t end = i + 1;
      while (end < text.size() && IsLetter(text[end])) ++end;
      const std::string_view name = text.substr(i + 1, end - i - 1);
      flush();
      const bool markup = name.empty() || name == "text" || name == "mbox" || name == "mathrm" ||
                          name == "textbf" || name == "quad" || name == "left" || name == "right" ||
                          name == "mathbf" || name == "textit" || name == "hbox";
      if (!markup) word = std::string(name);
      i = end - 1;
      if (!word.empty()) flush();
      continue;
    }
    if (IsLetter(c) || IsDigit(c) || static_cast<unsigned char>(c) >= 0x80) {
      word += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    } else if (c == '-' || c == '\'') {  // well-known, it's; but -5
      const bool inside =
          !word.empty() && i + 1 < text.size() && (IsLetter(text[i + 1]) || IsDigit(text[i + 1]));
      if (inside) continue;
      flush();
      if (c == '-') out += c;
    } else if (c == '+' || c == '=' || c == '<' || c == '>' || c == '^' || c == '*' || c == '/') {
      flush();
      out += c;
    } else {
      flush();
    }
  }
  flush();
  return out;
}

}  // namespace opo
