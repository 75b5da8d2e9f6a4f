// Products of a few tokens with a matrix in four or eight bits: y[n] = W x[n] + b + s · B (A x[n]), n < N <= 64; what
// few_direct.cu and few_staged.cu share.
//
// Generating is bound by reading W. A warp takes some of the rows and of the columns: it loads codes as they lie in memory,
// makes 16-bit levels of them in registers, multiplies on the tensor cores, and scales each 64 columns' sum by their absmax
// in float32. Warps that share rows add up their sums at the end, in a fixed order.
//
// Which column is which in a matrix instruction is free, if W and x agree. Lane (g, t) = (lane / 4, lane % 4) holds of rows
// g and g + 8 the 16 columns from 16 t on of each block of 64: eight bytes, four instructions' worth.
//
// The first programs of a launch multiply the adapter's A; the others wait for them before they multiply B. That they run
// rests on programs being started in the order of their numbers, which every GPU so far does and nobody promises.

#pragma once

#include "few_instructions.cuh"

struct Product {
  const u16* x;         // [N, K]
  const u8* codes;      // four bits: [outs, K / 2], the first column in a byte's high half; eight: int8 [outs, K]
  const void* absmax;   // four bits: float or u8 [outs · K / 64]; eight: float [outs], a row's step
  const float* scales;  // of u8 absmax: [outs · K / 64 / 256]
  const float* steps;   // [256]
  const u32* pairs;     // [256]: a byte's two levels in 16 bits, times 1 / unscale
  const float* mean;    // [1]
  const u16* bias;      // [outs], or null
  const u16* A;         // [rank, K]; rank a multiple of 32, or 0
  const u16* B;         // [outs, rank]
  float* low;           // [parts, N, rank], for A x
  u32* counters;        // zero: two of the adapter's, then one a tile
  float* sums;          // of few_staged.cu [programs, 2, tokens of a tile, rows of a tile], of tiles that several share
  void* out;            // [N, outs]; for THEN_ATTEND the queries [N, outs / 3]
  u16* keys;            // a layer's [rows, heads, tokens, head_dim]
  u16* values;
  const int* rows;       // of the cache [N]
  const int* positions;  // in the row [N]
  float factor, clip, unscale;
  int N, outs, K, rank, parts, heads, head_dim, cache_tokens, out_is_wide, then;
};

enum { THEN_STORE, THEN_GELU, THEN_ADD, THEN_ATTEND };

#define TABLE_BYTES 32768
#define STEPS_BYTES 1024

// Fill the table of pairs, a copy a bank: 32 of each byte's pair, eight of 16 bytes. Behind it the steps of absmax.
template <bool CODED, int THREADS>
__device__ __forceinline__ void fill_table(const Product& p, float* shared) {
#pragma unroll
  for (int i = threadIdx.x; i < TABLE_BYTES / 16; i += THREADS) {
    const u32 pair = p.pairs[i >> 3];
    ((uint4*)shared)[i] = make_uint4(pair, pair, pair, pair);
  }
  if (CODED)
    for (int i = threadIdx.x; i < 256; i += THREADS) shared[TABLE_BYTES / 4 + i] = p.steps[i] * p.unscale;
}

// Four int8 into two pairs.
template <bool BF16>
__device__ __forceinline__ void bytes_of(u32 word, u32& first, u32& second) {
  word ^= 0x80808080;  // now v + 128; 2^23 + v + 128 as a float32 is that in its last byte
  float v[4];
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = __uint_as_float(permute(word, 0x4b000000, 0x7440 + i)) - 8388736.0f;
  first = narrow2<BF16>(v[0], v[1]);
  second = narrow2<BF16>(v[2], v[3]);
}

// What a lane holds of a group of blocks: for each of its rows 16 codes of each block, and the blocks' absmax.
template <bool FOUR, bool CODED, bool WHOLE, bool PAIRED, int RT, int GROUP>
struct Codes {
  uint2 four[FOUR && !PAIRED ? GROUP : 1][RT][2];
  uint4 paired[PAIRED ? GROUP / 2 : 1][RT][2];  // of two blocks: the first is lanes t = 0 and 1's
  uint4 eight[FOUR ? 1 : GROUP][RT][2];
  u32 at[RT][2];  // the first block's number
  u32 coded[RT][2][(GROUP + 3) / 4];
  float scale[RT][2];
  float plain[CODED || !FOUR ? 1 : GROUP][RT][2];

