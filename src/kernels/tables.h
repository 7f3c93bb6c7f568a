// How the files of one instruction-set path fill the kernel table. Internal to this room.
#pragma once

#include "base/types.h"
#include "kernels/kernels.h"

#if defined(OPO_ISA)
namespace opo::OPO_ISA {
template <class T>
void FillGemm(KernelsOf<T>& table);
template <class T>
void FillRows(KernelsOf<T>& table);
template <class T>
void FillAttention(KernelsOf<T>& table);
template <class T>
void FillHead(KernelsOf<T>& table);
void FillShared(Kernels& table);
void FillHeadShared(Kernels& table);
}  // namespace opo::OPO_ISA
#endif
