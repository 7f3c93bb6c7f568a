// config.json: what is honoured, what is refused by name, and what passes.
#include <cmath>

#include "format/expect_error.h"
#include "model/load_fixture.h"

namespace opo {
namespace {

using HfConfigTest = LoadTest;

TEST_F(HfConfigTest, FoldersThatAskForOtherArithmeticAreRefusedByField) {
  const auto refused = [&](const std::string& model, const char* patch,
                           std::initializer_list<std::string> parts) {
    const std::string folder = CopyWith(model, Json::parse(patch));
    ExpectInputError([&] { OpenModel(folder); }, {folder});
    ExpectInputError([&] { OpenModel(folder); }, parts);
  };
  const std::string llama = "tiny_llama_tied";
  refused(llama, R"({"model_type":"gemma3"})", {"'gemma3'", "llama, mistral, qwen2, qwen3"});
  refused(llama, R"({"model_type":null})", {"model_type"});
  refused(llama, R"({"rope_scaling":{"rope_type":"linear","factor":8.0}})",
          {"rope_scaling", "rope_parameters", "contradict"});
  for (const char* type : {"dynamic", "proportional", "axial", "su"}) {
    refused(llama,
            fmt::format(R"({{"rope_parameters":{{"rope_type":"{}","factor":2}}}})", type).c_str(),
            {"rope_parameters", type});
  }
  refused(llama, R"({"rope_parameters":{"rope_type":"longrope","short_factor":[1,1],
                     "long_factor":[1,2],"factor":2}})",
          {"longrope", "equal"});
  refused(llama, R"({"rope_parameters":{"rope_type":"yarn"}})", {"rope_parameters", "'factor'"});
  refused(llama, R"({"rope_parameters":{"rope_type":"llama3","factor":8.0}})", {"low_freq_factor"});
  refused(llama, R"({"rope_parameters":{"rope_type":"linear","factor":0.5}})", {"factor is 0.5"});
  refused(llama, R"({"rope_parameters":{"rope_type":"linear","factor":"2"}})", {"a number"});
  refused(llama, R"({"rope_parameters":{"rope_type":"linear","factor":2,"beta_fast":3}})",
          {"beta_fast", "linear"});
  refused(llama, R"({"rope_parameters":{"mrope_section":[1,2]}})", {"mrope_section"});
  refused(llama, R"({"rope_parameters":{"full_attention":{"rope_type":"default"}}})",
          {"full_attention"});
  refused(llama, R"({"rope_parameters":{"rope_type":"yarn","type":"linear","factor":2}})",
          {"'type'", "linear", "yarn"});
  refused(llama, R"({"rope_parameters":{"rope_type":"llama3","factor":8,"low_freq_factor":4,
                     "high_freq_factor":1}})",
          {"high_freq_factor", "low_freq_factor"});
  refused(llama, R"({"rope_parameters":{"partial_rotary_factor":0.5}})", {"partial_rotary_factor"});
  refused(llama, R"({"partial_rotary_factor":0.25})", {"partial_rotary_factor"});
  refused(llama, R"({"attention_bias":true})", {"attention_bias"});
  refused("tiny_qwen3", R"({"attention_bias":true})", {"attention_bias"});
  refused(llama, R"({"mlp_bias":true})", {"mlp_bias"});
  refused(llama, R"({"hidden_act":"gelu"})", {"hidden_act", "gelu"});
  refused(llama, R"({"sliding_window":128})", {"sliding_window"});
  refused("tiny_qwen2", R"({"use_sliding_window":true,"sliding_window":64,"max_window_layers":1,
                            "layer_types":null})",
          {"sliding_window", "64"});
  refused("tiny_qwen2", R"({"use_sliding_window":true,"sliding_window":64,
                            "layer_types":["full_attention","sliding_attention"]})",
          {"sliding_window"});
  refused("tiny_mistral_linear", R"({"sliding_window":64})", {"sliding_window", "64"});
  refused("tiny_mistral_linear", R"({"sliding_window":null,"max_position_embeddings":8192,
                                     "use_sliding_window":null})",
          {"sliding_window", "4096"});
  refused(llama, R"({"attention_multiplier":0.1})", {"attention_multiplier", "0.1"});
  refused(llama, R"({"residual_multiplier":0.2})", {"residual_multiplier", "0.2"});
  refused(llama, R"({"logits_scaling":8})", {"logits_scaling", "8"});
  refused(llama, R"({"embedding_multiplier":12})", {"embedding_multiplier", "12"});
  refused(llama, R"({"query_pre_attn_scalar":256})", {"query_pre_attn_scalar", "256"});
  refused(llama, R"({"attn_logit_softcapping":50.0})", {"attn_logit_softcapping", "50"});
  refused(llama, R"({"final_logit_softcapping":30.0})", {"final_logit_softcapping", "30"});
  refused(llama, R"({"num_experts":8})", {"num_experts", "8"});
  refused(llama, R"({"num_local_experts":8})", {"num_local_experts", "8"});
  refused(llama, R"({"use_qk_norm":true})", {"use_qk_norm", "true"});
  refused(llama, R"({"is_causal":false})", {"is_causal"});
  refused(llama, R"({"auto_map":{"AutoModelForCausalLM":"m.M"}})", {"auto_map"});
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
  // What is off, too wide to matter, or not about arithmetic.
  for (const char* patch :
       {R"({"attn_logit_softcapping":null,"num_experts":0,"use_qk_norm":false,"moe_layers":[]})",
        R"({"sliding_window":512,"use_sliding_window":true,"max_window_layers":0})",
        R"({"use_sliding_window":true,"sliding_window":64,"max_window_layers":2})",
        R"({"residual_multiplier":1.0,"hidden_act":"swish","pretraining_tp":2})",
        R"({"auto_map":{"AutoTokenizer":"t.T"},"unsloth_version":"2025.1","my_note":"x"})"}) {
    EXPECT_NO_THROW(OpenModel(CopyWith("tiny_qwen2", Json::parse(patch)))) << patch;
  }
}

