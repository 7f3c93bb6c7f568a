#include "math/polynomial.h"

#include <flint/fmpq_mpoly.h>

#include <algorithm>
#include <set>
#include <string>

namespace opo {
namespace {

constexpr std::size_t kMaxSymbols = 8;
constexpr slong kMaxDegree = 100;
constexpr slong kMaxTerms = 1000;
constexpr slong kMaxExponent = 60;

bool CollectSymbols(const MathNode& node, std::set<std::string>& names) {
  switch (node.op) {
    case MathOp::kNumber:
    case MathOp::kRepeating:
    case MathOp::kBased:
      return true;
    case MathOp::kSymbol:
      if (node.text == "pi" || node.text == "e" || node.text == "i") return false;
      names.insert(node.text);
      return names.size() <= kMaxSymbols;
    case MathOp::kAdd:
    case MathOp::kMul:
    case MathOp::kNeg:
    case MathOp::kInverse:
    case MathOp::kPercent:
    case MathOp::kPlusMinus:
      break;
    case MathOp::kPower:
      return CollectSymbols(*node.kids[0], names) && IsConstant(*node.kids[1]);
    case MathOp::kCall:  // x_1
      if (node.text[0] != '_' || node.kids.size() != 1 || node.kids[0]->op != MathOp::kNumber) {
        return false;
      }
      names.insert(node.text + "_" + node.kids[0]->text);
      return names.size() <= kMaxSymbols;
    default:
      return false;
  }
  return std::all_of(node.kids.begin(), node.kids.end(),
                     [&](const MathNode* kid) { return CollectSymbols(*kid, names); });
}

class Ring {
 public:
  explicit Ring(const std::set<std::string>& names) : names_(names.begin(), names.end()) {
    fmpq_mpoly_ctx_init(context_, static_cast<slong>(std::max<std::size_t>(names_.size(), 1)),
                        ORD_LEX);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { fmpq_mpoly_ctx_clear(context_); }
  const fmpq_mpoly_ctx_struct* get() const { return context_; }
  slong IndexOf(const std::string& name) const {
    return std::lower_bound(names_.begin(), names_.end(), name) - names_.begin();
  }

 private:
  std::vector<std::string> names_;
  fmpq_mpoly_ctx_t context_;
};

class Polynomial {
 public:
  explicit Polynomial(const Ring& ring) : ring_(ring) { fmpq_mpoly_init(value_, ring.get()); }
  Polynomial(const Polynomial&) = delete;
  Polynomial& operator=(const Polynomial&) = delete;
  ~Polynomial() { fmpq_mpoly_clear(value_, ring_.get()); }
  fmpq_mpoly_struct* get() { return value_; }
  const fmpq_mpoly_struct* get() const { return value_; }
  slong terms() const { return fmpq_mpoly_length(value_, ring_.get()); }
  slong degree() const {
    return terms() == 0 ? 0 : fmpq_mpoly_total_degree_si(value_, ring_.get());
  }
  std::int64_t bits() const {
    slong bits = fmpz_bits(fmpq_numref(value_->content)) + fmpz_bits(fmpq_denref(value_->content));
    slong height = fmpz_mpoly_max_bits(value_->zpoly);
    return bits + (height < 0 ? -height : height);
  }
  bool Fits() const { return terms() <= kMaxTerms && degree() <= kMaxDegree && bits() <= 20'000; }

 private:
  const Ring& ring_;
  fmpq_mpoly_t value_;
};

// A quotient, not reduced.
struct Quotient {
  explicit Quotient(const Ring& ring) : above(ring), below(ring) {}
  Polynomial above;
  Polynomial below;
};

class Builder {
 public:
  Builder(const Ring& ring, const MathSense& sense, MathWork& work)
      : ring_(ring), sense_(sense), work_(work) {}

  bool Build(const MathNode& node, Quotient& out) {
    if (!work_.Take(4)) return false;
    fmpq_mpoly_one(out.below.get(), ring_.get());
    switch (node.op) {
      case MathOp::kNumber:
      case MathOp::kRepeating:
      case MathOp::kBased: {
        const auto value = ExactValue(node, sense_, work_);
        if (!value) return false;
        fmpq_mpoly_set_fmpq(out.above.get(), value->get(), ring_.get());
        return true;
      }
      case MathOp::kSymbol:
        fmpq_mpoly_gen(out.above.get(), ring_.IndexOf(node.text), ring_.get());
        return true;
      case MathOp::kCall:
        fmpq_mpoly_gen(out.above.get(), ring_.IndexOf(node.text + "_" + node.kids[0]->text),
                       ring_.get());
        return true;
      case MathOp::kAdd: {
        fmpq_mpoly_zero(out.above.get(), ring_.get());
        Quotient term(ring_);
        for (const MathNode* kid : node.kids) {
          if (!Build(*kid, term) || !Add(out, term)) return false;
        }
        return true;
      }
      case MathOp::kMul: {
        fmpq_mpoly_one(out.above.get(), ring_.get());
        Quotient factor(ring_);
        for (const MathNode* kid : node.kids) {
          if (!Build(*kid, factor) || !Multiply(out, factor)) return false;
        }
        return true;
      }
      case MathOp::kNeg:
      case MathOp::kPlusMinus:
        if (!Build(*node.kids[0], out)) return false;
        if (node.op == MathOp::kNeg || (node.text == "+") != sense_.upper_sign) {
          fmpq_mpoly_neg(out.above.get(), out.above.get(), ring_.get());
        }
        return true;
      case MathOp::kPercent:
        if (!Build(*node.kids[0], out)) return false;
        if (sense_.percent_divides) {
          fmpq_mpoly_scalar_div_si(out.above.get(), out.above.get(), 100, ring_.get());
        }
        return true;
      case MathOp::kInverse:
        if (!Build(*node.kids[0], out) || fmpq_mpoly_is_zero(out.above.get(), ring_.get())) {
          return false;
        }
        fmpq_mpoly_swap(out.above.get(), out.below.get(), ring_.get());
        return true;
      case MathOp::kPower: {
        const auto exponent = ExactValue(*node.kids[1], sense_, work_);
        if (!exponent || !exponent->IsInteger() || fmpz_bits(exponent->num()) > 8) return false;
        slong n = fmpz_get_si(exponent->num());
        Quotient base(ring_);
        if ((n < 0 ? -n : n) > kMaxExponent || !Build(*node.kids[0], base)) return false;
        if (n < 0) {
          if (fmpq_mpoly_is_zero(base.above.get(), ring_.get())) return false;
          fmpq_mpoly_swap(base.above.get(), base.below.get(), ring_.get());
          n = -n;
        }
        fmpq_mpoly_one(out.above.get(), ring_.get());
        for (slong i = 0; i < n; ++i) {
          if (!Multiply(out, base)) return false;
        }
        return true;
      }
      default:
        return false;
    }
  }

