// What an answer is read into: a tree of nodes that lives as long as its arena.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace opo {

enum class MathOp {
  kNumber,     // text: digits with an optional point and exponent, not signed
  kRepeating,  // text: the digits before the repeating ones, text2: the repeating ones
  kBased,      // text: digits in base text2
  kSymbol,     // text: its name
  kInfinity,
  kText,       // words
  kAdd,        // n-ary
  kMul,        // n-ary
  kNeg,        // -a
  kInverse,    // 1/a
  kPower,      // a^b
  kPlusMinus,  // +-a; text "-": -+a
  kCall,       // text: the function, kids: its arguments
  kPercent,    // a%
  kDegree,     // a degrees
  kRatio,      // a:b:...
  kTuple,      // text: the two brackets
  kSet,        // braces
  kList,       // items without brackets; text: "," or "and" or "or"
  kMatrix,     // kids: rows, which are tuples; text: the environment
  kRelation,   // kids: n, words: n-1 of = < <= > >= != in notin ~ ->
  kUnion,
  kIntersection,
  kDifference,
  kReals,
};

struct MathNode {
  MathOp op = MathOp::kNumber;
  std::string text;
  std::string text2;
  std::vector<const MathNode*> kids;
  std::vector<std::string> words;
};

class MathTree {
 public:
  MathNode* Make(MathOp op, std::string text = {}) {
    nodes_.emplace_back();
    nodes_.back().op = op;
    nodes_.back().text = std::move(text);
    return &nodes_.back();
  }
  MathNode* Make(MathOp op, std::vector<const MathNode*> kids, std::string text = {}) {
    MathNode* node = Make(op, std::move(text));
    node->kids = std::move(kids);
    return node;
  }
  std::size_t size() const { return nodes_.size(); }

 private:
  std::deque<MathNode> nodes_;
};

// Equal as written: same operations, names and digits.
bool SameTree(const MathNode& a, const MathNode& b);

// Nothing in the tree depends on a symbol.
bool IsConstant(const MathNode& node);

}  // namespace opo
