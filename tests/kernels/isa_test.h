// A fixture that runs a test on every instruction-set path that this machine has, and on stand-ins
// for the one that few machines have.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/amx_emulator.h"
#include "kernels/amx_twin.h"
#include "kernels/kernels.h"
#include "reference/compare.h"
#include "reference/reference.h"

namespace opo {

inline std::vector<std::string> AvailablePaths() {
  std::vector<std::string> names;
  for (const IsaPath& path : IsaPaths()) {
    if (path.available) names.emplace_back(path.name);
  }
  return names;
}

// The amx path's compiled code on emulated tiles; its other kernels need AVX-512.
inline constexpr const char* kAmxEmulated = "amx_emulated";

inline std::vector<std::string> TestedPaths() {
  std::vector<std::string> names = AvailablePaths();
  const bool amx = names.front() == "amx";
  names.emplace_back(kAmxTwin);
  if (!amx && AmxEmulator::RowKernelsRun()) names.emplace_back(kAmxEmulated);
  return names;
}

inline void SelectTestedPath(const std::string& name) {
  if (name == kAmxTwin) {
    SelectKernels(AmxTwinKernels());
  } else if (name == kAmxEmulated) {
    AmxEmulator::Install();
    SelectKernels(AmxKernels());
  } else {
    SelectIsa(name);
  }
}

class IsaTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { SelectTestedPath(GetParam()); }
  void TearDown() override { SelectIsa(""); }
};

inline std::string PathName(const testing::TestParamInfo<std::string>& path) { return path.param; }

#define OPO_ON_ALL_PATHS(suite) \
  INSTANTIATE_TEST_SUITE_P(Paths, suite, testing::ValuesIn(TestedPaths()), PathName)

}  // namespace opo
