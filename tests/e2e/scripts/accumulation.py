import torch
from checksum import seed, show
from torch import nn

seed()
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
for i in range(12):
    x = torch.randn(8, 6)
    loss = nn.functional.mse_loss(model(x), x[:, :1]) / 3
    loss.backward()
    print(repr(loss.item()))
    if i % 3 == 2:
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
show(model)
