#include "math/sets.h"

#include <algorithm>
#include <set>
#include <string>

#include "math/scalar.h"

namespace opo {
namespace {

constexpr slong kPrecision = 350;
constexpr std::size_t kMaxPieces = 64;

// -1, 0, 1; overlapping balls count as equal.
int CompareEnds(const Ball& a, const Ball& b) {
  if (arb_overlaps(a.re(), b.re()) != 0) return 0;
  return arb_lt(a.re(), b.re()) != 0 ? -1 : 1;
}

int CompareLows(const RealPiece& a, const RealPiece& b) {
  if (a.low_infinite || b.low_infinite) return int{b.low_infinite} - int{a.low_infinite};
  if (const int order = CompareEnds(a.low, b.low)) return order;
  return int{b.low_closed} - int{a.low_closed};
}

int CompareHighs(const RealPiece& a, const RealPiece& b) {
  if (a.high_infinite || b.high_infinite) return int{a.high_infinite} - int{b.high_infinite};
  if (const int order = CompareEnds(a.high, b.high)) return order;
  return int{a.high_closed} - int{b.high_closed};
}

bool IsEmpty(const RealPiece& piece) {
  if (piece.low_infinite || piece.high_infinite) return false;
  const int order = CompareEnds(piece.low, piece.high);
  return order > 0 || (order == 0 && !(piece.low_closed && piece.high_closed));
}

RealPiece AllReals() {
  RealPiece piece;
  piece.low_infinite = piece.high_infinite = true;
  return piece;
}

RealPiece Point(const Ball& value) { return {value, value, false, false, true, true}; }

RealSet Normalised(RealSet pieces) {
  std::sort(pieces.begin(), pieces.end(),
            [](const RealPiece& a, const RealPiece& b) { return CompareLows(a, b) < 0; });
  RealSet out;
  for (RealPiece& piece : pieces) {
    if (IsEmpty(piece)) continue;
    if (!out.empty()) {
      RealPiece& last = out.back();
      bool touches = last.high_infinite || piece.low_infinite;
      if (!touches) {
        const int order = CompareEnds(last.high, piece.low);
        touches = order > 0 || (order == 0 && (last.high_closed || piece.low_closed));
      }
      if (touches) {
        if (CompareHighs(last, piece) < 0) {
          last.high = piece.high;
          last.high_infinite = piece.high_infinite;
          last.high_closed = piece.high_closed;
        }
        continue;
      }
    }
    out.push_back(std::move(piece));
  }
  return out;
}

RealSet Intersection(const RealSet& a, const RealSet& b) {
  RealSet out;
  for (const RealPiece& x : a) {
    for (const RealPiece& y : b) {
      RealPiece piece = CompareLows(x, y) >= 0 ? x : y;
      const RealPiece& end = CompareHighs(x, y) <= 0 ? x : y;
      piece.high = end.high;
      piece.high_infinite = end.high_infinite;
      piece.high_closed = end.high_closed;
      if (!IsEmpty(piece)) out.push_back(std::move(piece));
    }
  }
  return Normalised(std::move(out));
}

RealSet Complement(const RealSet& set) {
  RealSet out;
  RealPiece gap = AllReals();
  for (const RealPiece& piece : set) {
    if (!piece.low_infinite) {
      gap.high_infinite = false;
      gap.high = piece.low;
      gap.high_closed = !piece.low_closed;
      if (!IsEmpty(gap)) out.push_back(gap);
    }
    if (piece.high_infinite) return out;
    gap = AllReals();
    gap.low_infinite = false;
    gap.low = piece.high;
    gap.low_closed = !piece.high_closed;
  }
  out.push_back(gap);
  return out;
}

RealSet Union(RealSet a, const RealSet& b) {
  a.insert(a.end(), b.begin(), b.end());
  return Normalised(std::move(a));
}

class SetReader {
 public:
  explicit SetReader(MathWork& work) : work_(work) {}

