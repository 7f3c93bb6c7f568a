// Checkpoints that something happened to: one bit, a length, a file too many or of another time.
#include "train/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/file.h"
#include "reference/tiny_model.h"
#include "rollout/rollout.h"
#include "train/run_folder.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

class Damaged : public testing::Test {
 protected:
  Damaged()
      : dir_(fs::temp_directory_path() / ("opo_checkpoint_test_" + std::to_string(::getpid()))),
        weights_(InitWeights(SmallConfig(259), 1, 0.02)),
        optimizer_(weights_.layout, OptimizerConfig{}) {
    fs::remove_all(dir_);
    fs::create_directories(dir_ / "checkpoints");
    WriteFileAtomically(dir_ / "manifest.json", "{\"seed\": 1}\n");
  }
  ~Damaged() override { fs::remove_all(dir_); }

  Checkpoint Write(idx step, std::uint64_t seed = 1) {
    weights_.slab[0] = static_cast<float>(step);
    ordered_json state;
    state["step"] = step;
    optimizer_.SetSteps(step);
    state["manifest"] = {{"seed", seed}};
    const CheckpointModel model{"actor", weights_, optimizer_};
    return WriteCheckpoint(dir_, step, {&model, 1}, Tokenizer::Bytes(), state);
  }

  // The step of the checkpoint that a resume would use; what was said of the others is in said_.
  idx Found() {
    said_.clear();
    const auto found = FindCheckpoint(dir_, [&](const std::string& text) { said_ += text + "\n"; });
    return found ? found->step : -1;
  }
  std::string Step(idx step) const {
    return (dir_ / fmt::format("checkpoints/step_{:06}", step)).string();
  }
  std::vector<std::string> FilesOf(idx step) const {
    std::vector<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(Step(step))) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
    return files;
  }

  fs::path dir_;
  Weights weights_;
  AdamW optimizer_;
  std::string said_;
};

void Flip(const std::string& path, std::size_t byte, int bit) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(byte));
  const int value = file.get();
  file.seekp(static_cast<std::streamoff>(byte));
  file.put(static_cast<char>(value ^ (1 << bit)));
}

TEST_F(Damaged, OneBitAnywhereIsNoticed) {
  Write(4);
  Write(6);
  EXPECT_EQ(Found(), 6);
  const ordered_json manifest = ordered_json::parse(ReadFile(Step(6) + "/manifest.json"));
  int flips = 0;
  int files = 0;
  for (const std::string& path : FilesOf(6)) {
    ++files;
    const std::size_t size = fs::file_size(path);
    // Every byte of the small ones, and 300 places of the large ones, the ends among them.
    const std::size_t stride = size <= 1500 ? 1 : size / 300;
    for (std::size_t at = 0; at < size; at += stride) {
      const std::size_t byte = at + stride >= size ? size - 1 : at;
      const int bit = static_cast<int>(at * 5 % 8);
      Flip(path, byte, bit);
      ++flips;
      // White space of the manifest is nothing: what it says is what counts.
      const bool same = path.ends_with("/manifest.json") &&
                        ordered_json::parse(ReadFile(path), nullptr, false) == manifest;
      if (same) {
        EXPECT_EQ(Found(), 6) << path << " byte " << byte;
      } else {
        EXPECT_EQ(Found(), 4) << path << " byte " << byte << " bit " << bit;
        EXPECT_NE(said_.find("step_000006 is not used"), std::string::npos) << said_;
      }
      Flip(path, byte, bit);
    }
    // Cut short, grown, and empty.
    const std::string content = ReadFile(path);
    for (const std::string& other : {content.substr(0, size - 1), content + "x", std::string()}) {
      WriteFileAtomically(path, other);
      const bool same = path.ends_with("/manifest.json") &&
                        ordered_json::parse(other, nullptr, false) == manifest;
      EXPECT_EQ(Found(), same ? 6 : 4) << path;
    }
    WriteFileAtomically(path, content);
    EXPECT_EQ(Found(), 6);
    fs::remove(path);
    EXPECT_EQ(Found(), 4) << path << " is missing";
    WriteFileAtomically(path, content);
  }
  EXPECT_GE(files, 7);
  EXPECT_GT(flips, 2500);
  std::printf("%d flips in %d files\n", flips, files);
}

TEST_F(Damaged, FilesOfTwoCheckpointsAreNoticed) {
  Write(4);
  optimizer_.SetSteps(7);
  Write(6);
  for (const std::string& path : FilesOf(6)) {
    const std::string other = Step(4) + path.substr(Step(6).size());
    const std::string content = ReadFile(path);
    if (ReadFile(other) == content) continue;  // the tokenizer's
    WriteFileAtomically(path, ReadFile(other));
    EXPECT_EQ(Found(), 4) << path;
    WriteFileAtomically(path, content);
  }
  EXPECT_EQ(Found(), 6);
  WriteFileAtomically(Step(6) + "/model/added_tokens.json", "{}");
  EXPECT_EQ(Found(), 4);
  EXPECT_NE(said_.find("added_tokens.json: is not in manifest.json"), std::string::npos) << said_;
}

TEST_F(Damaged, WholeCheckpointsAtTheWrongPlaceAreNoticed) {
  Write(4);
  fs::copy(Step(4), Step(9), fs::copy_options::recursive);
  EXPECT_EQ(Found(), 4);
  EXPECT_NE(said_.find("is of step 4"), std::string::npos) << said_;
  Write(12, /*seed=*/2);
  EXPECT_EQ(Found(), 4);
  EXPECT_NE(said_.find("is of another run: its `seed` is 2, this run's 1"), std::string::npos)
      << said_;
}

TEST_F(Damaged, WhereNoneIsGoodNothingIsBegunAnew) {
  EXPECT_EQ(Found(), -1) << "there is none";
  Write(4);
  Flip(Step(4) + "/optimizer.safetensors", 500, 0);
  EXPECT_THROW(Found(), Error);
}

TEST_F(Damaged, RotationKeepsWhatIsGood) {
  const auto ignore = [](const std::string&) {};
  Write(2);
  Write(4);
  PruneCheckpoints(dir_, Write(6), 2, -1, ignore);
  EXPECT_FALSE(fs::exists(Step(2)));
  Flip(Step(4) + "/optimizer.safetensors", 500, 0);
  Flip(Step(6) + "/optimizer.safetensors", 500, 0);
  Write(7);
  Flip(Step(7) + "/state.json", 5, 1);
  PruneCheckpoints(dir_, Write(8), 2, -1, ignore);
  EXPECT_TRUE(fs::exists(Step(4))) << "there are not two good ones, so nothing goes";
  PruneCheckpoints(dir_, Write(9), 2, -1, ignore);
  EXPECT_EQ(Found(), 9);
  EXPECT_TRUE(fs::exists(Step(8)));
  EXPECT_FALSE(fs::exists(Step(7))) << "behind two good ones, damaged ones go too";
  EXPECT_FALSE(fs::exists(Step(4)));
  PruneCheckpoints(dir_, Write(10), 1, 8, ignore);
  EXPECT_TRUE(fs::exists(Step(8))) << "the best one stays";
  EXPECT_FALSE(fs::exists(Step(9)));
}

}  // namespace
}  // namespace opo
