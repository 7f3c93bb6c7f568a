// A gradient against another implementation's, kept as a golden file.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "format/safetensors.h"
#include "model/weights.h"

namespace opo {

// Each tensor of `layout`, under `prefix` and its name, differs from the file's by less than 1e-4
// of its norm: both are f32, with sums in another order.
inline void ExpectGradient(const SlabLayout& layout, const float* grad, const std::string& path,
                           const std::string& prefix = "") {
  const SafetensorsFile expected = SafetensorsFile::Open(path);
  for (const TensorSpec& t : layout.tensors) {
    const SafeTensor* want = expected.Find(prefix + t.name);
    ASSERT_NE(want, nullptr) << t.name;
    std::vector<float> values(static_cast<std::size_t>(t.size()));
    expected.ReadF32(*want, values);
    double diff = 0;
    double norm = 0;
    for (idx i = 0; i < t.size(); ++i) {
      const double w = values[static_cast<std::size_t>(i)];
      const double d = static_cast<double>(grad[t.offset + i]) - w;
      diff += d * d;
      norm += w * w;
    }
    EXPECT_LT(std::sqrt(diff), 1e-4 * std::sqrt(norm)) << t.name;
  }
}

}  // namespace opo
