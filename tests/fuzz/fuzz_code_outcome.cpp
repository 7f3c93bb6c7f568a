// What the driver of the code sandbox says, disturbed by the code that it runs: outcomes that lie
// within the bytes, one after the other, or nothing.
#include <cstdlib>

#include "fuzz/fuzz_folder.h"
#include "reward/code_cases.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  std::string_view bytes = opo::AsText(data, size);
  for (;;) {
    const std::string_view before = bytes;
    bool bad = false;
    const auto outcome = opo::TakeOutcome(bytes, bad);
    if (!outcome) {
      if (bytes.size() != before.size()) std::abort();
      return 0;
    }
    if (bad || bytes.size() >= before.size()) std::abort();
    const std::size_t taken = before.size() - bytes.size();
    if (outcome->status.size() + outcome->output.size() + outcome->err.size() >= taken)
      std::abort();
    if (outcome->err.data() + outcome->err.size() != bytes.data()) std::abort();
  }
}
