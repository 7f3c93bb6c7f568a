// The bound on the depth of JSON against the depth that the library's parser finds; and what is
// below it is parsed or refused with an Error(kInput) that names the text.
#include <algorithm>
#include <cstdlib>

#include "base/json.h"
#include "fuzz/fuzz_folder.h"

namespace {

using Json = nlohmann::ordered_json;

// Counts and keeps nothing, so that no depth is too much for it.
struct DepthCounter : nlohmann::json_sax<Json> {
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool key(string_t&) override { return true; }
  bool start_object(std::size_t) override { return Open(); }
  bool end_object() override { return Close(); }
  bool start_array(std::size_t) override { return Open(); }
  bool end_array() override { return Close(); }
  bool parse_error(std::size_t, const std::string&, const Json::exception&) override {
    return false;
  }
  bool Open() {
    deepest = std::max(deepest, ++depth);
    return true;
  }
  bool Close() {
    --depth;
    return true;
  }
  int depth = 0;
  int deepest = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string_view text = opo::AsText(data, size);
  DepthCounter counter;
  // The library takes a zero byte for the end of the text.
  const bool valid = Json::sax_parse(text, &counter) && text.find('\0') == text.npos;
  for (const int limit : {0, 1, 2, 5, 16}) {
    const bool deeper = opo::NestsDeeper(text, limit);
    if (counter.deepest > limit && !deeper) std::abort();
    if (valid && counter.deepest <= limit && deeper) std::abort();
  }
  try {
    opo::ParseJson<Json>(text, "fuzz", "file");
    if (!valid) std::abort();
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput) std::abort();
    if (!std::string_view(error.what()).starts_with("fuzz: ")) std::abort();
  }
  return 0;
}
