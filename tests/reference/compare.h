// Test data, and comparisons that report the worst element.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/rng.h"
#include "base/types.h"

namespace opo {

// A number in [-1, 1), a pure function of its place.
inline double Draw(std::uint32_t stream, idx i) {
  const auto bits = Philox4x32({static_cast<std::uint32_t>(i), stream, 0, 0}, {11, 13});
  return static_cast<double>(bits[0]) * 0x1p-31 - 1.0;
}

// Rows of T, the pads behind the last column zero.
template <class T>
struct Rows {
  idx num_rows, cols, ld;
  Buffer<T> data;
  Rows(idx rows, idx columns) : Rows(rows, columns, RoundUp(columns, 32)) {}
  Rows(idx rows, idx columns, idx stride)
      : num_rows(rows), cols(columns), ld(stride), data(rows * stride) {}
  T* row(idx r) { return data.data() + r * ld; }
  const T* row(idx r) const { return data.data() + r * ld; }
  double at(idx r, idx c) const { return static_cast<double>(ToF32(row(r)[c])); }
  std::vector<double> values(idx r) const {
    std::vector<double> out;
    for (idx c = 0; c < cols; ++c) out.push_back(at(r, c));
    return out;
  }
  Rows& Fill(std::uint32_t stream, double scale = 1) {
    for (idx r = 0; r < num_rows; ++r) {
      for (idx c = 0; c < cols; ++c) {
        row(r)[c] = FromF32<T>(static_cast<float>(scale * Draw(stream, r * cols + c)));
      }
    }
    return *this;
  }
};

// The element that uses up most of its tolerance.
class Worst {
 public:
  explicit Worst(std::string what) : what_(std::move(what)) {}
  ~Worst() {
    EXPECT_LE(ratio_, 1.0) << what_ << " at " << at_ << ": got " << got_ << ", want " << want_
                           << ", tolerance " << tolerance_;
    EXPECT_GT(count_, 0) << what_ << ": nothing was compared";
  }
  Worst(const Worst&) = delete;
  Worst& operator=(const Worst&) = delete;
  void Add(idx at, double got, double want, double tolerance) {
    ++count_;
    double ratio = got == want ? 0 : std::abs(got - want) / tolerance;
    if (std::isnan(ratio)) ratio = std::numeric_limits<double>::infinity();
    if (ratio < ratio_ || (ratio == ratio_ && count_ > 1)) return;
    ratio_ = ratio;
    at_ = at;
    got_ = got;
    want_ = want;
    tolerance_ = tolerance;
  }

 private:
  std::string what_;
  double ratio_ = 0, got_ = 0, want_ = 0, tolerance_ = 0;
  idx at_ = -1, count_ = 0;
};

// Tolerance 0.
template <class T>
bool SameBits(const T* a, const T* b, idx n) {
  return std::memcmp(a, b, static_cast<std::size_t>(n) * sizeof(T)) == 0;
}
template <class T>
bool SameBits(const Buffer<T>& a, const Buffer<T>& b) {
  return a.size() == b.size() && SameBits(a.data(), b.data(), a.size());
}
template <class T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && SameBits(a.data(), b.data(), static_cast<idx>(a.size()));
}

}  // namespace opo
