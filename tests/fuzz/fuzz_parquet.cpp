#include <cstddef>
#include <cstdint>
#include <span>

#include "format/try_parse.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  opo::TryParquet(std::as_bytes(std::span(data, size)));
  return 0;
}
