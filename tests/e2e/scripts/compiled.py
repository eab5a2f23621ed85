"""Compiled before the optimizer is made, or after it, or only a function of it is."""

import sys

import torch
from checksum import seed, show
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


seed()
model = Net()
how = sys.argv[1]
compile_ = {"backend": "aot_eager", "fullgraph": True}
called = torch.compile(model, **compile_) if how == "before" else model
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
if how == "after":
    called = torch.compile(model, **compile_)
if how == "in-place":
    model.compile(**compile_)
if how == "function":
    called = torch.compile(lambda x: model(x), **compile_)
for _ in range(5):
    x = torch.randn(8, 6)
    loss = nn.functional.mse_loss(called(x), x[:, :1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
show(model)
