// opo bench memory: this machine's memory bandwidth, and what AdamW and decoding make of it.
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "app/bench.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/parallel.h"
#include "train/floor.h"
#include "train/optimizer.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

constexpr idx kChunk = 1 << 16;  // elements of a task, as AdamW's
// A parameter: w, m, v, g read; w, m, v written.
constexpr idx AdamWBytes(DType moments) { return 12 + 4 * (moments == DType::kBf16 ? 2 : 4); }
constexpr idx kFirstTokens = 1, kStreamTokens = 64;

// The fastest of at least three calls, over calls that fill `seconds`.
template <class Call>
double BestTime(double seconds, const Call& call) {
  double best = 1e30;
  int calls = 0;
  for (const double end = Seconds() + seconds; calls < 3 || Seconds() < end; ++calls) {
    const double start = Seconds();
    call();
    best = std::min(best, Seconds() - start);
  }
  return best;
}

// Touches every page from the threads that will use it.
void Fill(Buffer<float>& x, float value) {
  ParallelChunks(x.size(), kChunk,
                 [&](idx begin, idx end) { std::fill(x.data() + begin, x.data() + end, value); });
}

// Bytes a second of the three patterns.
struct Bandwidth {
  double read = 0;    // sum of a
  double triad = 0;   // a = b + s c, counted as STREAM does: 12 bytes an element
  double update = 0;  // a = a + s b: 12 bytes, no line is fetched only to be overwritten
  double best() const { return std::max({read, triad, update}); }
};

Bandwidth MeasureBandwidth(double seconds) {
  // Far more than the caches hold, or the caches would be measured.
  const idx cache = std::max<idx>(0, ::sysconf(_SC_LEVEL3_CACHE_SIZE));
  const idx n = std::max<idx>(idx{256} << 20, 4 * cache) / static_cast<idx>(sizeof(float));
  if (3 * n * static_cast<idx>(sizeof(float)) > AvailableMemoryBytes()) {
    Fail(ErrorCode::kWork, "bench memory: {} MB are needed and not free; end what else runs here",
         3 * n * static_cast<idx>(sizeof(float)) >> 20);
  }
  Buffer<float> a(n), b(n), c(n);
  Fill(a, 1.0f);
  Fill(b, 2.0f);
  Fill(c, 3.0f);
  const double bytes = static_cast<double>(n) * sizeof(float);
  Bandwidth out;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(CeilDiv(n, kChunk)));
  out.read = bytes / BestTime(seconds, [&] {
               ParallelChunks(n, kChunk, [&](idx begin, idx end) {
                 // Integers: their sum may be taken in any order, so the compiler vectorises it.
                 const auto* words = reinterpret_cast<const std::uint32_t*>(a.data());
                 std::uint64_t sum = 0;
                 for (idx i = begin; i < end; ++i) sum += words[i];
                 sums[static_cast<std::size_t>(begin / kChunk)] = sum;
               });
             });
  out.triad = 3 * bytes / BestTime(seconds, [&] {
                ParallelChunks(n, kChunk, [&](idx begin, idx end) {
                  float* __restrict to = a.data();
                  const float *from = b.data(), *scaled = c.data();
                  for (idx i = begin; i < end; ++i) to[i] = from[i] + 0.5f * scaled[i];
                });
              });
  out.update = 3 * bytes / BestTime(seconds, [&] {
                 ParallelChunks(n, kChunk, [&](idx begin, idx end) {
                   float* __restrict to = a.data();
                   const float* from = b.data();
                   for (idx i = begin; i < end; ++i) to[i] = to[i] + 0.5f * from[i];
                 });
               });
  return out;
}

// Bytes a second of AdamW over `params` parameters with moments of a type.
double MeasureAdamW(idx params, DType moments, double seconds) {
  const idx needed = params * (8 + 2 * (moments == DType::kBf16 ? 2 : 4));
  if (needed > AvailableMemoryBytes()) {
    Fail(ErrorCode::kWork, "bench memory: AdamW over {} parameters needs {} MB; try fewer --params",
         params, needed >> 20);
  }
  SlabLayout layout{ModelConfig{}};
  layout.tensors = {{.name = "all", .rows = 1, .cols = params}};
  layout.size = RoundUp(params, 16);
  OptimizerConfig config;
  config.moments = moments == DType::kBf16 ? "bf16" : "f32";
  AdamW optimizer(layout, config);
  Buffer<float> weights(layout.size), grad(layout.size);
  Fill(weights, 0.5f);
  Fill(grad, 1e-3f);
  optimizer.Step(weights, grad, 1e-5, 1.0);  // touches m and v for the first time
  const double took = BestTime(seconds, [&] { optimizer.Step(weights, grad, 1e-5, 1.0); });
  return static_cast<double>(params * AdamWBytes(moments)) / took;
}

