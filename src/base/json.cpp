#include "base/json.h"

#include <set>
#include <utility>
#include <vector>

namespace opo {
namespace {

using Json = nlohmann::json;

// Reads keys alone; ends at one that is there already.
struct KeyReader : nlohmann::json_sax<Json> {
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool start_object(std::size_t) override {
    keys.emplace_back();
    return true;
  }
  bool end_object() override {
    keys.pop_back();
    return true;
  }
  bool key(string_t& name) override {
    if (keys.back().insert(name).second) return true;
    repeated = name;
    return false;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception&) override {
    return false;
  }
  std::vector<std::set<std::string>> keys;
  std::optional<std::string> repeated;
};

}  // namespace

std::optional<std::string> RepeatedKey(std::string_view text) {
  KeyReader reader;
  Json::sax_parse(text, &reader);
  return std::move(reader.repeated);
}

bool NestsDeeper(std::string_view text, int limit) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > limit) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace opo
