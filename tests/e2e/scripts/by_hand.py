import torch
from checksum import seed, show
from torch import nn

seed()
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
for _ in range(6):
    x = torch.randn(8, 6)
    loss = nn.functional.mse_loss(model(x), x[:, :1])
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    print(repr(loss.item()))
show(model)
