// opo convert: a model from one format into another.
#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>

#include "app/command.h"
#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "model/load.h"
#include "text/tokenizer.h"

namespace opo {
namespace {

namespace fs = std::filesystem;

// What weights are written as: its name here, in the files, and whether a folder can hold it.
struct TypeRow {
  const char* name;
  GgmlType ggml;
  const char* stored;
  bool in_folders;
  DType dtype;
};
constexpr TypeRow kTypes[] = {
    {"f32", GgmlType::kF32, "F32", true, DType::kF32},
    {"bf16", GgmlType::kBf16, "BF16", true, DType::kBf16},
    {"f16", GgmlType::kF16, "F16", true, DType::kF16},
    {"q8_0", GgmlType::kQ8_0, "Q8_0", false, DType::kF32},
};

// What a folder that transformers reads may hold beside the weights and config.json.
constexpr const char* kTokenizerFiles[] = {
    "tokenizer.json",      "tokenizer_config.json", "special_tokens_map.json",
    "special_tokens.json", "added_tokens.json",     "vocab.json",
    "merges.txt",          "tokenizer.model",       "chat_template.jinja",
    "chat_template.json",
};

struct ConvertArguments {
  std::string input, output, type;
  bool force = false;
  bool to_gguf() const { return output.ends_with(".gguf"); }
};

// A source that shows how far its reader is.
class WatchedSource : public ModelSource {
 public:
  explicit WatchedSource(const ModelSource& source)
      : source_(source),
        tensors_(std::ssize(ListTensors(source.config()))),
        progress_(tensors_, "tensor") {}

  const ModelConfig& config() const override { return source_.config(); }
  const GgufFile* gguf() const override { return source_.gguf(); }
  std::string hf_folder() const override { return source_.hf_folder(); }
  std::string StoredType(const TensorSpec& spec) const override { return source_.StoredType(spec); }
  void Read(const TensorSpec& spec, std::span<float> out) const override {
    source_.Read(spec, out);
    ++done_;
    if (done_ == tensors_ || done_ % (tensors_ / 10 + 1) == 0) progress_.Update(done_, spec.name);
  }

 private:
  const ModelSource& source_;
  idx tensors_;
  mutable idx done_ = 0;
  mutable Progress progress_;
};

// The source's own type where all of its matrices have the same one and we write it, else bf16.
const TypeRow& DefaultType(const ModelSource& source, bool to_gguf) {
  std::string stored;
  for (const TensorSpec& spec : ListTensors(source.config())) {
    if (spec.is_vector) continue;
    const std::string type = source.StoredType(spec);
    stored = stored.empty() || stored == type ? type : "mixed";
  }
  for (const TypeRow& row : kTypes) {
    if (row.stored == stored && (row.in_folders || to_gguf)) return row;
  }
  return kTypes[1];
}

// Before anything is read or written.
void CheckOutput(const ConvertArguments& args) {
  if (!Exists(args.output)) return;
  std::error_code ignored;
  if (fs::equivalent(args.input, args.output, ignored)) {
    Fail(ErrorCode::kUsage, "{}: is the input itself; name another output", args.output);
  }
  if (!args.force) {
    Fail(ErrorCode::kUsage, "{}: is there already; --force replaces it", args.output);
  }
  if (args.to_gguf() != !fs::is_directory(args.output)) {
    Fail(ErrorCode::kUsage, "{}: is a {} and would become a {}; name another output", args.output,
         args.to_gguf() ? "folder" : "file", args.to_gguf() ? "file" : "folder");
  }
  if (!args.to_gguf() && !fs::is_empty(args.output) && !Exists(args.output + "/config.json")) {
    Fail(ErrorCode::kUsage, "{}: holds other things than a model; name another folder",
         args.output);
  }
}

// A file of the model that was in the folder before: left there, some would take part in the new
// one (shards and their index, a chat template).
bool IsModelFile(const std::string& name) {
  return name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") ||
         name == "config.json" || name == "generation_config.json" ||
         std::find(std::begin(kTokenizerFiles), std::end(kTokenizerFiles), name) !=
             std::end(kTokenizerFiles);
}

// A folder that is made beside its place, and put there when it is complete.
class PartialFolder {
 public:
  explicit PartialFolder(std::string folder)
      : folder_(std::move(folder)), partial_(Trimmed(folder_) + ".partial") {
    fs::remove_all(partial_);
    fs::create_directories(partial_);
  }
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;
  ~PartialFolder() {
    std::error_code ignored;
    fs::remove_all(partial_, ignored);
  }

