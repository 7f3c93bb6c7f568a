// GGUF out, and sources written as the other format and back.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "format/gguf.h"
#include "format/quantize.h"
#include "format/safetensors.h"
#include "model/load.h"

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

class SaveGgufTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "opo_save_gguf_" +
              testing::UnitTest::GetInstance()->current_test_info()->name() + "/";
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string folder_;
};

void ExpectSameConfig(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.architecture, b.architecture);
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.intermediate_size, b.intermediate_size);
  EXPECT_EQ(a.num_layers, b.num_layers);
  EXPECT_EQ(a.num_heads, b.num_heads);
  EXPECT_EQ(a.num_kv_heads, b.num_kv_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.max_position, b.max_position);
  EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.tied_embeddings, b.tied_embeddings);
  EXPECT_EQ(a.qkv_bias, b.qkv_bias);
  EXPECT_EQ(a.qk_norm, b.qk_norm);
  EXPECT_EQ(a.bos_id, b.bos_id);
  EXPECT_EQ(a.pad_id, b.pad_id);
  EXPECT_EQ(a.eos_ids, b.eos_ids);
}

// The same angles to f32's precision, in which GGUF keeps the numbers; and what it has no word for.
TEST_F(SaveGgufTest, StretchedRopeGoesThroughGguf) {
  int refused = 0;
  for (const char* name :
       {"tiny_llama3_rope", "tiny_mistral_linear", "tiny_qwen2_yarn", "tiny_qwen3_yarn"}) {
    SCOPED_TRACE(name);
    const auto model = OpenModel(kGolden + name);
    const ModelConfig& want = model->config();
    const std::string path = folder_ + name + ".gguf";
    if (!want.rope_scaling.truncate) {
      ++refused;
      try {
        SaveGgufModel(path, *model, GgmlType::kF32, name, {});
        FAIL() << "truncate = false was written";
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("truncate"), std::string::npos) << e.what();
      }
      continue;
    }
    SaveGgufModel(path, *model, GgmlType::kF32, name, {});
    const auto gguf = OpenModel(path);
    const ModelConfig& got = gguf->config();
    EXPECT_EQ(got.architecture, want.architecture == "mistral" ? "llama" : want.architecture);
    EXPECT_EQ(ReadSlab(*gguf), ReadSlab(*model));
    const std::vector<double> a = RopeFrequencies(got);
    const std::vector<double> b = RopeFrequencies(want);
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-6 * b[i]) << i;
    EXPECT_NEAR(got.rope_scaling.attention_factor, want.rope_scaling.attention_factor, 1e-6);
  }
  EXPECT_EQ(refused, 1);
}

TEST_F(SaveGgufTest, F32GoesThroughGgufAndBackWithoutLoss) {
  for (const char* name : kTinyModels) {
    SCOPED_TRACE(name);
    const auto model = OpenModel(kGolden + name);
    const std::vector<float> slab = ReadSlab(*model);
    const std::string path = folder_ + name + ".gguf";
    SaveGgufModel(path, *model, GgmlType::kF32, name, {});
    const auto gguf = OpenModel(path);
    EXPECT_EQ(ReadSlab(*gguf), slab);
    ExpectSameConfig(gguf->config(), model->config());

    SaveHfModel(folder_ + name, *gguf, {}, DType::kF32);
    const auto back = OpenModel(folder_ + name);
    EXPECT_EQ(ReadSlab(*back), slab);
    ExpectSameConfig(back->config(), model->config());
    const SafetensorsFile then = SafetensorsFile::Open(kGolden + name + "/model.safetensors");
    const SafetensorsFile now = SafetensorsFile::Open(folder_ + name + "/model.safetensors");
    ASSERT_EQ(now.tensors().size(), then.tensors().size());
    for (const SafeTensor& tensor : then.tensors()) {
      const SafeTensor* copy = now.Find(tensor.name);
      ASSERT_NE(copy, nullptr) << tensor.name;
      EXPECT_EQ(copy->shape, tensor.shape);
      EXPECT_TRUE(std::ranges::equal(now.Raw(*copy), then.Raw(tensor))) << tensor.name;
    }
  }
}

