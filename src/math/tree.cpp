#include "math/tree.h"

namespace opo {

bool SameTree(const MathNode& a, const MathNode& b) {
  std::vector<std::pair<const MathNode*, const MathNode*>> open = {{&a, &b}};
  while (!open.empty()) {
    const auto [x, y] = open.back();
    open.pop_back();
    if (x == y) continue;
    if (x->op != y->op || x->text != y->text || x->text2 != y->text2 || x->words != y->words ||
        x->kids.size() != y->kids.size()) {
      return false;
    }
    for (std::size_t i = 0; i < x->kids.size(); ++i) open.push_back({x->kids[i], y->kids[i]});
  }
  return true;
}

bool IsConstant(const MathNode& node) {
  std::vector<const MathNode*> open = {&node};
  while (!open.empty()) {
    const MathNode* at = open.back();
    open.pop_back();
    if (at->op == MathOp::kSymbol && at->text != "pi" && at->text != "e" && at->text != "i") {
      return false;
    }
    open.insert(open.end(), at->kids.begin(), at->kids.end());
  }
  return true;
}

}  // namespace opo
