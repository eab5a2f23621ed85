import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradscope.trial import Trial, train


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def pair():
    return torch.randn(16, 4), torch.randint(3, (16,))


def trial(**given):
    return Trial(**{"model": net, "batch": pair, "loss": F.cross_entropy, "steps": 4, **given})


def test_the_trace_has_every_step_and_the_seed():
    trace = train(trial(), 3)
    assert list(trace.steps) == [0, 1, 2, 3]
    assert trace.meta["seed"] == 3
    assert np.isfinite(trace.per_step["loss"]).all()


OPTIMIZERS = {
    "none": (None, "Adam"),
    "class": (torch.optim.SGD, "SGD"),
    "of the parameters": (lambda parameters: torch.optim.SGD(parameters, lr=0.1), "SGD"),
    "of the model": (lambda model: torch.optim.RMSprop(model.parameters()), "RMSprop"),
    "several": (lambda model: [torch.optim.SGD(model[0].parameters()), torch.optim.Adam(model[3].parameters())], "SGD"),
    "closure": (torch.optim.LBFGS, "LBFGS"),
}


@pytest.mark.parametrize(("optimizer", "kind"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_of_every_form(optimizer, kind):
    trace = train(trial(optimizer=optimizer), 0)
    assert trace.meta["optimizers"][0]["type"] == kind
    assert list(trace.steps) == [0, 1, 2, 3]
