#include "math/compare.h"

#include <algorithm>
#include <cctype>

#include "math/matrix.h"
#include "math/plain_words.h"
#include "math/polynomial.h"
#include "math/scalar.h"
#include "math/sets.h"

namespace opo {
namespace {

using Nodes = std::vector<const MathNode*>;

bool IsCapital(const MathNode& node) {
  return node.op == MathOp::kSymbol && node.text.size() == 1 && node.text[0] >= 'A' &&
         node.text[0] <= 'Z';
}

// dy/dx
bool IsDerivative(const MathNode& node) {
  const auto begins_with_d = [](const MathNode& part) {
    return part.op == MathOp::kMul && part.kids.size() == 2 &&
           part.kids[0]->op == MathOp::kSymbol && part.kids[0]->text == "d" &&
           part.kids[1]->op == MathOp::kSymbol;
  };
  return node.op == MathOp::kMul && node.kids.size() == 2 && begins_with_d(*node.kids[0]) &&
         node.kids[1]->op == MathOp::kInverse && begins_with_d(*node.kids[1]->kids[0]);
}

// What names a value: x, x_1, f(x), P(A), AB, |AB|, "Area", (x, y), \Delta p, S_1 : S_2.
bool IsName(const MathNode& node) {
  switch (node.op) {
    case MathOp::kSymbol:
      return node.text != "pi" && node.text != "e" && node.text != "i";
    case MathOp::kText:
      return true;
    case MathOp::kCall: {
      if (node.text == "abs" || node.text == "overline" || node.text == "prime" ||
          node.text == "det") {
        return !node.kids.empty() && IsName(*node.kids[0]);
      }
      return node.text[0] == '_' || node.text.substr(0, 2) == "f:";
    }
    case MathOp::kMul: {
      if (IsDerivative(node)) return true;
      if (node.kids[0]->op == MathOp::kSymbol && node.kids[0]->text == "Delta") {
        return node.kids.size() == 2 && IsName(*node.kids[1]);
      }
      return std::all_of(node.kids.begin(), node.kids.end(), [](const MathNode* kid) {
        if (kid->op == MathOp::kInverse) return IsName(*kid->kids[0]);
        return IsCapital(*kid) || (kid->op == MathOp::kMul && IsName(*kid));
      });
    }
    case MathOp::kTuple:
    case MathOp::kRatio:
      return !node.kids.empty() && std::all_of(node.kids.begin(), node.kids.end(),
                                               [](const MathNode* kid) { return IsName(*kid); });
    default:
      return false;
  }
}

bool IsEquality(const std::string& word) { return word == "=" || word == "~" || word == "->"; }

bool OnlyEqualities(const MathNode& node) {
  return node.op == MathOp::kRelation &&
         std::all_of(node.words.begin(), node.words.end(), IsEquality);
}

class Comparer {
 public:
  Comparer(MathTree& tree, MathWork& work, std::string* why)
      : tree_(tree), work_(work), why_(*why) {}

