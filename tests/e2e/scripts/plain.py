import argparse
import os
import sys

import torch
from checksum import seed, show
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.body(x))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.01)
    args = parser.parse_args()
    seed()
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for _ in range(6):
        model.train()
        x = torch.randn(16, 8)
        loss = nn.functional.mse_loss(model(x), x[:, :1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(repr(loss.item()))
        model.eval()
        with torch.no_grad():
            print("evaluation", repr(model(torch.randn(4, 8)).sum().item()))
    show(model)
    print(args, sys.argv, __file__, __name__, __spec__, __package__, sys.path[0], os.getcwd(), sorted(globals()))
    print(sys.stdin.read())


if __name__ == "__main__":
    main()
