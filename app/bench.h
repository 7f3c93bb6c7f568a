// What the measurements of `opo bench` share: their options, and the best matrix product.
#pragma once

#include <string>
#include <vector>

#include "app/command.h"

namespace opo {

struct BenchArguments {
  ModelOptions model;
  bool json = false;
  idx repeats = 2;
  double seconds = 0.3;
  // gemm
  std::vector<idx> rows = {1, 8, 32, 128, 512, 2048, 8192};
  // memory
  double params = 135e6;
  // decode and step
  std::vector<idx> batches = {1, 8, 32, 64, 128};
  idx prompt_tokens = 0;
  idx prompts = 16, samples = 8, max_new_tokens = 64;
  bool ignore_eos = false;
  idx tape_mb = -1, micro_batch_mb = 0;
};

// What every object starts with: the instruction-set path, the threads, the peer (null: none).
nlohmann::ordered_json BenchHeader();

// The highest rate of a matrix product on this machine, FLOP/s, over the shapes that
// MeasureGemmRate (train/floor.h) takes: ours or the peer's, whichever is larger.
struct BestRate {
  double flops = 0;
  std::string whose;  // "opo", or the peer's name
};
template <class T>
BestRate MeasureBestRate(const ModelConfig& config, double seconds);

// The demo's questions, as many as asked for.
std::vector<RolloutGroup> BenchGroups(const PromptRenderer& renderer, idx prompts, idx samples);

template <class T>
void BenchGemm(const BenchArguments& args);
template <class T>
void BenchMemory(const BenchArguments& args);
template <class T>
void BenchDecode(const BenchArguments& args);
template <class T>
void BenchStep(const BenchArguments& args);
template <class T>
void BenchScale(const BenchArguments& args);

}  // namespace opo
