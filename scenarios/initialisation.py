"""Which inits keep a gradient alive, and does theory foretell it? Seven inits, under tanh and under ReLU."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from gradscope import theory
from gradscope.records import Statistic
from gradscope.scenarios import measures, optimizers
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
    from torch import nn

PIXELS = 64


def _task(settings: Settings) -> Task:
    from gradscope.scenarios import tasks

    return tasks.digits("flat")


def _build(settings: Settings, *, activation: str, init: str) -> "nn.Module":
    from gradscope.scenarios import models

    depth, width = int(settings["depth"]), int(settings["width"])
    return models.mlp(depth=depth, width=width, activation=activation, init=init)


def expected_gain(activation: str, init: str, *, depth: int, width: int) -> float:
    """Theory's gain per hidden layer before training; NaN where all units are equal and there is no theory."""
    first = PIXELS * _variance(init, PIXELS, width)
    square = width * _variance(init, width, width)
    if math.isnan(square) or depth < 2:
        return math.nan
    return math.sqrt(theory.mean_gradient_factor(activation, square, layers=depth - 1, first=first))


def _variance(init: str, inputs: int, outputs: int) -> float:
    """Variance of a weight."""
    match init:
        case "normal 0.01":
            return 1e-4
        case "normal 1":
            return 1.0
        case "xavier":
            return 2 / (inputs + outputs)
        case "he":
            return 2 / inputs
        case "orthogonal":
            return 1 / max(inputs, outputs)
        case _:
            return math.nan


def _measure(trained: Trained) -> Mapping[str, float]:
    trace, linear = trained.trace, measures.called("linear")
    activation, init = trained.variant.split(", ")
    depth, width = int(trained.settings["depth"]), int(trained.settings["width"])
    return {
        "gain_theory": expected_gain(activation, init, depth=depth, width=width),
        "gain_at_start": float(measures.gain_per_layer(trace, linear)[0]),
        "gain_per_layer": measures.median(measures.gain_per_layer(trace, linear)),
        "gradient_decades": measures.median(measures.gradient_decades(trace, linear)),
        "dead": measures.worst_share(trace, Statistic.DEAD_FRACTION),
        "saturated": measures.worst_share(trace, Statistic.SATURATED_FRACTION),
        "accuracy": trained.score["accuracy"],
    }


# What an init must show, and what it must not; one that is not here is healthy. Too small an init starves the signal
# and with it the gradient; equal units are a mistake of their own, whatever follows from it.
_SICK: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "zeros": (frozenset({"GS504"}), EXPLOSION | MISTAKES - {"GS103", "GS504"}),
    "constant": (frozenset({"GS504"}), EXPLOSION | MISTAKES - {"GS504"}),
    "normal 0.01": (frozenset({"GS304", "GS101"}), EXPLOSION | MISTAKES),
    "tanh, normal 1": (frozenset({"GS302"}), MISTAKES | {"GS401"}),
    "relu, normal 1": (frozenset({"GS305", "GS401"}), MISTAKES | STARVATION),
}


def _variant(activation: str, init: str) -> Variant:
    name = f"{activation}, {init}"
    expect, forbid = _SICK.get(init) or _SICK.get(name) or (frozenset(), EVERY_CODE)
    return Variant(
        name=name,
        build=partial(_build, activation=activation, init=init),
        optimizer=optimizers.sgd,
        expect=expect,
        forbid=forbid,
    )


_INITS = ("zeros", "constant", "normal 0.01", "normal 1", "xavier", "he", "orthogonal")

SCENARIO = Scenario(
    name="initialisation",
    question="Which inits keep a gradient alive, and does theory foretell it?",
    lesson=(
        "Before training the gain per layer is what mean-field theory says, √(σ_w² E[φ′²]): Xavier and orthogonal are "
        "made for tanh, He for ReLU; too small an init starves the early layers, too large a one saturates tanh and "
        "blows up ReLU. Equal weights keep all units of a layer equal, whatever the gradient's size."
    ),
    source="Glorot & Bengio 2010; He et al. 2015; Saxe et al. 2014; Schoenholz et al. 2017",
    task=_task,
    variants=tuple(_variant(activation, init) for activation in ("tanh", "relu") for init in _INITS),
    steps=150,
    measure=_measure,
    settings={"depth": 10, "width": 100, "lr": 0.01},
    ranges={"depth": (2, 100), "width": (2, 2000), "lr": (1e-8, 10.0)},
    units={
        "gain_theory": ".3f",
        "gain_at_start": ".3f",
        "gain_per_layer": ".3f",
        "gradient_decades": ".1f",
        "dead": ".0%",
        "saturated": ".0%",
        "accuracy": ".0%",
    },
)
