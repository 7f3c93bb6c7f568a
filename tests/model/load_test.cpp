#include "model/load.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "format/byte_builder.h"
#include "format/expect_error.h"
#include "format/safetensors.h"

namespace opo {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const std::string kGolden = std::string(OPO_SOURCE_DIR) + "/tests/golden/";
constexpr const char* kTinyModels[] = {"tiny_llama_tied", "tiny_llama_untied", "tiny_qwen2",
                                       "tiny_qwen3"};

std::vector<float> ReadSlab(const ModelSource& source) {
  const std::vector<TensorSpec> specs = ListTensors(source.config());
  std::vector<float> slab(static_cast<std::size_t>(SlabSize(specs)), 0.0F);
  for (const TensorSpec& spec : specs) {
    source.Read(spec, std::span(slab).subspan(spec.offset, spec.size()));
  }
  return slab;
}

class LoadTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "opo_load_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << content;
    return folder_ + "/" + name;
  }

  // A copy of a tiny model whose config.json is changed by `patch` (null removes a key).
  std::string CopyWith(const std::string& model, const Json& patch) const {
    fs::copy(kGolden + model, folder_,
             fs::copy_options::overwrite_existing | fs::copy_options::recursive);
    Json config = Json::parse(ReadFile(kGolden + model + "/config.json"));
    config.merge_patch(patch);
    Write("config.json", config.dump());
    return folder_;
  }

  std::string folder_;
};

// ---- GGUF, made here: every weight of the model in Hugging Face order is its own number.

ModelConfig TinyConfig(const std::string& architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 10;
  config.hidden_size = 12;
  config.intermediate_size = 7;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 6;
  config.max_position = 32;
  config.qkv_bias = architecture == "qwen2";
  config.qk_norm = architecture == "qwen3";
  return config;
}

float WeightAt(const TensorSpec& spec, idx row, idx col) {
  return static_cast<float>(spec.offset + row * spec.cols + col) / 64.0F;
}

std::string ReplaceAll(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  if (at != std::string::npos) text.replace(at, from.size(), to);
  return text;
}

// The names as llama.cpp's converter derives them.
std::string NameInGguf(std::string name) {
  const std::pair<const char*, const char*> kRules[] = {
      {"model.embed_tokens", "token_embd"},
      {"model.layers", "blk"},
      {"model.norm", "output_norm"},
      {"lm_head", "output"},
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.", "attn_"},
      {"mlp.", "ffn_"},
      {"_proj", ""},
  };
  for (const auto& [from, to] : kRules) name = ReplaceAll(name, from, to);
  return name;
}

GgufBuilder TinyGguf(const ModelConfig& config) {
  GgufBuilder file;
  const std::string a = config.architecture + ".";
  const auto u32 = [&](const std::string& key, idx value) {
    file.U32(a + key, static_cast<std::uint32_t>(value));
  };
  file.Str("general.architecture", config.architecture);
  u32("embedding_length", config.hidden_size);
  u32("feed_forward_length", config.intermediate_size);
  u32("block_count", config.num_layers);
  u32("attention.head_count", config.num_heads);
  u32("attention.head_count_kv", config.num_kv_heads);
  u32("attention.key_length", config.head_dim);
  u32("context_length", config.max_position);
  file.F32(a + "attention.layer_norm_rms_epsilon", config.rms_norm_eps);
  file.F32(a + "rope.freq_base", static_cast<float>(config.rope_theta));
  file.U32("tokenizer.ggml.eos_token_id", 7);
  file.U32("tokenizer.ggml.padding_token_id", 0xffffffffU);
  for (const TensorSpec& spec : ListTensors(config)) {
    const bool is_q = spec.name.ends_with("q_proj.weight");
    const bool permute =
        config.architecture == "llama" && (is_q || spec.name.ends_with("k_proj.weight"));
    std::vector<float> values(static_cast<std::size_t>(spec.size()));
    for (idx row = 0; row < spec.rows; ++row) {
      // reshape(heads, 2, Dh/2, D).swapaxes(1, 2): (h, j, i) goes to (h, i, j).
      const idx half = config.head_dim / 2;
      const idx h = row / config.head_dim;
      const idx j = row % config.head_dim / half;
      const idx i = row % half;
      const idx to = permute ? h * config.head_dim + i * 2 + j : row;
      for (idx col = 0; col < spec.cols; ++col) {
        values[to * spec.cols + col] = WeightAt(spec, row, col);
      }
    }
    std::vector<std::uint64_t> dims{static_cast<std::uint64_t>(spec.cols)};
    if (!spec.is_vector) dims.push_back(static_cast<std::uint64_t>(spec.rows));
    file.Floats(NameInGguf(spec.name), dims, values);
  }
  return file;
}

