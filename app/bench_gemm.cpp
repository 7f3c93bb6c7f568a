// opo bench gemm: the matrix products of a model, ours and the peer's in turns.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "app/bench.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "bench/peer.h"
#include "kernels/gemm.h"
#include "model/load.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

constexpr int kRounds = 3;                 // how often the two sides take turns at one shape
constexpr idx kMaxHeadRows = 1024;         // the head runs in row chunks, so it never has more
constexpr idx kMaxBytes = idx{768} << 20;  // of activations and results of one shape

// SmolLM2-135M, where no model is given.
ModelConfig DefaultConfig() {
  ModelConfig config;
  config.vocab_size = 49152;
  config.hidden_size = 576;
  config.intermediate_size = 1536;
  config.num_layers = 30;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  return config;
}

struct Layer {
  const char* name;
  idx n, k;  // outputs, inputs
  bool head = false;

  // As in a model, where the rows of logits have a stride of their own.
  idx Stride(idx cols) const { return head && cols == n ? WideStride(cols) : RoundUp(cols, kPad); }
};

std::vector<Layer> LayersOf(const ModelConfig& c) {
  return {{"qkv", (c.num_heads + 2 * c.num_kv_heads) * c.head_dim, c.hidden_size},
          {"o", c.hidden_size, c.num_heads * c.head_dim},
          {"gate_up", 2 * c.intermediate_size, c.hidden_size},
          {"down", c.hidden_size, c.intermediate_size},
          {"head", c.vocab_size, c.hidden_size, true}};
}

// A row-major matrix of numbers in [-1, 1), rows padded with zeros to `stride`.
template <class T>
struct Matrix {
  Matrix(idx rows, idx cols, idx stride, std::uint64_t seed) : ld(stride), data(rows * ld) {
    ParallelFor(rows, [&](idx r) {
      for (idx c = 0; c < cols; ++c) {
        const auto bits = MixBits(seed, static_cast<std::uint64_t>(r * cols + c)) >> 40;
        data[r * ld + c] = FromF32<T>(static_cast<float>(bits) * 0x1p-23f - 1.0f);
      }
    });
  }
  idx ld;
  Buffer<T> data;
};

// Both sides' best rates at one shape, FLOP/s; 0 for an absent peer.
struct Rates {
  double ours = 0, theirs = 0;
  std::string kernel;
};

// The best time of one call, over calls that fill `seconds`. The first call of a burst wakes
// threads and fills caches, so there are two at least.
template <class Call>
double BestTime(double seconds, const Call& call) {
  double best = 1e30;
  int calls = 0;
  for (const double end = Seconds() + seconds; calls < 2 || Seconds() < end; ++calls) {
    const double start = Seconds();
    call();
    best = std::min(best, Seconds() - start);
  }
  return best;
}

// Checks that `ours` and `theirs` computed the same, from zeroed results, then times them in turns.
template <class Ours>
Rates Alternate(const std::string& what, double flops, double seconds, idx sum_length,
                const Ours& ours, const Buffer<float>& our_result, PeerProduct* theirs,
                const Buffer<float>& their_result) {
  Rates rates;
  ours();
  if (theirs != nullptr) {
    theirs->Run();
    rates.kernel = theirs->kernel();
    // Sums of products of numbers below 1: each of the K roundings is below half an ulp of a sum
    // that is below K. A wrong layout is off by about sqrt(K) / 3.
    const float tolerance = static_cast<float>(sum_length) * 0x1p-21f;
    for (idx i = 0; i < our_result.size(); ++i) {
      // "Not within", so that NaN fails too.
      if (!(std::abs(our_result[i] - their_result[i]) <= tolerance)) {
        Fail(ErrorCode::kWork,
             "bench gemm: {}: opo and {} disagree at element {}: {} and {}; one of them computes "
             "another product",
             what, PeerName(), i, our_result[i], their_result[i]);
      }
    }
  }
  const double share = seconds / kRounds / (theirs != nullptr ? 2 : 1);
  double our_time = 1e30, their_time = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    if (theirs != nullptr) StopPeerThreads();
    our_time = std::min(our_time, BestTime(share, ours));
    if (theirs != nullptr)
      their_time = std::min(their_time, BestTime(share, [&] { theirs->Run(); }));
  }
  if (theirs != nullptr) StopPeerThreads();
  rates.ours = flops / our_time;
  if (theirs != nullptr) rates.theirs = flops / their_time;
  return rates;
}

