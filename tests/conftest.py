"""One thread for every test: sums then have one order, and small tensors are faster so."""

import torch

torch.set_num_threads(1)
