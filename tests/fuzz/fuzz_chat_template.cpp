// Any template: parsed and rendered, or refused with an Error(kInput); the result is bounded, and
// the same every time.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto messages = nlohmann::ordered_json::parse(
      R"([{"role": "system", "content": "S"}, {"role": "user", "content": "U", "n": [1, 2.5, null]},
          {"role": "assistant", "content": "<think>x</think>y", "tool_calls": [{"id": "abc"}]}])");
  static const auto variables = nlohmann::ordered_json::parse(
      R"({"bos_token": "<s>", "eos_token": "</s>", "tools": [{"a": {"b": true}}], "x": "é"})");
  const std::string source(reinterpret_cast<const char*>(data), size);
  if (source.find("strftime_now") != std::string::npos) return 0;  // differs by nature
  std::string results[2];
  for (std::string& result : results) {
    try {
      const opo::ChatTemplate chat(source, "fuzz");
      result = chat.Render(messages, true, variables);
    } catch (const opo::Error& e) {
      OPO_CHECK(e.code() == opo::ErrorCode::kInput);
      OPO_CHECK(std::string(e.what()).starts_with("fuzz: "));
      result = e.what();
    }
    OPO_CHECK(result.size() <= (std::size_t{16} << 20) + 1000);
  }
  OPO_CHECK(results[0] == results[1]);
  return 0;
}