double FlopsOf(idx m, idx n, idx k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

// y (m, n) = x (m, k) W^T, weights packed before: the forward products, and dX.
template <class T>
class WeightProduct {
 public:
  // The layer's own product, or (transposed) its dX.
  WeightProduct(const Layer& layer, bool transposed)
      : n_(transposed ? layer.k : layer.n),
        k_(transposed ? layer.n : layer.k),
        ldx_(layer.Stride(k_)),
        ldc_(layer.Stride(n_)),
        weights_(n_, k_, RoundUp(k_, kPad), 1) {
    // The same numbers, before they are rounded to T.
    const Matrix<float> source(n_, k_, RoundUp(k_, kPad), 1);
    packed_.Pack(source.data.data(), source.ld, n_, k_);
  }
  idx n() const { return n_; }
  idx k() const { return k_; }
  Rates Measure(const std::string& what, idx m, double seconds) {
    const Matrix<T> x(m, k_, ldx_, 2);
    Buffer<float> y(m * ldc_);
    GemmArgs<T> args;
    args.a = x.data.data();
    args.lda = x.ld;
    args.m = m;
    args.c = y.data();
    args.ldc = ldc_;
    Buffer<float> their_y(PeerName().empty() ? 0 : m * ldc_);
    const auto theirs = MakePeerGemm<T>(x.data.data(), x.ld, weights_.data.data(), weights_.ld,
                                        their_y.data(), ldc_, m, n_, k_);
    return Alternate(
        what, FlopsOf(m, n_, k_), seconds, k_, [&] { Gemm(args, packed_); }, y, theirs.get(),
        their_y);
  }

 private:
  idx n_, k_, ldx_, ldc_;
  Matrix<T> weights_;  // for the peer
  PackedMatrix<T> packed_;
};

// dW (n, k) += dy^T x: transposing and packing is part of it, on both sides.
template <class T>
Rates MeasureWeightGrad(const std::string& what, idx rows, const Layer& layer, double seconds) {
  const idx n = layer.n, k = layer.k;
  const idx ldw = layer.Stride(k);
  const Matrix<T> dy(rows, n, layer.Stride(n), 1), x(rows, k, ldw, 2);
  Buffer<float> dw(n * ldw), their_dw(PeerName().empty() ? 0 : n * ldw);
  WeightGradScratch<T> scratch;
  const auto theirs = MakePeerWeightGrad<T>(dy.data.data(), dy.ld, x.data.data(), x.ld,
                                            their_dw.data(), ldw, rows, n, k);
  return Alternate(
      what, FlopsOf(rows, n, k), seconds, rows,
      [&] {
        WeightGrad(dw.data(), ldw, dy.data.data(), dy.ld, n, x.data.data(), x.ld, k, rows, scratch);
      },
      dw, theirs.get(), their_dw);
}

// The rows to measure a layer at: those asked for, cut to what the head ever has and to memory.
std::vector<idx> RowsOf(const std::vector<idx>& wanted, const Layer& layer, bool weight_grad) {
  idx most = kMaxBytes / (2 * static_cast<idx>(sizeof(float)) * (layer.n + layer.k));
  most = std::max(kRowBlock, most / kRowBlock * kRowBlock);
  if (layer.head) most = std::min(most, kMaxHeadRows);
  std::set<idx> rows;
  for (const idx m : wanted) {
    // Units are padded to whole row blocks, so dW never sums other numbers of rows.
    if (!weight_grad || m % kRowBlock == 0) rows.insert(std::min(m, most));
  }
  return {rows.begin(), rows.end()};
}

// The table's lines as they come, and what the last line says of all of them.
class Report {
 public:
  explicit Report(bool json) : json_(json), peer_(PeerName()), out_(BenchHeader()) {
    out_["gemm"] = ordered_json::array();
    if (json_) return;
    fmt::print("path {}, {} threads; best of {} turns, GFLOP/s; weights stay in the cache\n",
               ActiveKernels().name, NumThreads(), kRounds);
    fmt::print("{:<8} {:<8} {:>6} {:>6} {:>6} {:>9}", "pass", "product", "M", "N", "K", "opo");
    if (!peer_.empty()) fmt::print(" {:>12} {:>7}", peer_, "ratio");
    fmt::print("\n");
  }

  void Add(const char* pass, const char* product, idx m, idx n, idx k, const Rates& rates) {
    const std::string shape = fmt::format("{} {}, M = {}", pass, product, m);
    Offer(rates.ours, "opo, " + shape);
    Offer(rates.theirs, peer_ + ", " + shape);
    ordered_json line = {{"pass", pass}, {"product", product}, {"m", m}, {"n", n},
                         {"k", k},       {"flops", rates.ours}};
    const double ratio = rates.theirs > 0 ? rates.ours / rates.theirs : 0;
    if (!peer_.empty()) {
      line["peer_flops"] = rates.theirs > 0 ? ordered_json(rates.theirs) : ordered_json(nullptr);
      line["ratio"] = ratio > 0 ? ordered_json(ratio) : ordered_json(nullptr);
      line["peer_kernel"] = rates.kernel;
    }
    out_["gemm"].push_back(line);
    if (ratio > 0) {
      log_sum_ += std::log(ratio);
      ++ratios_;
      if (ratio < worst_) {
        worst_ = ratio;
        worst_shape_ = shape;
      }
    }
    if (json_) return;
    fmt::print("{:<8} {:<8} {:>6} {:>6} {:>6} {:>9.1f}", pass, product, m, n, k, rates.ours / 1e9);
    if (ratio > 0) fmt::print(" {:>12.1f} {:>7.2f}", rates.theirs / 1e9, ratio);
    if (!peer_.empty() && ratio == 0) fmt::print(" {:>12} {:>7}", "-", "-");
    fmt::print("\n");
    std::fflush(stdout);
  }

  void Finish() {
    out_["best_flops"] = best_;
    out_["best_of"] = best_shape_;
    const double mean = ratios_ > 0 ? std::exp(log_sum_ / ratios_) : 0;
    if (ratios_ > 0) {
      out_["ratio_geomean"] = mean;
      out_["ratio_worst"] = worst_;
      out_["ratio_worst_of"] = worst_shape_;
    }
    if (json_) {
      PrintJsonLine(out_);
      return;
    }
    fmt::print("best {:.0f} GFLOP/s ({})", best_ / 1e9, best_shape_);
    if (ratios_ > 0) {
      fmt::print("; ratio to {}: geometric mean {:.2f}, worst {:.2f} ({})", peer_, mean, worst_,
                 worst_shape_);
    }
    fmt::print("\n");
  }

 private:
  void Offer(double rate, const std::string& shape) {
    if (rate <= best_) return;
    best_ = rate;
    best_shape_ = shape;
  }

  bool json_;
  std::string peer_;
  ordered_json out_;
  double best_ = 0, log_sum_ = 0, worst_ = 1e30;
  int ratios_ = 0;
  std::string best_shape_, worst_shape_;
};

}  // namespace

