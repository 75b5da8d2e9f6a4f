// Products of a few tokens with a matrix in four or eight bits: y[n] = W x[n] + b + s · B (A x[n]), n < N <= 64.
//
// Generating is bound by reading W. A warp takes 16 (or 32) rows and some of the columns: it loads codes as they lie in
// memory, makes 16-bit levels of them in registers, multiplies on the tensor cores, and scales each 64 columns' sum by
// their absmax in float32. Warps that share rows add up their sums at the end, in a fixed order.
//
// Which column is which in a matrix instruction is free, if W and x agree. Lane (g, t) = (lane / 4, lane % 4) holds of rows
// g and g + 8 the 16 columns from 16 t on of each block of 64: eight bytes, four instructions' worth.
//
// The first blocks of the grid multiply the adapter's A; the others wait for them before they multiply B. That they run rests
// on blocks being started in the order of their numbers, which every GPU so far does and nobody promises.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;

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
  u32* counters;        // [2], zero
  void* out;            // [N, outs]; for THEN_ATTEND the queries [N, outs / 3]
  u16* keys;            // a layer's [rows, heads, tokens, head_dim]
  u16* values;
  const int* rows;       // of the cache [N]
  const int* positions;  // in the row [N]
  float factor, clip, unscale;
  int N, outs, K, rank, parts, heads, head_dim, cache_tokens, out_is_wide, then;
};

enum { THEN_STORE, THEN_GELU, THEN_ADD, THEN_ATTEND };

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

#define TABLE_BYTES 32768
#define STEPS_AT TABLE_BYTES
#define SUMS_AT (FOUR ? TABLE_BYTES + 1024 : 0)

// A byte's two levels as a pair. Each bank of shared memory has a copy of the table, so that lanes never wait for each
// other. Where the table begins (SHARED_BASE) is known when this is compiled, so that byte and lane make an address
// without adding.
__device__ __forceinline__ u32 pair_of(u32 byte_by_128, u32 lane_by_4) {
  u32 v;
  asm("ld.shared.b32 %0, [%1+%2];" : "=r"(v) : "r"(byte_by_128 & 0x7f80 | lane_by_4), "n"(SHARED_BASE));
  return v;
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

#define GROUP BLOCKS_AT_ONCE  // blocks of 64 columns that a warp loads at once

// What a lane holds of a group of blocks: for each of its rows 16 codes of each block, and the blocks' absmax.
template <bool FOUR, bool CODED, bool WHOLE, bool PAIRED, int RT>
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
        const u32 at = (u32)min(row0 + 16 * r + 8 * h, p.outs - 1) * blocks + group;
        this->at[r][h] = at;
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
    if (!FOUR) return 1;
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
};

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

// Add up a tile's sums, and do with them what follows.
template <bool BF16, bool FOUR, int ROWS, int TOKENS, int WK, int THREADS>
__device__ __forceinline__ void finish(const Product& p, const float* sums, int tile) {
  const int N = p.N;
  for (int at = threadIdx.x; at < ROWS * N; at += THREADS) {
    const int n = at / ROWS, row = tile * ROWS + at % ROWS;
    if (row >= p.outs) continue;
    float y = 0;
#pragma unroll
    for (int w = 0; w < WK; w++) y += sums[(w * TOKENS + n) * ROWS + at % ROWS];
    if (!FOUR) y *= ((const float*)p.absmax)[row];
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
    } else {
      if (p.then == THEN_GELU) y = 0.5f * y * (1.0f + erff(y * 0.7071067811865476f));
      if (p.out_is_wide)
        ((float*)p.out)[place] = p.then == THEN_ADD ? ((float*)p.out)[place] + y : y;
      else
        ((u16*)p.out)[place] = narrow<BF16>(p.then == THEN_ADD ? wide<BF16>(((u16*)p.out)[place]) + y : y);
    }
  }
}

