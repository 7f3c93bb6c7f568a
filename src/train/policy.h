// The policy that a config asks for: a checkpoint, or a fresh model, and perhaps an adapter.
#pragma once

#include "model/weights.h"
#include "text/tokenizer.h"
#include "train/config.h"

namespace opo {

Tokenizer PolicyTokenizer(const TrainConfig& config);
// What the model that learns is to say: a language model's log-probs, or a score (kNeedsValueHead),
// by a head that is drawn from train.seed where the checkpoint has none.
Heads PolicyHeads(const TrainConfig& config);
// The shape of the model that [model.init] asks for.
ModelConfig FreshModel(const ModelInitConfig& init, const Tokenizer& tokenizer);
// The shape with its adapter and, of a critic or a reward model, with other heads than an LM's.
// Throws Error(kUsage) where [lora] and a PEFT folder disagree.
ModelConfig PolicyShape(const TrainConfig& config, const Tokenizer& tokenizer,
                        const Heads& heads = {});
// A fresh adapter begins as its base, bit for bit, which can then serve as the reference.
bool BeginsAsItsBase(const TrainConfig& config, const ModelConfig& shape);
// An LM head, and beside it a shared critic's.
Heads PolicyHeads(const TrainConfig& config);
// What the folder of a trained adapter names as its base.
std::string BasePath(const TrainConfig& config);
Weights PolicyWeights(const TrainConfig& config, const Tokenizer& tokenizer,
                      const Heads& heads = {});

}  // namespace opo
