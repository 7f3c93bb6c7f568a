#include <set>

#include "base/error.h"
#include "kernels/isa_test.h"

namespace opo {
namespace {

TEST(Isa, PortableIsAlwaysThereAndChoosingTakesTheBest) {
  const auto paths = AvailablePaths();
  ASSERT_FALSE(paths.empty());
  EXPECT_EQ(paths.back(), "portable");
  SelectIsa("");
  EXPECT_EQ(ActiveKernels().name, paths.front());
}

TEST(Isa, AnUnknownPathIsAUsageErrorThatNamesThePaths) {
  try {
    SelectIsa("sse9");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    for (const IsaPath& path : IsaPaths()) {
      EXPECT_NE(std::string(error.what()).find(path.name), std::string::npos) << error.what();
    }
  }
}

TEST(Isa, TheFingerprintIsAFunctionOfThePathAlone) {
  std::set<std::string> prints;
  for (const std::string& path : AvailablePaths()) {
    SelectIsa(path);
    const std::string print = IsaFingerprint();
    EXPECT_EQ(print.size(), 16U);
    EXPECT_EQ(print, IsaFingerprint());
    prints.insert(print);
  }
  SelectIsa("");
  EXPECT_FALSE(prints.empty());
}

}  // namespace
}  // namespace opo
