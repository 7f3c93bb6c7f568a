#include "base/utf8.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace opo {
namespace {

TEST(Printable, OrdinaryTextStays) {
  const std::string text = "a\tb\n\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80 \\x1b";
  EXPECT_EQ(Printable(text), text);
}

// Colours, the title, the cursor, answers that a terminal types: all begin with one of these.
TEST(Printable, WhatSteersATerminalIsShown) {
  EXPECT_EQ(Printable("\x1b[31mred"), "\\x1b[31mred");
  EXPECT_EQ(Printable("\x1b]0;title\x07"), "\\x1b]0;title\\x07");
  EXPECT_EQ(Printable("a\rb\x08\x7f"), "a\\x0db\\x08\\u007f");
  EXPECT_EQ(Printable(std::string_view("\0", 1)), "\\x00");
  EXPECT_EQ(Printable("\xC2\x9B"
                      "31m"),
            "\\u009b31m");  // the one-byte form of ESC [
  EXPECT_EQ(Printable("\xE2\x80\xAE"
                      "cod.exe"),
            "\\u202ecod.exe");  // right to left from here on
}

TEST(Printable, JsonStaysTheSameJson) {
  const nlohmann::json value = {{"text", "\x1b[31m\x7f\xC2\x9B \xE2\x80\xAE\n\xC3\xA9"}};
  EXPECT_EQ(nlohmann::json::parse(Printable(value.dump())), value);
  EXPECT_NE(Printable(value.dump()), value.dump());
}

TEST(Printable, BytesThatAreNoCharacterAreShown) {
  EXPECT_EQ(Printable("\x9B\xFF"), "\\x9b\\xff");
  EXPECT_EQ(Printable("a\xE2\x80"), "a\\xe2\\x80");
}

}  // namespace
}  // namespace opo
