// The oneDNN peer (Debian's libdnnl-dev, 2.6). It is no part of the library: its sums change with
// the number of rows (design: numerics), so it can be measured against and not built upon.
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "base/error.h"
#include "base/parallel.h"
#include "bench/peer.h"

namespace opo {
namespace {

using dnnl::memory;

constexpr memory::data_type kF32 = memory::data_type::f32;

template <class T>
constexpr memory::data_type kTypeOf = memory::data_type::f32;
template <>
constexpr memory::data_type kTypeOf<bf16> = memory::data_type::bf16;

const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// oneDNN's memory takes pointers to what it may write; operands that it only reads are not written.
memory Wrap(const memory::desc& desc, const void* data) {
  return memory(desc, Engine(), const_cast<void*>(data));
}

class Matmul : public PeerProduct {
 public:
  // b_kept: the second operand in the layout of `desc`, owned or the caller's.
  Matmul(const dnnl::matmul::primitive_desc& desc, const memory& a, const memory& b_kept,
         const memory& c)
      : kernel_(desc.impl_info_str()),
        matmul_(desc),
        stream_(Engine()),
        args_({{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b_kept}, {DNNL_ARG_DST, c}}) {}
  void Run() override {
    matmul_.execute(stream_, args_);
    stream_.wait();
  }
  std::string kernel() const override { return kernel_; }

 private:
  std::string kernel_;
  dnnl::matmul matmul_;
  dnnl::stream stream_;
  std::unordered_map<int, memory> args_;
};

// Runs `make`; null where this machine has no such primitive, for instance bf16 without AVX-512.
template <class Make>
std::unique_ptr<PeerProduct> UnlessUnimplemented(const Make& make) {
  omp_set_num_threads(NumThreads());
  try {
    return make();
  } catch (const dnnl::error& e) {
    if (e.status == dnnl_unimplemented) return nullptr;
    Fail(ErrorCode::kWork, "oneDNN: {} (status {})", e.what(), static_cast<int>(e.status));
  }
}

}  // namespace

std::string PeerName() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("oneDNN {}.{}.{}", version->major, version->minor, version->patch);
}

template <class T>
std::unique_ptr<PeerProduct> MakePeerGemm(const T* a, idx lda, const T* b, idx ldb, float* c,
                                          idx ldc, idx m, idx n, idx k) {
  return UnlessUnimplemented([&] {
    const memory::desc a_desc({m, k}, kTypeOf<T>, memory::dims{lda, 1});
    const memory::desc b_any({k, n}, kTypeOf<T>, memory::format_tag::any);
    const memory::desc c_desc({m, n}, kF32, memory::dims{ldc, 1});
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(a_desc, b_any, c_desc), Engine());
    memory given = Wrap(memory::desc({k, n}, kTypeOf<T>, memory::dims{1, ldb}), b);
    memory kept(desc.weights_desc(), Engine());
    dnnl::stream stream(Engine());
    dnnl::reorder(given, kept).execute(stream, given, kept);
    stream.wait();
    return std::make_unique<Matmul>(desc, Wrap(a_desc, a), kept, Wrap(c_desc, c));
  });
}

template <class T>
std::unique_ptr<PeerProduct> MakePeerWeightGrad(const T* dy, idx ldy, const T* x, idx ldx,
                                                float* dw, idx ldw, idx rows, idx n, idx k) {
  return UnlessUnimplemented([&] {
    // Both operands are activations, so any other layout would be made inside the timing: ours
    // transposes and packs there too.
    const memory::desc dy_desc({n, rows}, kTypeOf<T>, memory::dims{1, ldy});
    const memory::desc x_desc({rows, k}, kTypeOf<T>, memory::dims{ldx, 1});
    const memory::desc dw_desc({n, k}, kF32, memory::dims{ldw, 1});
    dnnl::post_ops add;
    add.append_sum(1.0f);
    dnnl::primitive_attr attr;
    attr.set_post_ops(add);
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(dy_desc, x_desc, dw_desc), attr,
                                            Engine());
    return std::make_unique<Matmul>(desc, Wrap(dy_desc, dy), Wrap(x_desc, x), Wrap(dw_desc, dw));
  });
}

void StopPeerThreads() { omp_pause_resource_all(omp_pause_hard); }

template std::unique_ptr<PeerProduct> MakePeerGemm<float>(const float*, idx, const float*, idx,
                                                          float*, idx, idx, idx, idx);
template std::unique_ptr<PeerProduct> MakePeerGemm<bf16>(const bf16*, idx, const bf16*, idx, float*,
                                                         idx, idx, idx, idx);
template std::unique_ptr<PeerProduct> MakePeerWeightGrad<float>(const float*, idx, const float*,
                                                                idx, float*, idx, idx, idx, idx);
template std::unique_ptr<PeerProduct> MakePeerWeightGrad<bf16>(const bf16*, idx, const bf16*, idx,
                                                               float*, idx, idx, idx, idx);

}  // namespace opo