TEST_F(HfConfigTest, UnknownKeysAreNamedInAWarning) {
  const std::string folder =
      CopyWith("tiny_qwen2", {{"my_note", "x"}, {"flavour", 3}, {"use_cache", true}, {"spam", 0}});
  testing::internal::CaptureStderr();
  OpenModel(folder);
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("'flavour', 'my_note'"), std::string::npos) << text;
  EXPECT_EQ(text.find("use_cache"), std::string::npos) << text;
  EXPECT_EQ(text.find("spam"), std::string::npos) << text;
}

// Both forms of the same thing, and what transformers fills in.
TEST_F(HfConfigTest, RopeScalingIsReadAsTransformersReadsIt) {
  const auto read = [&](const char* patch) {
    return OpenModel(CopyWith("tiny_llama_tied", Json::parse(patch)))->config();
  };
  RopeScaling llama3;
  llama3.type = RopeType::kLlama3;
  llama3.factor = 8;
  llama3.low_freq_factor = 1;
  llama3.high_freq_factor = 4;
  llama3.original_max_position = 64;
  const ModelConfig old_form = read(R"({"rope_parameters":null,"rope_theta":500000.0,
      "rope_scaling":{"type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
                      "original_max_position_embeddings":64}})");
  EXPECT_EQ(old_form.rope_scaling, llama3);
  EXPECT_EQ(old_form.rope_theta, 500000.0);
  const ModelConfig new_form = read(R"({"rope_parameters":{"rope_type":"llama3","factor":8,
      "rope_theta":500000,"low_freq_factor":1,"high_freq_factor":4,
      "original_max_position_embeddings":64}})");
  EXPECT_EQ(new_form.rope_scaling, llama3);
  EXPECT_EQ(new_form.rope_theta, 500000.0);
  llama3.original_max_position = 512;  // max_position_embeddings
  EXPECT_EQ(read(R"({"rope_parameters":{"rope_type":"llama3","factor":8,"low_freq_factor":1,
                     "high_freq_factor":4,"original_max_position_embeddings":null}})")
                .rope_scaling,
            llama3);

  RopeScaling yarn;
  yarn.type = RopeType::kYarn;
  yarn.factor = 4;
  yarn.original_max_position = 128;
  yarn.attention_factor = 1 + 0.1 * std::log(4.0);
  EXPECT_EQ(read(R"({"rope_parameters":{"rope_type":"yarn","factor":4.0,
                     "original_max_position_embeddings":128}})")
                .rope_scaling,
            yarn);
  // The length outside goes first, and no factor stands for the ratio of the lengths.
  EXPECT_EQ(read(R"({"original_max_position_embeddings":128,"rope_parameters":{"rope_type":"yarn",
                     "factor":null,"original_max_position_embeddings":64}})")
                .rope_scaling,
            yarn);
  yarn.attention_factor = (1 + 0.1 * 0.5 * std::log(4.0)) / (1 + 0.1 * 2 * std::log(4.0));
  EXPECT_EQ(read(R"({"rope_parameters":{"rope_type":"yarn","factor":4.0,"mscale":0.5,
      "mscale_all_dim":2,"original_max_position_embeddings":128,"beta_fast":0}})")
                .rope_scaling,
            yarn);
  yarn.attention_factor = 0.75;
  yarn.beta_fast = 16;
  yarn.beta_slow = 2;
  yarn.truncate = false;
  EXPECT_EQ(read(R"({"rope_parameters":{"rope_type":"yarn","factor":4.0,"attention_factor":0.75,
      "mscale":0.5,"mscale_all_dim":2,"beta_fast":16,"beta_slow":2,"truncate":false,
      "original_max_position_embeddings":128}})")
                .rope_scaling,
            yarn);
}

