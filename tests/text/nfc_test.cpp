#include "text/nfc.h"

#include <gtest/gtest.h>

namespace opo {
namespace {

TEST(Nfc, ComposesOrdersAndDecomposesAsUnicodeSays) {
  EXPECT_EQ(ToNfc("e\u0301"), "\u00e9");
  EXPECT_EQ(ToNfc("\u00e9"), "\u00e9");
  EXPECT_EQ(ToNfc("a\u0323\u0302"), "\u1ead");         // one mark after the other
  EXPECT_EQ(ToNfc("a\u0302\u0323"), "\u1ead");         // and in the other order
  EXPECT_EQ(ToNfc("q\u0307\u0323"), "q\u0323\u0307");  // nothing to compose: only ordered
  EXPECT_EQ(ToNfc("\u212b"), "\u00c5");                // the angstrom sign
  EXPECT_EQ(ToNfc("\u0958"), "\u0915\u093c");          // excluded from composition
  EXPECT_EQ(ToNfc("\u1100\u1161\u11a8"), "\uac01");    // Hangul
  EXPECT_EQ(ToNfc("\uac00\u11a8"), "\uac01");
  EXPECT_EQ(ToNfc("\uac01"), "\uac01");
  EXPECT_EQ(ToNfc("a\u0315\u0300"), "\u00e0\u0315");
  EXPECT_EQ(ToNfc("\u0301e"), "\u0301e");  // a mark with nothing before it
}

TEST(Nfc, KeepsBytesThatAreNotUtf8) {
  EXPECT_EQ(ToNfc("e\xFF\xCC\x81"), "e\xFF\xCC\x81");
  EXPECT_EQ(ToNfc("\xE2\x82"), "\xE2\x82");
}

TEST(Nfc, PlainTextIsSeenAtAGlance) {
  EXPECT_TRUE(IsPlainNfc("abc \u00e9 \u02ff"));
  EXPECT_FALSE(IsPlainNfc("e\u0301"));
}

}  // namespace
}  // namespace opo
