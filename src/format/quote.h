// Names that come from a file, made fit for a one-line error message.
#pragma once

#include <string>
#include <string_view>

namespace opo {

// 'name' in quotes; control and non-ASCII bytes as \xNN, cut after 200 bytes.
std::string Quote(std::string_view name);

}  // namespace opo