  std::optional<RealSet> Read(const MathNode& node) {
    if (!work_.Take(5)) return std::nullopt;
    switch (node.op) {
      case MathOp::kReals:
        return RealSet{AllReals()};
      case MathOp::kSet: {
        RealSet set;
        for (const MathNode* kid : node.kids) {
          for (const bool upper : {true, false}) {
            Ball value;
            if (!Constant(*kid, upper, value)) return std::nullopt;
            set.push_back(Point(value));
            if (!Contains(*kid, MathOp::kPlusMinus)) break;
          }
          if (set.size() > kMaxPieces) return std::nullopt;
        }
        return Normalised(std::move(set));
      }
      case MathOp::kTuple:
        return Interval(node);
      case MathOp::kUnion:
      case MathOp::kIntersection:
      case MathOp::kDifference: {
        auto left = Operand(*node.kids[0]);
        if (!left) return std::nullopt;
        auto right = Operand(*node.kids[1]);
        if (!right || left->size() + right->size() > kMaxPieces) return std::nullopt;
        if (node.op == MathOp::kUnion) return Union(std::move(*left), *right);
        if (node.op == MathOp::kIntersection) return Intersection(*left, *right);
        return Intersection(*left, Complement(*right));
      }
      case MathOp::kRelation:
        return Relation(node);
      case MathOp::kList:
        return List(node);
      default:
        return std::nullopt;
    }
  }

 private:
  // Beside a set, {2} without backslashes is one too.
  std::optional<RealSet> Operand(const MathNode& node) {
    Ball value;
    if (Constant(node, true, value)) return RealSet{Point(value)};
    return Read(node);
  }

  bool Constant(const MathNode& node, bool upper, Ball& value) {
    MathPoint point;
    point.precision = kPrecision;
    point.sense.upper_sign = upper;
    return IsConstant(node) && !Contains(node, MathOp::kInfinity) &&
           Evaluate(node, point, work_, value) && value.IsReal() && !point.has_opaque;
  }

  static int InfinitySign(const MathNode& node) {
    if (node.op == MathOp::kInfinity) return 1;
    if (node.op == MathOp::kNeg && node.kids[0]->op == MathOp::kInfinity) return -1;
    return 0;
  }

  std::optional<RealSet> Interval(const MathNode& node) {
    if (node.kids.size() != 2) return std::nullopt;
    RealPiece piece;
    piece.low_closed = node.text[0] == '[';
    piece.high_closed = node.text[1] == ']';
    if (InfinitySign(*node.kids[0]) < 0) {
      piece.low_infinite = true;
      piece.low_closed = false;
    } else if (!Constant(*node.kids[0], true, piece.low)) {
      return std::nullopt;
    }
    if (InfinitySign(*node.kids[1]) > 0) {
      piece.high_infinite = true;
      piece.high_closed = false;
    } else if (!Constant(*node.kids[1], true, piece.high)) {
      return std::nullopt;
    }
    if (IsEmpty(piece)) return std::nullopt;  // (3, 2) is a point of the plane
    return Normalised({piece});
  }

  // The only symbol of a tree.
  static bool CollectSymbol(const MathNode& node, std::string& name) {
    if (node.op == MathOp::kSymbol && node.text != "pi" && node.text != "e") {
      if (node.text == "i" || node.text == "...") return false;
      if (!name.empty() && name != node.text) return false;
      name = node.text;
    }
    for (const MathNode* kid : node.kids) {
      if (!CollectSymbol(*kid, name)) return false;
    }
    return true;
  }

  std::optional<RealSet> Relation(const MathNode& node) {
    if (node.words.size() == 1 && (node.words[0] == "in" || node.words[0] == "notin")) {
      if (node.kids[0]->op != MathOp::kSymbol && node.kids[0]->op != MathOp::kCall) {
        return std::nullopt;
      }
      auto set = Read(*node.kids[1]);
      if (set && node.words[0] == "notin") return Complement(*set);
      return set;
    }
    std::string symbol;
    if (!CollectSymbol(node, symbol) || symbol.empty()) return std::nullopt;
    RealSet all = {AllReals()};
    for (std::size_t i = 0; i < node.words.size(); ++i) {
      const auto part = Inequality(*node.kids[i], node.words[i], *node.kids[i + 1], symbol);
      if (!part) return std::nullopt;
      all = Intersection(all, *part);
    }
    return all;
  }

