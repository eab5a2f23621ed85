"""A model for each fold, under one name; each can be scripted, exported and copied while it is attached."""

import copy
import gc
import warnings
import weakref

import torch
from checksum import seed, show
from torch import nn

warnings.simplefilter("ignore")
seed()
gone = []
for _ in range(3):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    average = copy.deepcopy(model)
    for _ in range(2):
        x = torch.randn(8, 6)
        loss = nn.functional.mse_loss(model(x), x[:, :1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(repr(loss.item()))
    scripted = torch.jit.script(model)
    print(repr(scripted(x).sum().item()))
    gone.append(weakref.ref(model))
    show(model, average)
gc.collect()
print([model() is None for model in gone[:-1]], torch.optim.Optimizer.__init__.__name__, torch.compile.__name__)