TEST_F(HfConfigTest, AnyRopeScalingReadsBack) {
  const auto model = OpenModel(kGolden + "tiny_llama_tied");
  const std::vector<float> slab = ReadSlab(*model);
  RopeScaling given;
  given.type = RopeType::kFactors;
  given.factors = {1, 1.5F, 2.7182817F, 3, 4, 5, 6, 8};
  given.attention_factor = 1.1;
  RopeScaling yarn;
  yarn.type = RopeType::kYarn;
  yarn.factor = 4;
  yarn.original_max_position = 128;
  yarn.attention_factor = 1.0 / 3;
  yarn.truncate = false;
  for (const RopeScaling& scaling : {given, yarn}) {
    ModelConfig config = model->config();
    config.rope_scaling = scaling;
    SaveHfModel(folder_, config, slab, DType::kF32);
    EXPECT_EQ(OpenModel(folder_)->config().rope_scaling, scaling);
  }
}

TEST_F(HfConfigTest, TheWordOfTheGenerationConfigGoesFirst) {
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

TEST_F(HfConfigTest, BadJsonAndMissingFilesAreNamed) {
  ExpectInputError([&] { OpenModel(folder_); }, {folder_, "config.json"});
  ExpectInputError([&] { OpenModel(folder_ + "/none"); }, {folder_ + "/none", "no such model"});
  CopyWith("tiny_qwen2", Json::object());
  for (const char* bad : {"", "[]", "{", "{\"a\":1,\"a\":2}", "\xff"}) {
    Write("config.json", bad);
    ExpectInputError([&] { OpenModel(folder_); }, {"/config.json: "});
  }
  Write("config.json", std::string(100000, '['));
  ExpectInputError([&] { OpenModel(folder_); }, {"/config.json: nested deeper"});
  CopyWith("tiny_qwen2", Json::object());
  fs::remove(folder_ + "/model.safetensors");
  ExpectInputError([&] { OpenModel(folder_); }, {folder_, "model.safetensors.index.json"});
}

}  // namespace
}  // namespace opo
