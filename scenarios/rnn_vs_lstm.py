"""How far back does the gradient reach, in an RNN and in gated networks?

The adding problem asks for the sum of two numbers of a long sequence; sequential digits, for the digit whose 64 pixels
came one by one. The loss reads the last step, so all that an earlier step learns comes back through ∂L/∂h_t.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from gradscope.scenarios import measures
from gradscope.scenarios.base import EVERY_CODE, EXPLOSION, MISTAKES, Scenario, Settings, Task, Trained, Variant

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gradscope.scenarios.models import Cell


def _lags(settings: Settings) -> tuple[int, int, int]:
    lag = int(settings["lag"])
    return lag // 5, lag // 2, lag


def _task(settings: Settings) -> Task:
    from gradscope.scenarios import tasks

    if settings["task"] == "digits":
        return tasks.digits("pixels")
    tenth = int(settings["lag"]) // 10
    return tasks.adding(_lags(settings), near=tenth, spread=tenth)


def _build(settings: Settings, *, cell: "Cell", forget_bias: bool = False) -> "nn.Module":
    from gradscope.scenarios import models

    inputs, outputs = (1, 10) if settings["task"] == "digits" else (2, 1)
    bias = float(settings["forget_bias"]) if forget_bias else None
    return models.recurrent(cell, inputs=inputs, hidden=int(settings["hidden"]), outputs=outputs, forget_bias=bias)


def _adam(model: "nn.Module", settings: Settings, *, lr: str) -> "torch.optim.Optimizer":
    import torch

    return torch.optim.Adam(model.parameters(), lr=float(settings[lr]))


def _clip(model: "nn.Module", settings: Settings) -> None:
    from torch.nn.utils import clip_grad_norm_

    clip_grad_norm_(model.parameters(), float(settings["clip"]))


def _measure(trained: Trained) -> Mapping[str, float]:
    through_time = measures.through_time(trained.trace, "recurrent")
    score = trained.score
    return {
        **through_time,
        "accuracy": score["accuracy"],
        **{
            f"explained_at_{name}": score[f"explained at {lag}"]
            for name, lag in zip(("lag/5", "lag/2", "lag"), _lags(trained.settings), strict=True)
            if trained.settings["task"] == "adding"
        },
    }


def _variant(name: str, cell: "Cell", lr: str, *, forget_bias: bool = False, **codes: frozenset[str]) -> Variant:
    return Variant(
        name=name,
        build=partial(_build, cell=cell, forget_bias=forget_bias),
        optimizer=partial(_adam, lr=lr),
        clip=_clip,
        **codes,
    )


SCENARIO = Scenario(
    name="rnn-vs-lstm",
    question="How far back does the gradient reach, in an RNN and in gated networks?",
    lesson=(
        "The horizon is how many steps back the carried gradient is down to a thousandth. With the usual inits it is a "
        "tenth of the lag, so at first no cell learns from the far number. Gates can learn to stay open and a forget "
        "bias of 1 more than doubles the reach to start with; few open units are enough, so the mean forget gate and "
        "its time constant stay small. An identity as recurrent matrix keeps the gradient whole from the start, and "
        "stands a step from exploding. The tanh RNN learns nothing, at no lag: it never gets past its horizon."
    ),
    source="Hochreiter & Schmidhuber 1997, §5.4; Gers et al. 2000; Jozefowicz et al. 2015; Le et al. 2015, §4.1",
    task=_task,
    variants=(
        _variant("rnn, tanh", "rnn", "lr_plain", forbid=EXPLOSION | MISTAKES),
        _variant("rnn, relu, identity", "irnn", "lr_plain", forbid=MISTAKES),
        _variant("lstm", "lstm", "lr", forbid=EVERY_CODE - {"GS201"}),
        _variant("lstm, forget bias 1", "lstm", "lr", forget_bias=True, forbid=EVERY_CODE),
        _variant("gru", "gru", "lr", forbid=EVERY_CODE),
    ),
    steps=550,
    every=10,
    measure=_measure,
    settings={
        "task": "adding",
        "lag": 100,
        "hidden": 32,
        "forget_bias": 1.0,
        "lr": 0.01,
        "lr_plain": 0.0015,
        "clip": 1.0,
    },
    ranges={
        "lag": (20, 2000),
        "hidden": (1, 1024),
        "forget_bias": (-20.0, 20.0),
        "lr": (1e-8, 10.0),
        "lr_plain": (1e-8, 10.0),
        "clip": (1e-8, 1e8),
    },
    choices={"task": ("adding", "digits")},
    units={
        "horizon_at_start": ".0f",
        "memory_horizon": ".0f",
        "gain_at_start": ".2f",
        "gain_per_time_step": ".2f",
        "decades_at_start": ".1f",
        "gradient_decades": ".1f",
        "forget_gate": ".2f",
        "time_constant": ".1f",
        "accuracy": ".0%",
        "explained_at_lag/5": ".0%",
        "explained_at_lag/2": ".0%",
        "explained_at_lag": ".0%",
    },
)
