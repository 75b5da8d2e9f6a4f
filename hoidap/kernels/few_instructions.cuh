// What few_direct.cu and few_staged.cu ask of a GPU, instruction by instruction. Before sm_80 there is float16 alone.

#pragma once

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;

template <bool BF16>
__device__ float wide(u16 v) {
  float f;
  if (BF16) return __uint_as_float((u32)v << 16);
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
}

template <bool BF16>
__device__ u16 narrow(float f) {
  u16 v;
  if (BF16) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(v) : "f"(f));
#else
    v = 0;
#endif
  } else {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v) : "f"(f));
  }
  return v;
}

template <bool BF16>
__device__ u32 narrow2(float low, float high) {
  u32 v;
#if __CUDA_ARCH__ >= 800
  if (BF16)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
#else
  v = (u32)narrow<BF16>(low) | (u32)narrow<BF16>(high) << 16;
#endif
  return v;
}

// c [16, 8] += a [16, 16] b [16, 8], each lane holding its parts (PTX ISA, mma.m16n8k16; two of m16n8k8 on sm_75).
template <bool BF16>
__device__ void multiply(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
  if (BF16)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(b0));
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a2), "r"(a3), "r"(b1));
#endif
}

__device__ __forceinline__ u32 permute(u32 a, u32 b, u32 selector) {
  u32 v;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(a), "r"(b), "r"(selector));
  return v;
}

// A byte's two levels as a pair. Each bank of shared memory has a copy of the table, so that lanes never wait for each
// other. Where the table begins (SHARED_BASE) is known when this is compiled, so that byte and lane make an address
// without adding.
__device__ __forceinline__ u32 pair_of(u32 byte_by_128, u32 lane_by_4) {
  u32 v;
  asm("ld.shared.b32 %0, [%1+%2];" : "=r"(v) : "r"(byte_by_128 & 0x7f80 | lane_by_4), "n"(SHARED_BASE));
  return v;
}

// A launch may begin before the one ahead of it has ended (programmatic dependent launch): what it wrote is awaited here.
__device__ __forceinline__ void await_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void prefetch(const void* at) { asm volatile("prefetch.global.L1 [%0];" ::"l"(at)); }

__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Copy 16 bytes to shared memory while others are multiplied; those asked for up to `copies_end` are awaited together.
__device__ __forceinline__ void copy_ahead(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
#else
  *(uint4*)to = *(const uint4*)from;
#endif
}

__device__ __forceinline__ void copies_end() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Wait for all copies but the last LEFT lots.
template <int LEFT>
__device__ __forceinline__ void await_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

__device__ __forceinline__ u32 acquire(const u32* at) {
  u32 v;
#if __CUDA_ARCH__ >= 700
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
#endif
  return v;
}
