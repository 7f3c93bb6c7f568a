#include "base/json.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace opo