  __device__ __forceinline__ void load(const Product& p, int row0, int group, int blocks, int t) {
#pragma unroll
    for (int r = 0; r < RT; r++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = min(row0 + 16 * r + 8 * h, p.outs - 1);
        const u32 at = (u32)row * blocks + group;
        this->at[r][h] = at;
        if (!FOUR) scale[r][h] = ((const float*)p.absmax)[row];
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
          const bool real = WHOLE || group + i < blocks;
          if (PAIRED) {
            const bool is_real = WHOLE || group + i + (t >> 1) < blocks;
            if (i % 2 == 0)
              paired[i / 2][r][h] =
                  is_real ? __ldcs((const uint4*)(p.codes + (size_t)at * 32 + t * 16) + i * 2) : make_uint4(0, 0, 0, 0);
          } else if (FOUR)
            four[i][r][h] = real ? __ldcs((const uint2*)(p.codes + (size_t)at * 32 + t * 8) + i * 4) : make_uint2(0, 0);
          else
            eight[i][r][h] =
                real ? __ldcs((const uint4*)(p.codes + (size_t)at * 64 + t * 16) + i * 4) : make_uint4(0, 0, 0, 0);
          if (FOUR && !CODED) plain[i][r][h] = real ? ((const float*)p.absmax)[at + i] : 0.0f;
        }
        if (FOUR && CODED) {
          const u8* codes = (const u8*)p.absmax + at;
          if (WHOLE) {  // a group is aligned, and lies within the 256 that share a scale
            if (GROUP == 1) coded[r][h][0] = *codes;
            if (GROUP == 2) coded[r][h][0] = *(const u16*)codes;
#pragma unroll
            for (int i = 0; i < GROUP / 4; i++) coded[r][h][i] = ((const u32*)codes)[i];
            scale[r][h] = p.scales[at >> 8];
          } else {
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
              const u32 code = group + i < blocks ? codes[i] : 0;
              coded[r][h][i / 4] = i % 4 ? coded[r][h][i / 4] | code << (8 * (i % 4)) : code;
            }
          }
        }
      }
  }

  __device__ __forceinline__ float absmax(const Product& p, const float* steps, float mean, int i, int r, int h) {
    if (!FOUR) return scale[r][h];
    if (!CODED) {
      float v = plain[0][r][h];
#pragma unroll
      for (int j = 1; j < (CODED || !FOUR ? 1 : GROUP); j++) v = i == j ? plain[j][r][h] : v;  // registers have no index
      return v * p.unscale;
    }
    const u32 last = (u32)p.outs * (p.K >> 6) - 1;  // behind a row's last block x is zero, whatever its absmax
    const u32 word = GROUP == 8 && i >= 4 ? coded[r][h][(GROUP - 1) / 4] : coded[r][h][0];
    const float step = steps[word >> (8 * (i & 3)) & 0xff];
    if (WHOLE) return step * scale[r][h] + mean;
    return step * p.scales[min(at[r][h] + i, last) >> 8] + mean;
  }

  // A block's 16 codes of each row as levels, in the order of the instructions.
  template <bool BF16>
  __device__ __forceinline__ void levels(u32 (&a)[2][8], int i, int r, u32 lane) {
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        if (FOUR) {
          const u32 w = half ? four[FOUR && !PAIRED ? i : 0][r][h].y : four[FOUR && !PAIRED ? i : 0][r][h].x;
          a[h][4 * half] = pair_of(w << 7, lane * 4);
          a[h][4 * half + 1] = pair_of(w >> 1, lane * 4);
          a[h][4 * half + 2] = pair_of(w >> 9, lane * 4);
          a[h][4 * half + 3] = pair_of(w >> 17, lane * 4);
        } else {
          const uint4 w = eight[FOUR ? 0 : i][r][h];
          bytes_of<BF16>(half ? w.z : w.x, a[h][4 * half], a[h][4 * half + 1]);
          bytes_of<BF16>(half ? w.w : w.y, a[h][4 * half + 2], a[h][4 * half + 3]);
        }
      }
  }
};

// c += a block's levels of 16 rows times eight tokens' activations: left and right are a lane's first and last eight columns.
template <bool BF16>
__device__ __forceinline__ void multiply_block(float* c, const u32 (&a)[2][8], uint4 left, uint4 right) {
  multiply<BF16>(c, a[0][0], a[1][0], a[0][1], a[1][1], left.x, left.y);
  multiply<BF16>(c, a[0][2], a[1][2], a[0][3], a[1][3], left.z, left.w);
  multiply<BF16>(c, a[0][4], a[1][4], a[0][5], a[1][5], right.x, right.y);
  multiply<BF16>(c, a[0][6], a[1][6], a[0][7], a[1][7], right.z, right.w);
}

