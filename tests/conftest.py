# SPDX-License-Identifier: Apache-2.0
"""One thread for each process: tensors are small in tests, and threads wait for each other."""

import os

import torch

os.environ.setdefault('OMP_NUM_THREADS', '1')
torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
