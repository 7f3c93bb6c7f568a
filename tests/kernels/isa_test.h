// A fixture that runs a test on every instruction-set path that this machine has.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

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

class IsaTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { SelectIsa(GetParam()); }
  void TearDown() override { SelectIsa(""); }
};

inline std::string PathName(const testing::TestParamInfo<std::string>& path) { return path.param; }

#define OPO_ON_ALL_PATHS(suite) \
  INSTANTIATE_TEST_SUITE_P(Paths, suite, testing::ValuesIn(AvailablePaths()), PathName)

}  // namespace opo
