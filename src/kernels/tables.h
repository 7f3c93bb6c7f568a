// How the files of one instruction-set path fill the kernel table. Internal to this room.
#pragma once

#include "base/types.h"
#include "kernels/kernels.h"

// What the files of the path in namespace `ns` define.
#define OPO_DECLARE_PATH(ns)               \
  namespace ns {                           \
  template <class T>                       \
  void FillGemm(KernelsOf<T>& table);      \
  template <class T>                       \
  void FillRows(KernelsOf<T>& table);      \
  template <class T>                       \
  void FillAttention(KernelsOf<T>& table); \
  template <class T>                       \
  void FillHead(KernelsOf<T>& table);      \
  void FillShared(Kernels& table);         \
  void FillHeadShared(Kernels& table);     \
  }

// A function that fills a whole table.
#define OPO_FILL(ns)                     \
  [](Kernels& table) {                   \
    ns::FillGemm<bf16>(table.b16);       \
    ns::FillRows<bf16>(table.b16);       \
    ns::FillAttention<bf16>(table.b16);  \
    ns::FillHead<bf16>(table.b16);       \
    ns::FillGemm<float>(table.f32);      \
    ns::FillRows<float>(table.f32);      \
    ns::FillAttention<float>(table.f32); \
    ns::FillHead<float>(table.f32);      \
    ns::FillShared(table);               \
    ns::FillHeadShared(table);           \
  }

#if defined(OPO_ISA)
namespace opo {
OPO_DECLARE_PATH(OPO_ISA)
}
#endif
