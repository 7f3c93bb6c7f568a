// Matrices and what is computed from them.
#pragma once

#include <vector>

#include "math/evaluate.h"
#include "math/tree.h"

namespace opo {

// The rows (tuples) of a matrix, of a list of lists, or of sums, multiples and products of
// matrices; empty where the tree is none or is beyond the bounds (products of 8 x 8).
std::vector<const MathNode*> MatrixRows(const MathNode& node, MathTree& tree, MathWork& work);

}  // namespace opo
