// Value heads on disk: transformers' ...ForSequenceClassification folders and PEFT's SEQ_CLS
// adapters, the heads that a checkpoint is given or loses, and what is refused.
#include <cmath>

#include "format/expect_error.h"
#include "model/load_fixture.h"
#include "model/weights.h"

namespace opo {
namespace {

using HeadsTest = LoadTest;

std::vector<float> Slab(const Weights& weights) {
  return {weights.slab.span().begin(), weights.slab.span().end()};
}
std::vector<float> TensorOf(const Weights& weights, const std::string& name) {
  for (const TensorSpec& t : weights.layout.tensors) {
    if (t.name != name) continue;
    return {weights.slab.data() + t.offset, weights.slab.data() + t.offset + t.size()};
  }
  return {};
}
Json ConfigJson(const std::string& folder) {
  return Json::parse(ReadFile(folder + "/config.json"));
}

TEST_F(HeadsTest, FoldersOfTransformersComeBackAsTheyWere) {
  for (const auto& [model, name] : {std::pair{"llama", "Llama"},
                                    {"mistral", "Mistral"},
                                    {"qwen2", "Qwen2"},
                                    {"qwen3", "Qwen3"}}) {
    SCOPED_TRACE(model);
    const std::string folder = kGolden + "tiny_score_" + model;
    const Weights weights = LoadWeights(folder);
    EXPECT_FALSE(weights.config.has_logits);
    EXPECT_TRUE(weights.config.has_values);
    EXPECT_EQ(weights.layout.head, -1);
    EXPECT_EQ(weights.layout.score, weights.layout.tensors.back().offset);
    const std::string saved = folder_ + "/" + model;
    SaveTrained(saved, weights, "");
    EXPECT_EQ(ConfigJson(saved)["architectures"],
              Json::array({name + std::string("ForSequenceClassification")}));
    EXPECT_EQ(ConfigJson(saved)["id2label"], Json::parse(R"({"0":"LABEL_0"})"));
    EXPECT_EQ(ConfigJson(saved)["pad_token_id"], ConfigJson(folder)["pad_token_id"]);
    EXPECT_FALSE(fs::exists(saved + "/generation_config.json"));
    const Weights again = LoadWeights(saved);
    EXPECT_FALSE(again.config.has_logits);
    EXPECT_EQ(Slab(again), Slab(weights));
    // The same one tensor after the other, as `opo convert` does it.
    SaveHfModel(saved + "_copy", *OpenModel(folder), {}, DType::kF32);
    EXPECT_EQ(ReadSlab(*OpenModel(saved + "_copy")), ReadSlab(*OpenModel(folder)));
  }
}

TEST_F(HeadsTest, ACausalLmIsGivenAValueHeadAndLosesItsOwn) {
  const std::string folder = kGolden + "tiny_llama_untied";
  const Weights causal = LoadWeights(folder);
  const Weights critic = LoadWeights(folder, SlabOf::kTrained, Heads{false, true});
  EXPECT_TRUE(TensorOf(critic, "lm_head.weight").empty());
  EXPECT_EQ(TensorOf(critic, "score.weight"), std::vector<float>(64, 0.0f));
  for (const char* name : {"model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"}) {
    EXPECT_EQ(TensorOf(critic, name), TensorOf(causal, name));
  }
  const Weights drawn = LoadWeights(folder, SlabOf::kTrained, Heads{false, true, 0.01, 5});
  const std::vector<float> score = TensorOf(drawn, "score.weight");
  EXPECT_EQ(score, TensorOf(LoadWeights(folder, SlabOf::kTrained, Heads{true, true, 0.01, 5}),
                            "score.weight"));
  EXPECT_NE(score, TensorOf(LoadWeights(folder, SlabOf::kTrained, Heads{true, true, 0.01, 6}),
                            "score.weight"));
  double square = 0;
  for (const float v : score) square += static_cast<double>(v) * static_cast<double>(v);
  EXPECT_NEAR(std::sqrt(square / 64), 0.01, 0.003);

  // A head that is there is kept, whatever a fresh one would be.
  SaveTrained(folder_, drawn, "");
  EXPECT_EQ(TensorOf(LoadWeights(folder_, SlabOf::kTrained, Heads{false, true}), "score.weight"),
            score);
  EXPECT_EQ(Slab(LoadWeights(folder, SlabOf::kTrained, Heads{})), Slab(causal));
  for (const auto& read : {Heads{true, false}, Heads{true, true}}) {
    ExpectInputError([&] { LoadWeights(folder_, SlabOf::kTrained, read); },
                     {folder_, "no LM head", "causal language model"});
  }
}

TEST_F(HeadsTest, ASharedTrunkIsACausalLmWithAScoreBeside) {
  const std::string golden = kGolden + "tiny_qwen3";
  const Weights both = LoadWeights(golden, SlabOf::kTrained, Heads{true, true, 0.1, 1});
  SaveTrained(folder_, both, "");
  EXPECT_EQ(ConfigJson(folder_)["architectures"], Json::array({"Qwen3ForCausalLM"}));
  EXPECT_TRUE(fs::exists(folder_ + "/generation_config.json"));
  const Weights again = LoadWeights(folder_);
  EXPECT_TRUE(again.config.has_logits && again.config.has_values);
  EXPECT_EQ(Slab(again), Slab(both));
  EXPECT_EQ(Slab(LoadWeights(folder_, SlabOf::kTrained, Heads{})), Slab(LoadWeights(golden)));
}

// transformers takes the score from the last token that is not pad_token_id.
TEST_F(HeadsTest, AnEosIsNoPaddingOfARewardModel) {
  const std::string folder =
      CopyWith("tiny_llama_tied", {{"pad_token_id", 5}, {"eos_token_id", 5}});
  fs::remove(folder + "/generation_config.json");
  EXPECT_EQ(LoadWeights(folder).config.pad_id, 5);
  EXPECT_EQ(LoadWeights(folder, SlabOf::kTrained, Heads{true, true}).config.pad_id, 5);
  EXPECT_EQ(LoadWeights(folder, SlabOf::kTrained, Heads{false, true}).config.pad_id, -1);
}

TEST_F(HeadsTest, WhatIsNoValueHeadIsRefusedWithTheCure) {
  const auto refused = [&](const char* model, const Json& patch,
                           std::initializer_list<std::string> parts) {
    const std::string folder = CopyWith(model, patch);
    ExpectInputError([&] { OpenModel(folder); }, parts);
  };
  const char* const model = "tiny_score_llama";
  refused(model, {{"id2label", {{"0", nullptr}, {"1", "bad"}, {"2", "good"}}}},
          {"2 labels", "num_labels=1"});
  refused(model, {{"id2label", nullptr}}, {"2 labels", "num_labels=1"});
  refused(model, {{"num_labels", 2}}, {"2 labels", "num_labels=1"});
  refused(model, {{"architectures", {"LlamaForTokenClassification"}}},
          {"LlamaForTokenClassification", "ForSequenceClassification with one label"});
  refused("tiny_llama_tied",
          {{"architectures", {"LlamaForSequenceClassification"}}, {"id2label", {{"0", "LABEL_0"}}}},
          {"score.weight", "missing"});
  // A tied LM head leaves no trace in the file: without a class it is one, with a score beside.
  EXPECT_TRUE(OpenModel(CopyWith(model, {{"architectures", nullptr}}))->config().has_logits);

  const auto with_tensor = [&](const std::string& name, std::vector<idx> shape) {
    const std::unique_ptr<ModelSource> source = OpenModel(kGolden + model);
    const std::vector<float> slab = ReadSlab(*source);
    std::vector<SafeTensorToWrite> tensors;
    for (const TensorSpec& t : ListTensors(source->config())) {
      if (t.name == name) continue;
      tensors.push_back({t.name,
                         t.is_vector ? std::vector<idx>{t.cols} : std::vector<idx>{t.rows, t.cols},
                         std::span(slab).subspan(static_cast<std::size_t>(t.offset),
                                                 static_cast<std::size_t>(t.size()))});
    }
    idx size = 1;
    for (const idx n : shape) size *= n;
    tensors.push_back({name, shape, std::span(slab).first(static_cast<std::size_t>(size))});
    const std::string folder = CopyWith(model, Json::object());
    WriteSafetensors(folder + "/model.safetensors", tensors, DType::kF32, {{"format", "pt"}});
    return folder;
  };
  ExpectInputError([&] { OpenModel(with_tensor("score.bias", {1})); },
                   {"score.bias", "no bias", "remove it"});
  ExpectInputError(
      [&] {
        OpenModel(with_tensor("score.weight", {2, 16}));
      },
      {"score.weight", "[2, 16]", "[1, 16]"});
  ExpectInputError(
      [&] {
        SaveGgufModel(folder_ + "/m.gguf", *OpenModel(kGolden + model), GgmlType::kF32, "m", {});
      },
      {"value head", "GGUF", "Hugging Face folder"});
}

// PEFT's SEQ_CLS: the head is trained whole and stands in the adapter's file.
TEST_F(HeadsTest, AnAdapterOfARewardModelKeepsItsHead) {
  const std::string base = kGolden + "tiny_llama_untied";
  LoraConfig lora;
  lora.rank = 3;
  lora.targets = {"q_proj", "up_proj"};
  Weights weights =
      AddAdapter(LoadWeights(base, SlabOf::kNothing, Heads{false, true, 0.1, 7}), lora, 1);
  EXPECT_EQ(weights.layout.tensors.back().name, "score.weight");
  EXPECT_EQ(
      TensorOf(weights, "score.weight"),
      TensorOf(LoadWeights(base, SlabOf::kTrained, Heads{false, true, 0.1, 7}), "score.weight"));
  for (idx i = 0; i < weights.slab.size(); ++i)
    weights.slab[i] += 0.01f * static_cast<float>(i % 7);
  SaveTrained(folder_, weights, base);
  const Json json = Json::parse(ReadFile(folder_ + "/adapter_config.json"));
  EXPECT_EQ(json["task_type"], "SEQ_CLS");
  EXPECT_EQ(json["modules_to_save"], Json::array({"score"}));
  const Weights again = LoadWeights(folder_);
  EXPECT_FALSE(again.config.has_logits);
  EXPECT_EQ(again.DigestHex(), weights.DigestHex());
  EXPECT_EQ(CheckpointShape(folder_).has_values, true);
  // Merged, its head is the adapter's.
  const std::unique_ptr<ModelSource> merged = OpenModel(folder_);
  EXPECT_FALSE(merged->config().has_logits);
  std::vector<float> score(64);
  merged->Read(ListTensors(merged->config()).back(), score);
  EXPECT_EQ(score, TensorOf(weights, "score.weight"));
  ExpectInputError([&] { LoadWeights(folder_, SlabOf::kTrained, Heads{}); }, {"no LM head"});
  // What is packed is the slab's, after an update too.
  PackedWeights<float> packed(weights, true);
  EXPECT_EQ(std::vector<float>(packed.score(), packed.score() + 64), score);
  weights.slab[weights.layout.score] = 3;
  packed.Update(weights);
  EXPECT_EQ(packed.score()[0], 3);
  EXPECT_EQ(packed.FindFlaw(), "");
  *const_cast<float*>(packed.score()) = 4;
  EXPECT_EQ(packed.FindFlaw(), "the value head");
}

TEST(FrozenWeights, OfOneFolderAreThereOnceAndSealed) {
  const std::string path = kGolden + "tiny_score_llama";
  const auto first = FrozenWeights<bf16>(path);
  EXPECT_EQ(first, FrozenWeights<bf16>(kGolden + "./../golden/tiny_score_llama/"));
  EXPECT_NE(first, FrozenWeights<bf16>(kGolden + "tiny_score_qwen2"));
  EXPECT_EQ(first->FindFlaw(), "");
  EXPECT_NE(first->base_digest(), "");
  EXPECT_EQ(first->base_digest(), FrozenWeights<float>(path)->base_digest());
  *const_cast<bf16*>(first->embedding(3)) = FromF32<bf16>(9.0f);
  EXPECT_EQ(first->FindFlaw(), "the embedding");
}

}  // namespace
}  // namespace opo
