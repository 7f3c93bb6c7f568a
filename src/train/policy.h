// The policy that a config asks for: a checkpoint, or a fresh model, and perhaps an adapter.
#pragma once

#include "model/weights.h"
#include "text/tokenizer.h"
#include "train/config.h"

namespace opo {

Tokenizer PolicyTokenizer(const TrainConfig& config);
// The shape of the model that [model.init] asks for.
ModelConfig FreshModel(const ModelInitConfig& init, const Tokenizer& tokenizer);
// The shape with its adapter. Throws Error(kUsage) where [lora] and a PEFT folder disagree.
ModelConfig PolicyShape(const TrainConfig& config, const Tokenizer& tokenizer);
Weights PolicyWeights(const TrainConfig& config, const Tokenizer& tokenizer);

}  // namespace opo
