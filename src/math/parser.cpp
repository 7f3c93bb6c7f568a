#include "math/parser.h"

#include <algorithm>

#include "math/parser_state.h"
#include "math/words.h"

namespace opo {
namespace {

bool AllDigits(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// What follows says where the answer holds, not what it is.
bool BeginsCondition(const std::string& text) {
  static constexpr std::string_view kWords[] = {"where", "for", "with",     "when",
                                                "such",  "if",  "provided", "assuming"};
  const std::string_view first = std::string_view(text).substr(0, text.find(' '));
  return std::find(std::begin(kWords), std::end(kWords), first) != std::end(kWords);
}

const MathToken kEnd{TokenKind::kMark, "", false, false};

}  // namespace

ParsedAnswer ParseMath(std::string_view normalised, const MathReading& reading, MathTree& tree) {
  std::vector<MathToken> tokens = LexMath(normalised);
  if (tokens.empty()) return {};
  return MathParser(std::move(tokens), reading, tree).Run();
}

const MathToken& MathParser::Token(std::size_t ahead) const {
  return at_ + ahead < tokens_.size() ? tokens_[at_ + ahead] : kEnd;
}

bool MathParser::Is(std::string_view mark, std::size_t ahead) const {
  const MathToken& token = Token(ahead);
  return token.kind == TokenKind::kMark && token.text == mark;
}

bool MathParser::IsKind(TokenKind kind, std::size_t ahead) const {
  return at_ + ahead < tokens_.size() && Token(ahead).kind == kind;
}

bool MathParser::Take(std::string_view mark) {
  if (failed_ || !Is(mark)) return false;
  ++at_;
  return true;
}

// "5 m/s": letters behind the only value, with a space before them.
void MathParser::DropUnitLetters() {
  std::size_t begin = tokens_.size();
  for (std::size_t i = tokens_.size(); i-- > 0;) {
    const MathToken& token = tokens_[i];
    const bool letter =
        token.kind == TokenKind::kSymbol && token.text.size() == 1 && IsUnitLetter(token.text[0]);
    if (token.kind == TokenKind::kSymbol && !letter) return;
    if (letter && token.space && i > 0) begin = i;
    const bool part = letter || token.kind == TokenKind::kText ||
                      token.kind == TokenKind::kNumber || token.text == "/" || token.text == "*" ||
                      token.text == "^" || token.text == "{" || token.text == "}" ||
                      token.text == "-";
    if (!part) break;
  }
  if (begin >= tokens_.size()) return;
  const MathToken& before = tokens_[begin - 1];
  if (before.kind != TokenKind::kNumber && before.text != "}" && before.text != ")") return;
  for (std::size_t i = 0; i < begin; ++i) {
    if (tokens_[i].kind == TokenKind::kSymbol && tokens_[i].text != "pi") return;
  }
  tokens_.resize(begin);
}

ParsedAnswer MathParser::Run() {
  JoinNumbers();
  if (reading_.unit_letters) DropUnitLetters();
  while (!tokens_.empty() && tokens_.back().kind == TokenKind::kMark &&
         (tokens_.back().text == "," || tokens_.back().text == ";" || tokens_.back().text == ":" ||
          tokens_.back().text == "\\\\" || tokens_.back().text == "and")) {
    tokens_.pop_back();
  }
  Node root = ParseList();
  if (failed_ || root == nullptr || at_ < tokens_.size()) return {};
  return {root, unit_};
}

// Digit groups: 1,234,567 and 1 234 567 outside of brackets; 1,5 where commas are decimal.
bool MathParser::JoinsNumberAt(std::size_t i, bool* decimal) const {
  const MathToken& next = tokens_[i];
  const MathToken& head = tokens_[i - 1];
  if (head.kind != TokenKind::kNumber ||
      head.text.find_first_not_of("0123456789") != std::string::npos)
    return false;
  *decimal = false;
  if (next.kind == TokenKind::kMark && next.text == "," && !next.space && i + 1 < tokens_.size() &&
      tokens_[i + 1].kind == TokenKind::kNumber && !tokens_[i + 1].space) {
    const std::string& digits = tokens_[i + 1].text;
    if (reading_.decimal_comma && AllDigits(digits)) {
      *decimal = true;
      return true;
    }
    const std::size_t whole = std::min(digits.find_first_of(".eE"), digits.size());
    return reading_.group_thousands && whole == 3;
  }
  return false;
}

void MathParser::JoinNumbers() {
  std::vector<MathToken> joined;
  joined.reserve(tokens_.size());
  int brackets = 0;
  for (std::size_t i = 0; i < tokens_.size();) {
    MathToken token = tokens_[i];
    if (token.kind == TokenKind::kMark) {
      const std::string& t = token.text;
      if (t == "(" || t == "[" || t == "\\{") ++brackets;
      if (t == ")" || t == "]" || t == "\\}") --brackets;
    }
    ++i;
    if (token.kind == TokenKind::kNumber && AllDigits(token.text)) {
      bool decimal = false;
      const std::size_t zeros = std::min(token.text.find_first_not_of('0'), token.text.size());
      const std::size_t first = token.text.size() - zeros;
      // 1,234,567
      while (i < tokens_.size() && JoinsNumberAt(i, &decimal)) {
        if (brackets > 0 || (!decimal && (first == 0 || first > 3))) break;
        if (decimal) token.text += '.';
        token.text += tokens_[i + 1].text;
        i += 2;
        if (!AllDigits(token.text)) break;
      }
      // 1 234 567
      while (brackets == 0 && zeros == 0 && first <= 3 && i < tokens_.size() &&
             tokens_[i].kind == TokenKind::kNumber && tokens_[i].space) {
        const std::string& digits = tokens_[i].text;
        const std::size_t whole = std::min(digits.find('.'), digits.size());
        const bool fraction = i + 1 < tokens_.size() && tokens_[i + 1].text == "/";
        if (whole != 3 || fraction || token.text.find('.') != std::string::npos) break;
        token.text += digits;
        ++i;
      }
    }
    joined.push_back(std::move(token));
  }
  tokens_ = std::move(joined);
}

// Items with , ; and, or between them. `connective` becomes the last word used, or ",".
std::vector<MathParser::Node> MathParser::ParseItems(std::string* connective, bool* trailing) {
  const Deeper deeper(*this);
  std::vector<Node> items;
  std::vector<std::size_t> groups;  // where an item after "and" or "or" begins
  bool commas = false;
  *trailing = false;
  while (!AtEnd()) {
    Node item = ParseRelation();
    if (failed_) return {};
    items.push_back(item);
    if (items.size() > 2000) failed_ = true;
    bool more = false;
    bool word = false;
    *trailing = false;
    while (!AtEnd() && (Is(",") || Is(";") || Is("and") || Is("or"))) {
      if (Is("and") || Is("or")) {
        *connective = Token().text;
        word = true;
      } else if (connective->empty()) {
        *connective = ",";
      }
      ++at_;
      more = true;
    }
    if (more && (AtEnd() || Is(")") || Is("]") || Is("\\}") || Is("}"))) {
      *trailing = true;
      more = false;
    }
    if (!more) break;
    if (word) groups.push_back(items.size());
    commas |= !word;
  }
  if (commas && !groups.empty()) return GroupedItems(std::move(items), groups);
  return items;
}

// x = 1, y = 2 or x = 3, y = 4: two pairs, where all groups are equations and of one size.
std::vector<MathParser::Node> MathParser::GroupedItems(std::vector<Node> items,
                                                       const std::vector<std::size_t>& groups) {
  const std::size_t size = groups[0];
  if (size < 2 || items.size() != size * (groups.size() + 1)) return items;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (groups[i] != size * (i + 1)) return items;
  }
  for (Node item : items) {
    if (item->op != MathOp::kRelation || item->words[0] != "=") return items;
  }
  std::vector<Node> tuples;
  for (std::size_t i = 0; i < items.size(); i += size) {
    const auto begin = items.begin() + static_cast<std::ptrdiff_t>(i);
    tuples.push_back(tree_.Make(
        MathOp::kTuple, std::vector<Node>(begin, begin + static_cast<std::ptrdiff_t>(size)), "()"));
  }
  return tuples;
}

MathParser::Node MathParser::ParseList() {
  std::string connective;
  bool trailing = false;
  std::vector<Node> items = ParseItems(&connective, &trailing);
  if (failed_ || items.empty()) return Failed();
  if (items.size() == 1) return items[0];
  return tree_.Make(MathOp::kList, std::move(items), connective);
}

std::string MathParser::RelationMark() const {
  if (AtEnd() || Token().kind != TokenKind::kMark) return {};
  const std::string& t = Token().text;
  static constexpr std::string_view kRelations[] = {
      "=", "<", "<=", ">", ">=", "!=", "in", "notin", "~", "->", "propto", "perp"};
  for (const std::string_view relation : kRelations) {
    if (t == relation) return t;
  }
  return {};
}

MathParser::Node MathParser::ParseRelation() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  std::vector<Node> sides;
  std::vector<std::string> words;
  // "= 5" and "-> 5" begin with what they are equal to.
  while (Is("=") || Is("->") || Is("~")) ++at_;
  sides.push_back(ParseRatio());
  for (;;) {
    if (failed_) return nullptr;
    std::string mark = RelationMark();
    if (mark.empty()) break;
    ++at_;
    while (Is("=") || Is("&") || Is(">") || Is("<")) {  // "< =", "=&", "=>"
      if (Is("=") && (mark == "<" || mark == ">")) mark += "=";
      ++at_;
    }
    if (AtEnd()) break;
    words.push_back(mark);
    sides.push_back(ParseRatio());
    if (sides.size() > 500) return Failed();
  }
  if (failed_) return nullptr;
  if (words.empty()) return sides[0];
  MathNode* node = tree_.Make(MathOp::kRelation, std::move(sides));
  node->words = std::move(words);
  return node;
}

