// The instructions of hoidap/kernels/few_instructions.cuh on a CPU, so that the kernels can be tested where no GPU is: a
// thread is a coroutine, a program's threads take turns at barriers, and programs run one after another. What a race between
// threads or programs would do is not seen here.

#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __device__
#define __forceinline__ inline
#define __global__
#define __grid_constant__
#define __launch_bounds__(threads, programs)
#define __shared__

typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef unsigned long long u64;
using std::min;

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct Place { int x; };
static Place threadIdx, blockIdx, gridDim;
alignas(1024) float shared[232448 / 4];

static ucontext_t scheduler;
static std::vector<ucontext_t> contexts;
static std::vector<std::vector<char>> stacks;
static std::vector<char> ended;
static int threads;

struct Barrier { int arrived = 0, turn = 0; };
static Barrier of_program, of_warp[32];

static void await(Barrier& barrier, int count) {
  const int turn = barrier.turn;
  if (++barrier.arrived == count) {
    barrier.arrived = 0, barrier.turn++;
    return;
  }
  while (barrier.turn == turn) {
    const int own = threadIdx.x;
    swapcontext(&contexts[own], &scheduler);
    threadIdx.x = own;
  }
}

static void __syncthreads() { await(of_program, threads); }
static void await_warp() { await(of_warp[threadIdx.x / 32], 32); }
static void __threadfence() {}
static void await_previous() {}
static void let_next_begin() {}
static void prefetch(const void*) {}
static u32 acquire(const u32* at) { return *at; }

static uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
static uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

template <class T>
static void check(const T* at) {
  if ((uintptr_t)at % sizeof(T)) fprintf(stderr, "an address is not aligned\n"), abort();
}
template <class T>
static T __ldcs(const T* at) { return check(at), *at; }
template <class T>
static T __ldcg(const T* at) { return check(at), *at; }
template <class T>
static void __stcg(T* at, T v) { check(at), *at = v; }

static u32 atomicAdd(u32* at, u32 v) {
  const u32 old = *at;
  return *at += v, old;
}
static u32 atomicInc(u32* at, u32 most) {
  const u32 old = *at;
  return *at = old >= most ? 0 : old + 1, old;
}

static float __uint_as_float(u32 v) {
  float f;
  return memcpy(&f, &v, 4), f;
}

template <bool BF16>
static float wide(u16 v) {
  if (BF16) return __uint_as_float((u32)v << 16);
  _Float16 f;
  return memcpy(&f, &v, 2), (float)f;
}

template <bool BF16>
static u16 narrow(float f) {
  u32 bits;
  memcpy(&bits, &f, 4);
  if (BF16) return std::isnan(f) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const _Float16 half = (_Float16)f;
  u16 v;
  return memcpy(&v, &half, 2), v;
}

template <bool BF16>
static u32 narrow2(float low, float high) { return narrow<BF16>(low) | (u32)narrow<BF16>(high) << 16; }

// PTX ISA, matrix fragments of mma.m16n8k16.
template <bool BF16>
static void multiply(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  static u32 held[32][32][6];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const u32 own[6] = {a0, a1, a2, a3, b0, b1};
  memcpy(held[warp][lane], own, sizeof own);
  await_warp();
  for (int i = 0; i < 4; i++) {
    const int row = g + 8 * (i >> 1), column = 2 * t + (i & 1);
    for (int k = 0; k < 16; k++) {
      const u32 a = held[warp][row % 8 * 4 + k % 8 / 2][(row >= 8) + 2 * (k >= 8)];
      const u32 b = held[warp][column * 4 + k % 8 / 2][4 + (k >= 8)];
      c[i] += wide<BF16>(k % 2 ? a >> 16 : a & 0xffff) * wide<BF16>(k % 2 ? b >> 16 : b & 0xffff);
    }
  }
  await_warp();
}

static u32 permute(u32 a, u32 b, u32 selector) {
  const u64 bytes = (u64)b << 32 | a;
  u32 v = 0;
  for (int i = 0; i < 4; i++) v |= (u32)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return v;
}

static u32 pair_of(u32 byte_by_128, u32 lane_by_4) {
  u32 v;
  return memcpy(&v, (const char*)shared + (byte_by_128 & 0x7f80 | lane_by_4), 4), v;
}

static float __shfl_xor_sync(u32, float v, int mask) {
  static float held[32][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  held[warp][lane] = v;
  await_warp();
  const float other = held[warp][lane ^ mask];
  await_warp();
  return other;
}

// A copy is made when it is awaited, as late as a GPU might.
struct Copy { void* to; const void* from; };
static std::vector<std::vector<std::vector<Copy>>> coming;  // of each thread, in lots
static void copy_ahead(void* to, const void* from) {
  check((const uint4*)to), check((const uint4*)from);
  coming[threadIdx.x].back().push_back({to, from});
}
static void copies_end() { coming[threadIdx.x].emplace_back(); }
template <int LEFT>
static void await_copies() {
  auto& lots = coming[threadIdx.x];
  while (lots.size() > LEFT + 1) {
    for (const Copy& copy : lots.front()) memcpy(copy.to, copy.from, 16);
    lots.erase(lots.begin());
  }
}
