// Built without OPO_PEERS: there is nothing to measure beside.
#include "bench/peer.h"

namespace opo {

std::string PeerName() { return ""; }

template <class T>
std::unique_ptr<PeerProduct> MakePeerGemm(const T*, idx, const T*, idx, float*, idx, idx, idx,
                                          idx) {
  return nullptr;
}

template <class T>
std::unique_ptr<PeerProduct> MakePeerWeightGrad(const T*, idx, const T*, idx, float*, idx, idx, idx,
                                                idx) {
  return nullptr;
}

void StopPeerThreads() {}

template std::unique_ptr<PeerProduct> MakePeerGemm<float>(const float*, idx, const float*, idx,
                                                          float*, idx, idx, idx, idx);
template std::unique_ptr<PeerProduct> MakePeerGemm<bf16>(const bf16*, idx, const bf16*, idx, float*,
                                                         idx, idx, idx, idx);
template std::unique_ptr<PeerProduct> MakePeerWeightGrad<float>(const float*, idx, const float*,
                                                                idx, float*, idx, idx, idx, idx);
template std::unique_ptr<PeerProduct> MakePeerWeightGrad<bf16>(const bf16*, idx, const bf16*, idx,
                                                               float*, idx, idx, idx, idx);

}  // namespace opo
