#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "math/scan.h"
#include "math/tokens.h"
#include "math/words.h"

namespace opo {
namespace {

struct Sign {
  std::uint32_t code;
  const char* text;
};

// Sorted by code point.
constexpr Sign kSigns[] = {{0x00A0, " "},
                           {0x00A2, "\\text{cents}"},
                           {0x00A3, ""},
                           {0x00A5, ""},
                           {0x00B0, "^\\circ "},
                           {0x00B1, "\\pm "},
                           {0x00B2, "^{2}"},
                           {0x00B3, "^{3}"},
                           {0x00B4, "'"},
                           {0x00B7, "\\cdot "},
                           {0x00B9, "^{1}"},
                           {0x00BC, "\\frac{1}{4}"},
                           {0x00BD, "\\frac{1}{2}"},
                           {0x00BE, "\\frac{3}{4}"},
                           {0x00D7, "\\times "},
                           {0x00F7, "\\div "},
                           {0x0393, "\\Gamma "},
                           {0x0394, "\\Delta "},
                           {0x0398, "\\Theta "},
                           {0x039B, "\\Lambda "},
                           {0x03A0, "\\Pi "},
                           {0x03A3, "\\Sigma "},
                           {0x03A6, "\\Phi "},
                           {0x03A8, "\\Psi "},
                           {0x03A9, "\\Omega "},
                           {0x03B1, "\\alpha "},
                           {0x03B2, "\\beta "},
                           {0x03B3, "\\gamma "},
                           {0x03B4, "\\delta "},
                           {0x03B5, "\\epsilon "},
                           {0x03B6, "\\zeta "},
                           {0x03B7, "\\eta "},
                           {0x03B8, "\\theta "},
                           {0x03BA, "\\kappa "},
                           {0x03BB, "\\lambda "},
                           {0x03BC, "\\mu "},
                           {0x03BD, "\\nu "},
                           {0x03BE, "\\xi "},
                           {0x03C0, "\\pi "},
                           {0x03C1, "\\rho "},
                           {0x03C3, "\\sigma "},
                           {0x03C4, "\\tau "},
                           {0x03C6, "\\phi "},
                           {0x03C7, "\\chi "},
                           {0x03C8, "\\psi "},
                           {0x03C9, "\\omega "},
                           {0x03D5, "\\phi "},
                           {0x2009, " "},
                           {0x200B, ""},
                           {0x2010, "-"},
                           {0x2011, "-"},
                           {0x2012, "-"},
                           {0x2013, "-"},
                           {0x2014, "-"},
                           {0x2018, "'"},
                           {0x2019, "'"},
                           {0x2022, "\\cdot "},
                           {0x2026, "\\ldots "},
                           {0x202F, " "},
                           {0x2032, "'"},
                           {0x2033, "''"},
                           {0x2044, "/"},
                           {0x2061, ""},
                           {0x2062, "*"},
                           {0x2070, "^{0}"},
                           {0x2074, "^{4}"},
                           {0x2075, "^{5}"},
                           {0x2076, "^{6}"},
                           {0x2077, "^{7}"},
                           {0x2078, "^{8}"},
                           {0x2079, "^{9}"},
                           {0x207B, "^{-}"},
                           {0x207F, "^{n}"},
                           {0x2080, "_{0}"},
                           {0x2081, "_{1}"},
                           {0x2082, "_{2}"},
                           {0x2083, "_{3}"},
                           {0x2084, "_{4}"},
                           {0x2085, "_{5}"},
                           {0x2086, "_{6}"},
                           {0x2087, "_{7}"},
                           {0x2088, "_{8}"},
                           {0x2089, "_{9}"},
                           {0x20AC, ""},
                           {0x20B9, ""},
                           {0x20BD, ""},
                           {0x2102, "\\mathbb{C}"},
                           {0x2115, "\\mathbb{N}"},
                           {0x211A, "\\mathbb{Q}"},
                           {0x211D, "\\mathbb{R}"},
                           {0x2124, "\\mathbb{Z}"},
                           {0x2153, "\\frac{1}{3}"},
                           {0x2154, "\\frac{2}{3}"},
                           {0x2155, "\\frac{1}{5}"},
                           {0x2156, "\\frac{2}{5}"},
                           {0x2157, "\\frac{3}{5}"},
                           {0x2158, "\\frac{4}{5}"},
                           {0x2159, "\\frac{1}{6}"},
                           {0x215A, "\\frac{5}{6}"},
                           {0x215B, "\\frac{1}{8}"},
                           {0x215C, "\\frac{3}{8}"},
                           {0x215D, "\\frac{5}{8}"},
                           {0x215E, "\\frac{7}{8}"},
                           {0x2192, "\\to "},
                           {0x21D2, "\\to "},
                           {0x2208, "\\in "},
                           {0x2209, "\\notin "},
                           {0x2211, "\\sum "},
                           {0x2212, "-"},
                           {0x2213, "\\mp "},
                           {0x2215, "/"},
                           {0x2216, "\\setminus "},
                           {0x2217, "*"},
                           {0x2219, "\\cdot "},
                           {0x221A, "\\sqrt "},
                           {0x221B, "\\sqrt[3] "},
                           {0x221E, "\\infty "},
                           {0x2220, "\\angle "},
                           {0x2223, "|"},
                           {0x2227, "\\land "},
                           {0x2228, "\\lor "},
                           {0x2229, "\\cap "},
                           {0x222A, "\\cup "},
                           {0x2236, ":"},
                           {0x223C, "\\sim "},
                           {0x2245, "\\cong "},
                           {0x2248, "\\approx "},
                           {0x2260, "\\ne "},
                           {0x2261, "\\equiv "},
                           {0x2264, "\\le "},
                           {0x2265, "\\ge "},
                           {0x2266, "\\le "},
                           {0x2267, "\\ge "},
                           {0x22C5, "\\cdot "},
                           {0x2308, "\\lceil "},
                           {0x2309, "\\rceil "},
                           {0x230A, "\\lfloor "},
                           {0x230B, "\\rfloor "},
                           {0x27E8, "("},
                           {0x27E9, ")"},
                           {0x2A7D, "\\le "},
                           {0x2A7E, "\\ge "},
                           {0x3000, " "},
                           {0x3001, ","},
                           {0x3002, ". "},
                           {0xFE0F, ""},
                           {0xFF05, "\\%"},
                           {0xFF08, "("},
                           {0xFF09, ")"},
                           {0xFF0B, "+"},
                           {0xFF0C, ", "},
                           {0xFF0D, "-"},
                           {0xFF0E, "."},
                           {0xFF0F, "/"},
                           {0xFF1A, ": "},
                           {0xFF1B, "; "},
                           {0xFF1C, "<"},
                           {0xFF1D, "="},
                           {0xFF1E, ">"},
                           {0xFFE5, ""}};

const char* SignText(std::uint32_t code) {
  const auto found = std::lower_bound(std::begin(kSigns), std::end(kSigns), code,
                                      [](const Sign& s, std::uint32_t c) { return s.code < c; });
  return found != std::end(kSigns) && found->code == code ? found->text : nullptr;
}

// The letter that a C string's escape swallowed: form feed + "rac" was "\frac".
char Escaped(char control, std::string_view rest) {
  const auto starts = [rest](std::initializer_list<std::string_view> words) {
    return std::any_of(words.begin(), words.end(),
                       [rest](std::string_view w) { return rest.substr(0, w.size()) == w; });
  };
  if (control == '\f' && starts({"rac", "box"})) return 'f';
  if (control == '\b' && starts({"oxed", "inom", "egin", "eta", "ar{", "ig", "mod"})) return 'b';
  if (control == '\t' && starts({"ext{", "ext ", "imes", "heta", "an", "frac", "au", "o "})) {
    return 't';
  }
  if (control == '\v' && starts({"ec{", "ert"})) return 'v';
  if (control == '\r' && starts({"ight", "ho"})) return 'r';
  return '\0';
}

// A doubled backslash before one of these is one backslash (in a matrix it would be a new row,
// whose entries rarely begin with a command that is not listed here).
bool IsCommandAt(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size() && end < 16 && IsLetter(text[end])) ++end;
  const std::string_view name = text.substr(0, end);
  if (name.size() < 2) return false;
  const CommandKind kind = CommandClass(name);
  return kind != CommandKind::kSymbol || IsGreek(name) || name == "boxed";
}

}  // namespace

