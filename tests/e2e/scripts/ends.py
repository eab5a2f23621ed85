"""A training that ends as it is told to."""

import os
import signal
import sys

import torch
from checksum import seed
from torch import nn

seed()
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step():
    loss = model(torch.randn(8, 6)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))


for _ in range(3):
    step()

how = sys.argv[1]
if how == "raises":
    try:
        model(torch.randn(8, 5))
    except RuntimeError as error:
        raise ValueError("the batch is too narrow") from error
if how == "optimizer-raises":
    torch.optim.SGD([], lr=0.1)
if how == "backward-raises":
    torch.zeros(3).sum().backward()
if how == "sys.exit(7)":
    sys.exit(7)
if how == "sys.exit(text)":
    sys.exit("no more data")
if how == "SystemExit":
    raise SystemExit
if how == "interrupted":
    os.kill(os.getpid(), signal.SIGINT)
if how == "own-hook":
    sys.excepthook = lambda kind, error, traceback: print("own hook:", kind.__name__, error)
    raise KeyError("lost")
