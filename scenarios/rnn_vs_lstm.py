"""How far back does the gradient reach, in an RNN and in gated networks?

The adding problem asks for the sum of two numbers of a long sequence; sequential digits, for the digit whose 64 pixels
came one by one. The loss reads the last step, so all that an earlier step learns comes back through ∂L/∂h_t.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from gradscope.scenarios import measures
from gradscope.scenarios.base import (
    EVERY_CODE,
    EXPLOSION,
    MISTAKES,
    STARVATION,
    Scenario,
    Settings,
    Task,
    Trained,
    Variant,
)

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


def _build(settings: Settings, *, cell: "Cell", forget_bias: bool = False, grows: bool = False) -> "nn.Module":
    from gradscope.scenarios import models

    inputs, outputs = (1, 10) if settings["task"] == "digits" else (2, 1)
    return models.recurrent(
        cell,
        inputs=inputs,
        hidden=int(settings["hidden"]),
        outputs=outputs,
        scale=float(settings["growth"]) if grows else 1.0,
        forget_bias=float(settings["forget_bias"]) if forget_bias else None,
    )


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


def _is_long(settings: Settings) -> bool:
    """Whether the sequence is longer than a tanh RNN learns to bridge; the 64 pixels of a digit are."""
    return settings["task"] == "digits" or int(settings["lag"]) >= 50


def _is_hard(settings: Settings) -> bool:
    """Whether it is also no use to look at the end alone: the last pixels tell something of the digit."""
    return settings["task"] == "adding" and _is_long(settings)


def _variant(
    name: str,
    build: "partial[nn.Module]",
    *,
    lr: str = "lr",
    expect: frozenset[str] = frozenset(),
    expect_if: Callable[[Settings], bool] | None = None,
    forbid: frozenset[str],
) -> Variant:
    return Variant(
        name=name,
        build=build,
        optimizer=partial(_adam, lr=lr),
        clip=_clip,
        expect=expect,
        expect_if=expect_if,
        forbid=forbid,
    )


SCENARIO = Scenario(
    name="rnn-vs-lstm",
    question="How far back does the gradient reach, in an RNN and in gated networks?",
    lesson=(
        "The horizon is how many steps back the carried gradient is down to a thousandth. With the usual inits that is "
        "a tenth of the lag, so at first the far number teaches nothing. A forget bias of 1 more than doubles it. "
        "Gates learn to stay open, and few open units are enough: the mean forget gate stays small. An identity as "
        "recurrent matrix passes the gradient whole from the start; 1.2 times that (growing) explodes. The tanh RNN "
        "hardly gets past its horizon, and next to nothing is learned at any lag; only with lag=20 or task=digits does "
        "it begin to, and then it does not vanish."
    ),
    source="Hochreiter & Schmidhuber 1997, §5.4; Gers et al. 2000; Jozefowicz et al. 2015; Le et al. 2015, §4.1",
    task=_task,
    variants=(
        _variant(
            "rnn, tanh",
            partial(_build, cell="rnn"),
            lr="lr_plain",
            expect=frozenset({"GS201"}),
            expect_if=_is_hard,
            forbid=EXPLOSION | MISTAKES,
        ),
        _variant("rnn, relu, identity", partial(_build, cell="irnn"), lr="lr_plain", forbid=EVERY_CODE - EXPLOSION),
        _variant(
            "rnn, relu, growing",
            partial(_build, cell="irnn", grows=True),
            lr="lr_growing",  # at a higher one its units die of the explosion, and nothing is left to see
            expect=frozenset({"GS202"}),
            expect_if=_is_long,
            forbid=STARVATION | MISTAKES,
        ),
        _variant("lstm", partial(_build, cell="lstm"), forbid=EVERY_CODE - {"GS201"}),
        _variant("lstm, forget bias 1", partial(_build, cell="lstm", forget_bias=True), forbid=EVERY_CODE),
        _variant("gru", partial(_build, cell="gru"), forbid=EVERY_CODE),
    ),
    steps=500,
    every=10,
    measure=_measure,
    settings={
        "task": "adding",
        "lag": 100,
        "hidden": 32,
        "growth": 1.2,
        "forget_bias": 1.0,
        "lr": 0.01,
        "lr_plain": 0.0015,
        "lr_growing": 0.0005,
        "clip": 1.0,
    },
    ranges={
        "lag": (20, 2000),
        "hidden": (1, 1024),
        "growth": (0.1, 10.0),
        "forget_bias": (-20.0, 20.0),
        "lr": (1e-8, 10.0),
        "lr_plain": (1e-8, 10.0),
        "lr_growing": (1e-8, 10.0),
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
