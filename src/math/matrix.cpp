#include "math/matrix.h"

#include <algorithm>
#include <string>

#include "math/scalar.h"

namespace opo {
namespace {

using Nodes = std::vector<const MathNode*>;

class MatrixReader {
 public:
  MatrixReader(MathTree& tree, MathWork& work) : tree_(tree), work_(work) {}

  Nodes RowsOf(const MathNode& node, int depth) {
    if (depth > 6 || !work_.Take(50)) return {};
    switch (node.op) {
      case MathOp::kMatrix:
        return node.kids;
      case MathOp::kNeg: {
        const MathNode* minus = tree_.Make(MathOp::kNeg, Nodes{One()});
        return Scaled(*minus, RowsOf(*node.kids[0], depth + 1));
      }
      case MathOp::kPower: {
        const Nodes rows = RowsOf(*node.kids[0], depth + 1);
        const MathNode& exponent = *node.kids[1];
        if (rows.empty()) return rows;
        if (exponent.op == MathOp::kSymbol && exponent.text == "T") return Transposed(rows);
        if (exponent.op != MathOp::kNumber || exponent.text.size() != 1) return {};
        Nodes power = rows;
        for (int i = 1; i < exponent.text[0] - '0' && i < 5; ++i) power = Multiplied(power, rows);
        return exponent.text[0] >= '1' && exponent.text[0] <= '5' ? power : Nodes();
      }
      case MathOp::kAdd: {
        Nodes sum = RowsOf(*node.kids[0], depth + 1);
        for (std::size_t i = 1; i < node.kids.size() && !sum.empty(); ++i) {
          sum = Added(sum, RowsOf(*node.kids[i], depth + 1));
        }
        return sum;
      }
      case MathOp::kMul: {
        Nodes product;
        Nodes scalars;
        for (const MathNode* kid : node.kids) {
          if (!Contains(*kid, MathOp::kMatrix) && kid->op != MathOp::kTuple) {
            scalars.push_back(kid);
            continue;
          }
          const Nodes rows = RowsOf(*kid, depth + 1);
          product = product.empty() ? rows : Multiplied(product, rows);
          if (product.empty()) return {};
        }
        if (scalars.empty() || product.empty()) return product;
        return Scaled(*tree_.Make(MathOp::kMul, scalars), product);
      }
      default:
        break;
    }
    if (node.op == MathOp::kTuple &&
        std::all_of(node.kids.begin(), node.kids.end(),
                    [](const MathNode* kid) { return kid->op == MathOp::kTuple; })) {
      return node.kids;
    }
    return {};
  }

 private:
  const MathNode* One() { return tree_.Make(MathOp::kNumber, std::string("1")); }

  Nodes Scaled(const MathNode& factor, const Nodes& rows) {
    Nodes out;
    for (const MathNode* row : rows) {
      Nodes entries;
      for (const MathNode* entry : row->kids) {
        entries.push_back(tree_.Make(MathOp::kMul, Nodes{&factor, entry}));
      }
      out.push_back(tree_.Make(MathOp::kTuple, std::move(entries), "()"));
    }
    return out;
  }

  Nodes Transposed(const Nodes& rows) {
    Nodes out;
    for (std::size_t c = 0; c < rows[0]->kids.size() && c < 50; ++c) {
      Nodes entries;
      for (const MathNode* row : rows) {
        if (row->kids.size() <= c) return {};
        entries.push_back(row->kids[c]);
      }
      out.push_back(tree_.Make(MathOp::kTuple, std::move(entries), "()"));
    }
    return out;
  }

  Nodes Added(const Nodes& x, const Nodes& y) {
    Nodes out;
    if (x.size() != y.size()) return out;
    for (std::size_t r = 0; r < x.size(); ++r) {
      if (x[r]->kids.size() != y[r]->kids.size()) return {};
      Nodes entries;
      for (std::size_t c = 0; c < x[r]->kids.size(); ++c) {
        entries.push_back(tree_.Make(MathOp::kAdd, Nodes{x[r]->kids[c], y[r]->kids[c]}));
      }
      out.push_back(tree_.Make(MathOp::kTuple, std::move(entries), "()"));
    }
    return out;
  }

  Nodes Multiplied(const Nodes& x, const Nodes& y) {
    Nodes out;
    if (y.empty() || x.size() > 8 || y.size() > 8 || y[0]->kids.size() > 8) return out;
    for (const MathNode* row : x) {
      if (row->kids.size() != y.size()) return {};
      Nodes entries;
      for (std::size_t c = 0; c < y[0]->kids.size(); ++c) {
        Nodes terms;
        for (std::size_t k = 0; k < y.size(); ++k) {
          if (y[k]->kids.size() <= c) return {};
          terms.push_back(tree_.Make(MathOp::kMul, Nodes{row->kids[k], y[k]->kids[c]}));
        }
        entries.push_back(tree_.Make(MathOp::kAdd, std::move(terms)));
      }
      out.push_back(tree_.Make(MathOp::kTuple, std::move(entries), "()"));
    }
    return out;
  }

  MathTree& tree_;
  MathWork& work_;
};

}  // namespace

std::vector<const MathNode*> MatrixRows(const MathNode& node, MathTree& tree, MathWork& work) {
  return MatrixReader(tree, work).RowsOf(node, 0);
}

}  // namespace opo