  bool Same(const MathNode& gold, const MathNode& answer, int depth = 0) {
    if (depth > 40 || !work_.Take(5)) return false;
    if (SameTree(gold, answer)) return Because("the same as written");
    const MathNode& g = Plain(gold);
    const MathNode& a = Plain(answer);
    if (&g != &gold || &a != &answer) {
      if (SameTree(g, a)) return Because("the same as written");
    }
    if (g.op == MathOp::kRelation || a.op == MathOp::kRelation) {
      if (SameRelation(g, a, depth)) return true;
    }
    if (IsCollection(g) || IsCollection(a)) {
      if (SameCollection(g, a, depth)) return true;
    }
    if (IsSetLike(g) || IsSetLike(a)) {
      const bool other_names =
          g.op == MathOp::kRelation && a.op == MathOp::kRelation && OnlySymbol(g) != OnlySymbol(a);
      const auto x = other_names ? std::nullopt : ToRealSet(g, work_);
      if (x) {
        const auto y = ToRealSet(a, work_);
        if (y && SameRealSet(*x, *y)) return Because("the same set of reals");
      }
    }
    if (g.op == a.op && (g.op == MathOp::kUnion || g.op == MathOp::kIntersection)) {
      return (Same(*g.kids[0], *a.kids[0], depth + 1) && Same(*g.kids[1], *a.kids[1], depth + 1)) ||
             (Same(*g.kids[0], *a.kids[1], depth + 1) && Same(*g.kids[1], *a.kids[0], depth + 1));
    }
    if (g.op == a.op && g.op == MathOp::kDifference) {
      return Same(*g.kids[0], *a.kids[0], depth + 1) && Same(*g.kids[1], *a.kids[1], depth + 1);
    }
    if (Contains(g, MathOp::kMatrix) || Contains(a, MathOp::kMatrix)) {
      if (SameMatrix(g, a, depth)) return true;
    }
    if (g.op == MathOp::kTuple && a.op == MathOp::kTuple) return SameTuple(g, a, depth);
    if (g.op == MathOp::kRatio && a.op == MathOp::kRatio) return SameRatio(g, a);
    if ((g.op == MathOp::kRatio) != (a.op == MathOp::kRatio)) {
      return SameQuotient(g.op == MathOp::kRatio ? g : a, g.op == MathOp::kRatio ? a : g);
    }
    if (g.op == MathOp::kText && a.op == MathOp::kText) {
      return PlainWords(g.text) == PlainWords(a.text) && Because("the same words");
    }
    if (g.op == MathOp::kBased && a.op == MathOp::kNumber && g.text == a.text) {
      return Because("the same digits, the base left away");
    }
    if (IsScalar(g) && IsScalar(a)) return SameNumbers(g, a);
    return false;
  }

 private:
  bool Because(const char* why) {
    why_ = why;
    return true;
  }

  // The first symbol that is no constant.
  static std::string OnlySymbol(const MathNode& node) {
    if (node.op == MathOp::kSymbol && node.text != "pi" && node.text != "e") return node.text;
    for (const MathNode* kid : node.kids) {
      if (std::string name = OnlySymbol(*kid); !name.empty()) return name;
    }
    return {};
  }

  static bool IsScalar(const MathNode& node) {
    switch (node.op) {
      case MathOp::kText:
      case MathOp::kTuple:
      case MathOp::kSet:
      case MathOp::kList:
      case MathOp::kRelation:
      case MathOp::kUnion:
      case MathOp::kIntersection:
      case MathOp::kDifference:
      case MathOp::kReals:
      case MathOp::kRatio:
        return false;
      case MathOp::kMatrix:
        return node.text == "vmatrix";
      default:
        return true;
    }
  }

  static bool IsCollection(const MathNode& node) {
    return node.op == MathOp::kList || node.op == MathOp::kSet ||
           Contains(node, MathOp::kPlusMinus) || IsRows(node);
  }

  // cases and aligned equations are lists of their rows.
  static bool IsRows(const MathNode& node) {
    return node.op == MathOp::kMatrix &&
           (node.text == "cases" || node.text == "aligned" || node.text == "align" ||
            node.text == "gathered" || node.text == "split");
  }

  static bool IsSetLike(const MathNode& node) {
    switch (node.op) {
      case MathOp::kTuple:
        return node.kids.size() == 2;
      case MathOp::kSet:
      case MathOp::kUnion:
      case MathOp::kIntersection:
      case MathOp::kDifference:
      case MathOp::kReals:
        return true;
      case MathOp::kRelation:
        return !OnlyEqualities(node);
      case MathOp::kList:
        return std::any_of(node.kids.begin(), node.kids.end(),
                           [](const MathNode* kid) { return IsSetLike(*kid); });
      default:
        return false;
    }
  }