TEST(ListTensors, JoinsWhatOneGemmReadsAndAlignsTheRest) {
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    ModelConfig config = TinyConfig(architecture);
    config.hidden_size = 5;  // odd sizes show gaps
    config.num_heads = config.num_kv_heads = 1;
    config.tied_embeddings = false;
    const std::vector<TensorSpec> specs = ListTensors(config);
    idx end = 0;
    for (const TensorSpec& spec : specs) {
      const bool joined = spec.name.find("k_proj") != std::string::npos ||
                          spec.name.find("v_proj") != std::string::npos ||
                          spec.name.find("up_proj") != std::string::npos;
      EXPECT_EQ(spec.offset, joined ? end : RoundUp(end, 16)) << spec.name;
      end = spec.offset + spec.size();
    }
    EXPECT_EQ(SlabSize(specs), RoundUp(end, 16));
    EXPECT_EQ(specs.front().name, "model.embed_tokens.weight");
    EXPECT_EQ(specs.back().name, "lm_head.weight");
  }
}

TEST(ValidateConfig, NamesTheField) {
  const auto refused = [](void (*change)(ModelConfig&), const std::string& field) {
    ModelConfig config = TinyConfig("llama");
    EXPECT_NO_THROW(ValidateConfig(config, "here"));
    change(config);
    ExpectInputError([&] { ValidateConfig(config, "here"); }, {"here: " + field});
  };
  refused([](ModelConfig& c) { c.vocab_size = 0; }, "vocab_size");
  refused([](ModelConfig& c) { c.hidden_size = -1; }, "hidden_size");
  refused([](ModelConfig& c) { c.intermediate_size = idx{1} << 40; }, "intermediate_size");
  refused([](ModelConfig& c) { c.num_layers = 1 << 20; }, "num_hidden_layers");
  refused([](ModelConfig& c) { c.num_kv_heads = 3; }, "num_key_value_heads");
  refused([](ModelConfig& c) { c.head_dim = 5; }, "head_dim");
  refused([](ModelConfig& c) { c.max_position = 0; }, "max_position");
  refused([](ModelConfig& c) { c.rms_norm_eps = 0; }, "rms_norm_eps");
  refused([](ModelConfig& c) { c.rope_theta = -1; }, "rope_theta");
  refused([](ModelConfig& c) { c.eos_ids = {1, 10}; }, "eos_token_id");
  refused([](ModelConfig& c) { c.bos_id = -2; }, "bos_token_id");
}

TEST_F(LoadTest, GgufGivesHuggingFaceRowOrder) {
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    for (const bool tied : {true, false}) {
      ModelConfig config = TinyConfig(architecture);
      config.tied_embeddings = tied;
      const auto model = OpenModel(Write("m.gguf", TinyGguf(config).Build()));
      EXPECT_EQ(model->config().architecture, architecture);
      EXPECT_EQ(model->config().tied_embeddings, tied);
      EXPECT_EQ(model->config().vocab_size, 10);
      EXPECT_EQ(model->config().head_dim, 6);
      EXPECT_EQ(model->config().eos_ids, (std::vector<TokenId>{7}));
      EXPECT_EQ(model->config().pad_id, -1);
      const std::vector<float> slab = ReadSlab(*model);
      for (const TensorSpec& spec : ListTensors(config)) {
        for (idx i = 0; i < spec.size(); ++i) {
          ASSERT_EQ(slab[spec.offset + i], WeightAt(spec, 0, i)) << spec.name << " " << i;
        }
      }
    }
  }
}

