// Products of up to eight tokens: warps read the activations where they lie. Each takes 16 rows (or a few times as many) and
// every so many of the columns.

#include "few_common.cuh"

#define SUMS_AT (FOUR ? TABLE_BYTES + STEPS_BYTES : 0)

template <bool BF16, bool FOUR, bool CODED, bool WHOLE, int SLOTS, int RT, int WR, int WK, int GROUP>
__device__ void product(const Product& p) {
  constexpr int ROWS = 16 * RT * WR, TOKENS = 8, THREADS = 32 * WR * WK;
  extern __shared__ float shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int N = p.N, K = p.K, blocks = K >> 6;

  const int firsts = p.parts * (p.rank >> 4);
  if ((int)blockIdx.x < firsts) {
    multiply_adapter<BF16, 1, WR * WK>(p, shared);
    return;
  }

  const int tiles = (p.outs + ROWS - 1) / ROWS, programs = gridDim.x - firsts;
  const int wr = warp % WR, wk = warp / WR, own = wr * 16 * RT + g;
  int tile = blockIdx.x - firsts;
  Codes<FOUR, CODED, WHOLE, (SLOTS > 1), RT, GROUP> now, next;
  if (wk * GROUP < blocks) next.load(p, tile * ROWS + own, wk * GROUP, blocks, t);

  const float* steps = shared + TABLE_BYTES / 4;
  const float mean = FOUR && CODED ? p.mean[0] * p.unscale : 0;
  if (FOUR) fill_table<CODED, THREADS>(p, shared);
  u16* low = (u16*)(shared + SUMS_AT / 4);       // s · A x [N, rank]
  float* all_sums = (float*)(low + N * p.rank);  // two times [WK, TOKENS, ROWS]
  __syncthreads();
  await_previous();
  let_next_begin();
  bool has_low = false;
  const int slot = SLOTS > 1 ? t % (SLOTS / 2 ? SLOTS / 2 : 1) : 0;

  for (int turn = 0; tile < tiles; tile += programs, turn ^= 1) {
    if (wk == 0) {  // needed at the tile's end
#pragma unroll
      for (int r = 0; r < 2 * RT; r++) {
        const int row = min(tile * ROWS + own + 8 * r, p.outs - 1);
        if (p.rank) prefetch(p.B + (size_t)row * p.rank + t * 8);
        if (p.bias && t == 0) prefetch(p.bias + row);
      }
    }
    float acc[RT][4] = {};
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
                  for (int k = 0; k < 2; k++) acc[r][2 * h] += scale[r][h][k] * (c[0][2 * h + k] + c[1][2 * h + k]);
              }
            }
          }
        }
      } else {
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
          if (!WHOLE && group + i >= blocks) break;
          const uint4* at = (const uint4*)(p.x + (size_t)min(g, N - 1) * K + (group + i) * 64 + t * 16);
          const uint4 left = at[0], right = at[1];
#pragma unroll
          for (int r = 0; r < RT; r++) {
            u32 a[2][8];
            now.template levels<BF16>(a, i, r, lane);
            float c[4] = {};
            multiply_block<BF16>(c, a, left, right);
#pragma unroll
            for (int k = 0; k < 4; k++) acc[r][k] += now.absmax(p, steps, mean, i, r, k >> 1) * c[k];
          }
        }
      }
    }
    if (p.rank && !has_low) {
      has_low = true;
      await_adapter<BF16, THREADS>(p, low);
      leave_adapter(p, programs);
    }
    if (p.rank && wk == 0) {
      for (int rank0 = t * 8; rank0 < p.rank; rank0 += 32) {
        const uint4 v = *(const uint4*)(low + min(g / SLOTS, N - 1) * p.rank + rank0);
#pragma unroll
        for (int r = 0; r < RT; r++) {
          uint4 b[2];
#pragma unroll
          for (int h = 0; h < 2; h++)
            b[h] = *(const uint4*)(p.B + (size_t)min(tile * ROWS + own + 16 * r + 8 * h, p.outs - 1) * p.rank + rank0);
          float c[4] = {};
          multiply<BF16>(c, b[0].x, b[1].x, b[0].y, b[1].y, v.x, v.y);
          multiply<BF16>(c, b[0].z, b[1].z, b[0].w, b[1].w, v.z, v.w);
          if (SLOTS == 1 || slot == 0) acc[r][0] += c[0], acc[r][2] += c[2];
          if (SLOTS == 1) acc[r][1] += c[1], acc[r][3] += c[3];
        }
      }
    }
    float* sums = all_sums + turn * WK * TOKENS * ROWS;
#pragma unroll
    for (int r = 0; r < RT; r++)
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int row = (wr * RT + r) * 16 + g + 8 * (k >> 1);
        if (SLOTS > 1) {
          if (k & 1) continue;
          float v = acc[r][k];
          if (SLOTS >= 4) v += __shfl_xor_sync(0xffffffff, v, 1);
          if (SLOTS == 8) v += __shfl_xor_sync(0xffffffff, v, 2);
          if (slot == 0) sums[(wk * TOKENS + t / (SLOTS / 2 ? SLOTS / 2 : 1)) * ROWS + row] = v;
        } else {
          sums[(wk * TOKENS + 2 * t + (k & 1)) * ROWS + row] = acc[r][k];
        }
      }
    __syncthreads();

    for (int at = threadIdx.x; at < ROWS * N; at += THREADS) {
      const int n = at / ROWS, row = tile * ROWS + at % ROWS;
      if (row >= p.outs) continue;
      float y = 0;
#pragma unroll
      for (int w = 0; w < WK; w++) y += sums[(w * TOKENS + n) * ROWS + at % ROWS];
      finish<BF16>(p, y, n, row);
    }
  }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS_ROWS * WARPS_COLUMNS, PROGRAMS)
    run(const __grid_constant__ Product p) {
  product<IS_BF16, IS_FOUR, IS_CODED, IS_WHOLE, TOKEN_SLOTS, ROW_TILES, WARPS_ROWS, WARPS_COLUMNS, BLOCKS_AT_ONCE>(p);
}
