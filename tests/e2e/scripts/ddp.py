"""A script for torchrun: each process trains on its own part of the data."""

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

distributed.init_process_group("gloo")
torch.manual_seed(0)
net = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
data = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(1))[distributed.get_rank()]
for x in data:
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()
print(f"rank {distributed.get_rank()} is through", flush=True)
distributed.destroy_process_group()
