// Products of 9 to 64 tokens. Here the activations are most of what is read, so that each of a program's steps copies some
// blocks of them into shared memory, once for all of its rows, some steps ahead.
//
// The work is cut evenly: all tiles' steps, one tile's behind another's, make one row, and every program takes as many steps
// of it. A tile that several programs share is put together by the last of them, in the order of their numbers.

#include "few_common.cuh"

#define STAGES_AT (FOUR ? TABLE_BYTES + STEPS_BYTES : 0)

template <bool BF16, bool FOUR, bool CODED, bool WHOLE, int NT, int RT, int WR, int WK, int GROUP, int STAGES>
__device__ void product(const Product& p) {
  constexpr int ROWS = 16 * RT * WR, TOKENS = 8 * NT, THREADS = 32 * WR * WK, AT_ONCE = WK * GROUP;
  constexpr int STAGE_BYTES = AT_ONCE * TOKENS * 128, STRIDE = ROWS + 4;  // the stride keeps lanes in banks of their own
  extern __shared__ float shared[];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int N = p.N, K = p.K, blocks = K >> 6;

  const int firsts = p.parts * (p.rank >> 4);
  if ((int)blockIdx.x < firsts) {
    multiply_adapter<BF16, NT, WR * WK>(p, shared);
    return;
  }

  const int program = blockIdx.x - firsts, programs = gridDim.x - firsts;
  const int of_tile = (blocks + AT_ONCE - 1) / AT_ONCE, all = (p.outs + ROWS - 1) / ROWS * of_tile;
  const int each = (all + programs - 1) / programs, begin = program * each, end = min(begin + each, all);
  const int wr = warp % WR, wk = warp / WR, own = wr * 16 * RT + g;
  int tile = begin / of_tile, at = begin % of_tile;  // of the step, its place in the tile
  Codes<FOUR, CODED, WHOLE, false, RT, GROUP> now, next;
  const int last = WHOLE ? blocks - GROUP : blocks - 1;  // where a tile's last step has less than a block for every warp
  next.load(p, tile * ROWS + own, min(at * AT_ONCE + wk * GROUP, last), blocks, t);

  const float* steps = shared + TABLE_BYTES / 4;
  const float mean = FOUR && CODED ? p.mean[0] * p.unscale : 0;
  if (FOUR) fill_table<CODED, THREADS>(p, shared);
  u8* stages = (u8*)shared + STAGES_AT;
  float* sums = (float*)(stages + STAGES * STAGE_BYTES);  // [WK, TOKENS, STRIDE]
  u16* low = (u16*)(sums + WK * TOKENS * STRIDE);         // s · A x [N, rank]
  u32* said = (u32*)(low + TOKENS * p.rank);
  __syncthreads();
  await_previous();
  let_next_begin();

  // 16 bytes of a token's block lie at their place, or beside it for every second token: eight lanes read eight banks.
  int to_copy = begin, copy_at = at;
  auto copy = [&](int stage) {
    if (to_copy < end)
      for (int i = threadIdx.x; i < N * AT_ONCE * 8; i += THREADS) {
        const int chunk = i % 8, n = i / 8 / AT_ONCE, block = i / 8 % AT_ONCE, from = copy_at * AT_ONCE + block;
        if (from < blocks)
          copy_ahead(stages + stage * STAGE_BYTES + ((block * TOKENS + n) * 8 + (chunk ^ n & 1)) * 16,
                     p.x + (size_t)n * K + from * 64 + chunk * 8);
      }
    copies_end();
    to_copy++, copy_at = copy_at + 1 == of_tile ? 0 : copy_at + 1;
  };
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) copy(stage);

  float acc[RT][NT][4] = {};
  bool has_low = false;
  for (int step = begin, stage = 0; step < end; step++, stage = stage + 1 == STAGES ? 0 : stage + 1) {
    await_copies<STAGES - 2>();
    __syncthreads();
    copy(stage ? stage - 1 : STAGES - 1);  // there all have multiplied what was there
    const int first = at * AT_ONCE + wk * GROUP;  // of this warp's blocks
    const int next_at = at + 1 == of_tile ? 0 : at + 1, next_tile = next_at ? tile : tile + 1;
    now = next;
    if (step + 1 < end) next.load(p, next_tile * ROWS + own, min(next_at * AT_ONCE + wk * GROUP, last), blocks, t);

    const u8* held = stages + stage * STAGE_BYTES + wk * GROUP * TOKENS * 128;
#pragma unroll
    for (int i = 0; i < GROUP; i++) {
      if (first + i >= blocks) break;
#pragma unroll
      for (int r = 0; r < RT; r++) {
        u32 a[2][8];
        now.template levels<BF16>(a, i, r, lane);
        float scale[2];
#pragma unroll
        for (int h = 0; h < 2; h++) scale[h] = now.absmax(p, steps, mean, i, r, h);
#pragma unroll
        for (int nt = 0; nt < NT; nt++) {
          const uint4* x = (const uint4*)(held + (i * TOKENS + nt * 8 + g) * 128);
          float c[4] = {};
          multiply_block<BF16>(c, a, x[2 * t ^ g & 1], x[2 * t + 1 ^ g & 1]);
#pragma unroll
          for (int k = 0; k < 4; k++) acc[r][nt][k] += scale[k >> 1] * c[k];
        }
      }
    }
    if (step + 1 < end && next_at) {
      at = next_at;
      continue;
    }

    // The end of a tile, or of this program's part of it. Who has a tile's first step multiplies B.
    if (p.rank && step - at >= begin) {
      if (!has_low) await_adapter<BF16, THREADS>(p, low);
      has_low = true;
      if (wk == 0)
        for (int rank0 = t * 8; rank0 < p.rank; rank0 += 32) {
          uint4 b[RT][2];
#pragma unroll
          for (int r = 0; r < 2 * RT; r++)
            b[r / 2][r % 2] = *(const uint4*)(p.B + (size_t)min(tile * ROWS + own + 8 * r, p.outs - 1) * p.rank + rank0);
#pragma unroll
          for (int nt = 0; nt < NT; nt++) {
            const uint4 v = *(const uint4*)(low + min(nt * 8 + g, N - 1) * p.rank + rank0);
#pragma unroll
            for (int r = 0; r < RT; r++) {
              multiply<BF16>(acc[r][nt], b[r][0].x, b[r][1].x, b[r][0].y, b[r][1].y, v.x, v.y);
              multiply<BF16>(acc[r][nt], b[r][0].z, b[r][1].z, b[r][0].w, b[r][1].w, v.z, v.w);
            }
          }
        }
    }
#pragma unroll
    for (int r = 0; r < RT; r++)
#pragma unroll
      for (int nt = 0; nt < NT; nt++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const int row = (wr * RT + r) * 16 + g + 8 * (k >> 1);
          sums[(wk * TOKENS + nt * 8 + 2 * t + (k & 1)) * STRIDE + row] = acc[r][nt][k];
          acc[r][nt][k] = 0;
        }
    __syncthreads();
    const int from = tile * of_tile / each, to = (tile * of_tile + of_tile - 1) / each;  // programs that share the tile
    bool is_last = true;
    if (from < to) {
      float* mine = p.sums + (size_t)(2 * program + (tile != begin / of_tile)) * TOKENS * ROWS;
      for (int i = threadIdx.x; i < ROWS * N; i += THREADS) {
        float y = 0;
#pragma unroll
        for (int w = 0; w < WK; w++) y += sums[(w * TOKENS + i / ROWS) * STRIDE + i % ROWS];
        __stcg(mine + i, y);
      }
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) *said = atomicInc(p.counters + 2 + tile, to - from);  // zero again behind the last
      __syncthreads();
      is_last = *said == (u32)(to - from);
      __threadfence();
    }
    if (is_last)
      for (int i = threadIdx.x; i < ROWS * N; i += THREADS) {
        const int n = i / ROWS, row = tile * ROWS + i % ROWS;
        if (row >= p.outs) continue;
        float y = 0;
        if (from == to) {
#pragma unroll
          for (int w = 0; w < WK; w++) y += sums[(w * TOKENS + n) * STRIDE + i % ROWS];
        } else {
          for (int q = from; q <= to; q++)
            y += __ldcg(p.sums + (size_t)(2 * q + (tile != q * each / of_tile)) * TOKENS * ROWS + i);
        }
        finish<BF16>(p, y, n, row);
      }
    at = next_at, tile = next_tile;
  }
  if (p.rank) leave_adapter(p, programs);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS_ROWS * WARPS_COLUMNS, PROGRAMS)
    run(const __grid_constant__ Product p) {
  product<IS_BF16, IS_FOUR, IS_CODED, IS_WHOLE, TOKEN_TILES, ROW_TILES, WARPS_ROWS, WARPS_COLUMNS, BLOCKS_AT_ONCE, STAGE_COUNT>(p);
}