  // A chain of equalities as one: "x = 5 + 6 = 11" is x = 11, "3 + 4 = 7" is 7, "x in S" is S.
  const MathNode& Plain(const MathNode& node) {
    if (node.op == MathOp::kSet && node.kids.size() == 1 &&
        (node.kids[0]->op == MathOp::kUnion || node.kids[0]->op == MathOp::kSet)) {
      return Plain(*node.kids[0]);
    }
    if (node.op == MathOp::kList) {
      // "..., k in Z" says what k is.
      Nodes kept;
      for (const MathNode* kid : node.kids) {
        const bool condition = kid->op == MathOp::kRelation && kid->words[0] == "in" &&
                               (kid->kids[1]->op == MathOp::kSymbol ||
                                (kid->kids[1]->op == MathOp::kReals && !kept.empty()));
        if (!condition) kept.push_back(kid);
      }
      if (!kept.empty() && kept.size() < node.kids.size()) {
        if (kept.size() == 1) return Plain(*kept[0]);
        return *tree_.Make(MathOp::kList, std::move(kept), node.text);
      }
      return node;
    }
    if (node.op != MathOp::kRelation) return node;
    if (node.words.size() == 1 && node.words[0] == "in" && IsName(*node.kids[0])) {
      return *node.kids[1];
    }
    if (!OnlyEqualities(node)) return node;
    const MathNode* first = node.kids.front();
    const MathNode* last = node.kids.back();
    if (IsConstantScalar(*first) && IsConstantScalar(*last)) return *last;
    if (node.kids.size() == 2 && node.words[0] == "=") return node;
    MathNode* pair = tree_.Make(MathOp::kRelation, Nodes{first, last});
    pair->words = {"="};
    return *pair;
  }

  static bool IsConstantScalar(const MathNode& node) { return IsScalar(node) && IsConstant(node); }

  // Without the name that an equation gives to its value.
  const MathNode* WithoutName(const MathNode& node) {
    const MathNode& plain = Plain(node);
    if (plain.op != MathOp::kRelation || !OnlyEqualities(plain)) return nullptr;
    if (IsName(*plain.kids[0])) return plain.kids[1];
    if (IsName(*plain.kids[1]) && IsConstantScalar(*plain.kids[0])) return plain.kids[0];
    if (IsConstantScalar(*plain.kids[1]) && plain.kids.size() > 2) return plain.kids[1];
    return nullptr;
  }

  bool SameRelation(const MathNode& g, const MathNode& a, int depth) {
    if (g.op == MathOp::kRelation && a.op == MathOp::kRelation) {
      return SameRelations(g, a, depth);
    }
    // A name on one side only.
    const bool gold_named = g.op == MathOp::kRelation;
    const MathNode* value = WithoutName(gold_named ? g : a);
    const MathNode& other = gold_named ? a : g;
    if (value == nullptr && !gold_named && OnlyEqualities(a) && IsConstantScalar(other) &&
        IsConstantScalar(*a.kids.back())) {
      // "x + y = 5" answers 5; "x + y = 0" is an equation.
      const auto zero = ExactValue(*a.kids.back(), MathSense(), work_);
      if (!zero || !zero->IsZero()) value = a.kids.back();
    }
    if (value == nullptr && !gold_named && OnlyEqualities(a) && IsScalar(other)) {
      // An identity whose both ends are the gold answer.
      return IsScalar(*a.kids.front()) && IsScalar(*a.kids.back()) &&
             Same(other, *a.kids.back(), depth + 1) && Same(other, *a.kids.front(), depth + 1);
    }
    if (value == nullptr) return false;
    const bool same = gold_named ? Same(*value, other, depth + 1) : Same(other, *value, depth + 1);
    return same;
  }

  static std::string Flipped(const std::string& word) {
    if (word == "<") return ">";
    if (word == "<=") return ">=";
    if (word == ">") return "<";
    if (word == ">=") return "<=";
    return word;
  }

  const MathNode* Difference(const MathNode& left, const MathNode& right) {
    const MathNode* minus = tree_.Make(MathOp::kNeg, Nodes{&right});
    return tree_.Make(MathOp::kAdd, Nodes{&left, minus});
  }

  // f(n) = n^2 defines the function that f(x) = x^2 does: the answer with gold's variables.
  const MathNode& WithGoldVariables(const MathNode& g, const MathNode& a) {
    const MathNode& f = *g.kids[0];
    const MathNode& h = *a.kids[0];
    if (!OnlyEqualities(g) || !OnlyEqualities(a) || f.op != MathOp::kCall ||
        h.op != MathOp::kCall || f.text != h.text || f.text.substr(0, 2) != "f:" ||
        f.kids.size() != 1 || h.kids.size() != 1 || f.kids[0]->op != MathOp::kSymbol ||
        h.kids[0]->op != MathOp::kSymbol || f.kids[0]->text == h.kids[0]->text) {
      return a;
    }
    int budget = 4000;
    return *Renamed(a, h.kids[0]->text, f.kids[0]->text, budget);
  }

