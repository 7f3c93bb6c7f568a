// What a resume reads of a run's folder. The first byte chooses: metrics.jsonl, rewards.jsonl, a
// checkpoint's manifest.json, or its state.json. Lines and checkpoints are taken or dropped, or
// there is an Error(kInput).
#include <cstdlib>
#include <map>

#include "fuzz/fuzz_folder.h"
#include "train/checkpoint.h"
#include "train/scoring.h"

namespace {

// A run with one checkpoint of a model of a few weights.
struct TinyRun {
  TinyRun() {
    std::filesystem::create_directory(folder / "checkpoints");
    checkpoint = opo::WriteCheckpoint(folder.path, 1, models, opo::Tokenizer::Bytes(), {});
  }
  static opo::ModelConfig Shape() {
    opo::ModelConfig config;
    config.vocab_size = 259;
    config.hidden_size = config.intermediate_size = 4;
    config.num_layers = config.num_heads = config.num_kv_heads = 1;
    config.head_dim = 4;
    config.max_position = 64;
    return config;
  }
  opo::FuzzFolder folder;
  opo::Weights weights = opo::InitWeights(Shape(), 1, 0.02);
  opo::AdamW optimizer = opo::AdamW(weights.layout, opo::OptimizerConfig{});
  std::vector<opo::CheckpointModel> models = {{"actor", weights, optimizer}};
  opo::Checkpoint checkpoint;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static TinyRun run;
  if (size == 0) return 0;
  const std::string_view bytes = opo::AsText(data + 1, size - 1);
  try {
    switch (data[0] % 4) {
      case 0: {
        run.folder.Write("metrics.jsonl", bytes);
        opo::RunLog log(run.folder.path, 3, false);
        log.Write({{"training/global_step", 4}});
        break;
      }
      case 1: {
        run.folder.Write("rewards.jsonl", bytes);
        const opo::RewardJournal::Key key{3, "train", 0, "number", "d"};
        opo::RewardJournal journal(run.folder.path, 3, true);
        journal.Find(key);
        journal.Write(key, {});
        break;
      }
      case 2: {
        run.folder.Write("checkpoints/step_000001/manifest.json", bytes);
        opo::FindCheckpoint(run.folder.path, [](const std::string& text) {
          if (text.empty()) std::abort();
        });
        break;
      }
      default:
        run.folder.Write("checkpoints/step_000001/state.json", bytes);
        opo::ReadCheckpoint(run.checkpoint, run.models);
    }
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput) std::abort();
  }
  return 0;
}
