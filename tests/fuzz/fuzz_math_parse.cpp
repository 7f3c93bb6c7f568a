// The parser of answers: any bytes, read in every way; what it returns compares equal to itself.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "math/parser.h"
#include "math/tokens.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string normalised = opo::NormaliseText(text);
  for (const opo::MathReading& reading :
       {opo::MathReading{}, opo::MathReading{.group_thousands = false},
        opo::MathReading{.decimal_comma = true}, opo::MathReading{.unit_letters = true}}) {
    opo::MathTree tree;
    const opo::ParsedAnswer first = opo::ParseMath(normalised, reading, tree);
    const opo::ParsedAnswer second = opo::ParseMath(normalised, reading, tree);
    if ((first.root == nullptr) != (second.root == nullptr)) std::abort();
    if (first.root != nullptr && !opo::SameTree(*first.root, *second.root)) std::abort();
  }
  return 0;
}
