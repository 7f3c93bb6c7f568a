// Another library's matrix products, beside which `opo bench gemm` measures ours. bench/onednn.cpp
// defines this where CMake was given OPO_PEERS=ON, else bench/no_peer.cpp, which has nothing.
#pragma once

#include <memory>
#include <string>

#include "base/types.h"

namespace opo {

// One product, ready to run: whatever it needs but its operands was made before.
class PeerProduct {
 public:
  virtual ~PeerProduct() = default;
  virtual void Run() = 0;
  virtual std::string kernel() const = 0;  // what the library calls the code that it chose
};

// "oneDNN 2.6.3"; "" where no peer is built in.
std::string PeerName();

// c (m, n) f32 = a b^T with a (m, k), b (n, k) of float or bf16. `b` is copied into the layout that
// the peer prefers (the weights' packing, which neither side is timed for); a and c are read and
// written in place. Null where the peer is absent or has no such product on this machine.
template <class T>
std::unique_ptr<PeerProduct> MakePeerGemm(const T* a, idx lda, const T* b, idx ldb, float* c,
                                          idx ldc, idx m, idx n, idx k);

// dw (n, k) f32 += dy^T x with dy (rows, n), x (rows, k), all in place: as WeightGrad.
template <class T>
std::unique_ptr<PeerProduct> MakePeerWeightGrad(const T* dy, idx ldy, const T* x, idx ldx,
                                                float* dw, idx ldw, idx rows, idx n, idx k);

// Ends the peer's threads, which would go on spinning for a while beside ours. They come back with
// its next product.
void StopPeerThreads();

}  // namespace opo