MathParser::Node MathParser::ParseRatio() {
  Node first = ParseSets();
  if (failed_ || !Is(":") || builders_ > 0) return first;
  std::vector<Node> parts = {first};
  while (Is(":") && !failed_) {
    ++at_;
    parts.push_back(ParseSets());
    if (parts.size() > 100) return Failed();
  }
  if (failed_) return nullptr;
  return tree_.Make(MathOp::kRatio, std::move(parts));
}

MathParser::Node MathParser::ParseSets() {
  Node left = ParseSum();
  for (int count = 0; !failed_; ++count) {
    MathOp op;
    if (Is("cup")) {
      op = MathOp::kUnion;
    } else if (Is("cap")) {
      op = MathOp::kIntersection;
    } else if (Is("setminus")) {
      op = MathOp::kDifference;
    } else {
      return left;
    }
    ++at_;
    Node right = ParseSum();
    if (failed_ || count > 60) return Failed();
    left = tree_.Make(op, std::vector<Node>{left, right});
  }
  return nullptr;
}

MathParser::Node MathParser::ParseSum() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  std::vector<Node> terms;
  for (int count = 0;; ++count) {
    if (count > 5000) return Failed();
    bool negative = false;
    std::string sign;
    while (!AtEnd() && (Is("+") || Is("-") || Is("pm") || Is("mp"))) {
      if (Is("-")) negative = !negative;
      if (Is("pm") || Is("mp")) sign = Is("pm") ? "+" : "-";
      ++at_;
    }
    Node term = ParseProduct();
    if (failed_) return nullptr;
    if (negative) term = tree_.Make(MathOp::kNeg, std::vector<Node>{term});
    if (!sign.empty()) term = tree_.Make(MathOp::kPlusMinus, std::vector<Node>{term}, sign);
    terms.push_back(term);
    if (!(Is("+") || Is("-") || Is("pm") || Is("mp"))) break;
  }
  if (terms.size() == 1) return terms[0];
  return tree_.Make(MathOp::kAdd, std::move(terms));
}

