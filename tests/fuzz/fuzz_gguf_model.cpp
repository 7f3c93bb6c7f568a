// A GGUF as a model and as a tokenizer, each read to its end or refused with an Error(kInput).
#include <cstdlib>
#include <span>
#include <vector>

#include "fuzz/fuzz_folder.h"
#include "model/load.h"
#include "text/tokenizer.h"

namespace {

template <class Read>
void Try(const Read& read) {
  try {
    read();
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const opo::FuzzFolder folder;
  const std::string path = folder.Write("fuzz.gguf", opo::AsText(data, size));
  Try([&] {
    const auto model = opo::OpenModel(path);
    const std::vector<opo::TensorSpec> specs = opo::ListTensors(model->config());
    if (opo::SlabSize(specs) > opo::idx{1} << 20) return;
    for (const opo::TensorSpec& spec : specs) {
      std::vector<float> values(static_cast<std::size_t>(spec.size()));
      model->Read(spec, values);
    }
  });
  Try([&] {
    const opo::Tokenizer tokenizer = opo::Tokenizer::Load(path);
    for (const opo::TokenId id : tokenizer.Encode("a 1\n <x>\xFF", true)) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    }
  });
  return 0;
}