// A x, of 16 ranks and some of the columns: the first programs' work.
template <bool BF16, int NT, int WARPS>
__device__ __forceinline__ void multiply_adapter(const Product& p, float* shared) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int N = p.N, K = p.K, blocks = K >> 6;
  const int part = blockIdx.x % p.parts, rank0 = blockIdx.x / p.parts * 16;
  float c[NT][4] = {};
  const int each = (blocks + p.parts - 1) / p.parts, end = min((part + 1) * each, blocks);
  for (int block = part * each + warp; block < end; block += WARPS)
    for (int h = 0; h < 2; h++) prefetch(p.A + (size_t)(rank0 + g + 8 * h) * K + block * 64 + t * 16);
  await_previous();
  let_next_begin();
  for (int block = part * each + warp; block < end; block += WARPS) {
    const int column = block * 64 + t * 16;
    uint4 a[2][2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const uint4* at = (const uint4*)(p.A + (size_t)(rank0 + g + 8 * h) * K + column);
      a[h][0] = at[0], a[h][1] = at[1];
    }
    const u32* upper = (const u32*)a[0];
    const u32* lower = (const u32*)a[1];
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
      const uint4* at = (const uint4*)(p.x + (size_t)min(nt * 8 + g, N - 1) * K + column);
      const uint4 b[2] = {at[0], at[1]};
      const u32* right = (const u32*)b;
#pragma unroll
      for (int m = 0; m < 4; m++)
        multiply<BF16>(c[nt], upper[2 * m], lower[2 * m], upper[2 * m + 1], lower[2 * m + 1], right[2 * m],
                       right[2 * m + 1]);
    }
  }
  float* mine = shared + warp * 16 * (8 * NT);
#pragma unroll
  for (int nt = 0; nt < NT; nt++)
#pragma unroll
    for (int i = 0; i < 4; i++) mine[(g + 8 * (i >> 1)) * (8 * NT) + nt * 8 + 2 * t + (i & 1)] = c[nt][i];
  __syncthreads();
  for (int at = threadIdx.x; at < 16 * N; at += 32 * WARPS) {
    const int r = at & 15, n = at >> 4;
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += shared[w * 16 * (8 * NT) + r * (8 * NT) + n];
    p.low[((size_t)part * N + n) * p.rank + rank0 + r] = sum;
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(p.counters, 1);
}

// Wait for A x, and take s times it into shared memory.
template <bool BF16, int THREADS>
__device__ __forceinline__ void await_adapter(const Product& p, u16* low) {
  if (threadIdx.x == 0)
    while (acquire(p.counters) < (u32)(p.parts * (p.rank >> 4))) continue;
  __syncthreads();
  for (int at = threadIdx.x; at < p.N * p.rank; at += THREADS) {
    float sum = 0;
#pragma unroll 4
    for (int part = 0; part < p.parts; part++) sum += __ldcg(p.low + (size_t)part * p.N * p.rank + at);
    low[at] = narrow<BF16>(sum * p.factor);
  }
  __syncthreads();
}

// The program that is the last to be done with A x makes the counters zero again.
__device__ __forceinline__ void leave_adapter(const Product& p, int programs) {
  if (threadIdx.x == 0 && atomicInc(p.counters + 1, programs - 1) == programs - 1) p.counters[0] = 0;
}

// Take one sum, and do with it what follows.
template <bool BF16>
__device__ __forceinline__ void finish(const Product& p, float y, int n, int row) {
  if (p.bias) y += wide<BF16>(p.bias[row]);
  const size_t place = (size_t)n * p.outs + row;
  if (p.then == THEN_ATTEND) {
    if (p.clip > 0) y = fminf(fmaxf(y, -p.clip), p.clip);
    const int d = p.heads * p.head_dim, which = row / d, in = row % d;
    const u16 v = narrow<BF16>(y);
    if (which == 0)
      ((u16*)p.out)[(size_t)n * d + in] = v;
    else {
      const size_t head = (size_t)p.rows[n] * p.heads + in / p.head_dim;
      (which == 1 ? p.keys : p.values)[(head * p.cache_tokens + p.positions[n]) * p.head_dim + in % p.head_dim] = v;
    }
    return;
  }
  if (p.then == THEN_GELU) y = 0.5f * y * (1.0f + erff(y * 0.7071067811865476f));
  if (p.out_is_wide)
    ((float*)p.out)[place] = p.then == THEN_ADD ? ((float*)p.out)[place] + y : y;
  else
    ((u16*)p.out)[place] = narrow<BF16>(p.then == THEN_ADD ? wide<BF16>(((u16*)p.out)[place]) + y : y);
}