  const MathNode* Renamed(const MathNode& node, const std::string& from, const std::string& to,
                          int& budget) {
    if (--budget < 0) return &node;
    MathNode* copy = tree_.Make(node.op, node.text);
    if (node.op == MathOp::kSymbol && node.text == from) copy->text = to;
    copy->text2 = node.text2;
    copy->words = node.words;
    for (const MathNode* kid : node.kids) copy->kids.push_back(Renamed(*kid, from, to, budget));
    return copy;
  }

  bool SameRelations(const MathNode& g, const MathNode& written, int depth) {
    const MathNode& a = WithGoldVariables(g, written);
    if (g.kids.size() == a.kids.size()) {
      bool forward = g.words == a.words;
      for (std::size_t i = 0; forward && i < g.kids.size(); ++i) {
        forward = Same(*g.kids[i], *a.kids[i], depth + 1);
      }
      if (forward) return Because("the same relation, side by side");
      const std::size_t n = g.kids.size();
      bool backward = true;
      for (std::size_t i = 0; backward && i + 1 < n; ++i) {
        backward = g.words[i] == Flipped(a.words[n - 2 - i]);
      }
      for (std::size_t i = 0; backward && i < n; ++i) {
        backward = Same(*g.kids[i], *a.kids[n - 1 - i], depth + 1);
      }
      if (backward) return Because("the same relation, read backwards");
    }
    if (g.kids.size() != 2 || a.kids.size() != 2) return false;
    for (const MathNode* kid : {g.kids[0], g.kids[1], a.kids[0], a.kids[1]}) {
      if (!IsScalar(*kid)) return false;
    }
    const MathNode* x = Difference(*g.kids[0], *g.kids[1]);
    const MathNode* y = Difference(*a.kids[0], *a.kids[1]);
    const bool equation = IsEquality(g.words[0]) || g.words[0] == "!=";
    if (equation && g.words[0] != a.words[0] && !(IsEquality(g.words[0]) && IsEquality(a.words[0])))
      return false;
    const MathSense sense;
    if (const auto sign = ProportionalNumerators(*x, *y, sense, work_)) {
      if (*sign == 0) return false;
      if (equation) return Because("multiples of one equation");
      const std::string wanted = *sign > 0 ? g.words[0] : Flipped(g.words[0]);
      return wanted == a.words[0] && Because("multiples of one inequality");
    }
    if (!equation) return false;
    const MathNode* minus = tree_.Make(MathOp::kNeg, Nodes{y});
    return (SameValue(*x, *y, sense, work_) || SameValue(*x, *minus, sense, work_)) &&
           Because("the same equation");
  }

  // The elements of a list, a set, or a value with +-; nothing for other things.
  bool Elements(const MathNode& node, Nodes& out, int depth) {
    if (depth > 20 || out.size() > 1000) return false;
    if (node.op == MathOp::kList || node.op == MathOp::kSet) {
      for (const MathNode* kid : node.kids) {
        if (!Elements(*kid, out, depth + 1)) return false;
      }
      return true;
    }
    if (IsRows(node)) {
      for (const MathNode* row : node.kids) {
        if (row->kids.size() == 1) {
          if (!Elements(*row->kids[0], out, depth + 1)) return false;
        } else {
          out.push_back(row);
        }
      }
      return true;
    }
    if (Contains(node, MathOp::kPlusMinus)) {
      int budget = 4000;
      out.push_back(Signed(node, true, budget));
      out.push_back(Signed(node, false, budget));
      return budget > 0;
    }
    out.push_back(&node);
    return true;
  }

