// The logistic function and its integral, without overflow.
#pragma once

#include <algorithm>
#include <cmath>

namespace opo {

inline double Sigmoid(double x) {
  const double e = std::exp(-std::abs(x));
  return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}
inline double SoftPlus(double x) {  // log(1 + e^x) = -log sigmoid(-x)
  return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}

}  // namespace opo
