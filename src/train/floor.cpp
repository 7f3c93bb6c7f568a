#include "train/floor.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>

#include "base/clock.h"
#include "kernels/gemm.h"

namespace opo {
namespace {

template <class T>
double RateOf(idx m, idx n, idx k, double seconds) {
  Buffer<float> w(n * k);
  for (idx i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 17) * 0.01f;
  PackedMatrix<T> packed;
  packed.Pack(w.data(), k, n, k);
  Buffer<T> a(m * RoundUp(k, kPad));
  for (idx i = 0; i < a.size(); ++i) a[i] = FromF32<T>(static_cast<float>(i % 13) * 0.01f);
  Buffer<float> c(m * RoundUp(n, kPad));
  GemmArgs<T> args;
  args.a = a.data();
  args.lda = RoundUp(k, kPad);
  args.m = m;
  args.c = c.data();
  args.ldc = RoundUp(n, kPad);
  double best = 0;
  Gemm(args, packed);
  for (const double end = Seconds() + seconds; Seconds() < end;) {
    const double start = Seconds();
    Gemm(args, packed);
    const double took = Seconds() - start;
    best = std::max(best, 2.0 * static_cast<double>(m) * static_cast<double>(n) *
                              static_cast<double>(k) / took);
  }
  return best;
}

template <class T>
double BestRate(const ModelConfig& c, double seconds) {
  double best = 0;
  for (const idx m : {idx{128}, idx{1024}}) {
    best = std::max(best, RateOf<T>(m, 2 * c.intermediate_size, c.hidden_size, seconds / 4));
    best = std::max(best, RateOf<T>(m, c.hidden_size, c.intermediate_size, seconds / 4));
  }
  return best;
}

}  // namespace

double FloorFlops(const ModelConfig& c, const StepWork& work) {
  const double d = static_cast<double>(c.hidden_size);
  const double q = static_cast<double>(c.num_heads * c.head_dim);
  const double kv = static_cast<double>(c.num_kv_heads * c.head_dim);
  const double blocks =
      static_cast<double>(c.num_layers) *
      (d * (q + 2 * kv) + q * d + 3 * d * static_cast<double>(c.intermediate_size));
  const double head = d * static_cast<double>(c.vocab_size);
  // An adapter's own products come on top; the frozen matrices have no gradient of their weights.
  double adapter = 0;
  if (c.lora.on()) {
    for (const TensorSpec& t : ListAdapterTensors(c)) adapter += static_cast<double>(t.size());
  }
  const double backward = c.lora.on() ? 2 : 4;
  return 2 * (blocks + adapter) * static_cast<double>(work.rows_sampled + work.rows_recomputed) +
         2 * head * static_cast<double>(work.tokens_sampled + work.tokens_learned) +
         (backward * blocks + 4 * adapter) * static_cast<double>(work.rows_learned) +
         backward * head * static_cast<double>(work.tokens_learned);
}

double MeasureGemmRate(const ModelConfig& config, DType dtype, double seconds) {
  return dtype == DType::kBf16 ? BestRate<bf16>(config, seconds) : BestRate<float>(config, seconds);
}

idx PeakRssBytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<idx>(usage.ru_maxrss) * 1024;
}

idx AvailableMemoryBytes() {
  idx kb = idx{4} << 20;
  std::FILE* file = std::fopen("/proc/meminfo", "r");
  if (file == nullptr) return kb * 1024;
  char line[256];
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    long long value = 0;
    if (std::sscanf(line, "MemAvailable: %lld kB", &value) == 1) kb = value;
  }
  std::fclose(file);
  return kb * 1024;
}

}  // namespace opo
