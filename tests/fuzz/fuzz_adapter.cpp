#include <cstddef>
#include <cstdint>
#include <string_view>

#include "model/try_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  opo::TryAdapter({reinterpret_cast<const char*>(data), size});
  return 0;
}
