// Owned, aligned, zero-initialised memory.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "base/types.h"

namespace opo {

// Zeroed memory at a 64-byte boundary; large blocks come straight from the system, so that pages
// never touched cost nothing. Throws Error(kWork) naming the size where memory is short.
void* AllocateZeroed(std::size_t bytes);
void FreeZeroed(void* data, std::size_t bytes) noexcept;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(idx size)
      : data_(size > 0 ? static_cast<T*>(AllocateZeroed(static_cast<std::size_t>(size) * sizeof(T)))
                       : nullptr),
        size_(size) {}
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) FreeZeroed(data_, static_cast<std::size_t>(size_) * sizeof(T));
  }

  // Makes room for at least `size` elements; the content is zero wherever memory is new, else
  // whatever it was. Never shrinks.
  void Reserve(idx size) {
    if (size > size_) *this = Buffer(size);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  idx size() const { return size_; }
  idx bytes() const { return size_ * static_cast<idx>(sizeof(T)); }
  T& operator[](idx i) { return data_[i]; }
  const T& operator[](idx i) const { return data_[i]; }
  std::span<T> span() { return {data_, static_cast<std::size_t>(size_)}; }
  std::span<const T> span() const { return {data_, static_cast<std::size_t>(size_)}; }

 private:
  T* data_ = nullptr;
  idx size_ = 0;
};

}  // namespace opo
