// Any bytes as a tokenizer.json: a tokenizer that takes any text, or an Error(kInput) that names
// it. After a line that is "---" comes a text to encode.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t cut = input.find("\n---\n");
  const std::string_view text = cut == input.npos ? "a 1\n <x>\xFF" : input.substr(cut + 5);
  try {
    const opo::Tokenizer tokenizer = opo::Tokenizer::FromJson(input.substr(0, cut), "fuzz");
    for (const bool parse_special : {false, true}) {
      for (const opo::TokenId id : tokenizer.Encode(text, parse_special)) {
        OPO_CHECK(id >= 0 && id < tokenizer.vocab_size());
        OPO_CHECK(!tokenizer.TokenBytes(id, false).empty());
      }
    }
  } catch (const opo::Error& e) {
    OPO_CHECK(e.code() == opo::ErrorCode::kInput);
    const std::string_view what = e.what();
    OPO_CHECK(what.starts_with("fuzz: ") || what.starts_with("cutting a text"));
  }
  return 0;
}