  // left OP right over `symbol`, where left - right is a polynomial of degree two at most in it, or
  // in its absolute value.
  std::optional<RealSet> Inequality(const MathNode& left, const std::string& op,
                                    const MathNode& right, const std::string& symbol) {
    if (op != "=" && op != "!=" && op != "<" && op != "<=" && op != ">" && op != ">=") {
      return std::nullopt;
    }
    const bool absolute =
        Contains(left, MathOp::kCall, "abs") || Contains(right, MathOp::kCall, "abs");
    // Values at 0..4; a polynomial of degree two at most has no third difference.
    std::vector<Ball> f(5);
    for (std::size_t i = 0; i < f.size(); ++i) {
      Ball x;
      acb_set_ui(x.get(), i + 1);
      Ball unknown;
      arb_indeterminate(unknown.re());
      MathPoint point;
      point.precision = kPrecision;
      point.symbol = symbol;
      point.symbol_value = absolute ? &unknown : &x;
      point.abs_value = absolute ? &x : nullptr;
      Ball a;
      Ball b;
      if (!Evaluate(left, point, work_, a) || !Evaluate(right, point, work_, b)) {
        return std::nullopt;
      }
      acb_sub(f[i].get(), a.get(), b.get(), kPrecision);
      if (!f[i].IsReal() || point.left_reals || point.has_opaque) return std::nullopt;
    }
    std::vector<Ball> d = f;
    std::vector<Ball> head = {d[0]};
    for (int round = 1; round < 5; ++round) {
      for (std::size_t i = 0; i + static_cast<std::size_t>(round) < 5; ++i) {
        acb_sub(d[i].get(), d[i + 1].get(), d[i].get(), kPrecision);
      }
      head.push_back(d[0]);
    }
    if (!arb_contains_zero(head[3].re()) || !arb_contains_zero(head[4].re())) return std::nullopt;
    // f(x) = h0 + h1 (x-1) + h2 (x-1)(x-2)/2 = a x^2 + b x + c
    arb_t a;
    arb_t b;
    arb_t c;
    arb_init(a);
    arb_init(b);
    arb_init(c);
    arb_mul_2exp_si(a, head[2].re(), -1);
    arb_mul_si(b, a, -3, kPrecision);
    arb_add(b, b, head[1].re(), kPrecision);
    arb_sub(c, head[0].re(), a, kPrecision);
    arb_sub(c, c, b, kPrecision);
    auto set = Solve(a, b, c, op);
    arb_clear(a);
    arb_clear(b);
    arb_clear(c);
    if (!set || !absolute) return set;
    // |x| in S: x in S or -x in S, for the part of S that is not negative.
    RealPiece half = AllReals();
    half.low_infinite = false;
    half.low_closed = true;
    RealSet positive = Intersection(*set, {half});
    RealSet negative;
    for (const RealPiece& piece : positive) {
      RealPiece mirrored;
      mirrored.low_infinite = piece.high_infinite;
      mirrored.high_infinite = piece.low_infinite;
      mirrored.low_closed = piece.high_closed;
      mirrored.high_closed = piece.low_closed;
      acb_neg(mirrored.low.get(), piece.high.get());
      acb_neg(mirrored.high.get(), piece.low.get());
      negative.push_back(std::move(mirrored));
    }
    return Union(std::move(positive), negative);
  }

