// Files of reference log-probs. What is taken of one is a whole number of groups, and is taken of
// its good part again.
#include <cstdlib>

#include "train/reference_cache.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static constexpr const char* kKey = "0123456789abcdef0123456789abcdef";
  static const std::vector<opo::idx> counts = {3, 0, 2, 5, 1};
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  opo::ReferenceNumbers numbers(counts);
  const bool good = numbers.Read(bytes, kKey).empty();
  if (numbers.good_bytes() > size || (good && numbers.good_bytes() != size)) std::abort();
  if (numbers.good_bytes() == 0) return 0;
  opo::ReferenceNumbers again(counts);
  if (!again.Read(bytes.substr(0, numbers.good_bytes()), kKey).empty()) std::abort();
  if (again.groups() != numbers.groups()) std::abort();
  for (opo::idx g = 0; g < numbers.groups(); ++g) {
    if (static_cast<opo::idx>(numbers.Of(g).size()) != counts[static_cast<std::size_t>(g)]) {
      std::abort();
    }
  }
  return 0;
}
