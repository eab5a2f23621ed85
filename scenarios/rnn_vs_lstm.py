"""How far back does the gradient reach, in an RNN and in gated networks?

The adding problem asks for two numbers of a long sequence; the loss reads its last step. What is observed is ∂L/∂x_t,
the gradient of the recurrent layer's input at each position.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from gradscope.scenarios import measures, optimizers
from gradscope.scenarios.base import EVERY_CODE, Scenario, Settings, Task, Trained, Variant

if TYPE_CHECKING:
    from torch import nn

    from gradscope.scenarios.models import Cell


def _task(settings: Settings) -> Task:
    from gradscope.scenarios import tasks

    return tasks.adding(int(settings["lag"])) if settings["task"] == "adding" else tasks.digits("pixels")


def _build(settings: Settings, *, cell: "Cell", forget_bias: bool = False) -> "nn.Module":
    from gradscope.scenarios import models

    inputs, outputs = (2, 1) if settings["task"] == "adding" else (1, 10)
    bias = float(settings["forget_bias"]) if forget_bias else 0.0
    return models.recurrent(cell, inputs=inputs, hidden=int(settings["hidden"]), outputs=outputs, forget_bias=bias)


def _clip(model: "nn.Module", settings: Settings) -> None:
    from torch.nn.utils import clip_grad_norm_

    clip_grad_norm_(model.parameters(), float(settings["clip"]))


def _measure(trained: Trained) -> Mapping[str, float]:
    relative = measures.over_time(trained.trace, "recurrent")
    reach = measures.reach(relative)
    tenth = max(1, len(reach) // 10)
    lag = relative.shape[1] - 1
    return {
        "horizon_at_start": float(reach[0]),
        "memory_horizon": measures.median(reach[-tenth:]),
        "gain_per_time_step": float(relative[0, 0] ** (1 / lag)) if lag else float("nan"),
        "gradient_at_first_step": float(relative[0, 0]),
        **trained.score,
    }


def _variant(name: str, build: "partial[nn.Module]", *, forbid: frozenset[str] = EVERY_CODE) -> Variant:
    return Variant(name=name, build=build, optimizer=optimizers.adam, clip=_clip, forbid=forbid)


SCENARIO = Scenario(
    name="rnn-vs-lstm",
    question="How far back does the gradient reach, in an RNN and in gated networks?",
    lesson=(
        "With the usual inits all begin with a short reach (horizon at start: positions back from the end at which "
        "∂L/∂x is above a thousandth of the last one's). Gates can learn to stay open, and an LSTM whose forget gates "
        "start open need not even learn it; the RNN stays at the error of always answering 1, which is 1/6."
    ),
    source="Bengio et al. 1994; Hochreiter & Schmidhuber 1997, §5.4; Gers et al. 2000",
    task=_task,
    variants=(
        # vanishing through time is GS201's to find: no rule for depth can see it
        _variant("rnn", partial(_build, cell="rnn"), forbid=EVERY_CODE - {"GS201", "GS202", "GS602"}),
        _variant("lstm", partial(_build, cell="lstm"), forbid=EVERY_CODE - {"GS201", "GS602"}),
        _variant("lstm, open gates", partial(_build, cell="lstm", forget_bias=True)),
        _variant("gru", partial(_build, cell="gru"), forbid=EVERY_CODE - {"GS201"}),
    ),
    steps=500,
    measure=_measure,
    settings={"task": "adding", "lag": 40, "hidden": 32, "forget_bias": 3.0, "lr": 0.01, "clip": 1.0},
    ranges={
        "lag": (2, 2000),
        "hidden": (1, 1024),
        "forget_bias": (-20.0, 20.0),
        "lr": (1e-8, 10.0),
        "clip": (1e-8, 1e8),
    },
    choices={"task": ("adding", "pixels")},
    units={
        "horizon_at_start": ".0f",
        "memory_horizon": ".0f",
        "gain_per_time_step": ".2f",
        "gradient_at_first_step": ".0e",
        "accuracy": ".0%",
        "mse": ".1e",
    },
)