TEST_F(LoadTest, GgufThatAsksForOtherArithmeticIsRefusedByKey) {
  const auto refused = [&](const std::function<void(GgufBuilder&)>& change,
                           std::initializer_list<std::string> parts) {
    GgufBuilder file = TinyGguf(TinyConfig("llama"));
    change(file);
    const std::string path = Write("bad.gguf", file.Build());
    ExpectInputError([&] { OpenModel(path); }, {path});
    ExpectInputError([&] { OpenModel(path); }, parts);
  };
  refused([](GgufBuilder& f) { f.Str("llama.rope.scaling.type", "yarn"); },
          {"llama.rope.scaling.type", "yarn"});
  refused([](GgufBuilder& f) { f.F32("llama.rope.scaling.factor", 8); }, {"rope.scaling.factor"});
  refused([](GgufBuilder& f) { f.U32("llama.expert_count", 8); }, {"llama.expert_count", "8"});
  refused([](GgufBuilder& f) { f.U32("llama.attention.sliding_window", 512); },
          {"sliding_window", "512"});
  refused([](GgufBuilder& f) { f.U32("llama.rope.dimension_count", 4); },
          {"rope.dimension_count", "4"});
  refused([](GgufBuilder& f) { f.Bool("llama.attention.causal", false); }, {"attention.causal"});
  refused(
      [](GgufBuilder& f) {
        f.Floats("rope_freqs.weight", {3}, {1, 1, 1});
      },
      {"rope_freqs.weight"});
  refused([](GgufBuilder& f) { f.Floats("blk.0.attn_q.bias", {24}, std::vector<float>(24)); },
          {"'blk.0.attn_q.bias'", "no place"});
  refused(
      [](GgufBuilder& f) {
        f.keys[0] = ByteBuilder()
                        .String("general.architecture")
                        .Put<std::uint32_t>(8)
                        .String("gemma")
                        .data();
      },
      {"'gemma'", "llama, qwen2, qwen3"});
  refused([](GgufBuilder& f) { f.keys.erase(f.keys.begin() + 1); }, {"llama.embedding_length"});
  refused([](GgufBuilder& f) { f.tensors.pop_back(); }, {"'output_norm.weight'", "missing"});
  refused([](GgufBuilder& f) { f.tensors.erase(f.tensors.begin()); }, {"'token_embd.weight'"});
  refused(
      [](GgufBuilder& f) {
        f.tensors[1].dims = {6, 2};
      },
      {"'blk.0.attn_norm.weight'", "[6, 2]", "[12]"});
  refused([](GgufBuilder& f) { f.tensors[0].dims = {120}; }, {"vocab_size"});
}

TEST_F(LoadTest, GgufErrorsOnReadNameTheTensor) {
  GgufBuilder file = TinyGguf(TinyConfig("llama"));
  const float nan = std::nanf("");
  std::memcpy(file.tensors[2].data.data() + 4, &nan, sizeof(nan));
  const auto model = OpenModel(Write("nan.gguf", file.Build()));
  ExpectInputError([&] { ReadSlab(*model); }, {"nan.gguf", "'blk.0.attn_q.weight'", "element 1 "});
}

// ---- Hugging Face folders, written by transformers.

TEST_F(LoadTest, FoldersFromTransformersRead) {
  for (const char* name : kTinyModels) {
    const auto model = OpenModel(kGolden + name);
    const ModelConfig& config = model->config();
    EXPECT_EQ(config.qkv_bias, std::string(name) == "tiny_qwen2");
    EXPECT_EQ(config.qk_norm, std::string(name) == "tiny_qwen3");
    EXPECT_EQ(config.tied_embeddings, std::string(name) != "tiny_llama_untied");
    EXPECT_EQ(config.rms_norm_eps, 1e-5F);
    EXPECT_EQ(config.rope_theta, 10000.0);
    const SafetensorsFile file = SafetensorsFile::Open(kGolden + name + "/model.safetensors");
    for (const TensorSpec& spec : ListTensors(config)) {
      std::vector<float> read(static_cast<std::size_t>(spec.size()));
      std::vector<float> raw(static_cast<std::size_t>(spec.size()));
      model->Read(spec, read);
      file.ReadF32(*file.Find(spec.name), raw);
      EXPECT_EQ(read, raw) << spec.name;
    }
  }
  EXPECT_EQ(OpenModel(kGolden + "tiny_qwen2")->config().head_dim, 32);
  EXPECT_EQ(OpenModel(kGolden + "tiny_qwen3")->config().head_dim, 32);
}

