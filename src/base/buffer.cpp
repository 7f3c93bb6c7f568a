#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace opo {
namespace {
constexpr std::size_t kMapThreshold = std::size_t{4} << 20;
constexpr std::size_t kAlignment = 64;
}  // namespace

void* AllocateZeroed(std::size_t bytes) {
  void* data = nullptr;
  if (bytes >= kMapThreshold) {
    data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) data = nullptr;
    // Huge pages spare the TLB in the streaming kernels; a refusal costs nothing.
    if (data != nullptr) (void)::madvise(data, bytes, MADV_HUGEPAGE);
  } else {
    data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    if (data != nullptr) std::memset(data, 0, bytes);
  }
  if (data == nullptr) {
    Fail(ErrorCode::kWork, "out of memory: {} MB could not be had; try a smaller run.memory_mb",
         bytes >> 20);
  }
  return data;
}

void FreeZeroed(void* data, std::size_t bytes) noexcept {
  if (bytes >= kMapThreshold) {
    ::munmap(data, bytes);
  } else {
    std::free(data);
  }
}

}  // namespace opo
