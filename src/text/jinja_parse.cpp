#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

#include "text/jinja_library.h"
#include "text/jinja_syntax.h"
#include "text/utf8.h"

namespace opo::jinja {
namespace {

constexpr std::size_t kMaxSourceBytes = 4 << 20;
constexpr int kMaxExprDepth = 150;
constexpr int kMaxBlockDepth = 50;

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

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

// Cuts a template into tokens, with the white space rules of trim_blocks and lstrip_blocks: the
// newline after a tag or comment goes, and so does the blank start of a line before one.
class Lexer {
 public:
  Lexer(const std::string& source, const std::string& name) : name_(name) {
    if (source.size() > kMaxSourceBytes) {
      Fail(ErrorCode::kInput, "{}: has {} bytes; templates have at most {}", name, source.size(),
           kMaxSourceBytes);
    }
    for (std::size_t i = 0; i < source.size(); ++i) {  // every kind of line end counts as \n
      if (source[i] == '\r') {
        source_ += '\n';
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      } else {
        source_ += source[i];
      }
    }
    if (!source_.empty() && source_.back() == '\n') source_.pop_back();  // exactly one, as Jinja
  }

  std::vector<Token> Run() {
    while (pos_ < source_.size()) {
      const std::size_t open = FindOpening(pos_);
      if (open == std::string::npos) {
        AddData(source_.substr(pos_));
        break;
      }
      const char kind = source_[open + 1];
      const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
      Advance(AddDataBefore(open, kind, sign));
      if (kind == '#') {
        Comment(open);
      } else if (kind == '%' && RawBegin()) {
        Raw();
      } else {
        Code(kind);
      }
    }
    Add(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void Error(std::string_view what) const {
    Fail(ErrorCode::kInput, "{}: line {}: {}", name_, line_, what);
  }
  void Add(TokenType type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }
  void AddData(std::string text) {
    if (!text.empty()) Add(TokenType::kData, std::move(text));
  }
  void Advance(std::size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(pos_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    pos_ = to;
  }
  bool At(std::string_view text) const {
    return std::string_view(source_).substr(pos_, text.size()) == text;
  }
  std::size_t FindOpening(std::size_t from) const {
    for (std::size_t i = source_.find('{', from); i != std::string::npos && i + 1 < source_.size();
         i = source_.find('{', i + 1)) {
      const char next = source_[i + 1];
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return std::string::npos;
  }

  // The text before an opening, cut as its sign says. Returns the position after opening and sign.
  std::size_t AddDataBefore(std::size_t open, char kind, char sign) {
    std::string_view data = std::string_view(source_).substr(pos_, open - pos_);
    if (sign == '-') {
      while (!data.empty() && IsSpace(data.back())) data.remove_suffix(1);
    } else if (sign != '+' && kind != '{') {
      const std::size_t newline = data.rfind('\n');
      const std::size_t line_start = newline == data.npos ? 0 : newline + 1;
      const bool starts_line = line_start > 0 || pos_ == 0 || source_[pos_ - 1] == '\n';
      const std::string_view rest = data.substr(line_start);
      if (starts_line && std::all_of(rest.begin(), rest.end(), IsSpace)) {
        data = data.substr(0, line_start);
      }
    }
    AddData(std::string(data));
    return open + (sign == '-' || sign == '+' ? 3 : 2);
  }

  void SkipSpace() {
    std::size_t to = pos_;
    while (to < source_.size() && IsSpace(source_[to])) ++to;
    Advance(to);
  }

  // At the end of a tag or comment whose closing has two characters; false where there is none.
  bool Closing(std::string_view close) {
    const bool minus = At("-") && std::string_view(source_).substr(pos_ + 1, 2) == close;
    const bool plus =
        close != "}}" && At("+") && std::string_view(source_).substr(pos_ + 1, 2) == close;
    if (!minus && !plus && !At(close)) return false;
    Advance(pos_ + (minus || plus ? 3 : 2));
    if (minus) SkipSpace();
    if (!minus && !plus && close != "}}" && At("\n")) Advance(pos_ + 1);
    return true;
  }

  void Comment(std::size_t open) {
    const std::size_t end = source_.find("#}", pos_);
    if (end == std::string::npos) Error("a comment {# is never closed");
    const bool sign =
        end > open + 2 && end > pos_ && (source_[end - 1] == '-' || source_[end - 1] == '+');
    Advance(sign ? end - 1 : end);
    Closing("#}");
  }

  // After "{%" and its sign: is this a raw tag? Moves behind it if so.
  bool RawBegin() {
    std::size_t i = pos_;
    while (i < source_.size() && IsSpace(source_[i])) ++i;
    if (source_.compare(i, 3, "raw") != 0) return false;
    i += 3;
    while (i < source_.size() && IsSpace(source_[i])) ++i;
    const bool minus = source_.compare(i, 3, "-%}") == 0;
    if (!minus && source_.compare(i, 2, "%}") != 0) return false;
    Advance(i + (minus ? 3 : 2));
    if (minus) SkipSpace();
    return true;
  }

  void Raw() {
    for (std::size_t open = source_.find("{%", pos_); open != std::string::npos;
         open = source_.find("{%", open + 1)) {
      std::size_t i = open + 2;
      const char sign = i < source_.size() ? source_[i] : '\0';
      if (sign == '-' || sign == '+') ++i;
      while (i < source_.size() && IsSpace(source_[i])) ++i;
      if (source_.compare(i, 6, "endraw") != 0) continue;
      i += 6;
      while (i < source_.size() && IsSpace(source_[i])) ++i;
      AddDataBefore(open, '%', sign);
      Advance(i);
      if (!Closing("%}")) Error("the tag {% endraw is not closed");
      return;
    }
    Error("a {% raw %} block is never closed");
  }

  void Code(char kind) {
    const char* close = kind == '{' ? "}}" : "%}";
    Add(kind == '{' ? TokenType::kOutputBegin : TokenType::kTagBegin, "");
    std::string open_brackets;
    for (;;) {
      SkipSpace();
      if (pos_ >= source_.size()) Error(fmt::format("a {{{} is never closed", kind));
      const int line = line_;
      if (open_brackets.empty() && Closing(close)) {
        Add(kind == '{' ? TokenType::kOutputEnd : TokenType::kTagEnd, "");
        tokens_.back().line = line;
        return;
      }
      const char c = source_[pos_];
      if (IsNameStart(c)) {
        std::size_t end = pos_;
        while (end < source_.size() && IsNamePart(source_[end])) ++end;
        Add(TokenType::kName, source_.substr(pos_, end - pos_));
        Advance(end);
      } else if (IsDigit(c)) {
        Number();
      } else if (c == '\'' || c == '"') {
        String(c);
      } else {
        Operator(open_brackets);
      }
    }
  }

  void Number() {
    std::size_t end = pos_;
    std::string digits;
    const auto take = [&] {
      while (end < source_.size() && (IsDigit(source_[end]) || source_[end] == '_')) {
        if (source_[end] != '_') digits += source_[end];
        ++end;
      }
    };
    const auto digit_at = [&](std::size_t i) { return i < source_.size() && IsDigit(source_[i]); };
    take();
    bool is_float = false;
    const bool after_dot = !tokens_.empty() && tokens_.back().type == TokenType::kOperator &&
                           tokens_.back().text == ".";  // x.0.y is two subscripts
    if (!after_dot && end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
      is_float = true;
      digits += source_[end++];
      take();
    }
    if (!after_dot && end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const bool sign =
          end + 1 < source_.size() && (source_[end + 1] == '-' || source_[end + 1] == '+');
      if (digit_at(end + (sign ? 2 : 1))) {
        is_float = true;
        digits += source_.substr(end, sign ? 2 : 1);
        end += sign ? 2 : 1;
        take();
      }
    }
    if (end < source_.size() && IsNameStart(source_[end])) {
      Error(fmt::format("the number {}{} is outside the subset", digits, source_[end]));
    }
    Add(is_float ? TokenType::kFloat : TokenType::kInteger, digits);
    Advance(end);
  }

  void String(char quote) {
    std::string text;
    std::size_t i = pos_ + 1;
    for (;; ++i) {
      if (i >= source_.size()) Error("a string is never closed");
      if (source_[i] == quote) break;
      if (source_[i] != '\\') {
        text += source_[i];
        continue;
      }
      if (++i >= source_.size()) Error("a string is never closed");
      i = EscapeAt(i, text);
    }
    Add(TokenType::kString, std::move(text));
    Advance(i + 1);
  }

  // The escape whose letter is at `i`; returns the position of its last character.
  std::size_t EscapeAt(std::size_t i, std::string& text) {
    constexpr std::string_view kLetters = "\\'\"abfnrtv";
    constexpr std::string_view kMeant = "\\'\"\a\b\f\n\r\t\v";
    const char c = source_[i];
    if (const std::size_t letter = kLetters.find(c); letter != kLetters.npos) {
      text += kMeant[letter];
      return i;
    }
    if (c == '\n') return i;  // a line continued
    std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    int base = 16;
    std::size_t first = i + 1;
    if (c >= '0' && c <= '7') {
      base = 8;
      first = i;
      digits = 1;
      while (digits < 3 && i + digits < source_.size() && source_[i + digits] >= '0' &&
             source_[i + digits] <= '7') {
        ++digits;
      }
    }
    if (c == 'N') Error("the escape \\N in a string is outside the subset");
    if (digits == 0) {  // Python keeps an unknown escape as it stands
      text += '\\';
      text += c;
      return i;
    }
    std::uint32_t code = 0;
    const char* begin = source_.data() + first;
    const char* end = source_.data() + std::min(first + digits, source_.size());
    const auto result = std::from_chars(begin, end, code, base);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    if (result.ec != std::errc() || result.ptr != begin + digits || code > 0x10FFFF || surrogate) {
      Error(fmt::format("the escape \\{} in a string is not a character", c));
    }
    AppendUtf8(code, text);
    return first + digits - 1;
  }

  void Operator(std::string& open_brackets) {
    constexpr std::array<std::string_view, 6> kLong = {"//", "**", "==", "!=", ">=", "<="};
    for (const std::string_view op : kLong) {
      if (!At(op)) continue;
      Add(TokenType::kOperator, std::string(op));
      Advance(pos_ + 2);
      return;
    }
    const char c = source_[pos_];
    constexpr std::string_view kShort = "+-*/%~[](){}<>=.:|,";
    if (kShort.find(c) == kShort.npos) {
      Error(fmt::format("unexpected character {}", c >= 0x20 && c < 0x7F
                                                       ? std::string(1, c)
                                                       : fmt::format("0x{:02x}", c & 0xFF)));
    }
    if (c == '(' || c == '[' || c == '{') open_brackets += c;
    if (c == ')' || c == ']' || c == '}') {
      const char opened = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open_brackets.empty() || open_brackets.back() != opened) {
        Error(fmt::format("{} closes nothing", c));
      }
      open_brackets.pop_back();
    }
    Add(TokenType::kOperator, std::string(1, c));
    Advance(pos_ + 1);
  }

  const std::string& name_;
  std::string source_;
  std::size_t pos_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

class Parser {
 public:
  Parser(std::vector<Token> tokens, const std::string& name)
      : tokens_(std::move(tokens)), name_(name) {}

  Body Template() {
    Body body = ParseBody({});
    OPO_CHECK(Peek().type == TokenType::kEnd);
    return body;
  }

 private:
  [[noreturn]] void Error(std::string_view what) const {
    Fail(ErrorCode::kInput, "{}: line {}: {}", name_, Peek().line, what);
  }
  const Token& Peek(std::size_t ahead = 0) const {
    return tokens_[std::min(next_ + ahead, tokens_.size() - 1)];
  }
  Token Take() {
    Token token = Peek();
    if (next_ + 1 < tokens_.size()) ++next_;
    return token;
  }
  bool IsOperator(std::string_view text, std::size_t ahead = 0) const {
    return Peek(ahead).type == TokenType::kOperator && Peek(ahead).text == text;
  }
  bool IsName(std::string_view text, std::size_t ahead = 0) const {
    return Peek(ahead).type == TokenType::kName && Peek(ahead).text == text;
  }
  bool TakeOperator(std::string_view text) {
    if (!IsOperator(text)) return false;
    Take();
    return true;
  }
  bool TakeName(std::string_view text) {
    if (!IsName(text)) return false;
    Take();
    return true;
  }
  void Expect(std::string_view text) {
    if (!TakeOperator(text)) Error(fmt::format("expected {}, found {}", text, Found()));
  }
  std::string Found() const {
    switch (Peek().type) {
      case TokenType::kEnd:
        return "the end of the template";
      case TokenType::kTagEnd:
        return "%}";
      case TokenType::kOutputEnd:
        return "}}";
      case TokenType::kString:
        return "a string";
      default:
        return Peek().text;
    }
  }
  std::string TakeIdentifier() {
    if (Peek().type != TokenType::kName) Error(fmt::format("expected a name, found {}", Found()));
    return Take().text;
  }
  void EndTag() {
    if (Peek().type != TokenType::kTagEnd) Error(fmt::format("unexpected {} in a tag", Found()));
    Take();
  }

  // --- expressions ---

  // Counts the levels of the parser itself; the trees it makes are bounded in Finish.
  struct Level {
    explicit Level(Parser& parser) : parser_(parser) {
      if (++parser_.level_ > kMaxExprDepth) parser_.Error("an expression is nested too deeply");
    }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ~Level() { --parser_.level_; }
    Parser& parser_;
  };

  ExprPtr New(ExprKind kind) const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->line = Peek().line;
    return expr;
  }
  ExprPtr Finish(ExprPtr expr) const {
    const auto deepen = [&](const ExprPtr& arg) {
      if (arg != nullptr) expr->depth = std::max(expr->depth, arg->depth + 1);
    };
    for (const ExprPtr& arg : expr->args) deepen(arg);
    for (const auto& arg : expr->named) deepen(arg.second);
    if (expr->depth > kMaxExprDepth) Error("an expression is nested too deeply");
    return expr;
  }
  ExprPtr Constant(Value value) const {
    ExprPtr expr = New(ExprKind::kConstant);
    expr->value = std::move(value);
    return expr;
  }

  // An expression, or several with commas, which are a tuple.
  ExprPtr ParseTuple() {
    ExprPtr first = ParseExpr();
    if (!IsOperator(",")) return first;
    ExprPtr tuple = New(ExprKind::kTuple);
    tuple->args.push_back(std::move(first));
    while (TakeOperator(",")) {
      if (Peek().type == TokenType::kTagEnd || Peek().type == TokenType::kOutputEnd ||
          IsOperator(")")) {
        break;
      }
      tuple->args.push_back(ParseExpr());
    }
    return Finish(std::move(tuple));
  }

  ExprPtr ParseExpr() {
    const Level level(*this);
    ExprPtr expr = ParseOr();
    while (IsName("if")) {
      ExprPtr conditional = New(ExprKind::kConditional);
      Take();
      conditional->args.push_back(ParseOr());
      conditional->args.push_back(std::move(expr));
      conditional->args.push_back(TakeName("else") ? ParseExpr() : nullptr);
      expr = Finish(std::move(conditional));
    }
    return expr;
  }

  ExprPtr ParseOr() {
    ExprPtr left = ParseAnd();
    if (!IsName("or")) return left;
    ExprPtr expr = New(ExprKind::kOr);
    expr->args.push_back(std::move(left));
    while (TakeName("or")) expr->args.push_back(ParseAnd());
    return Finish(std::move(expr));
  }
  ExprPtr ParseAnd() {
    ExprPtr left = ParseNot();
    if (!IsName("and")) return left;
    ExprPtr expr = New(ExprKind::kAnd);
    expr->args.push_back(std::move(left));
    while (TakeName("and")) expr->args.push_back(ParseNot());
    return Finish(std::move(expr));
  }
  ExprPtr ParseNot() {
    if (!IsName("not")) return ParseCompare();
    const Level level(*this);
    ExprPtr expr = New(ExprKind::kNot);
    Take();
    expr->args.push_back(ParseNot());
    return Finish(std::move(expr));
  }

  ExprPtr ParseCompare() {
    ExprPtr left = ParseSum();
    ExprPtr expr;
    for (;;) {
      std::string op;
      for (const char* candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (op.empty() && IsOperator(candidate)) op = candidate;
      }
      if (IsName("in")) op = "in";
      if (IsName("not") && IsName("in", 1)) op = "not in";
      if (op.empty()) break;
      if (expr == nullptr) {
        expr = New(ExprKind::kCompare);
        expr->args.push_back(std::move(left));
      }
      Take();
      if (op == "not in") Take();
      expr->ops.push_back(op);
      expr->args.push_back(ParseSum());
    }
    return expr == nullptr ? std::move(left) : Finish(std::move(expr));
  }

  template <class Next>
  ExprPtr ParseBinary(std::initializer_list<std::string_view> operators, Next next) {
    ExprPtr left = next();
    for (;;) {
      const auto* op = std::find_if(operators.begin(), operators.end(),
                                    [&](std::string_view text) { return IsOperator(text); });
      if (op == operators.end()) return left;
      ExprPtr expr = New(ExprKind::kBinary);
      expr->name = Take().text;
      expr->args.push_back(std::move(left));
      expr->args.push_back(next());
      left = Finish(std::move(expr));
    }
  }
  ExprPtr ParseSum() {
    return ParseBinary({"+", "-"}, [this] { return ParseConcatenation(); });
  }
  ExprPtr ParseConcatenation() {
    return ParseBinary({"~"}, [this] { return ParseProduct(); });
  }
  ExprPtr ParseProduct() {
    return ParseBinary({"*", "/", "//", "%"}, [this] {
      if (IsOperator("**")) Error("the operator ** is outside the subset");
      return ParseUnary(true);
    });
  }

  ExprPtr ParseUnary(bool with_filter) {
    const Level level(*this);
    ExprPtr expr;
    if (IsOperator("-") || IsOperator("+")) {
      expr = New(IsOperator("-") ? ExprKind::kNegative : ExprKind::kPositive);
      Take();
      expr->args.push_back(ParseUnary(false));
      expr = Finish(std::move(expr));
    } else {
      expr = ParsePostfix(ParsePrimary());
    }
    if (with_filter) expr = ParseFilters(std::move(expr));
    if (IsOperator("**")) Error("the operator ** is outside the subset");
    return expr;
  }

  ExprPtr ParsePrimary() {
    const Token token = Peek();
    switch (token.type) {
      case TokenType::kName: {
        if (token.text == "true" || token.text == "True" || token.text == "false" ||
            token.text == "False") {
          ExprPtr expr = Constant(Value(token.text == "true" || token.text == "True"));
          Take();
          return expr;
        }
        if (token.text == "none" || token.text == "None") {
          ExprPtr expr = Constant(Value(None{}));
          Take();
          return expr;
        }
        ExprPtr expr = New(ExprKind::kName);
        expr->name = Take().text;
        return expr;
      }
      case TokenType::kString: {
        ExprPtr expr = New(ExprKind::kConstant);
        std::string text;
        while (Peek().type == TokenType::kString) text += Take().text;  // adjacent ones join
        expr->value = Value(std::move(text));
        return expr;
      }
      case TokenType::kInteger: {
        std::int64_t number = 0;
        const char* end = token.text.data() + token.text.size();
        if (std::from_chars(token.text.data(), end, number).ec != std::errc()) {
          Error(fmt::format("the number {} is too large", token.text));
        }
        ExprPtr expr = Constant(Value(number));
        Take();
        return expr;
      }
      case TokenType::kFloat: {
        ExprPtr expr = Constant(Value(std::strtod(token.text.c_str(), nullptr)));
        Take();
        return expr;
      }
      case TokenType::kOperator:
        break;
      default:
        Error(fmt::format("expected an expression, found {}", Found()));
    }
    if (TakeOperator("(")) {
      if (IsOperator(")")) {
        ExprPtr empty = New(ExprKind::kTuple);
        Take();
        return empty;
      }
      ExprPtr expr = ParseTuple();
      Expect(")");
      return expr;
    }
    if (IsOperator("[")) {
      ExprPtr expr = New(ExprKind::kList);
      Take();
      while (!IsOperator("]")) {
        expr->args.push_back(ParseExpr());
        if (!TakeOperator(",")) break;
      }
      Expect("]");
      return Finish(std::move(expr));
    }
    if (IsOperator("{")) {
      ExprPtr expr = New(ExprKind::kDict);
      Take();
      while (!IsOperator("}")) {
        expr->args.push_back(ParseExpr());
        Expect(":");
        expr->args.push_back(ParseExpr());
        if (!TakeOperator(",")) break;
      }
      Expect("}");
      return Finish(std::move(expr));
    }
    Error(fmt::format("expected an expression, found {}", Found()));
  }

  ExprPtr ParsePostfix(ExprPtr expr) {
    for (;;) {
      if (IsOperator(".")) {
        ExprPtr outer = New(ExprKind::kAttribute);
        Take();
        outer->args.push_back(std::move(expr));
        if (Peek().type == TokenType::kInteger) {
          outer->kind = ExprKind::kItem;
          outer->args.push_back(ParsePrimary());
        } else {
          outer->name = TakeIdentifier();
        }
        expr = Finish(std::move(outer));
      } else if (IsOperator("[")) {
        expr = ParseSubscript(std::move(expr));
      } else if (IsOperator("(")) {
        expr = ParseCall(std::move(expr));
      } else {
        return expr;
      }
    }
  }

  ExprPtr ParseSubscript(ExprPtr base) {
    ExprPtr expr = New(ExprKind::kItem);
    Take();
    expr->args.push_back(std::move(base));
    expr->args.push_back(IsOperator(":") ? nullptr : ParseTuple());
    if (IsOperator(":")) {
      expr->kind = ExprKind::kSlice;
      while (expr->args.size() < 4) {
        const bool more = TakeOperator(":");
        const bool empty = !more || IsOperator(":") || IsOperator("]");
        expr->args.push_back(empty ? nullptr : ParseExpr());
      }
    }
    Expect("]");
    return Finish(std::move(expr));
  }

  void ParseArguments(Expr& call) {
    Expect("(");
    while (!IsOperator(")")) {
      if (IsOperator("*") || IsOperator("**")) {
        Error("arguments with * or ** are outside the subset");
      }
      if (Peek().type == TokenType::kName && IsOperator("=", 1)) {
        std::string name = Take().text;
        Take();
        for (const auto& other : call.named) {
          if (other.first == name) Error(fmt::format("the argument {} is given twice", name));
        }
        call.named.emplace_back(std::move(name), ParseExpr());
      } else {
        if (!call.named.empty()) Error("an argument without a name follows one with a name");
        call.args.push_back(ParseExpr());
      }
      if (!TakeOperator(",")) break;
    }
    Expect(")");
  }

  ExprPtr ParseCall(ExprPtr callee) {
    ExprPtr expr = New(ExprKind::kCall);
    expr->args.push_back(std::move(callee));
    ParseArguments(*expr);
    return Finish(std::move(expr));
  }

  ExprPtr ParseFilter(ExprPtr base) {  // after |
    ExprPtr expr = New(ExprKind::kFilter);
    expr->name = TakeIdentifier();
    if (IsOperator(".") || !IsFilter(expr->name)) {
      Error(fmt::format("the filter {} is outside the subset of Jinja that is supported",
                        expr->name));
    }
    expr->args.push_back(std::move(base));
    if (IsOperator("(")) ParseArguments(*expr);
    return Finish(std::move(expr));
  }

  ExprPtr ParseFilters(ExprPtr expr) {
    for (;;) {
      if (TakeOperator("|")) {
        expr = ParseFilter(std::move(expr));
      } else if (IsName("is")) {
        expr = ParseTest(std::move(expr));
      } else if (IsOperator("(")) {
        expr = ParseCall(std::move(expr));
      } else {
        return expr;
      }
    }
  }

  ExprPtr ParseTest(ExprPtr base) {
    ExprPtr test = New(ExprKind::kTest);
    Take();
    const bool negated = TakeName("not");
    test->name = TakeIdentifier();
    if (!IsTest(test->name)) {
      Error(
          fmt::format("the test {} is outside the subset of Jinja that is supported", test->name));
    }
    test->args.push_back(std::move(base));
    const Token& next = Peek();
    const bool plain_argument =
        (next.type == TokenType::kName && next.text != "else" && next.text != "or" &&
         next.text != "and" && next.text != "is" && next.text != "if" && next.text != "in" &&
         next.text != "not") ||
        next.type == TokenType::kString || next.type == TokenType::kInteger ||
        next.type == TokenType::kFloat || IsOperator("[") || IsOperator("{");
    if (IsOperator("(")) {
      ParseArguments(*test);
    } else if (next.type == TokenType::kName && next.text == "is") {
      Error("tests in a row need brackets");
    } else if (plain_argument) {
      const Level level(*this);
      test->args.push_back(ParsePostfix(ParsePrimary()));
    }
    test = Finish(std::move(test));
    if (!negated) return test;
    ExprPtr expr = New(ExprKind::kNot);
    expr->args.push_back(std::move(test));
    return Finish(std::move(expr));
  }

  // --- statements ---

  // Up to a tag named in `ends` (which is left, from its name on), or the template's end.
  Body ParseBody(std::initializer_list<std::string_view> ends) {
    if (++block_level_ > kMaxBlockDepth) Error("tags are nested too deeply");
    const int opened = Peek().line;
    Body body;
    for (;;) {
      const Token token = Peek();
      if (token.type == TokenType::kEnd) {
        if (ends.size() != 0) {
          Error(fmt::format("the tag of line {} misses its {}", opened, *(ends.end() - 1)));
        }
        break;
      }
      Take();
      if (token.type == TokenType::kData) {
        body.push_back(NewStmt(StmtKind::kText, token.line));
        body.back()->text = token.text;
      } else if (token.type == TokenType::kOutputBegin) {
        body.push_back(NewStmt(StmtKind::kOutput, token.line));
        body.back()->expr = ParseTuple();
        if (Peek().type != TokenType::kOutputEnd) {
          Error(fmt::format("expected }}}}, found {}", Found()));
        }
        Take();
      } else {
        OPO_CHECK(token.type == TokenType::kTagBegin);
        const std::string& tag = Peek().text;
        if (Peek().type == TokenType::kName &&
            std::find(ends.begin(), ends.end(), tag) != ends.end()) {
          break;
        }
        body.push_back(ParseTag());
      }
    }
    --block_level_;
    return body;
  }

  static std::unique_ptr<Stmt> NewStmt(StmtKind kind, int line) {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = line;
    return stmt;
  }

  std::unique_ptr<Stmt> ParseTag() {
    const int line = Peek().line;
    const std::string tag = TakeIdentifier();
    if (tag == "if") return ParseIf(line);
    if (tag == "for") return ParseFor(line);
    if (tag == "set") return ParseSet(line);
    if (tag == "macro") return ParseMacro(line);
    if (tag == "with") return ParseWith(line);
    if (tag == "break" || tag == "continue") {
      if (loop_level_ == 0) Error(fmt::format("{{% {} %}} outside of a loop", tag));
      EndTag();
      return NewStmt(tag == "break" ? StmtKind::kBreak : StmtKind::kContinue, line);
    }
    if (tag == "generation") {  // marks what an assistant wrote; the text is the same without
      EndTag();
      auto stmt = NewStmt(StmtKind::kBlock, line);
      stmt->body = ParseBody({"endgeneration"});
      Take();
      EndTag();
      return stmt;
    }
    if (tag == "filter") {
      auto stmt = NewStmt(StmtKind::kFilter, line);
      stmt->expr = ParseFilter(nullptr);
      EndTag();
      stmt->body = ParseBody({"endfilter"});
      Take();
      EndTag();
      return stmt;
    }
    Fail(ErrorCode::kInput,
         "{}: line {}: the tag {{% {} %}} is outside the subset of Jinja that is supported", name_,
         line, tag);
  }

  std::unique_ptr<Stmt> ParseIf(int line) {
    auto stmt = NewStmt(StmtKind::kIf, line);
    for (;;) {
      ExprPtr condition = ParseTuple();
      EndTag();
      Body body = ParseBody({"elif", "else", "endif"});
      stmt->branches.emplace_back(std::move(condition), std::move(body));
      if (TakeName("elif")) continue;
      if (TakeName("else")) {
        EndTag();
        stmt->body = ParseBody({"endif"});
      }
      Take();
      EndTag();
      return stmt;
    }
  }

  std::vector<std::string> ParseTargets() {
    const bool paren = TakeOperator("(");
    std::vector<std::string> targets;
    do {
      if (!targets.empty() && (IsName("in") || IsOperator("=") || IsOperator(")"))) break;
      targets.push_back(TakeIdentifier());
    } while (TakeOperator(","));
    if (paren) Expect(")");
    return targets;
  }

  std::unique_ptr<Stmt> ParseFor(int line) {
    auto stmt = NewStmt(StmtKind::kFor, line);
    stmt->targets = ParseTargets();
    if (!TakeName("in")) Error(fmt::format("expected in, found {}", Found()));
    stmt->expr = ParseOr();  // no conditional here: its `if` is the loop's own
    if (TakeName("if")) stmt->filter = ParseExpr();
    if (IsName("recursive")) Error("{% for ... recursive %} is outside the subset");
    EndTag();
    ++loop_level_;
    stmt->body = ParseBody({"else", "endfor"});
    --loop_level_;
    if (TakeName("else")) {
      EndTag();
      stmt->otherwise = ParseBody({"endfor"});
    }
    Take();
    EndTag();
    return stmt;
  }

  std::unique_ptr<Stmt> ParseSet(int line) {
    auto stmt = NewStmt(StmtKind::kSet, line);
    stmt->targets = ParseTargets();
    if (stmt->targets.size() == 1 && TakeOperator(".")) stmt->attribute = TakeIdentifier();
    if (TakeOperator("=")) {
      stmt->expr = ParseTuple();
      EndTag();
      return stmt;
    }
    if (stmt->targets.size() != 1) Error("a {% set %} block has one name");
    if (IsOperator("|")) Error("a {% set %} block with a filter is outside the subset");
    stmt->kind = StmtKind::kSetBlock;
    EndTag();
    stmt->body = ParseBody({"endset"});
    Take();
    EndTag();
    return stmt;
  }

  std::unique_ptr<Stmt> ParseMacro(int line) {
    auto stmt = NewStmt(StmtKind::kMacro, line);
    stmt->text = TakeIdentifier();
    Expect("(");
    while (!IsOperator(")")) {
      stmt->targets.push_back(TakeIdentifier());
      stmt->defaults.push_back(TakeOperator("=") ? ParseExpr() : nullptr);
      if (!TakeOperator(",")) break;
    }
    Expect(")");
    EndTag();
    const int loops = std::exchange(loop_level_, 0);
    stmt->body = ParseBody({"endmacro"});
    loop_level_ = loops;
    Take();
    EndTag();
    return stmt;
  }

  std::unique_ptr<Stmt> ParseWith(int line) {
    auto stmt = NewStmt(StmtKind::kWith, line);
    while (Peek().type != TokenType::kTagEnd) {
      stmt->targets.push_back(TakeIdentifier());
      Expect("=");
      stmt->defaults.push_back(ParseExpr());
      if (!TakeOperator(",")) break;
    }
    EndTag();
    stmt->body = ParseBody({"endwith"});
    Take();
    EndTag();
    return stmt;
  }

  std::vector<Token> tokens_;
  const std::string& name_;
  std::size_t next_ = 0;
  int level_ = 0;
  int block_level_ = 0;
  int loop_level_ = 0;
};

}  // namespace

Body Parse(const std::string& source, const std::string& name) {
  return Parser(Lexer(source, name).Run(), name).Template();
}

}  // namespace opo::jinja
