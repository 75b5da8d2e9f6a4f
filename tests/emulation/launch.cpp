// Runs a kernel's programs one after another, on a CPU.

#include KERNEL

static const Product* params;

static void enter(int thread) {
  threadIdx.x = thread;
  run(*params);
  ended[thread] = 1;
}

extern "C" void launch(const Product* p, int programs, int count) {
  params = p, threads = count, gridDim.x = programs;
  contexts.resize(count), stacks.assign(count, std::vector<char>(1 << 16));
  for (blockIdx.x = 0; blockIdx.x < programs; blockIdx.x++) {
    memset(shared, 0xff, sizeof shared);  // NaN, as what is left there may be
    of_program = {};
    for (Barrier& barrier : of_warp) barrier = {};
    ended.assign(count, 0);
    coming.assign(count, {{}});
    for (int i = 0; i < count; i++) {
      getcontext(&contexts[i]);
      contexts[i].uc_stack = {.ss_sp = stacks[i].data(), .ss_flags = 0, .ss_size = stacks[i].size()};
      contexts[i].uc_link = &scheduler;
      makecontext(&contexts[i], (void (*)())enter, 1, i);
    }
    for (int left = count; left;) {
      left = 0;
      for (int i = 0; i < count; i++)
        if (!ended[i]) swapcontext(&scheduler, &contexts[i]), left += !ended[i];
    }
  }
}
