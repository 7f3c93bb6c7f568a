#include "format/quote.h"

#include <fmt/format.h>

namespace opo {

std::string Quote(std::string_view name) {
  constexpr std::size_t kMaxShown = 200;
  std::string shown = "'";
  for (const char c : name.substr(0, kMaxShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte > 0x7e) {
      shown += fmt::format("\\x{:02x}", byte);
    } else {
      shown += c;
    }
  }
  if (name.size() > kMaxShown) shown += "...";
  return shown + "'";
}

}  // namespace opo
