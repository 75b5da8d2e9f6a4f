"""One thread a process: tests run side by side, and threads of two processes on two cores only wait for each other."""

import os

import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the real hub; read when huggingface_hub is imported
torch.set_num_threads(1)
