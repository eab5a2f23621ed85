"""How long must the window of truncated backpropagation through time be?

The sequence is cut into windows. The state goes on from one to the next, the gradient does not: it ends where the last
window begins, and that is as many states as must be kept and gone back through. The task is the adding problem, where
the nearest of the numbers lies beyond a window of 10, and the other ones beyond each of the windows in turn.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gradscope.scenarios import measures, optimizers
from gradscope.scenarios.base import EVERY_CODE, Scenario, Settings, Task, Trained, Variant

if TYPE_CHECKING:
    from torch import nn


def _lags(settings: Settings) -> tuple[int, int, int]:
    lag = int(settings["lag"])
    return lag // 3, 2 * lag // 3, lag


def _task(settings: Settings) -> Task:
    from gradscope.scenarios import tasks

    return tasks.adding(_lags(settings), near=20, spread=8)


def _build(settings: Settings, *, window: int | None) -> "nn.Module":
    from gradscope.scenarios import models

    return models.recurrent("gru", inputs=2, hidden=int(settings["hidden"]), outputs=1, window=window)


def _clip(model: "nn.Module", settings: Settings) -> None:
    from torch.nn.utils import clip_grad_norm_

    clip_grad_norm_(model.parameters(), float(settings["clip"]))


def _measure(trained: Trained) -> Mapping[str, float]:
    score = trained.score
    layer, served = measures.recurrence(trained.trace, "recurrent")
    window = measures.at_end(layer.window[served].astype(np.float64))
    return {
        "window": window,
        "cut": float(layer.cut[served].mean()),
        "steps_reached": min(window, measures.at_end(layer.memory(1e-3)[served])),
        "gain_per_time_step": measures.at_end(layer.gain_per_step[served]),
        "accuracy": score["accuracy"],
        **{
            f"explained_at_{name}": score[f"explained at {lag}"]
            for name, lag in zip(("lag/3", "2/3_lag", "lag"), _lags(trained.settings), strict=True)
        },
    }


def _variant(name: str, window: int | None, *, forbid: frozenset[str]) -> Variant:
    return Variant(
        name=name, build=partial(_build, window=window), optimizer=optimizers.adam, clip=_clip, forbid=forbid
    )


SCENARIO = Scenario(
    name="truncated-bptt",
    question="How long must the window of truncated backpropagation through time be?",
    lesson=(
        "The nearest number lies 13 to 20 steps back, so a window of 10 never sees a cause and learns nothing. One of "
        "50 does: what it learns to keep it also keeps, if less surely, over lags that are longer than the window. One "
        "of 100 is about as good as the full sequence, for which half as many states again are kept and gone back "
        "through. A window has to reach the nearer causes, not the furthest. A cut is no vanishing: "
        "`gain_per_time_step` is about 1 within it."
    ),
    source="Williams & Peng 1990; Williams & Zipser 1995",
    task=_task,
    variants=(
        _variant("window 10", 10, forbid=EVERY_CODE - {"GS602"}),
        _variant("window 50", 50, forbid=EVERY_CODE),
        _variant("window 100", 100, forbid=EVERY_CODE),
        _variant("full", None, forbid=EVERY_CODE),
    ),
    steps=300,
    every=10,
    measure=_measure,
    settings={"lag": 150, "hidden": 32, "lr": 0.01, "clip": 1.0},
    ranges={"lag": (90, 2000), "hidden": (1, 1024), "lr": (1e-8, 10.0), "clip": (1e-8, 1e8)},
    units={
        "window": ".0f",
        "cut": ".0%",
        "steps_reached": ".0f",
        "gain_per_time_step": ".2f",
        "accuracy": ".0%",
        "explained_at_lag/3": ".0%",
        "explained_at_2/3_lag": ".0%",
        "explained_at_lag": ".0%",
    },
)