TEST_F(LoadTest, SavedFoldersReadBack) {
  for (const char* name : kTinyModels) {
    const auto model = OpenModel(kGolden + name);
    ModelConfig config = model->config();
    config.eos_ids = {3, 5};
    config.bos_id = 1;
    config.pad_id = -1;
    config.rope_theta = 1e6;
    const std::vector<float> slab = ReadSlab(*model);
    const std::string folder = folder_ + "/deep/" + name;
    SaveHfModel(folder, config, slab, DType::kF32);
    const auto again = OpenModel(folder);
    EXPECT_EQ(ReadSlab(*again), slab);
    EXPECT_EQ(again->config().architecture, config.architecture);
    EXPECT_EQ(again->config().eos_ids, config.eos_ids);
    EXPECT_EQ(again->config().bos_id, 1);
    EXPECT_EQ(again->config().pad_id, -1);
    EXPECT_EQ(again->config().rope_theta, 1e6);
    EXPECT_EQ(again->config().rms_norm_eps, config.rms_norm_eps);
    EXPECT_EQ(again->config().max_position, config.max_position);
    EXPECT_EQ(again->config().head_dim, config.head_dim);

    SaveHfModel(folder, config, slab, DType::kBf16);
    std::vector<float> rounded = slab;
    for (float& x : rounded) x = ToF32(ToBf16(x));
    EXPECT_EQ(ReadSlab(*OpenModel(folder)), rounded);
  }
}

