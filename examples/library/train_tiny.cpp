// Trains through the library: train_tiny CONFIG [key=value...]
#include <cstdio>
#include <string>
#include <vector>

#include "base/error.h"
#include "train/trainer.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("usage: train_tiny CONFIG [key=value...]\n", stderr);
    return 2;
  }
  try {
    const std::vector<std::string> overrides(argv + 2, argv + argc);
    const opo::TrainConfig config = opo::LoadTrainConfig(argv[1], overrides);
    const opo::TrainResult result = opo::Train(config, {.progress = false});

    std::printf("%s: %lld steps, weights %s\n", result.run_dir.c_str(),
                static_cast<long long>(result.steps), result.weights_digest.c_str());
    std::printf("pass rate %.2f before, %.2f after\n", result.before.pass_rate,
                result.after.pass_rate);
    for (const opo::Answer& answer : result.after.answers) {
      std::printf("%s -> %s (reward %g)\n", answer.prompt.c_str(), answer.text.c_str(),
                  answer.reward.value);
    }
  } catch (const opo::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
