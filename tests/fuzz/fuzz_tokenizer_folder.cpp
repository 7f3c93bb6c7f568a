// The tokenizer files of a folder: tokenizer_config.json, vocab.json, merges.txt,
// special_tokens.json, chat_template.jinja and tokenizer.json, each ended by the byte 0xFF; empty
// ones are not there. A tokenizer that takes any text and is read back from what it saves, or an
// Error(kInput) that names a file.
#include <cstdlib>

#include "fuzz/fuzz_folder.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const opo::FuzzFolder folder;
  std::string_view bytes = opo::AsText(data, size);
  for (const char* name : {"tokenizer_config.json", "vocab.json", "merges.txt",
                           "special_tokens.json", "chat_template.jinja", "tokenizer.json"}) {
    folder.WriteOrRemove(name, opo::TakePiece(bytes));
  }
  static const std::string saved = [] {
    std::filesystem::create_directory(folder / "saved");
    return folder / "saved";
  }();
  const std::string_view text = "a 1\n <x>\xC3\xA9\xFF";
  try {
    const opo::Tokenizer tokenizer = opo::Tokenizer::Load(folder.path);
    for (const opo::TokenId id : tokenizer.Encode(text, true)) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    }
    for (const opo::TokenId id : tokenizer.eos_ids()) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    }
    tokenizer.Save(saved);
    const opo::Tokenizer again = opo::Tokenizer::Load(saved);
    if (again.Encode(text, true) != tokenizer.Encode(text, true)) std::abort();
  } catch (const opo::Error& error) {
    if (error.code() != opo::ErrorCode::kInput) std::abort();
    const std::string_view what = error.what();
    if (what.find(folder.path) == what.npos && !what.starts_with("cutting a text")) std::abort();
  }
  return 0;
}
