// The JSON lines that generate, tokenize, logprobs and verify read: prompts and sampling settings,
// or an Error(kInput).
#include <cstdlib>

#include "app/command.h"
#include "app/sampling.h"
#include "fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const opo::FuzzFolder folder;
  static const opo::Tokenizer tokenizer = opo::Tokenizer::Bytes();
  static const opo::PromptRenderer prompts(tokenizer);
  const std::string path = folder.Write("fuzz.jsonl", opo::AsText(data, size));
  try {
    for (const opo::JsonLine& line : opo::ReadJsonLines(path)) {
      try {
        opo::SamplingConfig config;
        opo::idx n = 1;
        opo::ReadSamplingKeys(line.object, line.where, config, n);
        if (n < 1 || config.max_new_tokens < 0) std::abort();
        opo::CheckBias(config, tokenizer.vocab_size(), opo::ErrorCode::kInput, line.where);
        opo::PromptOf(line.object, prompts, line.where);
      } catch (const opo::Error& error) {
        if (error.code() != opo::ErrorCode::kInput) std::abort();
      }
    }
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput) std::abort();
    if (!std::string_view(error.what()).starts_with(path)) std::abort();
  }
  return 0;
}
