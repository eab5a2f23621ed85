"""What does clipping save, and what does it cost? A recurrent and a deep net that explode without it."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gradscope.records import Quantity, Statistic
from gradscope.scenarios import clips, measures
from gradscope.scenarios.base import EVERY_CODE, MISTAKES, Scenario, Settings, Task, Trained, Variant
from gradscope.trace import Trace

if TYPE_CHECKING:
    import torch
    from torch import nn


def _task(settings: Settings) -> Task:
    from gradscope.scenarios import tasks

    return tasks.digits("pixels")


def _recurrent(settings: Settings) -> "nn.Module":
    """An RNN that begins by adding up its 64 inputs: its gradients are thousandfold from the first step on."""
    from gradscope.scenarios import models

    return models.recurrent("irnn", inputs=1, hidden=int(settings["hidden"]), outputs=10, projected=True)


def _deep(settings: Settings) -> "nn.Module":
    """A well-initialised deep net; what makes it explode is the learning rate.

    Leaky, because at such a rate a ReLU net may die, silently, before it explodes.
    """
    from torch import nn

    from gradscope.scenarios import models

    net = models.mlp(depth=int(settings["depth"]), width=int(settings["width"]), activation="leaky-relu", init="he")
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), net=net))


def _sgd(model: "nn.Module", settings: Settings, *, lr: str) -> "torch.optim.Optimizer":
    import torch

    return torch.optim.SGD(model.parameters(), lr=float(settings[lr]), momentum=0.9)


def shrinkage(trace: Trace) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Norm of the gradient as the optimizer applied it over its norm as backward left it, for each step."""
    raw, applied = (
        trace.series("", Quantity.TOTAL_NORM, Statistic.L2_NORM, name=name).astype(np.float64)
        for name in ("raw", "applied")
    )
    with np.errstate(all="ignore"):
        return applied / raw


def _measure(trained: Trained) -> Mapping[str, float]:
    factor = shrinkage(trained.trace)
    known = factor[~np.isnan(factor)]
    norms = trained.trace.series("", Quantity.TOTAL_NORM, Statistic.L2_NORM, name="raw")
    return {
        "largest_norm": float(np.nanmax(norms, initial=0.0)),
        "steps_clipped": float((known < 0.999).mean()) if known.size else float("nan"),
        "scaled_by": measures.median(factor),
        "direction_cosine": measures.mean(np.array(trained.cosines)),
        "accuracy": trained.score["accuracy"],
    }


_CLIPS: Mapping[str, "Callable[[nn.Module, Settings], None]"] = {
    "by norm": clips.by_norm,
    "by value": clips.by_value,
    "adaptive": clips.adaptive,
}
LOST = frozenset({"GS401"})
DOMINATED = frozenset({"GS503"})
SAVED = LOST | MISTAKES - DOMINATED


def _variants(kind: str, build: "Callable[[Settings], nn.Module]") -> tuple[Variant, ...]:
    """Without clipping, and clipped in each way."""
    optimizer = partial(_sgd, lr=f"lr_{kind}")
    lost = Variant(name=f"{kind}, no clipping", build=build, optimizer=optimizer, expect=LOST, forbid=MISTAKES)
    return (
        lost,
        *(
            Variant(name=f"{kind}, {name}", build=build, optimizer=optimizer, clip=clip, expect=DOMINATED, forbid=SAVED)
            for name, clip in _CLIPS.items()
        ),
    )


SCENARIO = Scenario(
    name="clipping",
    question="What does clipping save, and what does it cost?",
    lesson=(
        "Without clipping both runs are lost. By norm keeps the gradient's direction exactly; adaptive nearly, as it "
        "scales each parameter by its own factor; by value cuts the large elements alone and turns the step. Where "
        "nearly every step is clipped to a fraction the cause is left uncured: at a fiftieth of the learning rate "
        "the deep net needs clipping in a few steps only."
    ),
    source="Pascanu et al. 2013, §3.2; Brock et al. 2021, §4",
    task=_task,
    variants=(
        *_variants("recurrent", _recurrent),
        *_variants("deep", _deep),
        Variant(
            name="deep, low rate, by norm",
            build=_deep,
            optimizer=partial(_sgd, lr="lr_low"),
            clip=partial(clips.by_norm, limit="norm_rare"),
            forbid=EVERY_CODE,
        ),
    ),
    steps=200,
    measure=_measure,
    settings={
        "hidden": 32,
        "depth": 15,
        "width": 100,
        "lr_recurrent": 0.01,
        "lr_deep": 0.5,
        "lr_low": 0.01,
        "norm": 0.2,
        "norm_rare": 10.0,
        "value": 0.001,
        "ratio": 0.003,
    },
    ranges={
        "hidden": (1, 1024),
        "depth": (2, 100),
        "width": (2, 2000),
        "lr_recurrent": (1e-8, 10.0),
        "lr_deep": (1e-8, 10.0),
        "lr_low": (1e-8, 10.0),
        "norm": (1e-8, 1e8),
        "norm_rare": (1e-8, 1e8),
        "value": (1e-8, 1e8),
        "ratio": (1e-8, 1e8),
    },
    units={
        "largest_norm": ".1e",
        "steps_clipped": ".0%",
        "scaled_by": ".1e",
        "direction_cosine": ".2f",
        "accuracy": ".0%",
    },
)