  // The tree with one choice of its +- signs.
  const MathNode* Signed(const MathNode& node, bool upper, int& budget) {
    if (--budget < 0) return &node;
    if (node.op == MathOp::kPlusMinus) {
      const MathNode* kid = Signed(*node.kids[0], upper, budget);
      return (node.text == "+") == upper ? kid : tree_.Make(MathOp::kNeg, Nodes{kid});
    }
    if (!Contains(node, MathOp::kPlusMinus)) return &node;
    MathNode* copy = tree_.Make(node.op, node.text);
    copy->text2 = node.text2;
    copy->words = node.words;
    for (const MathNode* kid : node.kids) copy->kids.push_back(Signed(*kid, upper, budget));
    return copy;
  }

  // n = 1, 2, 3 is a list whose first item carries the name of all.
  const MathNode& Unlabelled(const MathNode& item) {
    if (const MathNode* value = WithoutName(item)) return *value;
    return item;
  }

  bool SameCollection(const MathNode& g, const MathNode& a, int depth) {
    // Tuples keep their order: a list of as many items may stand for one.
    const bool has_signs = Contains(g, MathOp::kPlusMinus) || Contains(a, MathOp::kPlusMinus);
    if (!has_signs && (g.op == MathOp::kTuple || a.op == MathOp::kTuple)) {
      const MathNode& tuple = g.op == MathOp::kTuple ? g : a;
      const MathNode& list = g.op == MathOp::kTuple ? a : g;
      if (list.op != MathOp::kList || list.kids.size() != tuple.kids.size()) return false;
      for (std::size_t i = 0; i < list.kids.size(); ++i) {
        const MathNode& x = Unlabelled(*list.kids[i]);
        const MathNode& y = Unlabelled(*tuple.kids[i]);
        if (!Same(x, y, depth + 1)) return false;
      }
      return Because("the same items in order");
    }
    Nodes x;
    Nodes y;
    if (!Elements(g, x, 0) || !Elements(a, y, 0)) return false;
    // "p = 2, q = 3" against "2, 3": the names give an order.
    if (x.size() == y.size() && x.size() > 1 && (HaveDistinctNames(x) != HaveDistinctNames(y)) &&
        g.op != MathOp::kSet && a.op != MathOp::kSet) {
      return SameOrdered(x, y, depth) && Because("the same items in order");
    }
    if (x.size() * y.size() > 40'000) return false;
    return SameElements(x, y, depth) && Because("the same elements");
  }

  // Items are equations that name different things: p = 2, q = 3, but not x_1 = 2, x_2 = 3.
  bool HaveDistinctNames(const Nodes& items) {
    std::vector<std::string> names;
    for (const MathNode* item : items) {
      if (item->op != MathOp::kRelation || WithoutName(*item) == nullptr) return false;
      const MathNode& name = *item->kids[0];
      if (name.op != MathOp::kSymbol || name.text.find('_') != std::string::npos) return false;
      if (std::find(names.begin(), names.end(), name.text) != names.end()) return false;
      names.push_back(name.text);
    }
    return true;
  }

  // As sets: each has an equal one on the other side.
  bool SameElements(const Nodes& x, const Nodes& y, int depth) {
    std::vector<char> taken(y.size(), 0);
    for (const MathNode* item : x) {
      bool found = false;
      for (std::size_t i = 0; i < y.size(); ++i) {
        if (SameItem(*item, *y[i], depth)) {
          taken[i] = 1;
          found = true;
        }
        if (work_.spent()) return false;
      }
      if (!found) return false;
    }
    return std::all_of(taken.begin(), taken.end(), [](char t) { return t != 0; });
  }

  bool SameItem(const MathNode& x, const MathNode& y, int depth) {
    if (Same(x, y, depth + 1)) return true;
    const MathNode& u = Unlabelled(x);
    const MathNode& v = Unlabelled(y);
    // One side may leave the name away; two names must be the same.
    if ((&u != &x) == (&v != &y)) return false;
    return Same(u, v, depth + 1);
  }

  bool SameMatrix(const MathNode& g, const MathNode& a, int depth) {
    if (g.op == MathOp::kMatrix && a.op == MathOp::kMatrix &&
        (g.text == "vmatrix") != (a.text == "vmatrix")) {
      return false;
    }
    Nodes x = MatrixRows(g, tree_, work_);
    Nodes y = MatrixRows(a, tree_, work_);
    if (y.empty() || x.empty()) {
      // A vector may be written as a tuple, and a single entry without its matrix.
      const Nodes& rows = y.empty() ? x : y;
      const MathNode& tuple = y.empty() ? a : g;
      Nodes entries;
      for (const MathNode* row : rows) {
        entries.insert(entries.end(), row->kids.begin(), row->kids.end());
      }
      if (entries.size() == 1 && IsScalar(tuple)) return Same(*entries[0], tuple, depth + 1);
      if (tuple.op != MathOp::kTuple) return false;
      if (rows.size() != 1 && entries.size() != rows.size()) return false;
      return SameOrdered(entries, tuple.kids, depth) && Because("the same vector");
    }
    if (x.size() != y.size()) return false;
    for (std::size_t r = 0; r < x.size(); ++r) {
      if (!SameOrdered(x[r]->kids, y[r]->kids, depth)) return false;
    }
    return Because("the same matrix");
  }

  bool SameOrdered(const Nodes& x, const Nodes& y, int depth) {
    if (x.size() != y.size()) return false;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (!SameItem(*x[i], *y[i], depth)) return false;
    }
    return true;
  }

