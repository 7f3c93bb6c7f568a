// Any bytes: what is made fit for a terminal is UTF-8 without a character that would steer it, and
// is itself fit as it is.
#include <cstdlib>

#include "base/utf8.h"
#include "fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view text = opo::AsText(data, size);
  const std::string shown = opo::Printable(text);
  if (!opo::IsUtf8(shown) || opo::Printable(shown) != shown) std::abort();
  std::string again;
  for (std::size_t pos = 0; pos < shown.size();) {
    const opo::Utf8Step step = opo::NextUtf8(shown, pos);
    const auto code = step.code;
    if ((code < 0x20 && code != '\n' && code != '\t') || (code >= 0x7f && code < 0xa0))
      std::abort();
    if (code >= 0x202a && code <= 0x202e) std::abort();
    opo::AppendUtf8(code, again);
    pos += step.size;
  }
  if (again != shown) std::abort();
  return 0;
}
