#include "base/fields.h"

#include <gtest/gtest.h>

#include <bit>

#include "base/error.h"

namespace opo {
namespace {

struct Inner {
  double rate = 0.5;
  std::string shape = "round";
};
struct Item {
  std::string kind = "plain";
  double weight = 1;
};
struct Outer {
  bool on = true;
  idx count = 3;
  std::uint64_t seed = 7;
  std::string text = "hello";
  std::vector<std::string> names = {"a"};
  Inner inner;
  std::vector<Item> items = {Item{}, Item{}};
};

void VisitFields(Fields& f, Inner& c) {
  FieldCheck above_zero = Range(0, 1);
  above_zero.above_low = true;
  f.Field("rate", c.rate, "the rate", above_zero);
  f.Field("shape", c.shape, "the shape", OneOf({"round", "square"}));
}
void VisitFields(Fields& f, Item& c) {
  f.Field("kind", c.kind, "the kind");
  f.Field("weight", c.weight, "the weight");
}
void VisitFields(Fields& f, Outer& c) {
  f.Section("inner", c.inner, "An inner part");
  f.Field("on", c.on, "a switch");
  f.Field("count", c.count, "a count", AtLeast(1));
  f.Field("seed", c.seed, "a seed");
  f.Field("text", c.text, "a text");
  f.Field("names", c.names, "some names");
  f.List("items", c.items, "An item");
}

Outer Load(std::string_view toml) {
  Outer config;
  FieldsOf(config).LoadToml(toml, "x.toml");
  return config;
}

Outer Set(const std::vector<std::string>& assignments) {
  Outer config;
  for (const std::string& assignment : assignments) FieldsOf(config).Set(assignment);
  return config;
}

// The message of the Error(kUsage) that `action` throws.
template <class Action>
std::string MessageOf(Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}
std::string LoadMessage(std::string_view toml) {
  return MessageOf([&] { Load(toml); });
}
std::string SetMessage(const std::string& assignment) {
  return MessageOf([&] { Set({assignment}); });
}

TEST(Fields, LoadsEveryType) {
  const Outer c = Load(R"(
on = false
count = 12
seed = 9223372036854775807
text = "a \"b\"\n"
names = ["x", "y"]
[inner]
rate = 1
shape = "square"
[[items]]
kind = "first"
[[items]]
weight = -2.5
[[items]]
)");
  EXPECT_FALSE(c.on);
  EXPECT_EQ(c.count, 12);
  EXPECT_EQ(c.seed, 9223372036854775807U);
  EXPECT_EQ(c.text, "a \"b\"\n");
  EXPECT_EQ(c.names, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(c.inner.rate, 1.0);
  EXPECT_EQ(c.inner.shape, "square");
  ASSERT_EQ(c.items.size(), 3U);
  EXPECT_EQ(c.items[0].kind, "first");
  EXPECT_EQ(c.items[1].kind, "plain");
  EXPECT_EQ(c.items[1].weight, -2.5);
}

TEST(Fields, TellsWhatItWasGiven) {
  Outer config;
  Fields fields = FieldsOf(config);
  fields.LoadToml("count = 3\n[inner]\nrate = 0.25\n[[items]]\n[[items]]\nweight = 2\n", "x.toml");
  fields.Set("items.0.kind=fancy");
  std::vector<std::string> given;
  for (const std::string& key : fields.Keys()) {
    if (fields.IsGiven(key)) given.push_back(key);
  }
  EXPECT_EQ(given,
            (std::vector<std::string>{"inner.rate", "count", "items.0.kind", "items.1.weight"}));
}

TEST(Fields, KeysThatAreAbsentKeepTheirValues) {
  const Outer c = Load("count = 4");
  EXPECT_EQ(c.count, 4);
  EXPECT_EQ(c.text, "hello");
  EXPECT_EQ(c.items.size(), 2U);
}

TEST(Fields, AFilesListReplacesThePresentOne) {
  Outer c;
  c.items = {{"old", 5}, {"older", 6}};
  FieldsOf(c).LoadToml("[[items]]\nkind = \"new\"", "x.toml");
  ASSERT_EQ(c.items.size(), 1U);
  EXPECT_EQ(c.items[0].kind, "new");
  EXPECT_EQ(c.items[0].weight, 1.0);
}

TEST(Fields, SetOverridesEveryType) {
  const Outer c = Set({"on=false", "count=9", "seed=11", "text=a=b \"c\"", "names=[\"p\", 'q']",
                       "inner.rate=1e-5", "items.1.kind=second", "items.2.weight=3"});
  EXPECT_FALSE(c.on);
  EXPECT_EQ(c.count, 9);
  EXPECT_EQ(c.seed, 11U);
  EXPECT_EQ(c.text, "a=b \"c\"");
  EXPECT_EQ(c.names, (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(c.inner.rate, 1e-5);
  ASSERT_EQ(c.items.size(), 3U);
  EXPECT_EQ(c.items[0].kind, "plain");
  EXPECT_EQ(c.items[1].kind, "second");
  EXPECT_EQ(c.items[2].weight, 3.0);
}

TEST(Fields, UnknownKeysNameTheNearest) {
  EXPECT_EQ(LoadMessage("\n[inner]\nrat = 1\n"),
            "x.toml:3: key 'inner.rat': unknown; did you mean 'inner.rate'?");
  EXPECT_EQ(LoadMessage("cuont = 1"), "x.toml:1: key 'cuont': unknown; did you mean 'count'?");
  EXPECT_EQ(LoadMessage("[iner]\nrate = 1"),
            "x.toml:1: key 'iner': unknown; did you mean 'inner'?");
  // The right name under the wrong heading.
  EXPECT_EQ(LoadMessage("rate = 1"), "x.toml:1: key 'rate': unknown; did you mean 'inner.rate'?");
  EXPECT_EQ(LoadMessage("[[items]]\nkin = \"a\""),
            "x.toml:2: key 'items.0.kin': unknown; did you mean 'items.0.kind'?");
  EXPECT_EQ(SetMessage("inner.shpae=round"),
            "--set: key 'inner.shpae': unknown; did you mean 'inner.shape'?");
  EXPECT_EQ(LoadMessage("zzzzzzzzzz = 1"),
            "x.toml:1: key 'zzzzzzzzzz': unknown; known here are: inner, on, count, seed, text, "
            "names, items");
}

TEST(Fields, RangesAndChoicesAreChecked) {
  EXPECT_EQ(LoadMessage("count = 0"), "x.toml:1: key 'count': must be at least 1, but is 0");
  EXPECT_EQ(LoadMessage("inner.rate = 1.5"),
            "x.toml:1: key 'inner.rate': must be above 0, at most 1, but is 1.5");
  EXPECT_NE(LoadMessage("inner.rate = 0").find("must be above 0"), std::string::npos);
  EXPECT_EQ(LoadMessage("items = [{weight = inf}]"),
            "x.toml:1: key 'items.0.weight': must be finite, but is inf");
  EXPECT_EQ(SetMessage("items.0.weight=nan"),
            "--set: key 'items.0.weight': must be finite, but is nan");
  EXPECT_EQ(
      SetMessage("inner.shape=sqare"),
      "--set: key 'inner.shape': unknown value 'sqare'; did you mean 'square'? choose one of: "
      "round, square");
}

TEST(Fields, TypesAreChecked) {
  EXPECT_EQ(LoadMessage("on = 1"), "x.toml:1: key 'on': expected true or false");
  EXPECT_EQ(LoadMessage("count = 1.5"), "x.toml:1: key 'count': expected a whole number");
  EXPECT_EQ(LoadMessage("text = 5"), "x.toml:1: key 'text': expected a quoted string");
  EXPECT_NE(LoadMessage("seed = -1").find("not negative"), std::string::npos);
  EXPECT_NE(LoadMessage("names = [1]").find("a list of strings"), std::string::npos);
  EXPECT_NE(LoadMessage("text = 1979-05-27").find("expected a quoted string"), std::string::npos);
  EXPECT_NE(LoadMessage("inner = 5").find("write [inner]"), std::string::npos);
  EXPECT_NE(LoadMessage("items = []").find("write [[items]]"), std::string::npos);
  EXPECT_NE(LoadMessage("[items]\nkind = \"a\"").find("write [[items]]"), std::string::npos);
  EXPECT_EQ(SetMessage("count=1x"), "--set: key 'count': expected a whole number, but is '1x'");
  EXPECT_NE(SetMessage("count=99999999999999999999").find("whole number"), std::string::npos);
  EXPECT_NE(SetMessage("on=yes").find("true or false"), std::string::npos);
  EXPECT_NE(SetMessage("names=a").find("--set: key 'names'"), std::string::npos);
  EXPECT_NE(SetMessage("names=[\"a\"]\nother=1").find("a list of strings"), std::string::npos);
}

TEST(Fields, BadOverridesSayHowToWriteThem) {
  EXPECT_EQ(SetMessage("count"), "--set count: write --set key=value");
  EXPECT_NE(SetMessage("inner=3").find("like 'inner.rate'"), std::string::npos);
  EXPECT_NE(SetMessage("items=3").find("like 'items.0.kind'"), std::string::npos);
  EXPECT_NE(SetMessage("items.3.kind=a").find("N from 0 to 2"), std::string::npos);
  EXPECT_NE(SetMessage("items.-1.kind=a").find("N from 0 to 2"), std::string::npos);
  EXPECT_NE(SetMessage("items.0=a").find("N from 0 to 2"), std::string::npos);
  EXPECT_NE(SetMessage("count.x=3").find("is a value"), std::string::npos);
}

TEST(Fields, BrokenTomlNamesTheLine) {
  const std::string message = LoadMessage("count = 1\ntext = \"open\n");
  EXPECT_EQ(message.rfind("x.toml:2: not valid TOML", 0), 0U) << message;
}

TEST(Fields, PrintReadsBackToTheSameBits) {
  Outer c;
  c.on = false;
  c.seed = 0x7fffffffffffffffU;
  c.text = "tab\t quote\" back\\slash \x01 \x7f é\nend";
  c.names = {"", "a, b", "]"};
  c.inner.rate = 0.1 + 0.2;
  c.items = {{"x", 1e-300}, {"y", -0.0}, {"z", 1e22}};
  const std::string printed = FieldsOf(c).Print();
  const Outer back = Load(printed);
  EXPECT_EQ(back.on, c.on);
  EXPECT_EQ(back.seed, c.seed);
  EXPECT_EQ(back.text, c.text);
  EXPECT_EQ(back.names, c.names);
  EXPECT_EQ(std::bit_cast<std::uint64_t>(back.inner.rate),
            std::bit_cast<std::uint64_t>(c.inner.rate));
  ASSERT_EQ(back.items.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(back.items[i].kind, c.items[i].kind);
    EXPECT_EQ(std::bit_cast<std::uint64_t>(back.items[i].weight),
              std::bit_cast<std::uint64_t>(c.items[i].weight));
  }
  Outer again = back;
  EXPECT_EQ(FieldsOf(again).Print(), printed);
}

TEST(Fields, PrintIsCommented) {
  Outer c;
  const std::string printed = FieldsOf(c).Print();
  EXPECT_NE(printed.find("# a count (at least 1)\ncount = 3\n"), std::string::npos) << printed;
  EXPECT_NE(printed.find("# the shape; one of: round, square\nshape = \"round\"\n"),
            std::string::npos);
  EXPECT_NE(printed.find("# An inner part\n[inner]\n"), std::string::npos);
  EXPECT_NE(printed.find("# An item\n[[items]]\n"), std::string::npos);
}

TEST(NearestName, FindsTypingErrorsAndNothingElse) {
  const std::vector<std::string> known = {"temperature", "top_p", "top_k"};
  EXPECT_EQ(NearestName("temprature", known), "temperature");
  EXPECT_EQ(NearestName("topp", known), "top_p");
  EXPECT_EQ(NearestName("learning_rate", known), "");
  EXPECT_EQ(NearestName("", {}), "");
}

}  // namespace
}  // namespace opo