// Weights that one decoded token reads.
template <class T>
idx StreamedBytes(const PackedWeights<T>& weights) {
  idx bytes = weights.head().data.bytes();
  for (idx l = 0; l < weights.config().num_layers; ++l) {
    const auto& layer = weights.layer(l);
    bytes += layer.qkv.w.data.bytes() + layer.o.w.data.bytes() + layer.gate_up.w.data.bytes() +
             layer.down.w.data.bytes();
  }
  return bytes;
}

struct ModelTimes {
  double load = 0, first_token = 0;  // seconds, one after the other
  double tokens_per_s = 0;           // decoding one sample
  double bytes_per_s = 0;            // of weights meanwhile
};

template <class T>
ModelTimes MeasureModel(const std::string& path, idx repeats) {
  ModelTimes out;
  const double start = Seconds();
  LoadedModel<T> loaded(path);
  const double ready = Seconds();
  SamplingConfig sampling;
  sampling.ignore_eos = true;
  sampling.max_new_tokens = kFirstTokens;
  auto groups = BenchGroups(loaded.prompts, 1, 1);
  Generate(loaded.model, loaded.tokenizer, std::span(groups), sampling);
  out.load = ready - start;
  out.first_token = Seconds() - ready;
  sampling.max_new_tokens = kStreamTokens + 1;
  for (idx repeat = 0; repeat < repeats; ++repeat) {
    double first = 0;
    Generate(loaded.model, loaded.tokenizer, std::span(groups), sampling, [&](const TokenEvent&) {
      if (first == 0) first = Seconds();
    });
    out.tokens_per_s =
        std::max(out.tokens_per_s, static_cast<double>(kStreamTokens) / (Seconds() - first));
  }
  out.bytes_per_s = out.tokens_per_s * static_cast<double>(StreamedBytes(loaded.packed));
  return out;
}

}  // namespace

template <class T>
void BenchMemory(const BenchArguments& args) {
  const bool with_model = !args.model.model.empty();
  // First of all, so that nothing of the process is warm when it loads.
  const ModelTimes model =
      with_model ? MeasureModel<T>(args.model.model, args.repeats) : ModelTimes{};
  const Bandwidth bandwidth = MeasureBandwidth(args.seconds);
  const auto params = static_cast<idx>(std::llround(args.params));
  struct Moments {
    DType dtype;
    std::string key, name;
    double rate;  // bytes a second
    double seconds;
  };
  std::vector<Moments> adamw = {{DType::kF32, "adamw", "AdamW", 0, 0},
                                {DType::kBf16, "adamw_bf16", "AdamW bf16", 0, 0}};
  for (Moments& m : adamw) {
    m.rate = MeasureAdamW(params, m.dtype, args.seconds);
    m.seconds = static_cast<double>(params * AdamWBytes(m.dtype)) / m.rate;
  }
  ordered_json out = BenchHeader();
  out["read_bytes_per_s"] = bandwidth.read;
  out["triad_bytes_per_s"] = bandwidth.triad;
  out["update_bytes_per_s"] = bandwidth.update;
  out["adamw_params"] = params;
  for (const Moments& m : adamw) {
    out[m.key + "_bytes_per_s"] = m.rate;
    out[m.key + "_s"] = m.seconds;
    out[m.key + "_ratio"] = m.rate / bandwidth.best();
  }
  if (with_model) {
    out["decode_tokens_per_s"] = model.tokens_per_s;
    out["decode_bytes_per_s"] = model.bytes_per_s;
    out["decode_ratio"] = model.bytes_per_s / bandwidth.read;
    out["load_s"] = model.load;
    out["first_token_s"] = model.first_token;
    out["start_to_first_token_s"] = model.load + model.first_token;
  }
  if (args.json) {
    PrintJsonLine(out);
    return;
  }
  const auto line = [](const char* what, double rate, const std::string& note) {
    fmt::print("{:<12} {:>8.1f} GB/s   {}\n", what, rate / 1e9, note);
  };
  fmt::print("path {}, {} threads\n", ActiveKernels().name, NumThreads());
  line("read", bandwidth.read, "sum of a");
  line("triad", bandwidth.triad, "a = b + s c, 12 bytes an element as STREAM counts");
  line("update", bandwidth.update, "a = a + s b, 12 bytes an element");
  for (const Moments& m : adamw) {
    line(m.name.c_str(), m.rate,
         fmt::format("{:.2f} of the best of these; {:.0f}M parameters in {:.3f} s, {} bytes each",
                     m.rate / bandwidth.best(), args.params / 1e6, m.seconds, AdamWBytes(m.dtype)));
  }
  if (!with_model) return;
  line("decode B=1", model.bytes_per_s,
       fmt::format("{:.2f} of read; weights at {:.1f} tokens/s", model.bytes_per_s / bandwidth.read,
                   model.tokens_per_s));
  fmt::print("start to first token {:.2f} s: load {:.2f}, prompt and token {:.3f}\n",
             model.load + model.first_token, model.load, model.first_token);
}

template void BenchMemory<float>(const BenchArguments&);
template void BenchMemory<bf16>(const BenchArguments&);

}  // namespace opo