// What each type holds is what rounding the weights gives; weights of that type lose nothing.
TEST_F(SaveGgufTest, OtherTypesHoldTheRoundedMatricesAndTheVectorsAsTheyAre) {
  for (const char* name : kTinyModels) {
    for (const GgmlType type : {GgmlType::kBf16, GgmlType::kF16, GgmlType::kQ8_0}) {
      SCOPED_TRACE(name + std::string(RowOf(type).name));
      const auto model = OpenModel(kGolden + name);
      const std::string path = folder_ + "model.gguf";
      SaveGgufModel(path, *model, type, name, {});
      const auto gguf = OpenModel(path);
      for (const TensorSpec& spec : ListTensors(model->config())) {
        std::vector<float> ours(static_cast<std::size_t>(spec.size()));
        std::vector<float> theirs(ours.size());
        model->Read(spec, ours);
        gguf->Read(spec, theirs);
        // llama.cpp's rules: vectors are F32, and rows that are not whole blocks F16.
        GgmlType stored = spec.is_vector ? GgmlType::kF32 : type;
        if (spec.cols % RowOf(stored).elements != 0) stored = GgmlType::kF16;
        EXPECT_EQ(gguf->StoredType(spec), RowOf(stored).name) << spec.name;
        const GgmlTypeRow& row = RowOf(stored);
        std::vector<std::byte> bytes(ours.size() / row.elements * row.bytes);
        std::vector<float> expected(ours.size());
        ASSERT_EQ(Quantize(stored, ours, bytes), -1);
        row.dequantize(bytes, expected);
        EXPECT_EQ(theirs, expected) << spec.name;
      }
      // Once more, and into a folder.
      const std::vector<float> slab = ReadSlab(*gguf);
      if (type != GgmlType::kQ8_0) {
        SaveGgufModel(folder_ + "again.gguf", *gguf, type, name, {});
        EXPECT_EQ(ReadFile(folder_ + "again.gguf").size(), ReadFile(path).size());
        EXPECT_EQ(ReadSlab(*OpenModel(folder_ + "again.gguf")), slab);
      }
    }
  }
}

TEST_F(SaveGgufTest, Bf16WeightsStayTheSameBitsInAFolderAndBack) {
  const auto model = OpenModel(kGolden + "tiny_qwen2");
  SaveHfModel(folder_ + "bf16", *model, {}, DType::kBf16);
  const auto bf16_model = OpenModel(folder_ + "bf16");
  SaveGgufModel(folder_ + "bf16.gguf", *bf16_model, GgmlType::kBf16, "m", {});
  SaveHfModel(folder_ + "back", *OpenModel(folder_ + "bf16.gguf"), {}, DType::kBf16);
  EXPECT_EQ(ReadFile(folder_ + "back/model.safetensors"),
            ReadFile(folder_ + "bf16/model.safetensors"));
  SaveHfModel(folder_ + "f16", *model, {}, DType::kF16);
  const auto f16_model = OpenModel(folder_ + "f16");
  std::vector<float> rounded = ReadSlab(*model);
  for (float& x : rounded) x = F16ToF32(F32ToF16(x));
  EXPECT_EQ(ReadSlab(*f16_model), rounded);
  EXPECT_EQ(f16_model->StoredType(ListTensors(model->config())[0]), "F16");
}

