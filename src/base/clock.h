// Time that never goes back, for measuring.
#pragma once

#include <chrono>

namespace opo {

inline double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace opo