  // a x^2 + b x + c OP 0
  std::optional<RealSet> Solve(arb_t a, arb_t b, arb_t c, const std::string& op) {
    const bool closed = op == "<=" || op == ">=" || op == "=";
    std::vector<Ball> roots;
    if (arb_contains_zero(a) != 0) {
      if (arb_contains_zero(b) != 0) return std::nullopt;
      Ball root;
      arb_div(root.re(), c, b, kPrecision);
      arb_neg(root.re(), root.re());
      roots.push_back(root);
    } else {
      Ball discriminant;
      arb_mul(discriminant.re(), b, b, kPrecision);
      Ball four;
      arb_mul(four.re(), a, c, kPrecision);
      arb_mul_2exp_si(four.re(), four.re(), 2);
      arb_sub(discriminant.re(), discriminant.re(), four.re(), kPrecision);
      if (arb_contains_zero(discriminant.re()) != 0) {
        Ball root;
        arb_div(root.re(), b, a, kPrecision);
        arb_mul_2exp_si(root.re(), root.re(), -1);
        arb_neg(root.re(), root.re());
        roots = {root, root};
      } else if (arb_is_positive(discriminant.re())) {
        arb_sqrt(discriminant.re(), discriminant.re(), kPrecision);
        for (const int sign : {-1, 1}) {
          Ball root;
          if (sign < 0) {
            arb_sub(root.re(), discriminant.re(), b, kPrecision);
            arb_neg(root.re(), root.re());
            arb_sub(root.re(), discriminant.re(), b, kPrecision);
            arb_neg(root.re(), discriminant.re());
            arb_sub(root.re(), root.re(), b, kPrecision);
          } else {
            arb_sub(root.re(), discriminant.re(), b, kPrecision);
          }
          arb_div(root.re(), root.re(), a, kPrecision);
          arb_mul_2exp_si(root.re(), root.re(), -1);
          roots.push_back(root);
        }
        if (CompareEnds(roots[0], roots[1]) > 0) std::swap(roots[0], roots[1]);
      }
    }
    RealSet zeros;
    for (const Ball& root : roots) zeros.push_back(Point(root));
    zeros = Normalised(std::move(zeros));
    if (op == "=") return zeros;
    if (op == "!=") return Complement(zeros);
    // The sign right of all roots is that of the leading coefficient; left of a single root of a
    // line it is the other one.
    const bool leading_positive =
        arb_contains_zero(a) != 0 ? arb_is_positive(b) != 0 : arb_is_positive(a) != 0;
    const bool wants_positive = op == ">" || op == ">=";
    RealSet outside;  // where the sign is the leading one
    if (roots.empty()) {
      outside = {AllReals()};
    } else {
      RealPiece right = AllReals();
      right.low_infinite = false;
      right.low = roots.back();
      outside.push_back(right);
      if (roots.size() == 2) {
        RealPiece left = AllReals();
        left.high_infinite = false;
        left.high = roots[0];
        outside.push_back(left);
      }
    }
    outside = Normalised(std::move(outside));
    RealSet inside = Intersection(Complement(outside), Complement(zeros));
    RealSet set = wants_positive == leading_positive ? outside : inside;
    return closed ? Union(std::move(set), zeros) : set;
  }

  // x < 1 or x > 3: a union; x > 1 and x < 3: an intersection.
  std::optional<RealSet> List(const MathNode& node) {
    std::vector<RealSet> parts;
    for (const MathNode* kid : node.kids) {
      // (1, 3), (2, 4) are points; [1, 3), (4, oo) are intervals.
      const bool interval = kid->op == MathOp::kTuple && (node.text == "or" || kid->text != "()" ||
                                                          Contains(*kid, MathOp::kInfinity));
      if (kid->op != MathOp::kRelation && !interval && kid->op != MathOp::kUnion) {
        return std::nullopt;
      }
      auto part = Read(*kid);
      if (!part || parts.size() > 16) return std::nullopt;
      parts.push_back(std::move(*part));
    }
    RealSet all = parts[0];
    RealSet any = parts[0];
    for (std::size_t i = 1; i < parts.size(); ++i) {
      all = Intersection(all, parts[i]);
      any = Union(std::move(any), parts[i]);
    }
    const bool relations = node.kids[0]->op == MathOp::kRelation;
    if (node.text == "or" || !relations || all.empty()) return any;
    return all;
  }

  MathWork& work_;
};

}  // namespace

std::optional<RealSet> ToRealSet(const MathNode& node, MathWork& work) {
  return SetReader(work).Read(node);
}

bool SameRealSet(const RealSet& a, const RealSet& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (CompareLows(a[i], b[i]) != 0 || CompareHighs(a[i], b[i]) != 0) return false;
  }
  return true;
}

}  // namespace opo
