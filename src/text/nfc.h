// Unicode normalization form C, as some tokenizers ask for. Bytes that are not UTF-8 stay.
#pragma once

#include <string>
#include <string_view>

namespace opo {

// True only where ToNfc(text) == text is certain at a glance (nothing from U+0300 on).
bool IsPlainNfc(std::string_view text);
std::string ToNfc(std::string_view text);

}  // namespace opo