  const std::string& path() const { return partial_; }

  void Commit() {
    if (!Exists(folder_.string())) {
      fs::rename(partial_, folder_);
    } else {
      for (const auto& entry : fs::directory_iterator(folder_)) {
        if (IsModelFile(entry.path().filename().string())) fs::remove(entry.path());
      }
      for (const auto& entry : fs::directory_iterator(partial_)) {
        fs::rename(entry.path(), folder_ / entry.path().filename());
      }
    }
    SyncPath(folder_.string());
  }

 private:
  static std::string Trimmed(const fs::path& folder) {
    return (folder.has_filename() ? folder : folder.parent_path()).string();
  }

  fs::path folder_;
  std::string partial_;
};

void WriteTokenizer(const ModelSource& source, const Tokenizer* tokenizer,
                    const std::string& folder) {
  if (tokenizer != nullptr) {
    tokenizer->Save(folder);
    return;
  }
  idx copied = 0;
  for (const char* name : kTokenizerFiles) {
    const std::string from = source.hf_folder() + "/" + name;
    if (!Exists(from)) continue;
    WriteFileAtomically(folder + "/" + name, ReadFile(from));
    ++copied;
  }
  if (copied == 0) {
    fmt::print(stderr, "{}: has no tokenizer files, so none are written\n", source.hf_folder());
  }
}

void RunConvert(const ConvertArguments& args) {
  const auto named = std::find_if(std::begin(kTypes), std::end(kTypes),
                                  [&](const TypeRow& row) { return row.name == args.type; });
  if (named != std::end(kTypes) && !named->in_folders && !args.to_gguf()) {
    Fail(ErrorCode::kUsage, "--type: a folder cannot hold {}; name an output that ends in .gguf",
         args.type);
  }
  CheckOutput(args);
  const std::unique_ptr<ModelSource> opened = OpenModel(args.input);
  const TypeRow& type = named != std::end(kTypes) ? *named : DefaultType(*opened, args.to_gguf());
  // Files of the same format are passed on as they are, all others are made anew.
  const bool same_format =
      args.to_gguf() ? opened->gguf() != nullptr : !opened->hf_folder().empty();
  std::unique_ptr<Tokenizer> tokenizer;
  if (!same_format)
    tokenizer = std::make_unique<Tokenizer>(Tokenizer::Load(TokenizerPath(args.input)));

  {
    const WatchedSource source(*opened);
    if (args.to_gguf()) {
      const fs::path input(args.input);
      const std::string name = (input.has_filename() ? input : input.parent_path()).stem().string();
      const auto keys = tokenizer != nullptr ? tokenizer->GgufKeys(source.config().vocab_size)
                                             : std::vector<GgufKeyToWrite>();
      SaveGgufModel(args.output, source, type.ggml, name, keys);
    } else {
      PartialFolder folder(args.output);
      SaveHfModel(folder.path(), source,
                  tokenizer != nullptr ? tokenizer->eos_ids() : std::vector<TokenId>(), type.dtype);
      WriteTokenizer(source, tokenizer.get(), folder.path());
      folder.Commit();
    }
  }
  PrintJsonLine({{"model", args.output}, {"type", type.name}});
}

}  // namespace

void AddConvert(CLI::App& app, int&) {
  auto args = std::make_shared<ConvertArguments>();
  CLI::App* verb = app.add_subcommand(
      "convert", "a model between GGUF and Hugging Face folders, with tokenizer and chat template");
  verb->add_option(
          "input", args->input,
          "a .gguf file (any part of a split one), a Hugging Face folder, or a PEFT folder: its "
          "adapter is merged into its base")
      ->required();
  verb->add_option("output", args->output, "NAME.gguf, or else the Hugging Face folder to write")
      ->required();
  verb->add_option("--type", args->type,
                   "of the matrices: f32, bf16, f16, or q8_0 (GGUF only); default: the input's, "
                   "bf16 where that is another or a mixture. Norms and biases of a GGUF stay f32")
      ->check(CLI::IsMember({"f32", "bf16", "f16", "q8_0"}));
  verb->add_flag("--force", args->force, "replace an output that is there already");
  verb->footer(
      "The output is written beside its place and put there when it is complete. In memory is one\n"
      "tensor at a time, as f32. f32 loses nothing of any input; bf16 and f16 round to nearest, "
      "and\n"
      "a value that f16 or q8_0 cannot hold is an error.");
  verb->callback([args] { RunConvert(*args); });
}

}  // namespace opo