  // Takes the price of a product before it is made.
  bool Product(Polynomial& out, const Polynomial& a, const Polynomial& b) {
    if (a.terms() * b.terms() > 20 * kMaxTerms || a.degree() + b.degree() > kMaxDegree ||
        a.bits() + b.bits() > 20'000) {
      return false;
    }
    const std::int64_t words = 1 + (a.bits() + b.bits()) / 64;
    if (!work_.Take(4 + 2 * a.terms() * b.terms() * words)) return false;
    fmpq_mpoly_mul(out.get(), a.get(), b.get(), ring_.get());
    return out.Fits();
  }

 private:
  bool IsOne(const Polynomial& p) const { return fmpq_mpoly_is_one(p.get(), ring_.get()) != 0; }

  bool Add(Quotient& out, Quotient& term) {
    if (fmpq_mpoly_equal(out.below.get(), term.below.get(), ring_.get()) == 0) {
      Polynomial left(ring_);
      Polynomial right(ring_);
      if (!Product(left, out.above, term.below) || !Product(right, term.above, out.below)) {
        return false;
      }
      Polynomial below(ring_);
      if (!Product(below, out.below, term.below)) return false;
      fmpq_mpoly_swap(out.above.get(), left.get(), ring_.get());
      fmpq_mpoly_swap(term.above.get(), right.get(), ring_.get());
      fmpq_mpoly_swap(out.below.get(), below.get(), ring_.get());
    }
    if (!work_.Take(out.above.terms() + term.above.terms())) return false;
    fmpq_mpoly_add(out.above.get(), out.above.get(), term.above.get(), ring_.get());
    return out.above.Fits();
  }

  bool Multiply(Quotient& out, const Quotient& factor) {
    Polynomial above(ring_);
    if (!Product(above, out.above, factor.above)) return false;
    fmpq_mpoly_swap(out.above.get(), above.get(), ring_.get());
    if (IsOne(factor.below)) return true;
    Polynomial below(ring_);
    if (!Product(below, out.below, factor.below)) return false;
    fmpq_mpoly_swap(out.below.get(), below.get(), ring_.get());
    return true;
  }

  const Ring& ring_;
  const MathSense& sense_;
  MathWork& work_;
};

}  // namespace

std::optional<bool> SameRationalFunction(const MathNode& a, const MathNode& b,
                                         const MathSense& sense, MathWork& work) {
  std::set<std::string> names;
  if (!CollectSymbols(a, names) || !CollectSymbols(b, names)) return std::nullopt;
  const Ring ring(names);
  Builder builder(ring, sense, work);
  Quotient x(ring);
  Quotient y(ring);
  if (!builder.Build(a, x) || !builder.Build(b, y)) return std::nullopt;
  Polynomial left(ring);
  Polynomial right(ring);
  if (!builder.Product(left, x.above, y.below) || !builder.Product(right, y.above, x.below)) {
    return std::nullopt;
  }
  return fmpq_mpoly_equal(left.get(), right.get(), ring.get()) != 0;
}

std::optional<int> ProportionalNumerators(const MathNode& a, const MathNode& b,
                                          const MathSense& sense, MathWork& work) {
  std::set<std::string> names;
  if (!CollectSymbols(a, names) || !CollectSymbols(b, names)) return std::nullopt;
  const Ring ring(names);
  Builder builder(ring, sense, work);
  Quotient x(ring);
  Quotient y(ring);
  if (!builder.Build(a, x) || !builder.Build(b, y)) return std::nullopt;
  // The content of a FLINT polynomial carries its sign, the rest is primitive.
  if (fmpz_mpoly_equal(x.above.get()->zpoly, y.above.get()->zpoly, ring.get()->zctx) == 0) return 0;
  return fmpq_sgn(x.above.get()->content) * fmpq_sgn(y.above.get()->content);
}

}  // namespace opo
