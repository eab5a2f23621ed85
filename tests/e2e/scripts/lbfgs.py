import torch
from checksum import seed, show
from torch import nn

seed()
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
x = torch.randn(32, 6)


def closure():
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), x[:, :1])
    loss.backward()
    return loss


for _ in range(4):
    print(repr(optimizer.step(closure).item()))
show(model)
