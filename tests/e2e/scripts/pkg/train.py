import pickle
import sys

import torch
from torch import nn

from .settings import WIDTH


class Net(nn.Sequential):
    pass


torch.manual_seed(0)
model = Net(nn.Linear(6, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for _ in range(3):
    loss = model(torch.randn(4, 6)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
pickle.loads(pickle.dumps(model))
print(sys.argv, __name__, __package__, __spec__.name, __file__, sys.path[0])