template <bool BF16, bool FOUR, bool CODED, bool WHOLE, int NT, int SLOTS, int RT, int WR, int WK>
__device__ void product(const Product& p) {
  constexpr int ROWS = 16 * RT * WR, TOKENS = 8 * NT, THREADS = 32 * WR * WK;
  extern __shared__ float shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int N = p.N, K = p.K, blocks = K >> 6;

  const int ranks = p.rank >> 4;
  if ((int)blockIdx.x < p.parts * ranks) {
    multiply_adapter<BF16, NT, WR * WK>(p, shared);
    return;
  }

  const int tiles = (p.outs + ROWS - 1) / ROWS, programs = gridDim.x - p.parts * ranks;
  const int wr = warp % WR, wk = warp / WR, own = wr * 16 * RT + g;
  int tile = blockIdx.x - p.parts * ranks;
  Codes<FOUR, CODED, WHOLE, (SLOTS > 1), RT> now, next;
  if (wk * GROUP < blocks) next.load(p, tile * ROWS + own, wk * GROUP, blocks, t);

  float* steps = shared + STEPS_AT / 4;  // [256]
  const float mean = FOUR && CODED ? p.mean[0] * p.unscale : 0;
  if (FOUR) {
#pragma unroll
    for (int i = threadIdx.x; i < TABLE_BYTES / 16; i += THREADS) {  // 32 copies of each byte's pair, eight of 16 bytes
      const u32 pair = p.pairs[i >> 3];
      ((uint4*)shared)[i] = make_uint4(pair, pair, pair, pair);
    }
    if (CODED)
      for (int i = threadIdx.x; i < 256; i += THREADS) steps[i] = p.steps[i] * p.unscale;
  }
  u16* low = (u16*)(shared + SUMS_AT / 4);       // s · A x [N, rank]
  float* all_sums = (float*)(low + N * p.rank);  // two times [WK, TOKENS, ROWS]
  __syncthreads();
  await_previous();
  let_next_begin();
  bool has_low = false;
  const int slot = SLOTS > 1 ? t % (SLOTS / 2 ? SLOTS / 2 : 1) : 0;
  uint4 coming[NT][2];
  if (AHEAD && SLOTS == 1 && wk * GROUP < blocks) {
#pragma unroll
    for (int nt = 0; nt < NT; nt++) {
      const uint4* at = (const uint4*)(p.x + (size_t)min(nt * 8 + g, N - 1) * K + wk * GROUP * 64 + t * 16);
      coming[nt][0] = at[0], coming[nt][1] = at[1];
    }
  }

  for (int turn = 0; tile < tiles; tile += programs, turn ^= 1) {
    if (wk == 0) {  // needed at the tile's end
#pragma unroll
      for (int r = 0; r < 2 * RT; r++) {
        const int row = min(tile * ROWS + own + 8 * r, p.outs - 1);
        if (p.rank) prefetch(p.B + (size_t)row * p.rank + t * 8);
        if (p.bias && t == 0) prefetch(p.bias + row);
      }
    }
    float acc[RT][NT][4] = {};
    for (int group = wk * GROUP; group < blocks; group += WK * GROUP) {
      now = next;
      int next_tile = tile, next_group = group + WK * GROUP;
      if (next_group >= blocks) next_tile += programs, next_group = wk * GROUP;
      if (next_tile < tiles) next.load(p, next_tile * ROWS + own, next_group, blocks, t);

      if constexpr (SLOTS > 1) {
        // Of few tokens each has SLOTS columns of an instruction. A column holds every SLOTS-th block's activations, so
        // that the sums of two blocks, which one load brings, stay apart: a column is zero where the lanes have its
        // neighbour.
#pragma unroll
        for (int pass = 0; pass < GROUP / SLOTS; pass++) {
          const int block = min(group + pass * SLOTS + g % SLOTS, blocks - 1);
          const uint4* at = (const uint4*)(p.x + (size_t)min(g / SLOTS, N - 1) * K + block * 64 + (t & 1) * 32);
          const bool is_own = (g & 1) == t >> 1 && (WHOLE || group + pass * SLOTS + g % SLOTS < blocks);
          uint4 held[4];
#pragma unroll
          for (int w = 0; w < 4; w++) held[w] = is_own ? at[w] : make_uint4(0, 0, 0, 0);
          float scale[RT][2][2];  // of the two blocks that this lane's columns hold
#pragma unroll
          for (int r = 0; r < RT; r++)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
              for (int k = 0; k < 2; k++) scale[r][h][k] = now.absmax(p, steps, mean, pass * SLOTS + 2 * slot + k, r, h);
#pragma unroll
          for (int pair = 0; pair < SLOTS / 2; pair++) {
            const int i = pass * SLOTS + 2 * pair;
            if (!WHOLE && group + i >= blocks) break;
#pragma unroll
            for (int r = 0; r < RT; r++) {
              float c[2][4] = {};
              const u32* upper = (const u32*)&now.paired[SLOTS > 1 ? i / 2 : 0][r][0];
              const u32* lower = (const u32*)&now.paired[SLOTS > 1 ? i / 2 : 0][r][1];
#pragma unroll
              for (int w = 0; w < 4; w++) {
                const u32 u = upper[w], v = lower[w];
                multiply<BF16>(c[w & 1], pair_of(u << 7, lane * 4), pair_of(v << 7, lane * 4), pair_of(u >> 1, lane * 4),
                               pair_of(v >> 1, lane * 4), held[w].x, held[w].y);
                multiply<BF16>(c[w & 1], pair_of(u >> 9, lane * 4), pair_of(v >> 9, lane * 4), pair_of(u >> 17, lane * 4),
                               pair_of(v >> 17, lane * 4), held[w].z, held[w].w);
              }
              if (slot == pair) {
#pragma unroll
                for (int h = 0; h < 2; h++)
#pragma unroll
                  for (int k = 0; k < 2; k++) acc[r][0][2 * h] += scale[r][h][k] * (c[0][2 * h + k] + c[1][2 * h + k]);
              }
            }
          }
        }
      } else {
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
          if (!WHOLE && group + i >= blocks) break;
          uint4 current[NT][2];
          if (AHEAD) {
#pragma unroll
            for (int nt = 0; nt < NT; nt++) {
              current[nt][0] = coming[nt][0], current[nt][1] = coming[nt][1];
              const int block = i + 1 < GROUP && group + i + 1 < blocks ? group + i + 1 : next_group;
              const uint4* at = (const uint4*)(p.x + (size_t)min(nt * 8 + g, N - 1) * K + block * 64 + t * 16);
              coming[nt][0] = at[0], coming[nt][1] = at[1];
            }
          }
          u32 a[RT][2][8];
#pragma unroll
          for (int r = 0; r < RT; r++)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
              for (int half = 0; half < 2; half++) {
                if (FOUR) {
                  const u32 w =
                      half ? now.four[FOUR && SLOTS == 1 ? i : 0][r][h].y : now.four[FOUR && SLOTS == 1 ? i : 0][r][h].x;
                  a[r][h][4 * half] = pair_of(w << 7, lane * 4);
                  a[r][h][4 * half + 1] = pair_of(w >> 1, lane * 4);
                  a[r][h][4 * half + 2] = pair_of(w >> 9, lane * 4);
                  a[r][h][4 * half + 3] = pair_of(w >> 17, lane * 4);
                } else {
                  const uint4 w = now.eight[FOUR ? 0 : i][r][h];
                  bytes_of<BF16>(half ? w.z : w.x, a[r][h][4 * half], a[r][h][4 * half + 1]);
                  bytes_of<BF16>(half ? w.w : w.y, a[r][h][4 * half + 2], a[r][h][4 * half + 3]);
                }
              }
          float scale[RT][2];
#pragma unroll
          for (int r = 0; r < 2 * RT; r++) scale[r / 2][r % 2] = now.absmax(p, steps, mean, i, r / 2, r % 2);
#pragma unroll
          for (int nt = 0; nt < NT; nt++) {
            uint4 left, right;
            if (AHEAD)
              left = current[nt][0], right = current[nt][1];
            else {
              const uint4* at = (const uint4*)(p.x + (size_t)min(nt * 8 + g, N - 1) * K + (group + i) * 64 + t * 16);
              left = at[0], right = at[1];
            }
#pragma unroll
            for (int r = 0; r < RT; r++) {
              float c[4] = {};
              multiply<BF16>(c, a[r][0][0], a[r][1][0], a[r][0][1], a[r][1][1], left.x, left.y);
              multiply<BF16>(c, a[r][0][2], a[r][1][2], a[r][0][3], a[r][1][3], left.z, left.w);
              multiply<BF16>(c, a[r][0][4], a[r][1][4], a[r][0][5], a[r][1][5], right.x, right.y);
              multiply<BF16>(c, a[r][0][6], a[r][1][6], a[r][0][7], a[r][1][7], right.z, right.w);
#pragma unroll
              for (int k = 0; k < 4; k++) acc[r][nt][k] += scale[r][k >> 1] * c[k];
            }
          }
        }
      }
    }
    if (p.rank && !has_low) {
      has_low = true;
      if (threadIdx.x == 0) {
        u32 done;
        do asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(done) : "l"(p.counters) : "memory");
        while (done < (u32)(p.parts * ranks));
      }
      __syncthreads();
      for (int at = threadIdx.x; at < N * p.rank; at += THREADS) {
        float sum = 0;
#pragma unroll 4
        for (int part = 0; part < p.parts; part++) sum += __ldcg(p.low + (size_t)part * N * p.rank + at);
        low[at] = narrow<BF16>(sum * p.factor);
      }
      __syncthreads();
      if (threadIdx.x == 0 && atomicInc(p.counters + 1, programs - 1) == programs - 1) p.counters[0] = 0;
    }
    if (p.rank && wk == 0) {
      for (int rank0 = t * 8; rank0 < p.rank; rank0 += 32) {
        uint4 b[RT][2];
#pragma unroll
        for (int r = 0; r < 2 * RT; r++)
          b[r / 2][r % 2] = *(const uint4*)(p.B + (size_t)min(tile * ROWS + own + 8 * r, p.outs - 1) * p.rank + rank0);
#pragma unroll
        for (int nt = 0; nt < NT; nt++) {
          const uint4 v = *(const uint4*)(low + min((nt * 8 + g) / SLOTS, N - 1) * p.rank + rank0);
#pragma unroll
          for (int r = 0; r < RT; r++) {
            float c[4] = {};
            multiply<BF16>(c, b[r][0].x, b[r][1].x, b[r][0].y, b[r][1].y, v.x, v.y);
            multiply<BF16>(c, b[r][0].z, b[r][1].z, b[r][0].w, b[r][1].w, v.z, v.w);
            if (SLOTS == 1 || slot == 0) acc[r][nt][0] += c[0], acc[r][nt][2] += c[2];
            if (SLOTS == 1) acc[r][nt][1] += c[1], acc[r][nt][3] += c[3];
          }
        }
      }
    }
    float* sums = all_sums + turn * WK * TOKENS * ROWS;
