// The gradients of log pi(y), sample by sample: their squared norms, and their inner products
// within a group, without ever holding one of them. g_i is the gradient of the sum of sample i's
// token log-probs, at the sampling temperature, by everything that is trained.
//
// All samples of a group go through one backward pass, each with its own rows of the prompt behind
// it (they would share a gradient otherwise), so products with weights are as large as in
// learning. Each tensor's gradient is then taken apart by samples:
// - A matrix's, D^T X over a sample's rows, by its cost: where only norms are asked for and a
//   sample has fewer rows than the matrix has sides, as a ghost norm, |D^T X|^2 =
//   sum_ab (X X^T)_ab (D D^T)_ab (Goodfellow, arXiv 1510.01799); else it is made, a block of its
//   rows for all samples at a time, multiplied with the others' and forgotten.
// - The head's likewise, in blocks of the vocabulary. Where head and embedding are tied, the
//   lookup's rows are part of it.
// Sums within a sample are f32 over at most kDotBlock numbers, and f64 beyond.
#pragma once

#include <vector>

#include "rollout/rollout.h"

namespace opo {

enum class GradientProducts {
  kNorms,  // |g_i|^2
  kAll,    // g_i . g_j
};

struct SampleGradientsResult {
  std::vector<double> norms;     // (K): |g_i|^2; 0 of an empty answer
  std::vector<double> products;  // (K, K), symmetric; empty where only norms were asked for
  // E1: the log-probs that were met on the way against those of the rollouts.
  idx compared_tokens = 0, mismatched_tokens = 0;
};

template <class T>
class SampleGradients {
 public:
  // `memory_bytes`: of one pass, activations and scratch. The model's weights were packed for a
  // backward pass; `layout` says what is trained.
  SampleGradients(Transformer<T>& model, const SlabLayout& layout, idx memory_bytes,
                  float inv_temperature);

  // Of a group's rollouts. What is on `tape` is read from there and left as it is. The norms are
  // the same for any budget and any number of threads. Throws Error(kUsage) where not even one
  // sample fits the budget, or, for kAll, not all of them.
  SampleGradientsResult Compute(const RolloutGroup& group, GradientProducts what,
                                Tape<T>* tape = nullptr);

 private:
  struct Sample;
  class Parts;
  struct Pass;
  idx BytesOf(idx rows, idx taped_rows, idx head_rows, Record record) const;
  void Run(const RolloutGroup& group, std::vector<Sample>& samples, Segment<T>* prefix,
           bool run_prefix, Record record, GradientProducts what, SampleGradientsResult& result);
  void Head(Pass& pass, SampleGradientsResult& result);
  void HeadMatrix(Pass& pass);

  Transformer<T>& model_;
  const SlabLayout& layout_;
  idx memory_bytes_;
  float inv_temperature_;
  Buffer<T> hidden_, dlogits_;
  Buffer<float> logits_, dhidden_, dhead_rows_, dresidual_;
};

}  // namespace opo
