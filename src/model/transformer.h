// The transformer, forward and backward. There is one forward pass: prefill, decode and the learner
// differ only in how many rows they hand to it, so their numbers agree bit for bit (E1, E2).
//
// Shapes: M rows, D model, F ffn, V vocabulary, L layers. Matmul inputs and stored activations are
// T, sums f32. Rounding points: after each norm, RoPE, attention, residual sum, gate/up and SwiGLU.
// Where q and k have a norm, they are rounded before it, and not between it and RoPE.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "model/segment.h"
#include "model/weights.h"

namespace opo {

// `count` tokens to append to a segment. A segment with a prefix continues behind it: its first
// position is the prefix's length.
template <class T>
struct Run {
  Segment<T>* segment = nullptr;
  const Segment<T>* prefix = nullptr;  // may be appended to by another run of the same call
  const TokenId* tokens = nullptr;
  idx count = 0;
  Record record = Record::kNone;  // what to keep for Backward
  bool outputs = true;            // false for shared prompts: in the last layer only K and V
  bool seal = false;              // seal keys, values and records as they are written; all or none
};

// One row of a backward pass: where its record is. A padding row has no segment.
template <class T>
struct GradRow {
  const Segment<T>* segment = nullptr;
  idx row = 0;
  const std::byte* Kept(idx layer) const { return segment->Kept(row, layer); }
  const std::byte* Rest(idx layer) const { return segment->Rest(row, layer); }
};

// The prompt's dK and dV while its samples pass by, one f32 chain over samples, all layers.
struct PrefixGrad {
  idx length = 0;
  Buffer<float> dk, dv;  // (L, length, Hk * Dh); (length, Hk * Dh) where one_layer
  // All its samples are in one pass: each layer takes the room of the one before.
  bool one_layer = false;
};

// A segment's rows in a backward pass. Runs of one prompt stand together, samples first in order,
// the prompt last (in the pass that holds the group's last unit).
template <class T>
struct GradRun {
  Segment<T>* segment = nullptr;  // recorded; the one layer of kResiduals is written over
  const Segment<T>* prefix =
      nullptr;  // null for the prompt itself, or where the prompt is one token
  PrefixGrad* prefix_grad = nullptr;  // of the prompt; null where there is no prefix
  bool is_prefix = false;             // these are the prompt's rows: no outputs in the last layer
  idx first_row = 0;                  // in the rows of the pass
};

// Takes the weight gradients of a backward pass apart by its rows, where a slab would sum them up
// (train/sample_gradients.h). Called for each trained tensor once a pass.
template <class T>
class RowGradients {
 public:
  virtual ~RowGradients() = default;
  // A matrix (n, k), whose gradient is dy^T x; dy (rows, n) and x (rows, k) of all rows of the
  // pass.
  virtual void Matrix(const T* dy, idx lddy, idx n, const T* x, idx ldx, idx k) = 0;
  // A vector: add(sum, first, count) adds the gradient of rows [first, first + count) to `sum`
  // (width, and room up to a multiple of 16).
  virtual void Vector(idx width,
                      const std::function<void(float* sum, idx first, idx count)>& add) = 0;
};

// Rows that a layer takes at once where rows do not need each other: what lies between two products
// then stays in the cache. A multiple of kRowBlock; changes no bit.
inline constexpr idx kLayerRows = 512;

template <class T>
class Transformer {
 public:
  // Without its adapter, where it has one, the policy is its frozen base: a reference that takes no
  // weights of its own.
  explicit Transformer(const PackedWeights<T>& weights, bool adapter = true);

  const ModelConfig& config() const { return weights_.config(); }
  const PackedWeights<T>& weights() const { return weights_; }
  SegmentPool<T>& pool() { return pool_; }
  idx ld() const { return ld_d_; }

  // Appends all runs to their segments. `hidden` receives the final norm's output, (rows of runs
  // with outputs, ld()), in the order of the runs; null where nobody reads it.
  void Forward(std::span<const Run<T>> runs, T* hidden);

  // Fills the pages of an empty segment with the keys and values of the first `rows` rows of a
  // recorded one, so that it can be continued from there.
  void RestoreKeys(Segment<T>& segment, const Segment<T>& recorded, idx rows);

  // logits (m, ld_logits()) f32 = hidden (m, ld()) E^T.
  idx ld_logits() const { return WideStride(config().vocab_size); }
  void Logits(const T* hidden, idx m, float* logits);
  // The same of the vocabulary's entries [first, first + count) alone, first a multiple of kPanel.
  void LogitsOf(const T* hidden, idx m, idx first, idx count, float* logits, idx ldl);
  // dhidden (m, ld()) f32 = dlogits E; d(head) += dlogits^T hidden (null: it is frozen). m is a
  // multiple of RowBlock. dlogits (m, ldl) are of the entries [first, first + count), first a
  // multiple of kPad: part by part from entry 0 on, without another gradient in between, gives the
  // bits of one call.
  void LogitsGrad(float* dhidden, float* dhead, const T* dlogits, idx ldl, idx first, idx count,
                  const T* hidden, idx m);

  // values (m) f32 = hidden s, the value head's weights s in f32: one chain of sums a row, whatever
  // m.
  void Values(const T* hidden, idx m, float* values) const;
  // ds += dvalues^T hidden (null: it is frozen), rows in order; dhidden (m, ld()) f32 = dvalues
  // s^T, or, where there are logits, so much more.
  void ValuesGrad(float* dhidden, float* dscore, const float* dvalues, const T* hidden, idx m);