bool MathParser::StartsFactor() const {
  if (AtEnd()) return false;
  const MathToken& token = Token();
  switch (token.kind) {
    case TokenKind::kNumber:
    case TokenKind::kSymbol:
    case TokenKind::kFunction:
      return true;
    case TokenKind::kText:
      return false;
    case TokenKind::kMark:
      break;
  }
  if (token.text == "|") return bars_ == 0 && builders_ == 0;
  if (token.text == "[" && outward_ > 0) return false;
  static constexpr std::string_view kStarts[] = {
      "(",      "[",     "{",   "\\{",  "frac", "sqrt", "binom",
      "lfloor", "lceil", "sum", "prod", "int",  "lim",  "overline",
      "accent", "angle", "inf", "re",   "R",    "dots", "emptyset"};
  for (const std::string_view start : kStarts) {
    if (token.text == start) return true;
  }
  return token.text.substr(0, 6) == "begin:";
}

// Words behind a value are its unit or a remark.
bool MathParser::SkipText() {
  if (AtEnd() || !IsKind(TokenKind::kText)) return false;
  while (!AtEnd()) {
    if (IsKind(TokenKind::kText)) {
      if (BeginsCondition(Token().text)) {  // "where k is an integer"
        at_ = tokens_.size();
        break;
      }
      if (!unit_.empty()) unit_ += ' ';
      unit_ += Token().text;
      ++at_;
      // cm^2, m/s
      while (Is("^") || Is("/") || Is("*")) {
        const bool number = IsKind(TokenKind::kNumber, 1);
        const bool braces = Is("{", 1) && IsKind(TokenKind::kNumber, 2) && Is("}", 3);
        const bool minus = Is("{", 1) && Is("-", 2) && IsKind(TokenKind::kNumber, 3) && Is("}", 4);
        const bool text = IsKind(TokenKind::kText, 1) ||
                          (Is("/") && IsKind(TokenKind::kSymbol, 1) && Token(1).text.size() == 1 &&
                           IsUnitLetter(Token(1).text[0]));
        if (!number && !braces && !minus && !text) break;
        const std::size_t size = number || text ? 2 : braces ? 4 : 5;
        for (std::size_t i = 0; i < size; ++i) unit_ += Token(i).text;
        at_ += size;
      }
      continue;
    }
    // Short letters among words ("N m per kg") belong to them.
    if (IsKind(TokenKind::kText, 1) && IsKind(TokenKind::kSymbol)) {
      ++at_;
      continue;
    }
    break;
  }
  return true;
}

