"""Workers that only load data, processes that train, classes of __main__ that are pickled."""

import copy
import io
import multiprocessing
import pickle
import sys

import torch
from checksum import seed, show
from torch import nn


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, i):
        return torch.full((6,), float(i))


class Net(nn.Sequential):
    pass


def train(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for x in batches:
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(repr(loss.item()), flush=True)


def main():
    how = sys.argv[1]
    seed()
    model = Net(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    if how in ("workers-fork", "workers-spawn"):
        context = how.removeprefix("workers-")
        loader = torch.utils.data.DataLoader(
            Numbers(), batch_size=4, shuffle=True, num_workers=1, multiprocessing_context=context
        )
        train(model, loader)
        saved = io.BytesIO()
        torch.save(model, saved)
        pickle.loads(pickle.dumps(Numbers()))
        show(model, copy.deepcopy(model))
    else:
        if how == "both":
            train(model, [torch.ones(2, 6)] * 2)
        context = multiprocessing.get_context(how.removeprefix("trained-") if how != "both" else "fork")
        child = context.Process(target=train, args=(model, [torch.ones(2, 6)] * 3))
        child.start()
        child.join()
        print(child.exitcode)


if __name__ == "__main__":
    main()