TEST_F(SaveGgufTest, MetadataIsWhatLlamaCppAsksFor) {
  const auto model = OpenModel(kGolden + "tiny_qwen3");
  SaveGgufModel(folder_ + "m.gguf", *model, GgmlType::kBf16, "a name",
                {{"tokenizer.ggml.model", "gpt2"}, {"tokenizer.ggml.bos_token_id", 5U}});
  const GgufFile file = GgufFile::Open(folder_ + "m.gguf");
  EXPECT_EQ(file.GetString("general.architecture"), "qwen3");
  EXPECT_EQ(file.GetString("general.type"), "model");
  EXPECT_EQ(file.GetString("general.name"), "a name");
  EXPECT_EQ(file.GetInt("general.file_type"), 32);  // LLAMA_FTYPE_MOSTLY_BF16
  EXPECT_EQ(file.GetInt("general.quantization_version"), 2);
  EXPECT_EQ(file.GetInt("qwen3.block_count"), 2);
  EXPECT_EQ(file.GetInt("qwen3.embedding_length"), 48);
  EXPECT_EQ(file.GetInt("qwen3.feed_forward_length"), 72);
  EXPECT_EQ(file.GetInt("qwen3.attention.head_count"), 3);
  EXPECT_EQ(file.GetInt("qwen3.attention.head_count_kv"), 1);
  EXPECT_EQ(file.GetInt("qwen3.attention.key_length"), 32);
  EXPECT_EQ(file.GetInt("qwen3.attention.value_length"), 32);
  EXPECT_EQ(file.GetInt("qwen3.vocab_size"), 101);
  EXPECT_EQ(file.GetFloat("qwen3.rope.freq_base"), 10000.0);
  EXPECT_EQ(file.GetString("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(file.GetInt("tokenizer.ggml.bos_token_id"), 5);  // the tokenizer goes before the config
  EXPECT_EQ(file.Has("tokenizer.ggml.eos_token_id"), !model->config().eos_ids.empty());
}

TEST_F(SaveGgufTest, WhatAFileSaysBesideTheConfigIsPassedOn) {
  // A folder: unknown keys and the generation config.
  const std::string folder = folder_ + "in";
  fs::copy(kGolden + "tiny_qwen2", folder);
  Json config = Json::parse(ReadFile(folder + "/config.json"));
  config["a_note"] = {1, 2};
  config.erase("dtype");
  config["torch_dtype"] = "float32";
  WriteFileAtomically(folder + "/config.json", config.dump());
  const std::string generation =
      R"({"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05,)"
      R"( "a_note": "kept", "eos_token_id": [3, 5]})";
  WriteFileAtomically(folder + "/generation_config.json", generation);
  const auto model = OpenModel(folder);
  SaveHfModel(folder_ + "out", *model, {9}, DType::kBf16);
  config["torch_dtype"] = "bfloat16";
  EXPECT_EQ(Json::parse(ReadFile(folder_ + "out/config.json")), config);
  EXPECT_EQ(ReadFile(folder_ + "out/generation_config.json"), generation);

  // Through GGUF: what both can say.
  SaveGgufModel(folder_ + "m.gguf", *model, GgmlType::kF32, "m", {});
  const GgufFile file = GgufFile::Open(folder_ + "m.gguf");
  EXPECT_EQ(file.GetFloat("general.sampling.temp"), static_cast<double>(0.7F));
  EXPECT_EQ(file.GetInt("general.sampling.top_k"), 20);
  SaveHfModel(folder_ + "back", *OpenModel(folder_ + "m.gguf"), {3, 5, 9}, DType::kF32);
  EXPECT_EQ(
      Json::parse(ReadFile(folder_ + "back/generation_config.json")),
      (Json{{"bos_token_id", model->config().bos_id < 0 ? Json() : Json(model->config().bos_id)},
            {"eos_token_id", {3, 5, 9}},
            {"pad_token_id", model->config().pad_id < 0 ? Json() : Json(model->config().pad_id)},
            {"do_sample", true},
            {"temperature", 0.7},
            {"top_k", 20},
            {"top_p", 0.8},
            {"repetition_penalty", 1.05}}));

  // A GGUF: all of its keys, but for those of the file.
  std::vector<GgufKeyToWrite> keys;
  for (const std::string& key : file.Keys()) keys.push_back({key, file.RawValue(key)});
  keys.push_back({"general.a_note", std::vector<std::string>{"kept", ""}});
  keys.push_back({"tokenizer.ggml.a_note", std::vector<std::int32_t>{-1, 2}});
  std::vector<GgufTensorToWrite> tensors;
  for (const GgufTensor& tensor : file.tensors()) {
    tensors.push_back(
        {tensor.name, tensor.dims, tensor.type,
         [&file, &tensor](std::span<float> out) { file.Dequantize(tensor, 0, out); }});
  }
  WriteGguf(folder_ + "noted.gguf", keys, tensors);
  SaveGgufModel(folder_ + "copy.gguf", *OpenModel(folder_ + "noted.gguf"), GgmlType::kF16, "x", {});
  const GgufFile noted = GgufFile::Open(folder_ + "noted.gguf");
  const GgufFile copy = GgufFile::Open(folder_ + "copy.gguf");
  EXPECT_EQ(copy.Keys(), noted.Keys());
  for (const std::string& key : noted.Keys()) {
    if (key == "general.file_type") continue;
    EXPECT_TRUE(std::ranges::equal(copy.RawValue(key), noted.RawValue(key))) << key;
  }
  EXPECT_EQ(copy.GetInt("general.file_type"), 1);  // LLAMA_FTYPE_MOSTLY_F16
}

}  // namespace
}  // namespace opo
