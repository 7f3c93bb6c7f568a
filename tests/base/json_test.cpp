#include "base/json.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/types.h"

namespace opo {
namespace {

using Json = nlohmann::ordered_json;

std::string Message(const std::string& text) {
  try {
    ParseJson<Json>(text, "f", "file");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInput);
    return e.what();
  }
  return "";
}

std::string Nested(std::size_t n) { return std::string(n, '[') + std::string(n, ']'); }

TEST(Json, TheDepthIsThatOfListsAndObjects) {
  EXPECT_FALSE(NestsDeeper("", 0));
  EXPECT_FALSE(NestsDeeper("1", 0));
  EXPECT_TRUE(NestsDeeper("[]", 0));
  EXPECT_FALSE(NestsDeeper(R"([{"a": [1]}, [[2]]])", 3));
  EXPECT_TRUE(NestsDeeper(R"([{"a": [1]}, [[2]]])", 2));
  // Brackets in texts are none.
  EXPECT_FALSE(NestsDeeper(R"(["[[[{{{", "\"[[[", "\\"])", 1));
}

TEST(Json, RefusesWithTheNameAndTheByte) {
  EXPECT_EQ(Message(Nested(kMaxJsonDepth)), "");
  EXPECT_EQ(Message(Nested(kMaxJsonDepth + 1)), "f: nested deeper than 64 levels");
  EXPECT_EQ(Message(Nested(1'000'000)), "f: nested deeper than 64 levels");
  EXPECT_EQ(Message("[1,"), "f: not valid JSON at byte 4 of the file");
  EXPECT_EQ(Message("\"\xff\""), "f: not valid JSON at byte 2 of the file");
  EXPECT_EQ(Message(std::string("[1]\0[2]", 7)), "f: not valid JSON at byte 4 of the file");
  EXPECT_EQ(Message("1e999"), "f: a number is out of range");
}

TEST(Json, TryingSaysWhatIsWrong) {
  std::string fault;
  EXPECT_EQ(TryParseJson<Json>("[1]", fault).value(), Json::array({1}));
  EXPECT_FALSE(TryParseJson<Json>("[[1]]", fault, 1));
  EXPECT_EQ(fault, "nested too deep");
  EXPECT_FALSE(TryParseJson<Json>("[", fault));
  EXPECT_EQ(fault, "not JSON");
  EXPECT_FALSE(TryParseJson<Json>(std::string_view("1\0", 2), fault));
  EXPECT_EQ(fault, "not JSON");
  EXPECT_FALSE(TryParseJson<Json>("-1e999", fault));
  EXPECT_EQ(fault, "a number that is out of range");
}

TEST(Json, ARepeatedKeyIsOfOneObject) {
  EXPECT_EQ(RepeatedKey(R"({"a": 1, "b": [{"a": 1}, {"a": 2}], "c": {"a": 3}})"), std::nullopt);
  EXPECT_EQ(RepeatedKey(R"({"a": 1, "b": {"c": 1, "c": 2}})"), "c");
  EXPECT_EQ(RepeatedKey(R"({"a": 1, "\u0061": 2})"), "a");
}

TEST(Json, AnIntegerIsOneAndFits) {
  const Json of = Json::parse(
      R"({"a": -3, "b": 9223372036854775807, "c": 18446744073709551615, "d": 3.0, "e": "3",
          "f": -92233720368547758087, "g": 2147483648, "h": null})");
  EXPECT_EQ(IntegerOf<idx>(of["a"], "f"), -3);
  EXPECT_EQ(IntegerOf<idx>(of["b"], "f"), std::numeric_limits<idx>::max());
  EXPECT_EQ(IntegerOf<std::uint64_t>(of["c"], "f"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(IntegerOr<idx>(of, "a", 7, "f"), -3);
  EXPECT_EQ(IntegerOr<idx>(of, "z", 7, "f"), 7);
  for (const char* key : {"c", "d", "e", "f", "h"}) {
    EXPECT_THROW(IntegerOf<idx>(of[key], "f"), Error) << key;
  }
  EXPECT_THROW(IntegerOf<std::uint64_t>(of["a"], "f"), Error);
  EXPECT_THROW(IntegerOf<int>(of["g"], "f"), Error);
  try {
    IntegerOr<idx>(of, "f", 0, "state.json");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "state.json: f: is no integer, or out of range");
  }
}

}  // namespace
}  // namespace opo
