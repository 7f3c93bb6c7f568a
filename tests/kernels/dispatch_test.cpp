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
  for (const std::string& path : TestedPaths()) {
    SelectTestedPath(path);
    const std::string print = IsaFingerprint();
    EXPECT_EQ(print.size(), 16U);
    EXPECT_EQ(print, IsaFingerprint());
    prints.insert(print);
  }
  SelectIsa("");
  EXPECT_FALSE(prints.empty());
}

TEST(Isa, TheTilesOrderOfSummationHasAFingerprintOfItsOwn) {
  SelectTestedPath(kAmxTwin);
  const std::string twin = IsaFingerprint();
  for (const std::string& path : AvailablePaths()) {
    SelectIsa(path);
    if (path != "amx") {
      EXPECT_NE(IsaFingerprint(), twin) << path;
    }
  }
  SelectIsa("");
}

TEST(Isa, AmxIsListedFirstAndTheTwinNotAtAll) {
  const auto paths = IsaPaths();
  EXPECT_EQ(paths.front().name, "amx");
  for (const IsaPath& path : paths) EXPECT_NE(path.name, kAmxTwin);
}

TEST(Isa, ATableThatFailsTheSelfTestIsNotTaken) {
  SelectIsa("");
  Kernels broken = AmxTwinKernels();
  broken.b16.gemm = [](const GemmArgs<bf16>&, idx, idx, idx, idx, float*) {};
  EXPECT_THROW(SelectKernels(broken), Error);
  EXPECT_NE(ActiveKernels().name, kAmxTwin);
}

}  // namespace
}  // namespace opo