std::string NormaliseText(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 16);
  const bool rows = text.find("\\begin") != std::string_view::npos &&
                    text.find("\\\\begin") == std::string_view::npos;
  std::size_t script_end = 0;
  char script_sign = '\0';
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '\\' && !rows && at + 2 < text.size() && text[at + 1] == '\\' &&
        (IsCommandAt(text.substr(at + 2)) || text[at + 2] == '{' || text[at + 2] == '}' ||
         text[at + 2] == '%')) {
      ++at;  // the second one follows
      out += '\\';
      ++at;
      continue;
    }
    if (static_cast<unsigned char>(c) < 0x80) {
      if (c == '\f' || c == '\b' || c == '\t' || c == '\v' || c == '\r') {
        const char letter = Escaped(c, text.substr(at + 1, 8));
        if (letter != '\0') {
          if (out.empty() || out.back() != '\\') out += '\\';
          out += letter;
          ++at;
          continue;
        }
      }
      out += c;
      ++at;
      continue;
    }
    const Utf8Step step = NextUtf8(text, at);
    const char* sign = step.kind == Utf8Kind::kCharacter ? SignText(step.code) : nullptr;
    if (sign != nullptr) {
      // Neighbouring superscripts are one exponent.
      const bool script = (sign[0] == '^' || sign[0] == '_') && sign[1] == '{';
      if (script && script_end == out.size() && script_sign == sign[0]) {
        out.pop_back();
        out += sign + 2;
      } else {
        out += sign;
      }
      if (script) {
        script_end = out.size();
        script_sign = sign[0];
      }
    } else if (step.kind == Utf8Kind::kCharacter && step.code >= 0xFF10 && step.code <= 0xFF19) {
      out += static_cast<char>('0' + (step.code - 0xFF10));
    } else {
      out += text.substr(at, step.size);
    }
    at += step.size;
  }
  return out;
}

}  // namespace opo
