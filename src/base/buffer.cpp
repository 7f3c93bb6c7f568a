#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace opo {
namespace {
constexpr std::size_t kMapThreshold = std::size_t{4} << 20;
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Fresh pages from the system, beginning on a huge page: what is mapped around it goes back.
void* MapAligned(std::size_t bytes) {
  void* mapped = ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(mapped);
  const std::size_t skip =
      (kHugePage - reinterpret_cast<std::uintptr_t>(begin) % kHugePage) % kHugePage;
  if (skip > 0) ::munmap(begin, skip);
  const std::size_t used = (bytes + kPage - 1) / kPage * kPage;
  if (const std::size_t rest = bytes + kHugePage - skip - used; rest >= kPage) {
    ::munmap(begin + skip + used, rest);
  }
  return begin + skip;
}
}  // namespace

void* AllocateZeroed(std::size_t bytes) {
  void* data = nullptr;
  if (bytes >= kMapThreshold) {
    data = MapAligned(bytes);
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
