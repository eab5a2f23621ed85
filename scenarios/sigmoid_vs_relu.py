"""Does a saturating activation starve the early layers?

The textbook's sum: fifteen layers that each halve the gradient leave 0.5¹⁵ = 0.00003 of it. Here it is measured: tanh
with weights scaled to σ_w = ½ halves, and a sigmoid, whose slope is nowhere above ¼, does worse with any usual init.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from gradscope import theory
from gradscope.records import Statistic
from gradscope.scenarios import measures, optimizers
from gradscope.scenarios.base import EVERY_CODE, EXPLOSION, MISTAKES, Scenario, Settings, Task, Trained, Variant

if TYPE_CHECKING:
    from torch import nn


def _task(settings: Settings) -> Task:
    from gradscope.scenarios import tasks

    return tasks.digits("flat")


def _build(settings: Settings, *, activation: str, init: str, scale: float = 1.0) -> "nn.Module":
    from gradscope.scenarios import models

    depth, width = int(settings["depth"]), int(settings["width"])
    return models.mlp(depth=depth, width=width, activation=activation, init=init, scale=scale)


def _measure(trained: Trained) -> Mapping[str, float]:
    trace, linear = trained.trace, measures.called("linear")
    activation = trained.variant.split(",")[0]
    gain = measures.median(measures.gain_per_layer(trace, linear))
    return {
        "gain_per_layer": gain,
        "gradient_left": gain ** int(trained.settings["depth"]),
        "gain_per_activation": measures.slope(trace, measures.called("act")),
        "bound_per_activation": theory.slope_bound(activation),
        "gradient_decades": measures.median(measures.gradient_decades(trace, linear)),
        "dead": measures.worst_share(trace, Statistic.DEAD_FRACTION),
        "saturated": measures.worst_share(trace, Statistic.SATURATED_FRACTION),
        "accuracy": trained.score["accuracy"],
    }


def _variant(name: str, init: str, *, scale: float = 1.0, expect: frozenset[str] = frozenset()) -> Variant:
    return Variant(
        name=name,
        build=partial(_build, activation=name.split(",")[0], init=init, scale=scale),
        optimizer=optimizers.sgd,
        expect=expect,
        forbid=EXPLOSION | MISTAKES if expect else EVERY_CODE,
    )


SCENARIO = Scenario(
    name="sigmoid-vs-relu",
    question="Does a saturating activation starve the early layers of gradient?",
    lesson=(
        "Each layer hands back the same share of the gradient it gets, so little is left after all of them: fifteen "
        "that halve it leave 0.5¹⁵ = 0.00003. A sigmoid itself passes at most 0.25, whatever the weights; layers of "
        "tanh with Xavier and of the ReLU family with He init pass about 1, and learn."
    ),
    source="Glorot & Bengio 2010, §3; He et al. 2015, §2.2",
    task=_task,
    variants=(
        _variant("sigmoid", "xavier", expect=frozenset({"GS101"})),
        _variant("sigmoid, default init", "default", expect=frozenset({"GS101"})),
        _variant("tanh, halving", "xavier", scale=0.5, expect=frozenset({"GS304"})),
        _variant("tanh", "xavier"),
        _variant("relu", "he"),
        _variant("leaky-relu", "he"),
        _variant("gelu", "he"),
    ),
    steps=200,
    measure=_measure,
    settings={"depth": 15, "width": 100, "lr": 0.01},
    ranges={"depth": (2, 100), "width": (2, 2000), "lr": (1e-8, 10.0)},
    units={
        "gain_per_layer": ".3f",
        "gradient_left": ".1e",
        "gain_per_activation": ".3f",
        "bound_per_activation": ".2f",
        "gradient_decades": ".1f",
        "dead": ".0%",
        "saturated": ".0%",
        "accuracy": ".0%",
    },
)
