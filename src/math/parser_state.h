// The parser's class, shared by parser.cpp (lists to products) and parse_atoms.cpp (what products
// are made of).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "math/parser.h"
#include "math/tokens.h"
#include "math/tree.h"

namespace opo {

class MathParser {
 public:
  MathParser(std::vector<MathToken> tokens, const MathReading& reading, MathTree& tree)
      : tokens_(std::move(tokens)), reading_(reading), tree_(tree) {}

  ParsedAnswer Run();

 private:
  using Node = const MathNode*;
  static constexpr int kMaxDepth = 120;
  static constexpr std::size_t kMaxNodes = 20'000;
  static constexpr int kMaxPostfix = 40;

  class Deeper {
   public:
    explicit Deeper(MathParser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxDepth || parser_.tree_.size() > kMaxNodes) parser_.failed_ = true;
    }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;
    ~Deeper() { --parser_.depth_; }

   private:
    MathParser& parser_;
  };

  // Tokens.
  bool AtEnd() const { return failed_ || at_ >= tokens_.size(); }
  const MathToken& Token(std::size_t ahead = 0) const;
  bool Is(std::string_view mark, std::size_t ahead = 0) const;
  bool IsKind(TokenKind kind, std::size_t ahead = 0) const;
  bool Take(std::string_view mark);
  Node Failed() {
    failed_ = true;
    return nullptr;
  }

  // Passes over all tokens, before parsing.
  void JoinNumbers();
  void DropUnitLetters();
  bool JoinsNumberAt(std::size_t i, bool* decimal) const;

  // parser.cpp
  std::vector<Node> ParseItems(std::string* connective, bool* trailing);
  std::vector<Node> GroupedItems(std::vector<Node> items, const std::vector<std::size_t>& groups);
  Node ParseList();
  Node ParseRelation();
  Node ParseRatio();
  Node ParseSets();
  Node ParseSum();
  Node ParseProduct();
  Node ParseFactor(bool juxtaposed);
  bool StartsFactor() const;
  bool SkipText();
  std::string RelationMark() const;

  // parse_atoms.cpp
  Node ParsePower();
  Node ParsePostfix(Node value, bool* done);
  Node ParsePrimary();
  Node ParseBrackets();
  Node ParseBraces(bool visible);
  Node ParseBars();
  Node ParseNumber();
  Node ParseSymbol();
  Node ParseFunction();
  Node ParseFunctionArgument();
  Node ParseBigOperator(const std::string& name);
  Node ParseFraction();
  Node ParseSqrt();
  Node ParseEnvironment();
  Node ParseAligned(const std::string& name);
  Node ParseExponent();
  Node ParseArgument(bool single_digit);
  Node ParseSubscript(bool* word, std::string* text);
  Node Mul(Node a, Node b);
  Node Call(std::string name, std::vector<Node> args);
  Node Number(std::string digits) { return tree_.Make(MathOp::kNumber, std::move(digits)); }

  std::vector<MathToken> tokens_;
  MathReading reading_;
  MathTree& tree_;
  std::size_t at_ = 0;
  int depth_ = 0;
  int bars_ = 0;      // open absolute values
  int builders_ = 0;  // open braces in which a bar separates
  int outward_ = 0;   // within ]a, b[
  bool failed_ = false;
  std::string unit_;
};

}  // namespace opo
