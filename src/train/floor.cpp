#include "train/floor.h"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

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

namespace {

constexpr idx kNoLimit = std::numeric_limits<idx>::max();

// The number in a file of one; kNoLimit where there is none ("max", no such file). Version 1 writes
// "no limit" as a number near 2^63.
idx NumberIn(const std::string& path) {
  std::ifstream file(path);
  idx value = 0;
  return file >> value && value < kNoLimit / 2 ? value : kNoLimit;
}

// The value of a key in a file of "key value" or "key: value" lines; 0 where it is not there.
idx ValueIn(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    idx value = 0;
    if (words >> name >> value && (name == key || name == key + ":")) return value;
  }
  return 0;
}

// What is left in one group. `stat` names the page cache's lines in memory.stat.
idx LeftIn(const std::string& folder, const char* limit, const char* usage, const char* stat) {
  const idx most = NumberIn(folder + "/" + limit);
  const idx used = NumberIn(folder + "/" + usage);
  if (most == kNoLimit || used == kNoLimit) return most;
  const std::string prefix = stat;
  const idx cache = ValueIn(folder + "/memory.stat", prefix + "active_file") +
                    ValueIn(folder + "/memory.stat", prefix + "inactive_file");
  return std::clamp<idx>(most - used + cache, 0, most);
}

}  // namespace

idx CgroupMemoryBytes(const std::string& membership, const std::string& root) {
  idx left = kNoLimit;
  std::istringstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // "4:memory:/path", version 2: "0::/path"
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool two = controllers == ",,";
    if (!two && controllers.find(",memory,") == std::string::npos) continue;
    const std::string top = two ? root : root + "/memory";
    // Up to the root, which in a container is its own group whatever the path says.
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      while (path.ends_with('/')) path.pop_back();
      left = std::min(left, two ? LeftIn(top + path, "memory.max", "memory.current", "")
                                : LeftIn(top + path, "memory.limit_in_bytes",
                                         "memory.usage_in_bytes", "total_"));
      if (path.find('/') == std::string::npos) break;
    }
  }
  return left;
}

idx AvailableMemoryBytes() {
  const idx machine = ValueIn("/proc/meminfo", "MemAvailable") * 1024;
  std::ostringstream membership;
  membership << std::ifstream("/proc/self/cgroup").rdbuf();
  idx available = std::min(machine > 0 ? machine : idx{4} << 30,
                           CgroupMemoryBytes(membership.str(), "/sys/fs/cgroup"));
  rlimit space{};
  if (::getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) {
    const idx used = ValueIn("/proc/self/status", "VmSize") * 1024;
    available = std::min(available, std::max<idx>(0, static_cast<idx>(space.rlim_cur) - used));
  }
  return available;
}

}  // namespace opo
