#include "model/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>
#include <optional>

#include "base/error.h"
#include "base/hash.h"
#include "base/parallel.h"
#include "base/rng.h"

namespace opo {
namespace {

// Two 32-bit draws for element i of a named tensor; one number a counter keeps them order-free.
std::array<std::uint32_t, 4> DrawBits(std::uint64_t seed, std::uint64_t name, idx i) {
  return Philox4x32({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32),
                     static_cast<std::uint32_t>(name), static_cast<std::uint32_t>(name >> 32)},
                    {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

// A tensor's elements, normal with deviation `std`.
void DrawNormal(std::uint64_t seed, const std::string& tensor, double std, std::span<float> out) {
  const std::uint64_t name = Hash64(tensor);
  ParallelChunks(std::ssize(out), 4096, [&](idx begin, idx end) {
    for (idx i = begin; i < end; ++i) {
      // Box-Muller.
      const auto bits = DrawBits(seed, name, i);
      const double u = (static_cast<double>(bits[0]) + 1.0) * 0x1.0p-32;
      const double v = static_cast<double>(bits[1]) * 0x1.0p-32;
      out[static_cast<std::size_t>(i)] = static_cast<float>(std * std::sqrt(-2.0 * std::log(u)) *
                                                            std::cos(2.0 * std::numbers::pi * v));
    }
  });
}

// A random model, drawn tensor by tensor.
class DrawnSource : public ModelSource {
 public:
  DrawnSource(ModelConfig config, std::uint64_t seed, double std)
      : config_(std::move(config)), seed_(seed), std_(std) {}
  const ModelConfig& config() const override { return config_; }
  void Read(const TensorSpec& spec, std::span<float> out) const override {
    if (spec.is_vector) {
      std::fill(out.begin(), out.end(), spec.name.ends_with(".bias") ? 0.0f : 1.0f);
      return;
    }
    DrawNormal(seed_, spec.name, std_, out);
  }

 private:
  ModelConfig config_;
  std::uint64_t seed_;
  double std_;
};

// A model with other heads than its own.
class HeadedSource : public ModelSource {
 public:
  HeadedSource(std::shared_ptr<const ModelSource> source, const Heads& heads)
      : source_(std::move(source)), heads_(heads), config_(source_->config()) {
    fresh_ = heads.values && !config_.has_values;
    // transformers takes the score from the last token that is no padding, which an answer's EOS
    // has to be.
    const auto& eos = config_.eos_ids;
    if (!heads.logits && std::find(eos.begin(), eos.end(), config_.pad_id) != eos.end()) {
      config_.pad_id = -1;
    }
    config_.has_logits = heads.logits;
    config_.has_values = heads.values;
  }
  const ModelConfig& config() const override { return config_; }
  std::string StoredType(const TensorSpec& spec) const override {
    return IsFresh(spec) ? "" : source_->StoredType(spec);
  }
  void Read(const TensorSpec& spec, std::span<float> out) const override {
    if (!IsFresh(spec)) {
      source_->Read(spec, out);
    } else if (heads_.std > 0) {
      DrawNormal(heads_.seed, spec.name, heads_.std, out);
    } else {
      std::fill(out.begin(), out.end(), 0.0f);
    }
  }

 private:
  bool IsFresh(const TensorSpec& spec) const { return fresh_ && spec.name == "score.weight"; }
  std::shared_ptr<const ModelSource> source_;
  Heads heads_;
  ModelConfig config_;
  bool fresh_ = false;
};

std::vector<TensorSpec> SlabTensors(const ModelConfig& config, SlabOf what) {
  if (config.lora.on()) return ListAdapterTensors(config);
  return what == SlabOf::kTrained ? ListTensors(config) : std::vector<TensorSpec>{};
}

// All tensors of the slab from a ModelSource or an AdapterFile.
template <class Source>
void FillSlab(Weights& weights, const Source& source) {
  for (const TensorSpec& t : weights.layout.tensors) {
    source.Read(t, {weights.slab.data() + t.offset, static_cast<std::size_t>(t.size())});
  }
}

}  // namespace

SlabLayout::SlabLayout(const ModelConfig& config, SlabOf what)
    : tensors(SlabTensors(config, what)), size(SlabSize(tensors)) {
  std::map<std::string, idx, std::less<>> places;
  for (const TensorSpec& t : tensors) places[t.name] = t.offset;
  const auto at = [&](const std::string& name) {
    const auto it = places.find(name);
    return it == places.end() ? -1 : it->second;
  };
  const LayerShapes shapes(config);
  for (idx l = 0; l < config.num_layers; ++l) {
    const std::string layer = fmt::format("model.layers.{}.", l);
    const auto linear = [&](const LinearShape& shape) {
      const auto name = [&](const LinearShape::Part& part) {
        return fmt::format("{}{}.{}.", layer, shape.block, part.name);
      };
      LinearOffsets o;
      o.w = at(name(shape.parts.front()) + "weight");
      idx row0 = 0;
      for (const LinearShape::Part& part : shape.parts) {
        if (const idx b = at(name(part) + "lora_B.weight"); b >= 0) {
          if (o.parts.empty()) o.a = at(name(part) + "lora_A.weight");
          o.parts.push_back({row0, part.rows, b});
        }
        row0 += part.rows;
      }
      return o;
    };
    LayerOffsets o;
    o.qkv = linear(shapes.qkv);
    o.o = linear(shapes.o);
    o.gate_up = linear(shapes.gate_up);
    o.down = linear(shapes.down);
    o.attn_norm = at(layer + "input_layernorm.weight");
    o.qkv_bias = at(layer + "self_attn.q_proj.bias");
    o.mlp_norm = at(layer + "post_attention_layernorm.weight");
    o.q_norm = at(layer + "self_attn.q_norm.weight");
    o.k_norm = at(layer + "self_attn.k_norm.weight");
    layers.push_back(o);
  }
  embed = at("model.embed_tokens.weight");
  final_norm = at("model.norm.weight");
  if (config.has_logits) head = config.tied_embeddings ? embed : at("lm_head.weight");
  score = at("score.weight");
}

Weights::Weights(ModelConfig config_in, SlabOf what, std::shared_ptr<const ModelSource> base_in)
    : config(std::move(config_in)),
      layout(config, what),
      slab(layout.size),
      base(std::move(base_in)) {
  if (what == SlabOf::kNothing || config.lora.on()) return;
  FillSlab(*this, *base);
  base.reset();
}

std::string Weights::DigestHex() const {
  Digest digest;
  for (const TensorSpec& t : layout.tensors) {
    digest.Add(std::span<const float>(slab.data() + t.offset, static_cast<std::size_t>(t.size())));
  }
  return digest.Hex();
}

void ReadTrained(Weights& weights, const std::string& folder) {
  if (weights.config.lora.on()) {
    const AdapterFile adapter(folder);
    (void)adapter.Fit(weights.config);
    for (const TensorSpec& t : weights.layout.tensors) {
      if (!adapter.Has(t)) Fail(ErrorCode::kInput, "{}: tensor '{}' is missing", folder, t.name);
    }
    FillSlab(weights, adapter);
  } else {
    FillSlab(weights, *OpenModel(folder));
  }
}

void SaveTrained(const std::string& folder, const Weights& weights, const std::string& base) {
  if (weights.config.lora.on()) {
    SaveAdapter(folder, weights.config, base, weights.slab.span());
  } else {
    SaveHfModel(folder, weights.config, weights.slab.span(), DType::kF32);
  }
}

void CheckAnswers(const ModelConfig& config, const std::string& where) {
  if (config.has_logits) return;
  Fail(ErrorCode::kInput,
       "{}: has a value head and no LM head, so it scores answers and cannot write any; give a "
       "causal language model (a reward model is named by a [[reward]] of kind \"model\")",
       where);
}

std::shared_ptr<const ModelSource> WithHeads(std::shared_ptr<const ModelSource> source,
                                             const Heads& heads, const std::string& where) {
  OPO_CHECK(heads.logits || heads.values);
  const ModelConfig& config = source->config();
  if (heads.logits) CheckAnswers(config, where);
  if (heads.logits == config.has_logits && heads.values == config.has_values) return source;
  return std::make_shared<HeadedSource>(std::move(source), heads);
}

Weights LoadWeights(const std::string& path, SlabOf what, const std::optional<Heads>& heads) {
  if (IsAdapterFolder(path)) {
    const AdapterFile adapter(path);
    std::shared_ptr<const ModelSource> base = OpenModel(adapter.BasePath());
    const ModelConfig fitted = adapter.Fit(base->config());
    const Heads wanted = heads.value_or(Heads{fitted.has_logits, fitted.has_values});
    if (wanted.logits) CheckAnswers(fitted, path);
    base = WithHeads(std::move(base), wanted, path);
    ModelConfig config = base->config();
    config.lora = adapter.lora();
    Weights weights(config, what, std::move(base));
    for (const TensorSpec& t : weights.layout.tensors) {
      const std::span<float> out(weights.slab.data() + t.offset,
                                 static_cast<std::size_t>(t.size()));
      if (adapter.Has(t)) {
        adapter.Read(t, out);
      } else {  // a value head that the adapter was trained without
        weights.base->Read(t, out);
      }
    }
    return weights;
  }
  std::shared_ptr<const ModelSource> source = OpenModel(path);
  if (heads.has_value()) source = WithHeads(std::move(source), *heads, path);
  const ModelConfig config = source->config();
  return Weights(config, what, std::move(source));
}

Weights InitWeights(const ModelConfig& config, std::uint64_t seed, double std,
                    const std::optional<Heads>& heads) {
  ValidateConfig(config, "model.init");
  ModelConfig drawn = config;
  drawn.lora = {};
  std::shared_ptr<const ModelSource> source = std::make_shared<DrawnSource>(drawn, seed, std);
  if (heads.has_value()) source = WithHeads(std::move(source), *heads, "model.init");
  const ModelConfig base = source->config();
  if (!config.lora.on()) return Weights(base, SlabOf::kTrained, std::move(source));
  return AddAdapter(Weights(base, SlabOf::kNothing, std::move(source)), config.lora, seed);
}

Weights AddAdapter(Weights model, const LoraConfig& lora, std::uint64_t seed) {
  OPO_CHECK(!model.config.lora.on() && model.base != nullptr);
  ModelConfig config = model.config;
  config.lora = lora;
  Weights weights(config, SlabOf::kTrained, std::move(model.base));
  if (const idx score = weights.layout.score; score >= 0) {
    const TensorSpec& t = weights.layout.tensors.back();
    OPO_CHECK(t.offset == score);
    weights.base->Read(t, {weights.slab.data() + score, static_cast<std::size_t>(t.size())});
  }
  for (const TensorSpec& t : weights.layout.tensors) {
    if (!t.name.ends_with("lora_A.weight")) continue;  // B is zero
    const std::uint64_t name = Hash64(t.name);
    const double bound = 1.0 / std::sqrt(static_cast<double>(t.cols));
    for (idx i = 0; i < t.size(); ++i) {
      const double u = static_cast<double>(DrawBits(seed, name, i)[0]) * 0x1.0p-31 - 1.0;
      weights.slab[t.offset + i] = static_cast<float>(bound * u);
    }
  }
  return weights;
}

// Tensors as f32: from the slab where it has them, else from the base.
template <class T>
class PackedWeights<T>::Reader {
 public:
  Reader(const Weights& weights, bool digest) : weights_(weights) {
    for (TensorSpec& t : ListTensors(weights.config)) {
      const std::string name = t.name;
      specs_.emplace(name, std::move(t));
    }
    for (const TensorSpec& t : weights.layout.tensors) in_slab_[t.name] = t.offset;
    if (digest) digest_.emplace();
  }
  // Tensors that stand next to each other in a slab, one after the other. Good until the next call.
  const float* Get(std::initializer_list<std::string> names) {
    if (const auto it = in_slab_.find(*names.begin()); it != in_slab_.end()) {
      return weights_.slab.data() + it->second;
    }
    idx size = 0;
    for (const std::string& name : names) size += specs_.at(name).size();
    buffer_.Reserve(size);
    idx at = 0;
    for (const std::string& name : names) {
      const TensorSpec& spec = specs_.at(name);
      weights_.base->Read(spec, buffer_.span().subspan(static_cast<std::size_t>(at),
                                                       static_cast<std::size_t>(spec.size())));
      at += spec.size();
    }
    if (digest_)
      digest_->Add(std::span<const float>(buffer_.data(), static_cast<std::size_t>(size)));
    return buffer_.data();
  }
  // Of the frozen tensors.
  std::string DigestHex() const { return digest_ ? digest_->Hex() : ""; }

 private:
  const Weights& weights_;
  std::map<std::string, TensorSpec, std::less<>> specs_;
  std::map<std::string, idx, std::less<>> in_slab_;
  Buffer<float> buffer_;
  std::optional<Digest> digest_;
};

template <class T>
const PackedMatrix<T>& PackedLinear<T>::Transposed(PackedMatrix<T>& scratch) const {
  if (w_t.n > 0) return w_t;
  scratch.Resize(k, columns > 0 ? dy_column() + columns : n);
  scratch.PackTurnedAt(0, w);
  if (columns > 0) scratch.CopyAt(dy_column(), a_t);
  return scratch;
}

template <class T>
idx PackedLinear<T>::bytes() const {
  return w.data.bytes() + w_t.data.bytes() + a.data.bytes() + b_t.data.bytes() + a_t.data.bytes();
}

template <class T>
PackedWeights<T>::PackedWeights(const Weights& weights, bool backward)
    : config_(weights.config),
      backward_(backward),
      ld_embed_(RoundUp(config_.hidden_size, kPad)),
      layers_(static_cast<std::size_t>(config_.num_layers)),
      final_norm_(ld_embed_),
      score_(config_.has_values ? ld_embed_ : 0),
      embed_(config_.vocab_size * ld_embed_) {
  const idx d = config_.hidden_size;
  const LayerShapes shapes(config_);
  const auto shape = [&](PackedLinear<T>& linear, const LinearShape& of) {
    linear.n = of.n();
    linear.k = of.k;
    linear.columns = of.adapter_columns(config_.lora);
    linear.w.Resize(linear.n, linear.columns > 0 ? linear.x_column() + linear.columns : linear.k);
    if (backward && weights.base == nullptr) linear.w_t.Resize(linear.k, linear.n);
  };
  for (Layer& layer : layers_) {
    layer.attn_norm = Buffer<float>(RoundUp(d, kPad));
    layer.mlp_norm = Buffer<float>(RoundUp(d, kPad));
    shape(layer.qkv, shapes.qkv);
    shape(layer.o, shapes.o);
    shape(layer.gate_up, shapes.gate_up);
    shape(layer.down, shapes.down);
    if (config_.qk_norm) {
      layer.q_norm = Buffer<float>(RoundUp(config_.head_dim, kPad));
      layer.k_norm = Buffer<float>(RoundUp(config_.head_dim, kPad));
    }
  }
  Reader reader(weights, weights.base != nullptr);
  PackBase(reader);
  base_digest_ = reader.DigestHex();
  PackAdapter(weights);
  if (backward_) Seal();
}

template <class T>
void PackedWeights<T>::Update(const Weights& weights) {
  if (weights.base == nullptr) {
    Reader reader(weights, false);
    PackBase(reader);
  }
  PackAdapter(weights);
  if (backward_) Seal();
}

template <class T>
void PackedWeights<T>::PackBase(Reader& reader) {
  const idx d = config_.hidden_size;
  const auto pack = [&](PackedLinear<T>& linear, const float* w) {
    linear.w.PackAt(0, w, linear.k, linear.k);
    if (linear.w_t.n > 0) linear.w_t.PackTransposedAt(0, w, linear.k, linear.n);
  };
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    const std::string at = fmt::format("model.layers.{}.", l);
    const std::string attn = at + "self_attn.";
    const std::string mlp = at + "mlp.";
    std::copy_n(reader.Get({at + "input_layernorm.weight"}), d, layer.attn_norm.data());
    pack(layer.qkv,
         reader.Get({attn + "q_proj.weight", attn + "k_proj.weight", attn + "v_proj.weight"}));
    if (config_.qkv_bias) {
      layer.qkv_bias.Reserve(layer.qkv.n);
      std::copy_n(reader.Get({attn + "q_proj.bias", attn + "k_proj.bias", attn + "v_proj.bias"}),
                  layer.qkv.n, layer.qkv_bias.data());
    }
    if (config_.qk_norm) {
      std::copy_n(reader.Get({attn + "q_norm.weight"}), config_.head_dim, layer.q_norm.data());
      std::copy_n(reader.Get({attn + "k_norm.weight"}), config_.head_dim, layer.k_norm.data());
    }
    pack(layer.o, reader.Get({attn + "o_proj.weight"}));
    std::copy_n(reader.Get({at + "post_attention_layernorm.weight"}), d, layer.mlp_norm.data());
    pack(layer.gate_up, reader.Get({mlp + "gate_proj.weight", mlp + "up_proj.weight"}));
    pack(layer.down, reader.Get({mlp + "down_proj.weight"}));
  }
  std::copy_n(reader.Get({"model.norm.weight"}), d, final_norm_.data());
  const float* embed = reader.Get({"model.embed_tokens.weight"});
  ParallelChunks(config_.vocab_size, 256, [&](idx begin, idx end) {
    for (idx v = begin; v < end; ++v) {
      for (idx i = 0; i < d; ++i) embed_[v * ld_embed_ + i] = FromF32<T>(embed[v * d + i]);
    }
  });
  if (config_.has_logits) {
    const float* head = config_.tied_embeddings ? embed : reader.Get({"lm_head.weight"});
    head_.Pack(head, d, config_.vocab_size, d);
    if (backward_) head_t_.PackTransposed(head, d, config_.vocab_size, d);
  }
  if (config_.has_values) std::copy_n(reader.Get({"score.weight"}), d, score_.data());
}

template <class T>
void PackedWeights<T>::PackAdapter(const Weights& weights) {
  if (!config_.lora.on()) return;
  if (config_.has_values) {
    std::copy_n(weights.slab.data() + weights.layout.score, config_.hidden_size, score_.data());
  }
  const idx rank = config_.lora.rank;
  const auto scale = static_cast<float>(config_.lora.scale());
  Buffer<float> scratch;
  const auto pack = [&](PackedLinear<T>& linear, const LinearOffsets& at) {
    if (linear.columns == 0) return;
    const float* a = weights.slab.data() + at.a;
    scratch.Reserve(std::max(linear.k, linear.n) * linear.columns);
    for (idx i = 0; i < linear.columns * linear.k; ++i) scratch[i] = scale * a[i];
    linear.a.Pack(scratch.data(), linear.k, linear.columns, linear.k);
    if (backward_) linear.a_t.PackTransposed(a, linear.k, linear.columns, linear.k);
    // B (n, columns): a part's rows meet its own columns, the others are zero.
    const auto fill = [&](float factor) {
      std::fill_n(scratch.data(), linear.n * linear.columns, 0.0f);
      idx column = 0;
      for (const LinearOffsets::Part& part : at.parts) {
        const float* b = weights.slab.data() + part.b;
        for (idx r = 0; r < part.rows; ++r) {
          float* out = scratch.data() + (part.row0 + r) * linear.columns + column;
          for (idx j = 0; j < rank; ++j) out[j] = factor * b[r * rank + j];
        }
        column += rank;
      }
    };
    fill(1.0f);
    linear.w.PackAt(linear.x_column(), scratch.data(), linear.columns, linear.columns);
    if (!backward_) return;
    fill(scale);
    linear.b_t.PackTransposed(scratch.data(), linear.columns, linear.n, linear.columns);
  };
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const LayerOffsets& at = weights.layout.layers[l];
    pack(layers_[l].qkv, at.qkv);
    pack(layers_[l].o, at.o);
    pack(layers_[l].gate_up, at.gate_up);
    pack(layers_[l].down, at.down);
  }
}

template <class T>
idx PackedWeights<T>::bytes() const {
  idx total = head_.data.bytes() + head_t_.data.bytes() + embed_.bytes();
  for (const Layer& l : layers_) {
    total += l.qkv.bytes() + l.o.bytes() + l.gate_up.bytes() + l.down.bytes();
  }
  return total;
}

template <class T>
struct PackedWeights<T>::Part {
  idx layer;  // -1: of none
  const char* name;
  std::span<const std::byte> bytes;
};

template <class T>
std::vector<typename PackedWeights<T>::Part> PackedWeights<T>::Parts() const {
  std::vector<Part> parts;
  const auto add = [&](idx layer, const char* name, const auto& buffer) {
    if (buffer.size() > 0) parts.push_back({layer, name, std::as_bytes(buffer.span())});
  };
  for (idx l = 0; l < config_.num_layers; ++l) {
    const Layer& layer = layers_[static_cast<std::size_t>(l)];
    // Of a product: its weights, their transpose, and what an adapter adds.
    const auto linear = [&](const PackedLinear<T>& of, std::array<const char*, 5> names) {
      add(l, names[0], of.w.data);
      add(l, names[1], of.w_t.data);
      add(l, names[2], of.a.data);
      add(l, names[3], of.b_t.data);
      add(l, names[4], of.a_t.data);
    };
    add(l, "input_layernorm", layer.attn_norm);
    linear(layer.qkv, {"q_proj, k_proj, v_proj", "q_proj, k_proj, v_proj transposed",
                       "lora_A of q, k, v", "lora_B of q, k, v", "lora_A of q, k, v transposed"});
    add(l, "q_proj, k_proj, v_proj bias", layer.qkv_bias);
    add(l, "q_norm", layer.q_norm);
    add(l, "k_norm", layer.k_norm);
    linear(layer.o, {"o_proj", "o_proj transposed", "lora_A of o_proj", "lora_B of o_proj",
                     "lora_A of o_proj transposed"});
    add(l, "post_attention_layernorm", layer.mlp_norm);
    linear(layer.gate_up,
           {"gate_proj, up_proj", "gate_proj, up_proj transposed", "lora_A of gate, up",
            "lora_B of gate, up", "lora_A of gate, up transposed"});
    linear(layer.down, {"down_proj", "down_proj transposed", "lora_A of down_proj",
                        "lora_B of down_proj", "lora_A of down_proj transposed"});
  }
  add(-1, "the final norm", final_norm_);
  add(-1, "the head", head_.data);
  add(-1, "the head transposed", head_t_.data);
  add(-1, "the value head", score_);
  add(-1, "the embedding", embed_);
  return parts;
}

// Piece by piece, on all threads; `whose`, if there is one, gets each piece's part.
template <class T>
std::vector<std::uint64_t> PackedWeights<T>::HashParts(std::vector<const Part*>* whose,
                                                       const std::vector<Part>& parts) const {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  std::vector<std::span<const std::byte>> pieces;
  for (const Part& part : parts) {
    for (std::size_t at = 0; at < part.bytes.size(); at += kPiece) {
      pieces.push_back(part.bytes.subspan(at, std::min(kPiece, part.bytes.size() - at)));
      if (whose != nullptr) whose->push_back(&part);
    }
  }
  std::vector<std::uint64_t> hashes(pieces.size());
  ParallelFor(static_cast<idx>(pieces.size()), [&](idx i) {
    hashes[static_cast<std::size_t>(i)] = Hash64(pieces[static_cast<std::size_t>(i)]);
  });
  return hashes;
}

template <class T>
void PackedWeights<T>::Seal() {
  seals_ = HashParts(nullptr, Parts());
}

template <class T>
std::string PackedWeights<T>::FindFlaw() const {
  if (seals_.empty()) return "";
  const std::vector<Part> parts = Parts();
  std::vector<const Part*> whose;
  const std::vector<std::uint64_t> hashes = HashParts(&whose, parts);
  OPO_CHECK(hashes.size() == seals_.size());
  const auto [now, then] = std::mismatch(hashes.begin(), hashes.end(), seals_.begin());
  if (now == hashes.end()) return "";
  const Part& part = *whose[static_cast<std::size_t>(now - hashes.begin())];
  return part.layer < 0 ? part.name : fmt::format("layer {}, {}", part.layer, part.name);
}

template <class T>
std::byte* PackedWeights<T>::ByteAt(idx i) {
  const std::vector<Part> parts = Parts();
  const auto at = static_cast<std::size_t>(i);
  const Part& part = parts[at % parts.size()];
  return const_cast<std::byte*>(part.bytes.data()) + at % part.bytes.size();
}

template struct PackedLinear<float>;
template struct PackedLinear<bf16>;
template class PackedWeights<float>;
template class PackedWeights<bf16>;

}  // namespace opo
