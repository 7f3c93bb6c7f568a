#include "math/words.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

namespace opo {
namespace {

using Map = std::unordered_map<std::string_view, const char*>;
using Set = std::unordered_set<std::string_view>;

const Map& Functions() {
  static const Map map = {{"sin", "sin"},
                          {"cos", "cos"},
                          {"tan", "tan"},
                          {"cot", "cot"},
                          {"sec", "sec"},
                          {"csc", "csc"},
                          {"tg", "tan"},
                          {"ctg", "cot"},
                          {"cosec", "csc"},
                          {"arcsin", "asin"},
                          {"arccos", "acos"},
                          {"arctan", "atan"},
                          {"arccot", "acot"},
                          {"arcsec", "asec"},
                          {"arccsc", "acsc"},
                          {"arctg", "atan"},
                          {"asin", "asin"},
                          {"acos", "acos"},
                          {"atan", "atan"},
                          {"acot", "acot"},
                          {"asec", "asec"},
                          {"acsc", "acsc"},
                          {"sinh", "sinh"},
                          {"cosh", "cosh"},
                          {"tanh", "tanh"},
                          {"coth", "coth"},
                          {"sech", "sech"},
                          {"csch", "csch"},
                          {"arcsinh", "asinh"},
                          {"arccosh", "acosh"},
                          {"arctanh", "atanh"},
                          {"arsinh", "asinh"},
                          {"arcosh", "acosh"},
                          {"artanh", "atanh"},
                          {"asinh", "asinh"},
                          {"acosh", "acosh"},
                          {"atanh", "atanh"},
                          {"arccoth", "acoth"},
                          {"arcoth", "acoth"},
                          {"acoth", "acoth"},
                          {"ln", "ln"},
                          {"log", "log"},
                          {"lg", "lg"},
                          {"lb", "lb"},
                          {"exp", "exp"},
                          {"sqrt", "sqrt"},
                          {"cbrt", "cbrt"},
                          {"abs", "abs"},
                          {"Abs", "abs"},
                          {"floor", "floor"},
                          {"ceil", "ceil"},
                          {"ceiling", "ceil"},
                          {"factorial", "factorial"},
                          {"binomial", "binomial"},
                          {"gcd", "gcd"},
                          {"lcm", "lcm"},
                          {"max", "max"},
                          {"min", "min"},
                          {"sgn", "sgn"},
                          {"sign", "sgn"},
                          {"det", "det"},
                          {"arg", "arg"},
                          {"deg", "deg"},
                          {"Re", "re"},
                          {"Im", "im"},
                          {"gamma_function", "gamma"},
                          {"Eq", "Eq"},
                          {"Ne", "Ne"},
                          {"Lt", "Lt"},
                          {"Le", "Le"},
                          {"Gt", "Gt"},
                          {"Ge", "Ge"},
                          {"root", "root"},
                          {"Matrix", "Matrix"},
                          {"Mod", "mod"},
                          {"Rational", "rational"}};
  return map;
}

const Set& GreekLetters() {
  static const Set set = {
      "alpha",   "beta",   "gamma", "delta",   "epsilon", "zeta",  "eta",   "theta", "iota",
      "kappa",   "lambda", "mu",    "nu",      "xi",      "pi",    "rho",   "sigma", "tau",
      "upsilon", "phi",    "chi",   "psi",     "omega",   "Gamma", "Delta", "Theta", "Lambda",
      "Xi",      "Pi",     "Sigma", "Upsilon", "Phi",     "Psi",   "Omega", "hbar",  "ell"};
  return set;
}

const Set& Units() {
  static const Set set = {
      "cm",  "mm",  "km",  "dm",  "nm",  "kg",  "mg",  "ml",  "mL",  "ft",  "yd",  "mi",  "oz",
      "lb",  "hr",  "ms",  "Hz",  "Pa",  "kJ",  "kW",  "kV",  "mV",  "eV",  "mol", "min", "sec",
      "hrs", "mph", "kmh", "lbs", "kHz", "MHz", "GHz", "kPa", "sq",  "pct", "deg", "rad", "day",
      "gal", "cal", "dl",  "st",  "nd",  "rd",  "th",  "AM",  "PM",  "am",  "pm",  "cc",  "cl",
      "in",  "USD", "EUR", "RMB", "GBP", "kWh", "mA",  "kN",  "MPa", "AU",  "mph"};
  return set;
}

const Set& SpacingCommands() {
  static const Set set = {
      "quad",         "qquad",     "displaystyle", "textstyle", "scriptstyle", "limits",
      "nolimits",     "hfill",     "noindent",     "thinspace", "medspace",    "thickspace",
      "negthinspace", "rm",        "bf",           "it",        "sf",          "tt",
      "cal",          "tiny",      "small",        "large",     "Large",       "normalsize",
      "centering",    "hline",     "strut",        "mathstrut", "nonumber",    "notag",
      "allowbreak",   "break",     "newline",      "par",       "hskip",       "displaylimits",
      "bigl",         "bigr",      "therefore",    "enspace",   "hspace",      "boxed",
      "fbox",         "mathrel",   "mathbin",      "mathop",    "mathopen",    "mathclose",
      "pmb",          "smash",     "underline",    "bold",      "cancel",      "prescript",
      "overbrace",    "underbrace"};
  return set;
}

const Map& Marks() {
  static const Map map = {{"cdot", "*"},
                          {"times", "*"},
                          {"ast", "*"},
                          {"div", "/"},
                          {"frac", "frac"},
                          {"dfrac", "frac"},
                          {"tfrac", "frac"},
                          {"cfrac", "frac"},
                          {"binom", "binom"},
                          {"dbinom", "binom"},
                          {"tbinom", "binom"},
                          {"choose", "choose"},
                          {"over", "over"},
                          {"pm", "pm"},
                          {"mp", "mp"},
                          {"infty", "inf"},
                          {"cup", "cup"},
                          {"bigcup", "cup"},
                          {"cap", "cap"},
                          {"bigcap", "cap"},
                          {"setminus", "setminus"},
                          {"backslash", "setminus"},
                          {"smallsetminus", "setminus"},
                          {"in", "in"},
                          {"notin", "notin"},
                          {"emptyset", "emptyset"},
                          {"varnothing", "emptyset"},
                          {"le", "<="},
                          {"leq", "<="},
                          {"leqslant", "<="},
                          {"ge", ">="},
                          {"geq", ">="},
                          {"geqslant", ">="},
                          {"lt", "<"},
                          {"gt", ">"},
                          {"ne", "!="},
                          {"neq", "!="},
                          {"leqq", "<="},
                          {"geqq", ">="},
                          {"approx", "~"},
                          {"simeq", "~"},
                          {"sim", "~"},
                          {"cong", "~"},
                          {"equiv", "~"},
                          {"doteq", "~"},
                          {"propto", "propto"},
                          {"to", "->"},
                          {"rightarrow", "->"},
                          {"Rightarrow", "->"},
                          {"longrightarrow", "->"},
                          {"implies", "->"},
                          {"Longrightarrow", "->"},
                          {"iff", "->"},
                          {"Leftrightarrow", "->"},
                          {"mapsto", "->"},
                          {"lfloor", "lfloor"},
                          {"rfloor", "rfloor"},
                          {"lceil", "lceil"},
                          {"rceil", "rceil"},
                          {"langle", "("},
                          {"rangle", ")"},
                          {"lbrace", "\\{"},
                          {"rbrace", "\\}"},
                          {"lbrack", "["},
                          {"rbrack", "]"},
                          {"lparen", "("},
                          {"rparen", ")"},
                          {"vert", "|"},
                          {"lvert", "|"},
                          {"rvert", "|"},
                          {"Vert", "|"},
                          {"mid", "|"},
                          {"middle", ""},
                          {"colon", ":"},
                          {"circ", "deg"},
                          {"degree", "deg"},
                          {"prime", "'"},
                          {"percent", "%"},
                          {"sum", "sum"},
                          {"prod", "prod"},
                          {"int", "int"},
                          {"lim", "lim"},
                          {"overline", "overline"},
                          {"bar", "overline"},
                          {"dot", "overline"},
                          {"ldots", "dots"},
                          {"cdots", "dots"},
                          {"dots", "dots"},
                          {"dotsc", "dots"},
                          {"dotsb", "dots"},
                          {"dotsm", "dots"},
                          {"vdots", "dots"},
                          {"ddots", "dots"},
                          {"land", "and"},
                          {"wedge", "and"},
                          {"lor", "or"},
                          {"vee", "or"},
                          {"sqrt", "sqrt"},

                          {"surd", "sqrt"},
                          {"R", "R"},
                          {"Re", "re"},
                          {"pmod", "pmod"},
                          {"bmod", "bmod"},
                          {"mod", "bmod"},
                          {"stackrel", "stackrel"},
                          {"hat", "accent"},
                          {"vec", "accent"},
                          {"tilde", "accent"},
                          {"widehat", "accent"},
                          {"overrightarrow", "accent"},
                          {"widetilde", "accent"},
                          {"angle", "angle"},
                          {"triangle", "angle"},
                          {"measuredangle", "angle"},
                          {"perp", "perp"},
                          {"parallel", "perp"}};
  return map;
}

}  // namespace

CommandKind CommandClass(std::string_view command) {
  static const Set kText = {"text",   "mbox",   "textbf",     "textit", "textrm", "hbox",
                            "textsf", "texttt", "textnormal", "textup", "emph",   "mathtt"};
  static const Set kFont = {"mathrm",  "mathbf",     "mathit",     "mathbb", "mathsf",
                            "mathcal", "mathfrak",   "boldsymbol", "bm",     "operatorname",
                            "mathscr", "mathnormal", "Bbb"};
  static const Set kSize = {"left", "right", "big",   "Big",   "bigg",  "Bigg",  "bigl",  "bigr",
                            "Bigl", "Bigr",  "biggl", "biggr", "Biggl", "Biggr", "middle"};
  static const Set kSkip = {"phantom", "hphantom", "vphantom", "hspace",
                            "vspace",  "label",    "tag",      "color"};
  if (kSize.count(command)) return CommandKind::kSize;
  if (kText.count(command)) return CommandKind::kText;
  if (kFont.count(command)) return CommandKind::kFont;
  if (kSkip.count(command)) return CommandKind::kSkipArgument;
  if (command == "begin" || command == "end") return CommandKind::kEnvironment;
  if (SpacingCommands().count(command)) return CommandKind::kNothing;
  if (Marks().count(command)) return CommandKind::kMark;
  if (Functions().count(command)) return CommandKind::kFunction;
  return CommandKind::kSymbol;
}

const char* LatexMark(std::string_view command) { return Marks().at(command); }
const char* LatexFunction(std::string_view command) { return Functions().at(command); }

std::string SymbolName(std::string_view command) {
  if (command == "varphi") return "phi";
  if (command == "varepsilon") return "epsilon";
  if (command == "vartheta") return "theta";
  if (command == "varrho") return "rho";
  if (command == "imath") return "i";
  return std::string(command);
}

const char* PlainFunction(std::string_view word) {
  const auto found = Functions().find(word);
  return found == Functions().end() ? nullptr : found->second;
}

const char* PlainMark(std::string_view word) {
  static const Map map = {{"oo", "inf"},       {"inf", "inf"},           {"infty", "inf"},
                          {"infinity", "inf"}, {"Infinity", "inf"},      {"cup", "cup"},
                          {"cap", "cap"},      {"percent", "%"},         {"pct", "%"},
                          {"percentage", "%"}, {"degrees", "deg"},       {"mod", "bmod"},
                          {"degree", "deg"},   {"emptyset", "emptyset"}, {"EmptySet", "emptyset"}};
  const auto found = map.find(word);
  return found == map.end() ? nullptr : found->second;
}

bool IsUnitLetter(char c) {
  return std::string_view("mshgNJWVALKCFTld").find(c) != std::string_view::npos;
}

bool IsUnitExpression(std::string_view text) {
  bool any = false;
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!letter) {
      if (std::string_view(" ~/^*{}-.0123456789").find(c) == std::string_view::npos) return false;
      if (!any && c >= '0' && c <= '9') return false;
      ++i;
      continue;
    }
    const std::size_t begin = i;
    while (i < text.size() &&
           ((text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z'))) {
      ++i;
    }
    const std::string_view run = text.substr(begin, i - begin);
    if (run.size() == 1 ? !IsUnitLetter(run[0]) : !IsUnit(run)) return false;
    any = true;
  }
  return any;
}

bool IsGreek(std::string_view word) { return GreekLetters().count(word) > 0; }
bool IsUnit(std::string_view word) { return Units().count(word) > 0; }

const char* BaseWord(std::string_view word) {
  static const Map map = {{"two", "2"},  {"three", "3"},   {"four", "4"},    {"five", "5"},
                          {"six", "6"},  {"seven", "7"},   {"eight", "8"},   {"nine", "9"},
                          {"ten", "10"}, {"eleven", "11"}, {"twelve", "12"}, {"sixteen", "16"}};
  const auto found = map.find(word);
  return found == map.end() ? nullptr : found->second;
}

const char* ScaleWord(std::string_view word) {
  static const Map map = {
      {"hundred", "100"},        {"thousand", "1000"},          {"million", "1000000"},
      {"billion", "1000000000"}, {"trillion", "1000000000000"}, {"dozen", "12"}};
  const auto found = map.find(word);
  return found == map.end() ? nullptr : found->second;
}

bool ChangesMeaning(std::string_view words) {
  static const Set set = {
      "not",    "no",      "less",   "more",    "greater",  "least",  "most",    "than",
      "except", "never",   "nor",    "without", "over",     "under",  "below",   "above",
      "twice",  "half",    "double", "minus",   "negative", "plus",   "times",   "between",
      "from",   "until",   "up",     "almost",  "nearly",   "none",   "neither", "divided",
      "larger", "smaller", "isn",    "doesn",   "exceeds",  "unless", "before",  "after"};
  std::size_t at = 0;
  while (at < words.size()) {
    std::size_t end = at;
    while (end < words.size() && words[end] != ' ') ++end;
    std::string lower;
    for (const char c : words.substr(at, end - at)) {
      lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    if (set.count(lower)) return true;
    at = end + 1;
  }
  return false;
}

bool LooksLikeWord(std::string_view letters) {
  static const Set kShort = {"the", "yes",  "not", "odd", "red", "day", "one", "two", "six",
                             "ten", "any",  "all", "and", "for", "but", "pen", "men", "boy",
                             "cat", "dog",  "Yes", "No",  "no",  "of",  "is",  "an",  "per",
                             "set", "real", "if",  "to",  "at",  "on",  "by",  "as",  "it"};
  if (kShort.count(letters)) return true;
  if (letters.size() < 4) return IsUnit(letters) && letters.size() == 3;
  // Four letters and more, with a vowel and a small letter: ABCD is a product, "four" is not.
  const bool small =
      std::any_of(letters.begin(), letters.end(), [](char c) { return c >= 'a' && c <= 'z'; });
  const bool vowel = letters.find_first_of("aeiouyAEIOUY") != std::string_view::npos;
  return small && (vowel || letters.size() > 5);
}

}  // namespace opo
