#include <cmath>
#include <cstring>
#include <functional>

#include "format/byte_builder.h"
#include "format/expect_error.h"
#include "model/load_fixture.h"

namespace opo {
namespace {

constexpr const char* kTinyModels[] = {
    "tiny_llama_tied",  "tiny_llama_untied",   "tiny_qwen2",      "tiny_qwen3",
    "tiny_llama3_rope", "tiny_mistral_linear", "tiny_qwen2_yarn", "tiny_qwen3_yarn"};

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
  refused([](GgufBuilder& f) { f.Str("llama.rope.scaling.type", "longrope"); },
          {"llama.rope.scaling.type", "longrope"});
  refused([](GgufBuilder& f) { f.F32("llama.rope.scaling.factor", 0.5); }, {"factor", "0.5"});
  refused([](GgufBuilder& f) { f.F32("llama.rope.scaling.attn_factor", 2); }, {"attn_factor", "2"});
  const auto yarn = [](GgufBuilder& f, const char* key, float value) {
    f.Str("llama.rope.scaling.type", "yarn");
    f.F32("llama.rope.scaling.factor", 4);
    f.F32(fmt::format("llama.rope.scaling.{}", key), value);
  };
  refused([&](GgufBuilder& f) { yarn(f, "yarn_ext_factor", 0.5); }, {"yarn_ext_factor", "0.5"});
  refused([&](GgufBuilder& f) { yarn(f, "yarn_log_multiplier", 0.1F); }, {"yarn_log_multiplier"});
  refused([&](GgufBuilder& f) { yarn(f, "yarn_beta_fast", 0.5); }, {"beta_fast", "0.5"});
  refused([&](GgufBuilder& f) { yarn(f, "yarn_attn_factor", 0); }, {"attention_factor"});
  refused([](GgufBuilder& f) { f.U32("llama.expert_count", 8); }, {"llama.expert_count", "8"});
  refused([](GgufBuilder& f) { f.U32("llama.attention.sliding_window", 512); },
          {"sliding_window", "512"});
  refused([](GgufBuilder& f) { f.U32("llama.rope.dimension_count", 4); },
          {"rope.dimension_count", "4"});
  refused([](GgufBuilder& f) { f.Bool("llama.attention.causal", false); }, {"attention.causal"});
  refused(
      [](GgufBuilder& f) {
        f.Floats("rope_freqs.weight", {4}, {1, 1, 1, 1});
      },
      {"rope_freqs.weight", "[4]", "[3]"});
  refused([](GgufBuilder& f) { f.Floats("rope_freqs.weight", {3}, {1, 0, 1}); }, {"factor is 0"});
  refused(
      [&](GgufBuilder& f) {
        f.Floats("rope_freqs.weight", {3}, {1, 1, 8});
        yarn(f, "yarn_beta_fast", 32);
      },
      {"rope_freqs.weight", "'yarn'"});
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
      {"'gemma'", "llama, mistral, qwen2, qwen3"});
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

TEST_F(LoadTest, GgufSaysHowRopeIsStretched) {
  const auto read = [&](const std::function<void(GgufBuilder&)>& change, idx head_dim = 6) {
    ModelConfig config = TinyConfig("llama");
    config.head_dim = head_dim;
    config.rope_theta = 500000;
    GgufBuilder file = TinyGguf(config);
    change(file);
    return OpenModel(Write("rope.gguf", file.Build()))->config().rope_scaling;
  };
  EXPECT_EQ(read([](GgufBuilder&) {}), RopeScaling());
  const auto none = [](GgufBuilder& f) {
    f.Str("llama.rope.scaling.type", "none");
    f.F32("llama.rope.scaling.factor", 4);
  };
  EXPECT_EQ(read(none), RopeScaling());

  RopeScaling linear;
  linear.type = RopeType::kLinear;
  linear.factor = 2.5;
  EXPECT_EQ(read([](GgufBuilder& f) { f.F32("llama.rope.scaling.factor", 2.5); }), linear);
  EXPECT_EQ(read([](GgufBuilder& f) { f.F32("llama.rope.scale_linear", 2.5); }), linear);

  RopeScaling yarn;
  yarn.type = RopeType::kYarn;
  yarn.factor = 4;
  yarn.original_max_position = 32;  // context_length, where nothing else is said
  yarn.attention_factor = 1 + 0.1 * std::log(4.0);
  const auto plain_yarn = [](GgufBuilder& f) {
    f.Str("llama.rope.scaling.type", "yarn");
    f.F32("llama.rope.scaling.factor", 4);
  };
  EXPECT_EQ(read(plain_yarn), yarn);
  yarn.original_max_position = 16;
  yarn.beta_fast = 8;
  yarn.beta_slow = 2;
  yarn.attention_factor = 1.25;
  EXPECT_EQ(read([&](GgufBuilder& f) {
              plain_yarn(f);
              f.U32("llama.rope.scaling.original_context_length", 16);
              f.F32("llama.rope.scaling.yarn_beta_fast", 8);
              f.F32("llama.rope.scaling.yarn_beta_slow", 2);
              f.F32("llama.rope.scaling.yarn_attn_factor", 1.25);
            }),
            yarn);

  // Divisors of no known formula are taken as they are; those of Llama 3.2 (theta 500000, Dh 64,
  // factor 32) are its formula. Two of them by hand: pair 0 turns once in 2 pi tokens and is left
  // alone, pair 31 once in 2.1 million.
  RopeScaling given;
  given.type = RopeType::kFactors;
  given.factors = {1, 2, 8};
  EXPECT_EQ(read([](GgufBuilder& f) { f.Floats("rope_freqs.weight", {3}, {1, 2, 8}); }), given);
  ModelConfig shape = TinyConfig("llama");
  shape.head_dim = 64;
  shape.rope_theta = 500000;
  RopeScaling llama3;
  llama3.type = RopeType::kLlama3;
  llama3.factor = 32;
  llama3.original_max_position = 8192;
  const std::vector<double> formula = Llama3Factors(shape, llama3);
  EXPECT_EQ(formula.front(), 1);
  EXPECT_EQ(formula.back(), 32);
  std::vector<float> rounded(formula.begin(), formula.end());
  const auto with_factors = [&](GgufBuilder& f) { f.Floats("rope_freqs.weight", {32}, rounded); };
  EXPECT_EQ(read(with_factors, 64), llama3);
  rounded[17] *= 1.001F;
  EXPECT_EQ(read(with_factors, 64).factors, rounded);
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
    const std::string_view view = name;
    EXPECT_EQ(config.qkv_bias, view.starts_with("tiny_qwen2"));
    EXPECT_EQ(config.qk_norm, view.starts_with("tiny_qwen3"));
    EXPECT_EQ(config.tied_embeddings, view != "tiny_llama_untied" && view != "tiny_mistral_linear");
    EXPECT_EQ(config.rms_norm_eps, 1e-5F);
    EXPECT_EQ(config.rope_theta, view == "tiny_qwen2_yarn" ? 1e6 : 10000.0);
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
    EXPECT_EQ(again->config().rope_scaling, config.rope_scaling);
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