ordered_json BenchHeader() {
  ordered_json out;
  out["isa"] = ActiveKernels().name;
  out["threads"] = NumThreads();
  const std::string peer = PeerName();
  out["peer"] = peer.empty() ? ordered_json(nullptr) : ordered_json(peer);
  return out;
}

template <class T>
BestRate MeasureBestRate(const ModelConfig& config, double seconds) {
  BestRate best;
  for (const Layer& layer : {Layer{"gate_up", 2 * config.intermediate_size, config.hidden_size},
                             Layer{"down", config.hidden_size, config.intermediate_size}}) {
    WeightProduct<T> product(layer, false);
    for (const idx m : {idx{128}, idx{1024}}) {
      const Rates rates = product.Measure(layer.name, m, seconds / 4);
      if (rates.ours > best.flops) best = {rates.ours, "opo"};
      if (rates.theirs > best.flops) best = {rates.theirs, PeerName()};
    }
  }
  return best;
}

template <class T>
void BenchGemm(const BenchArguments& args) {
  const ModelConfig config =
      args.model.model.empty() ? DefaultConfig() : OpenModel(args.model.model)->config();
  const std::vector<Layer> layers = LayersOf(config);
  Report report(args.json);
  const auto weight_products = [&](const char* pass, bool transposed) {
    for (const Layer& layer : layers) {
      WeightProduct<T> product(layer, transposed);
      for (const idx m : RowsOf(args.rows, layer, false)) {
        const std::string what = fmt::format("{} {}, M = {}", pass, layer.name, m);
        report.Add(pass, layer.name, m, product.n(), product.k(),
                   product.Measure(what, m, args.seconds));
      }
    }
  };
  weight_products("forward", false);
  weight_products("dX", true);
  for (const Layer& layer : layers) {
    for (const idx m : RowsOf(args.rows, layer, true)) {
      const std::string what = fmt::format("dW {}, M = {}", layer.name, m);
      report.Add("dW", layer.name, m, layer.n, layer.k,
                 MeasureWeightGrad<T>(what, m, layer, args.seconds));
    }
  }
  report.Finish();
}

template BestRate MeasureBestRate<float>(const ModelConfig&, double);
template BestRate MeasureBestRate<bf16>(const ModelConfig&, double);
template void BenchGemm<float>(const BenchArguments&);
template void BenchGemm<bf16>(const BenchArguments&);

}  // namespace opo
