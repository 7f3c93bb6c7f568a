// Which instruction-set path runs: detection, self-test, choice, fingerprint.
#include <cpuid.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "base/buffer.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "kernels/tables.h"

namespace opo {

OPO_DECLARE_PATH(isa_portable)
OPO_DECLARE_PATH(isa_avx2)
OPO_DECLARE_PATH(isa_avx512)
OPO_DECLARE_PATH(isa_avx512bf16)
OPO_DECLARE_PATH(isa_amx)

namespace {

struct Path {
  std::string_view name;
  bool (*available)();
  void (*fill)(Kernels&);
};

bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi2");
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool HasAvx512Bf16() { return HasAvx512() && __builtin_cpu_supports("avx512bf16"); }
// Linux must also let the process use the tiles, which it is asked once; a kernel that does not
// know them says no.
bool HasAmx() {
  static const bool has = [] {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    if (!HasAvx512Bf16() || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
    constexpr unsigned kAmxBf16 = 1U << 22;
    constexpr unsigned kAmxTile = 1U << 24;
    if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
    constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
}

// Best first. On a machine whose vdpbf16ps is slower than f32 FMA, `--isa avx512` may be faster.
const std::array<Path, 5> kPaths = {{
    {"amx", HasAmx, OPO_FILL(isa_amx)},
    {"avx512bf16", HasAvx512Bf16, OPO_FILL(isa_avx512bf16)},
    {"avx512", HasAvx512, OPO_FILL(isa_avx512)},
    {"avx2", HasAvx2, OPO_FILL(isa_avx2)},
    {"portable", [] { return true; }, OPO_FILL(isa_portable)},
}};

Kernels Make(const Path& path) {
  Kernels kernels{};
  kernels.name = path.name;
  path.fill(kernels);
  return kernels;
}

// A fixed product and a fixed head row. Inputs are bf16 numbers of many magnitudes: every path's
// own order of rounding shows in the sums, so the fingerprints of two paths differ.
template <idx kM, idx kK>
struct Probe {
  static constexpr idx kN = 70;
  Buffer<bf16> a{kM * kK}, packed{PackedSize(kN, kK)};
  Buffer<float> w{kN * kK}, c{kM * RoundUp(kN, kPad)}, scratch{kGemmScratch};
  std::array<float, 1> block_sum{};
  TokenStats stats;

  explicit Probe(const Kernels& kernels) {
    const auto draw = [](std::uint32_t i) {
      const auto bits = Philox4x32({i, 0, 0, 0}, {7, 9});
      const float mantissa = 1.0f + static_cast<float>(bits[0] % 128) / 128.0f;
      const float scaled = std::ldexp(mantissa, -static_cast<int>(bits[1] % 8));
      return bits[2] % 2 == 0 ? scaled : -scaled;
    };
    for (idx i = 0; i < a.size(); ++i) a[i] = ToBf16(draw(static_cast<std::uint32_t>(i)));
    for (idx i = 0; i < w.size(); ++i) w[i] = draw(static_cast<std::uint32_t>(1'000'000 + i));
    kernels.b16.pack(packed.data(), w.data(), kK, kN, kK, 0, CeilDiv(kN, kPanel));
    GemmArgs<bf16> args;
    args.a = a.data();
    args.lda = kK;
    args.b = packed.data();
    args.b_panel = PanelSize(kK);
    args.m = kM;
    args.n = kN;
    args.k = kK;
    args.c = c.data();
    args.ldc = RoundUp(kN, kPad);
    kernels.b16.gemm(args, 0, kM, 0, CeilDiv(kN, kPanel), scratch.data());
    Buffer<float> row(RoundUp(kN, kPad));
    for (idx j = 0; j < kN; ++j) row[j] = c[j];
    stats = kernels.head_stats(row.data(), kN, 0.75f, 3, block_sum.data());
  }

  // Agrees with double precision; the bounds are 64 rounding errors of f32 on sums of this size.
  bool Passes() const {
    std::array<double, kN> z{};
    for (idx m = 0; m < kM; ++m) {
      for (idx n = 0; n < kN; ++n) {
        double sum = 0;
        for (idx k = 0; k < kK; ++k) {
          sum += static_cast<double>(ToF32(a[m * kK + k])) * static_cast<double>(w[n * kK + k]);
        }
        if (m == 0) z[static_cast<std::size_t>(n)] = 0.75 * sum;
        const double got = c[m * RoundUp(kN, kPad) + n];
        if (!(std::abs(got - sum) <= 64 * 0x1p-24 * (1 + std::abs(sum)) * 8)) return false;
      }
    }
    double total = 0;
    for (const double s : z) total += std::exp(s);
    return std::abs(static_cast<double>(stats.logprob) - (z[3] - std::log(total))) < 1e-4;
  }
};

using FingerprintProbe = Probe<13, 64>;
// The second one has what the first lacks: several blocks of rows, and a tail of k.
bool PassesSelfTest(const Kernels& kernels) {
  return FingerprintProbe(kernels).Passes() && Probe<43, 82>(kernels).Passes();
}

std::unique_ptr<Kernels> active;

}  // namespace

std::vector<IsaPath> IsaPaths() {
  std::vector<IsaPath> paths;
  for (const Path& path : kPaths) paths.push_back({path.name, path.available()});
  return paths;
}

void SelectIsa(std::string_view name) {
  std::string known;
  for (const Path& path : kPaths) {
    known += fmt::format("{}{}", known.empty() ? "" : ", ", path.name);
    if (!name.empty() && path.name != name) continue;
    if (!path.available()) {
      if (name.empty()) continue;
      Fail(ErrorCode::kUsage,
           "--isa {}: this machine cannot run it; `opo doctor` lists what it can", name);
    }
    auto kernels = std::make_unique<Kernels>(Make(path));
    if (!PassesSelfTest(*kernels)) {
      if (name.empty()) continue;
      Fail(ErrorCode::kWork, "--isa {}: this path fails its self-test on this machine", name);
    }
    active = std::move(kernels);
    return;
  }
  Fail(ErrorCode::kUsage, "--isa {}: unknown; the paths are {}", name, known);
}

void SelectKernels(const Kernels& table) {
  if (!PassesSelfTest(table)) {
    Fail(ErrorCode::kWork, "{}: this path fails its self-test on this machine", table.name);
  }
  active = std::make_unique<Kernels>(table);
}

const Kernels& ActiveKernels() {
  if (active == nullptr) SelectIsa("");
  return *active;
}

std::string IsaFingerprint() {
  const FingerprintProbe probe(ActiveKernels());
  Digest digest;
  digest.Add(std::span<const float>(probe.c.span()));
  const std::array<float, 4> head = {probe.stats.logprob, probe.stats.entropy, probe.stats.sum_sq,
                                     probe.stats.lse};
  digest.Add(std::span<const float>(head));
  return digest.Hex().substr(0, 16);
}

idx AttentionScratch(const AttentionShape& shape) {
  const idx rows = RoundUp(kTileRows * shape.group(), kPad);
  const idx ld = RoundUp(shape.head_dim, kPad);
  return rows * (6 * ld + 4 * kPanel + 2 * kPanel + 4) + kPanel * ld + 2 * shape.k_size() +
         shape.v_size() + 1024;
}

}  // namespace opo
