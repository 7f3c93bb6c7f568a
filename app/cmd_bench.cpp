// The options of opo bench gemm | memory | decode | step | scale: what this machine does, as ratios
// in one run. What they do is in bench_gemm.cpp, bench_memory.cpp, bench_model.cpp and
// bench_scale.cpp.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

#include "app/bench.h"
#include "base/error.h"
#include "comm/comm.h"

namespace opo {
namespace {

// Says so where other threads want the CPUs: two programs that wait for their own threads slow each
// other down by far more than a half, and the ratios then mean nothing.
void WarnIfBusy() {
  constexpr int kLooks = 20;
  int others = 0;
  for (int i = 0; i < kLooks; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::ifstream file("/proc/loadavg");  // "0.1 0.2 0.3 running/all last"
    double load = 0;
    int running = 1;  // this thread
    for (int k = 0; k < 3; ++k) file >> load;
    file >> running;
    others += std::max(0, running - 1);
  }
  if (2 * others < kLooks) return;
  fmt::print(stderr, "opo: {:.1f} other threads run on this machine: these figures are noise\n",
             static_cast<double>(others) / kLooks);
}

template <class Bf16, class F32>
void RunBench(const BenchArguments& args, const Bf16& bf16_run, const F32& f32_run) {
  WarnIfBusy();
  RunInDtype(args, bf16_run, f32_run);
}

}  // namespace

void AddBench(CLI::App& app, int&) {
  CLI::App* bench =
      app.add_subcommand("bench", "measure this machine: gemm, memory, decode, step, scale");
  bench->require_subcommand(1);
  auto args = std::make_shared<BenchArguments>();
  const auto add = [&](const char* name, const char* help, bool needs_model) {
    CLI::App* verb = bench->add_subcommand(name, help);
    args->model.Add(*verb, needs_model);
    verb->add_flag("--json", args->json, "an object on stdout");
    return verb;
  };
  const auto add_count = [](CLI::App* verb, const char* name, idx& value, idx most,
                            const char* help) {
    verb->add_option(name, value, help)->check(CLI::Range(idx{1}, most))->capture_default_str();
  };
  const auto add_seconds = [&](CLI::App* verb, const char* help) {
    verb->add_option("--seconds", args->seconds, help)
        ->check(CLI::Range(0.0, 3600.0))
        ->capture_default_str();
  };
  const char* new_tokens = "tokens of a sample";

  CLI::App* gemm = add("gemm",
                       "the matrix products of a model (by default one of 135M): forward, dX, dW, "
                       "beside oneDNN where it is built in",
                       false);
  auto* rows = gemm->add_option("--m", args->rows,
                                "rows, e.g. 1,8,512; dW takes multiples of 32, the head at most "
                                "1024 (it runs in chunks of rows)")
                   ->delimiter(',')
                   ->check(CLI::Range(idx{1}, idx{1} << 16))
                   ->capture_default_str();
  gemm->add_flag_callback(
          "--quick",
          [args] {
            args->rows = {8, 128, 1024};
          },
          "only 8, 128 and 1024 rows")
      ->excludes(rows);
  add_seconds(gemm, "a shape, for both sides");
  gemm->callback([args] { RunBench(*args, BenchGemm<bf16>, BenchGemm<float>); });

  CLI::App* memory =
      add("memory",
          "bandwidth, and what AdamW reaches of it; with --model what decoding one sample reaches, "
          "and the time from start to first token (the file in the page cache or not, as it is)",
          false);
  memory->add_option("--params", args->params, "parameters of the AdamW step, 16 bytes each")
      ->check(CLI::Range(1e3, 1e12))
      ->capture_default_str();
  add_count(memory, "--repeats", args->repeats, 100, "decoding: the fastest of so many");
  add_seconds(memory, "a measurement");
  memory->callback([args] { RunBench(*args, BenchMemory<bf16>, BenchMemory<float>); });

  CLI::App* decode = add("decode",
                         "tokens per second by batch, sampling included: of everything, until the "
                         "first tokens (prefill), after them (decode); and prefill of long prompts",
                         true);
  add_count(decode, "--max-new-tokens", args->max_new_tokens, 1 << 16, new_tokens);
  decode->add_option("--batch", args->batches, "samples at once")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  decode
      ->add_option("--prompt-tokens", args->prompt_tokens,
                   "a prompt of so many tokens for every sample; 0: the demo's questions, each "
                   "shared by 8 samples")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  add_count(decode, "--repeats", args->repeats, 100, "the fastest of so many");
  decode->callback([args] { RunBench(*args, BenchDecode<bf16>, BenchDecode<float>); });

  CLI::App* step = add(
      "step", "a whole training step, its parts, its floor; without the tape and with it", true);
  add_count(step, "--max-new-tokens", args->max_new_tokens, 1 << 16, new_tokens);
  add_count(step, "--prompts", args->prompts, 4096, "prompts of the step");
  add_count(step, "--samples", args->samples, 4096, "samples a prompt");
  add_count(step, "--repeats", args->repeats, 100,
            "of so many the one whose ratio is the median; the first one also pays for the memory "
            "that it touches first");
  step->add_option("--prompt-tokens", args->prompt_tokens,
                   "prompts of so many arbitrary tokens; 0: the demo's questions")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  step->add_option("--tape-mb", args->tape_mb,
                   "only with a tape of so many MiB; 0: only without; -1: both, all rows on it")
      ->check(CLI::Range(-1, 1 << 30))
      ->capture_default_str();
  step->add_option("--micro-batch-mb", args->micro_batch_mb,
                   "memory of the learner's micro-batches, in MiB; 0: as in training")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  step->add_flag("--ignore-eos", args->ignore_eos, "every sample runs to its end");

  CLI::App* scale =
      add("scale",
          "under mpirun -n N: the same step at 1, 2, 4, ... N ranks, each with the same "
          "work, beside what a model of the network says",
          true);
  add_count(scale, "--max-new-tokens", args->max_new_tokens, 1 << 16, new_tokens);
  add_count(scale, "--prompts", args->prompts, 4096, "prompts of a rank");
  add_count(scale, "--samples", args->samples, 4096, "samples a prompt");
  add_count(scale, "--repeats", args->repeats, 100, "the fastest of so many");
  scale->callback([args] {
    Comm::World();
    RunInDtype(*args, BenchScale<bf16>, BenchScale<float>);
  });
  step->callback([args] { RunBench(*args, BenchStep<bf16>, BenchStep<float>); });
}

}  // namespace opo
