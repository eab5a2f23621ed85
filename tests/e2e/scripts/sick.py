import torch
from checksum import seed, show
from torch import nn

seed()
layers = [layer for _ in range(12) for layer in (nn.Linear(24, 24), nn.Sigmoid())]
model = nn.Sequential(nn.Linear(4, 24), *layers, nn.Linear(24, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(12):
    x = torch.randn(32, 4)
    loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long() + (x[:, 1] > 0).long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
show(model)
