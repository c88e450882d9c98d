"""One CPU thread for each test process and what it starts: results repeat, and tests side by side do not contend."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