TEST_F(LoadTest, ShardsRead) {
  const auto model = OpenModel(kGolden + "tiny_qwen3");
  CopyWith("tiny_qwen3", Json::object());
  fs::remove(folder_ + "/model.safetensors");
  const std::vector<TensorSpec> specs = ListTensors(model->config());
  const std::vector<float> slab = ReadSlab(*model);
  std::vector<SafeTensorToWrite> shards[2];
  Json map;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const TensorSpec& spec = specs[i];
    shards[i % 2].push_back(
        {spec.name,
         spec.is_vector ? std::vector<idx>{spec.cols} : std::vector<idx>{spec.rows, spec.cols},
         std::span(slab).subspan(spec.offset, spec.size())});
    map[spec.name] = i % 2 == 0 ? "a.safetensors" : "b.safetensors";
  }
  WriteSafetensors(folder_ + "/a.safetensors", shards[0], DType::kF32, {});
  WriteSafetensors(folder_ + "/b.safetensors", shards[1], DType::kF32, {});
  Write("model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  EXPECT_EQ(ReadSlab(*OpenModel(folder_)), slab);

  // The same tensor twice.
  shards[1].push_back(shards[0].back());
  WriteSafetensors(folder_ + "/b.safetensors", shards[1], DType::kF32, {});
  ExpectInputError([&] { OpenModel(folder_); }, {shards[0].back().name, "a.safetensors"});

  for (const char* name : {"../a.safetensors", "/etc/x.safetensors", "b/a.safetensors", "a.bin"}) {
    map["model.norm.weight"] = name;
    Write("model.safetensors.index.json", Json{{"weight_map", map}}.dump());
    ExpectInputError([&] { OpenModel(folder_); }, {"'model.norm.weight'", name, "plain"});
  }
  map["model.norm.weight"] = "c.safetensors";
  Write("model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  ExpectInputError([&] { OpenModel(folder_); }, {"c.safetensors", "cannot be opened"});
  Write("model.safetensors.index.json", "{}");
  ExpectInputError([&] { OpenModel(folder_); }, {"weight_map"});
}

TEST_F(LoadTest, FoldersThatAskForOtherArithmeticAreRefusedByField) {
  const auto refused = [&](const std::string& model, const char* patch,
                           std::initializer_list<std::string> parts) {
    const std::string folder = CopyWith(model, Json::parse(patch));
    ExpectInputError([&] { OpenModel(folder); }, {folder});
    ExpectInputError([&] { OpenModel(folder); }, parts);
  };
  const std::string llama = "tiny_llama_tied";
  refused(llama, R"({"model_type":"gemma3"})", {"'gemma3'", "llama, qwen2, qwen3"});
  refused(llama, R"({"model_type":null})", {"model_type"});
  refused(llama, R"({"rope_scaling":{"rope_type":"llama3","factor":8.0}})", {"rope_scaling"});
  refused(llama, R"({"rope_scaling":{"type":"linear","factor":2.0}})", {"rope_scaling", "linear"});
  refused(llama, R"({"rope_parameters":{"rope_type":"yarn"}})", {"rope_parameters", "yarn"});
  refused(llama, R"({"rope_parameters":{"partial_rotary_factor":0.5}})", {"partial_rotary_factor"});
  refused(llama, R"({"partial_rotary_factor":0.25})", {"partial_rotary_factor"});
  refused(llama, R"({"attention_bias":true})", {"attention_bias"});
  refused("tiny_qwen3", R"({"attention_bias":true})", {"attention_bias"});
  refused(llama, R"({"mlp_bias":true})", {"mlp_bias"});
  refused(llama, R"({"hidden_act":"gelu"})", {"hidden_act", "gelu"});
  refused(llama, R"({"sliding_window":128})", {"sliding_window"});
  refused("tiny_qwen2", R"({"use_sliding_window":true})", {"use_sliding_window"});
  refused("tiny_qwen2", R"({"layer_types":["full_attention","sliding_attention"]})",
          {"layer_types"});
  refused(llama, R"({"quantization_config":{"bits":4}})", {"quantization_config"});
  refused(llama, R"({"hidden_size":null})", {"hidden_size", "missing"});
  refused(llama, R"({"hidden_size":"48"})", {"hidden_size", "an integer"});
  refused(llama, R"({"hidden_size":48.5})", {"hidden_size", "an integer"});
  refused(llama, R"({"hidden_size":18446744073709551615})", {"hidden_size"});
  refused(llama, R"({"intermediate_size":81})", {"mlp.gate_proj.weight", "[80, 48]", "[81, 48]"});
  refused(llama, R"({"num_hidden_layers":4})", {"model.layers.3.", "missing"});
  refused(llama, R"({"num_hidden_layers":2})", {"model.layers.2.", "no place"});
  refused(llama, R"({"tie_word_embeddings":false})", {"lm_head.weight", "missing"});
  refused("tiny_llama_untied", R"({"tie_word_embeddings":true})", {"lm_head.weight", "ties"});
  // A window that is named but not used, as in Qwen's own files.
  EXPECT_NO_THROW(
      OpenModel(CopyWith("tiny_qwen2", {{"sliding_window", 64}, {"use_sliding_window", false}})));
}

TEST_F(LoadTest, TheWordOfTheGenerationConfigGoesFirst) {
  CopyWith("tiny_qwen2", {{"eos_token_id", 4}, {"bos_token_id", 9}});
  Write("generation_config.json", R"({"eos_token_id":[5,6],"pad_token_id":-1})");
  const ModelConfig config = OpenModel(folder_)->config();
  EXPECT_EQ(config.eos_ids, (std::vector<TokenId>{5, 6}));
  EXPECT_EQ(config.bos_id, 9);
  EXPECT_EQ(config.pad_id, -1);
  for (const char* bad : {"\"x\"", "18446744073709551615", "[1.5]", "4294967296", "113"}) {
    Write("generation_config.json", fmt::format(R"({{"eos_token_id":{}}})", bad));
    ExpectInputError([&] { OpenModel(folder_); }, {"eos_token_id"});
  }
}

TEST_F(LoadTest, BadJsonAndMissingFilesAreNamed) {
  ExpectInputError([&] { OpenModel(folder_); }, {folder_, "config.json"});
  ExpectInputError([&] { OpenModel(folder_ + "/none"); }, {folder_ + "/none", "no such model"});
  CopyWith("tiny_qwen2", Json::object());
  for (const char* bad : {"", "[]", "{", "{\"a\":1,\"a\":2}", "\xff"}) {
    Write("config.json", bad);
    ExpectInputError([&] { OpenModel(folder_); }, {"/config.json: "});
  }
  Write("config.json", std::string(100000, '['));
  ExpectInputError([&] { OpenModel(folder_); }, {"/config.json: nests deeper"});
  CopyWith("tiny_qwen2", Json::object());
  fs::remove(folder_ + "/model.safetensors");
  ExpectInputError([&] { OpenModel(folder_); }, {folder_, "model.safetensors.index.json"});
}

// The real thing, where it is at hand.
TEST_F(LoadTest, SmolLm2ReadsAndSaves) {
  const char* path = std::getenv("OPO_SMOLLM2_GGUF");
  if (path == nullptr) {
    GTEST_SKIP() << "set OPO_SMOLLM2_GGUF to SmolLM2-135M-Instruct.Q4_1.gguf to run this test";
  }
  const auto model = OpenModel(path);
  const ModelConfig& config = model->config();
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.vocab_size, 49152);
  EXPECT_EQ(config.num_layers, 30);
  EXPECT_EQ(config.num_kv_heads, 3);
  EXPECT_EQ(config.rope_theta, 100000.0);
  EXPECT_EQ(config.eos_ids, (std::vector<TokenId>{2}));
  EXPECT_TRUE(config.tied_embeddings);
  const std::vector<float> slab = ReadSlab(*model);
  SaveHfModel(folder_, config, slab, DType::kF32);
  EXPECT_EQ(ReadSlab(*OpenModel(folder_)), slab);
}

}  // namespace
}  // namespace opo