#pragma unroll
    for (int r = 0; r < RT; r++)
#pragma unroll
      for (int nt = 0; nt < NT; nt++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const int row = (wr * RT + r) * 16 + g + 8 * (k >> 1);
          if (SLOTS > 1) {
            if (k & 1) continue;
            float v = acc[r][nt][k];
            if (SLOTS >= 4) v += __shfl_xor_sync(0xffffffff, v, 1);
            if (SLOTS == 8) v += __shfl_xor_sync(0xffffffff, v, 2);
            if (slot == 0) sums[(wk * TOKENS + t / (SLOTS / 2 ? SLOTS / 2 : 1)) * ROWS + row] = v;
          } else {
            sums[(wk * TOKENS + nt * 8 + 2 * t + (k & 1)) * ROWS + row] = acc[r][nt][k];
          }
        }
    __syncthreads();

    finish<BF16, FOUR, ROWS, TOKENS, WK, THREADS>(p, sums, tile);
  }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS_ROWS * WARPS_COLUMNS, PROGRAMS)
    run(const __grid_constant__ Product p) {
  product<IS_BF16, IS_FOUR, IS_CODED, IS_WHOLE, TOKEN_TILES, TOKEN_SLOTS, ROW_TILES, WARPS_ROWS, WARPS_COLUMNS>(p);
}