  // The final norm of recorded rows (padding rows: zero), and its gradient: dresidual is written.
  // dgamma may be null.
  void FinalNorm(T* hidden, std::span<const GradRow<T>> rows);
  void FinalNormGrad(float* dresidual, float* dgamma, const float* dhidden,
                     std::span<const GradRow<T>> rows);

  // Backward through all layers; those of segments that hold residuals only are first run forward
  // again, one layer at a time (their pages, and their prefix's, must still be there). `rows`:
  // units in order, each padded to RowBlock; `dresidual` (rows, ld()) f32: in, the gradient by the
  // last layer's output; out, by the embeddings. Gradients are added to the slab `grad` (laid out
  // as weights.h says). Chains over rows go on from call to call, so cutting the rows into several
  // calls (at units) changes no bit. `layer_done(l)`, if there is one, is called when a layer's
  // gradients have been added, from the last layer to the first.
  void Backward(float* dresidual, std::span<const GradRow<T>> rows,
                std::span<const GradRun<T>> runs, const SlabLayout& layout, float* grad,
                const std::function<void(idx layer)>& layer_done = {});
  // The same with each trained tensor's gradient (`layout` says which are) left to `parts`.
  void Backward(float* dresidual, std::span<const GradRow<T>> rows,
                std::span<const GradRun<T>> runs, const SlabLayout& layout, RowGradients<T>& parts);

  // Bytes a row of a backward pass needs beside its record (an upper bound, for plans); where parts
  // are taken, with the row's share of a layer's scratch.
  idx backward_row_bytes(bool parts = false) const;

 private:
  // How the rows of a call fall into attention tiles: the same for every layer but the pages.
  struct Tiles {
    struct Span {
      idx first_row, num_rows, first_pos;
      const Segment<T>* segment;
    };
    struct Tile {
      idx row0;  // first row of the call; a tile's rows are consecutive
      idx num_rows;
      const Segment<T>* prefix;
      std::vector<Span> spans;
    };
    std::vector<Tile> with_outputs, prefixes;
  };
  // The rows of a call: those with outputs stand first, so that the last layer can leave out the
  // others.
  struct Pass {
    struct Row {
      Segment<T>* segment;
      idx row;       // in the segment
      idx position;  // in the sequence
      TokenId token;
      Record record;
    };
    std::vector<Row> rows;
    idx num_outputs = 0;
    Tiles tiles;
    idx size() const { return static_cast<idx>(rows.size()); }
  };
  void EnsureRope(idx positions);
  // One product for `count` rows of x, and its gradient by x (as f32 in c, or as T in out). Rows of
  // x and of dy have room for the adapter's columns behind theirs, which are written.
  void Multiply(const PackedLinear<T>& linear, T* x, idx ldx, idx count, GemmOutput output,
                float* c, T* out, idx ldo);
  void MultiplyGrad(const PackedLinear<T>& linear, const PackedMatrix<T>& transposed, T* dy,
                    idx lddy, idx count, float* c, T* out, idx ldo);
  // Only what Multiply writes behind x.
  void AdapterColumns(const PackedLinear<T>& linear, T* x, idx ldx, idx count);
  // The gradients by the product's weights, after MultiplyGrad and AdapterColumns.
  void LinearGrad(const PackedLinear<T>& linear, const LinearOffsets& at, const T* dy, idx lddy,
                  const T* x, idx ldx, idx count, float* grad, RowGradients<T>* parts);
  void BackwardLayers(float* dresidual, std::span<const GradRow<T>> rows,
                      std::span<const GradRun<T>> runs, const SlabLayout& layout, float* grad,
                      RowGradients<T>* parts, const std::function<void(idx)>& layer_done);
  Pass MakePass(std::span<const Run<T>> runs);
  Tiles MakeTiles(std::span<const Run<T>> runs, const std::vector<idx>& first_row) const;
  void Attend(const Tiles& tiles, idx layer);
  void ForwardLayer(const Pass& pass, idx layer, bool recompute);
  void RecomputeLayer(const Pass& pass, idx layer);
  void AttentionBackward(std::span<const GradRun<T>> runs, idx layer, bool last);
  QkNorm qk_norm(idx layer) const;

  const PackedWeights<T>& weights_;
  bool adapter_;
  AttentionShape shape_;
  SegmentPool<T> pool_;
  idx ld_d_, ld_q_, ld_kv_, ld_qkv_, ld_f_, ld_gu_;
  // Of the operands of products, with the adapter's columns.
  idx ld_h_, ld_attn_, ld_act_, ld_dy_, ld_dgu_, ld_dqkv_;
  idx rope_positions_ = 0;
  Buffer<float> cos_, sin_;  // (positions, ld_half_)
  idx ld_half_;

  // Scratch of Forward, (M, ...), and of a chunk of at most kLayerRows rows.
  Buffer<T> x_, q_, attn_;
  Buffer<float> lse_;
  Buffer<T> h_, k_, v_, gate_up_, act_;
  Buffer<float> qkv_;
  Buffer<T> q_pre_, k_pre_;  // where q and k have a norm
  // Of Backward, the same.
  Buffer<T> dattn_;
  Buffer<float> dq_, dk_, dv_;
  Buffer<T> dy_, h_attn_, dact_, dgate_up_, dqkv_;
  Buffer<float> dh_, rstd_, qk_rstd_;
  WeightGradScratch<T> weight_grad_;
  PackedMatrix<T> qkv_t_, o_t_, gate_up_t_, down_t_;  // of a layer whose weights are frozen
};

}  // namespace opo