MathParser::Node MathParser::ParseProduct() {
  const Deeper deeper(*this);
  if (failed_) return nullptr;
  std::vector<Node> factors;
  Node first = ParseFactor(false);
  if (failed_) return nullptr;
  factors.push_back(first);
  for (int count = 0; !failed_; ++count) {
    if (count > 5000) return Failed();
    if (IsKind(TokenKind::kText)) {
      if (const char* scale = ScaleWord(Token().text)) {  // 5 million
        ++at_;
        factors.push_back(Number(scale));
        continue;
      }
    }
    if (SkipText()) continue;
    if (Is("(") && (Is("in", 2) || Is("in", 3))) {  // (k in Z)
      while (!AtEnd() && !Is(")")) ++at_;
      Take(")");
      continue;
    }
    if (Is("*")) {
      ++at_;
      factors.push_back(ParseFactor(false));
    } else if (Is("/")) {
      ++at_;
      if (IsKind(TokenKind::kText)) {  // 5/hour
        SkipText();
        continue;
      }
      Node below = ParseFactor(false);
      if (failed_) return nullptr;
      factors.push_back(tree_.Make(MathOp::kInverse, std::vector<Node>{below}));
    } else if (Is("bmod")) {
      ++at_;
      Node modulus = ParseFactor(false);
      if (failed_) return nullptr;
      Node value = factors.size() == 1 ? factors[0] : tree_.Make(MathOp::kMul, factors);
      factors = {Call("mod", {value, modulus})};
    } else if (Is("(") && Is("bmod", 1)) {  // (mod 7): a remark
      while (!AtEnd() && !Is(")")) ++at_;
      Take(")");
    } else if (Is("pmod")) {
      ++at_;
      if (ParseArgument(false) == nullptr) return Failed();
    } else if (StartsFactor()) {
      if (first->op == MathOp::kText) return Failed();
      const bool number_after_number =
          IsKind(TokenKind::kNumber) && factors.back()->op == MathOp::kNumber;
      const bool whole =
          factors.size() == 1 && first->op == MathOp::kNumber && AllDigits(first->text);
      if (number_after_number) {
        // 3 1/2 is a mixed number; other numbers side by side are nothing.
        if (whole && AllDigits(Token().text) && Is("/", 1) && IsKind(TokenKind::kNumber, 2) &&
            AllDigits(Token(2).text)) {
          Node above = Number(Token().text);
          Node below = Number(Token(2).text);
          at_ += 3;
          Node part = Mul(above, tree_.Make(MathOp::kInverse, std::vector<Node>{below}));
          factors[0] = tree_.Make(MathOp::kAdd, std::vector<Node>{first, part});
          continue;
        }
        return Failed();
      }
      if (whole && Is("frac")) {
        Node part = ParseFactor(true);
        if (failed_) return nullptr;
        // An integer before a fraction of integers is a mixed number.
        const bool mixed =
            part->op == MathOp::kMul && part->kids.size() == 2 &&
            part->kids[0]->op == MathOp::kNumber && part->kids[1]->op == MathOp::kInverse &&
            part->kids[1]->kids[0]->op == MathOp::kNumber && AllDigits(part->kids[0]->text) &&
            AllDigits(part->kids[1]->kids[0]->text);
        if (mixed) {
          factors[0] = tree_.Make(MathOp::kAdd, std::vector<Node>{first, part});
        } else {
          factors.push_back(part);
        }
        continue;
      }
      factors.push_back(ParseFactor(true));
    } else {
      break;
    }
  }
  if (failed_) return nullptr;
  if (factors.size() == 1) return factors[0];
  return tree_.Make(MathOp::kMul, std::move(factors));
}

MathParser::Node MathParser::ParseFactor(bool juxtaposed) {
  if (!juxtaposed) {
    bool negative = false;
    int signs = 0;
    while (!AtEnd() && (Is("-") || Is("+"))) {
      negative ^= Is("-");
      ++at_;
      if (++signs > 100) return Failed();
    }
    if (negative) {
      Node value = ParsePower();
      if (failed_) return nullptr;
      return tree_.Make(MathOp::kNeg, std::vector<Node>{value});
    }
  }
  return ParsePower();
}

}  // namespace opo
