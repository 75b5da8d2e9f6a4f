"""One thread a process: tests run side by side, and threads of two processes on two cores only wait for each other."""

import torch

torch.set_num_threads(1)