  bool SameTuple(const MathNode& g, const MathNode& a, int depth) {
    // (a, b) and [a, b] differ; of more items the brackets say nothing.
    if (g.kids.size() == 2 && g.text != a.text) return false;
    return SameOrdered(g.kids, a.kids, depth) && Because("the same items in order");
  }

  bool SameRatio(const MathNode& g, const MathNode& a) {
    if (g.kids.size() != a.kids.size()) return false;
    // a : b = c : d where a d = b c; 12:00 is a time.
    const MathSense sense;
    for (std::size_t i = 0; i < g.kids.size(); ++i) {
      if (!IsScalar(*g.kids[i]) || !IsScalar(*a.kids[i])) return false;
    }
    const auto zero = ExactValue(*g.kids[1], sense, work_);
    const bool time = g.kids.size() == 2 && g.kids[1]->op == MathOp::kNumber &&
                      g.kids[1]->text.size() == 2 && zero && g.kids[1]->text[0] == '0';
    bool same = true;
    for (std::size_t i = 0; same && i < g.kids.size(); ++i) {
      same = SameScalar(*g.kids[i], *a.kids[i], work_);
    }
    if (same) return Because("the same ratio");
    if (time) return false;
    for (std::size_t i = 1; i < g.kids.size(); ++i) {
      const MathNode* left = tree_.Make(MathOp::kMul, Nodes{g.kids[0], a.kids[i]});
      const MathNode* right = tree_.Make(MathOp::kMul, Nodes{g.kids[i], a.kids[0]});
      if (!SameValue(*left, *right, sense, work_)) return false;
    }
    return Because("the same ratio");
  }

  // a : b against a / b.
  bool SameQuotient(const MathNode& ratio, const MathNode& value) {
    if (ratio.kids.size() != 2 || value.op != MathOp::kMul || !IsScalar(*ratio.kids[0]) ||
        !IsScalar(*ratio.kids[1])) {
      return false;
    }
    const MathNode* below = tree_.Make(MathOp::kInverse, Nodes{ratio.kids[1]});
    const MathNode* quotient = tree_.Make(MathOp::kMul, Nodes{ratio.kids[0], below});
    return SameValue(*quotient, value, MathSense(), work_) && Because("the same quotient");
  }

  bool SameNumbers(const MathNode& g, const MathNode& a) {
    if (Contains(g, MathOp::kPlusMinus) || Contains(a, MathOp::kPlusMinus)) return false;
    return SameScalar(g, a, work_) && Because("the same value");
  }

  MathTree& tree_;
  MathWork& work_;
  std::string& why_;
};

}  // namespace

bool SameAnswer(const MathNode& gold, const MathNode& answer, MathTree& tree, MathWork& work,
                std::string* why) {
  return Comparer(tree, work, why).Same(gold, answer);
}

}  // namespace opo
