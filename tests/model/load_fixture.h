// Models on disk for the tests of loading.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "format/safetensors.h"
#include "model/load.h"

namespace opo {

namespace fs = std::filesystem;
using Json = nlohmann::json;

inline const std::string kGolden = std::string(OPO_SOURCE_DIR) + "/tests/golden/";

inline std::vector<float> ReadSlab(const ModelSource& source) {
  const std::vector<TensorSpec> specs = ListTensors(source.config());
  std::vector<float> slab(static_cast<std::size_t>(SlabSize(specs)), 0.0F);
  for (const TensorSpec& spec : specs) {
    source.Read(spec, std::span(slab).subspan(spec.offset, spec.size()));
  }
  return slab;
}

class LoadTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "opo_load_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << content;
    return folder_ + "/" + name;
  }

  // A copy of a tiny model whose config.json is changed by `patch` (null removes a key).
  std::string CopyWith(const std::string& model, const Json& patch) const {
    fs::copy(kGolden + model, folder_,
             fs::copy_options::overwrite_existing | fs::copy_options::recursive);
    Json config = Json::parse(ReadFile(kGolden + model + "/config.json"));
    config.merge_patch(patch);
    Write("config.json", config.dump());
    return folder_;
  }

  std::string folder_;
};

}  // namespace opo
