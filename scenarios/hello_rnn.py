"""What does a gradient through time look like, number by number?

The lecture's character RNN learns to spell: given h, e, l, l it is to say e, l, l, o. Four steps, three hidden units,
no bias, matrices given by hand, so that everything can be worked out on paper:

    h_t = tanh(W_xh x_t + W_hh h_{t−1})        p_t = softmax(W_hy h_t)        L = −Σ_t ln p_t[target_t]

    local_t   = W_hyᵀ (p_t − y_t)                            from the loss at t
    carried_t = W_hhᵀ ((1 − h_{t+1}²) ∘ ∂L/∂h_{t+1})         back from t+1; nothing at the last step
    ∂L/∂h_t   = local_t + carried_t
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from gradscope.exhibits import Exhibit
from gradscope.records import Quantity, Statistic
from gradscope.scenarios import measures
from gradscope.scenarios.base import EVERY_CODE, Scenario, Settings, Task, Trained, Variant
from gradscope.trace import Doubles, Trace

if TYPE_CHECKING:
    import torch
    from torch import nn

WORD = "hello"
DICTIONARY = "helo"
W_XH = ((0.3, 1.0, 0.1, 0.5), (-0.1, 0.3, -0.3, 0.1), (-0.1, 0.1, -0.5, -0.5))
W_HH = ((0.1, 0.4, 0.8), (-0.1, 0.5, -0.2), (0.9, 0.2, 0.6))
W_HY = ((0.3, 0.9, 0.1), (0.2, -0.6, 0.5), (-0.1, 0.1, 0.5), (0.1, 1.0, 0.2))

WINDOWS: Mapping[str, int | None] = {"full": None, "window 2": 2, "window 1": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One step of the sequence before any learning: its state, its answer, and the gradient with its two parts."""

    h: Doubles
    p: Doubles
    local: Doubles
    carried: Doubles
    total: Doubles


def by_hand(window: int | None) -> list[Moment]:
    """Every number of the first pass forward and back, one step after another."""
    w_xh, w_hh, w_hy = np.array(W_XH), np.array(W_HH), np.array(W_HY)
    length = len(WORD) - 1
    first = length % (window or length)  # where the second window begins, unless the windows divide the word

    states, answers = [], []
    h = np.zeros(len(W_HH))
    for character in WORD[:-1]:
        x = one_hot(character)
        h = np.tanh(w_xh @ x + w_hh @ h)
        scores = np.exp(w_hy @ h)
        states.append(h)
        answers.append(scores / scores.sum())

    moments: list[Moment] = []
    carried = np.zeros(len(W_HH))
    for t in reversed(range(length)):
        if window and (t + 1 - first) % window == 0:
            carried = np.zeros(len(W_HH))  # the state went on to t + 1 detached
        local = w_hy.T @ (answers[t] - one_hot(WORD[t + 1]))
        total = local + carried
        moments.append(Moment(h=states[t], p=answers[t], local=local, carried=carried, total=total))
        carried = w_hh.T @ ((1 - states[t] ** 2) * total)
    return moments[::-1]


def one_hot(character: str) -> Doubles:
    """x_t and y_t."""
    return np.array([float(character == one) for one in DICTIONARY])


def _task(settings: Settings) -> Task:
    from gradscope.scenarios import tasks

    return tasks.spelling(WORD, DICTIONARY)


def _build(settings: Settings, *, window: int | None) -> "nn.Module":
    from gradscope.scenarios import models

    return models.Speller(W_XH, W_HH, W_HY, window=window)


def _sgd(model: "nn.Module", settings: Settings) -> "torch.optim.Optimizer":
    """Without momentum: the first step is minus the learning rate times the gradient."""
    import torch

    return torch.optim.SGD(model.parameters(), lr=float(settings["lr"]))


def _recorded(trace: Trace, part: str = "") -> Doubles:
    """‖∂L/∂h_t‖ or that of a part, as the probe recorded it in the first step."""
    name = f"h_l0.{part}" if part else "h_l0"
    norms: Doubles = trace.by_time("rnn", Quantity.STATE_GRAD, Statistic.L2_NORM, name=name)[0].astype(np.float64)
    return norms


def _measure(trained: Trained) -> Mapping[str, float]:
    carried, local, total = (_recorded(trained.trace, part)[:-1] for part in ("carried", "local", ""))
    last = _recorded(trained.trace)[-1]
    right = np.exp(-np.array(trained.losses))  # of the whole word: the product of its characters' probabilities
    with np.errstate(all="ignore"):
        gain = carried / np.append(total[1:], last)
    return {
        "carried_share": measures.mean(carried**2 / (carried**2 + local**2)),
        "gain_per_time_step": measures.mean(gain),
        "word_at_start": float(right[0]),
        "word_at_end": float(right[-1]),
        "spelled_after": spelled_after(trained),
        "accuracy": trained.score["accuracy"],
    }


def spelled_after(trained: Trained) -> float:
    """Optimizer steps until each character is the most probable one; NaN if the training was too short.

    Trained once more, for the score of each step: nothing in it is random.
    """
    task, model = _task(trained.settings), _build(trained.settings, window=WINDOWS[trained.variant])
    optimizer = _sgd(model, trained.settings)
    for step, (inputs, targets) in enumerate(islice(task.batches(0), len(trained.losses) + 1)):
        if task.score(model)["accuracy"] == 1:
            return float(step)
        optimizer.zero_grad()
        task.loss(model(inputs), targets).backward()
        optimizer.step()
    return math.nan


def _exhibits(trained: Trained) -> Iterator[Exhibit]:
    """All of the full variant; of the others what differs: before the first step they go forward alike."""
    window = WINDOWS[trained.variant]
    moments = by_hand(window)
    if window is None:
        yield Exhibit(
            title="The matrices",
            heads=("row", "W_xh", "W_hh", "W_hy"),
            rows=tuple((str(i), *(m[i] if i < len(m) else "" for m in (W_XH, W_HH, W_HY))) for i in range(4)),
            note=f"columns of W_xh and rows of W_hy: {', '.join(DICTIONARY)}",
            decimals=1,
        )
        yield Exhibit(
            title="Forward, before the first step",
            heads=("t", "x → y", "h_t", f"p_t of {', '.join(DICTIONARY)}", "−ln p"),
            rows=tuple(
                (str(t), f"{x} → {y}", tuple(m.h), tuple(m.p), -math.log(float(m.p @ one_hot(y))))
                for t, (m, x, y) in enumerate(zip(moments, WORD[:-1], WORD[1:], strict=True))
            ),
            note="h_t = tanh(W_xh x_t + W_hh h_{t−1}), p_t = softmax(W_hy h_t), L = −Σ ln p",
        )
        yield Exhibit(
            title="Back, before the first step",
            heads=("t", "local", "carried", "∂L/∂h_t"),
            rows=tuple((str(t), tuple(m.local), tuple(m.carried), tuple(m.total)) for t, m in enumerate(moments)),
            note="local W_hyᵀ(p_t − y_t) + carried W_hhᵀ((1 − h²) ∘ ∂L/∂h at t+1) = ∂L/∂h_t",
        )
        yield _norms(moments, trained.trace)
        return
    recorded = _recorded(trained.trace)
    yield Exhibit(
        title="Back, before the first step",
        heads=("t", "carried", "∂L/∂h_t", "‖∂L/∂h_t‖ by hand", "‖∂L/∂h_t‖ recorded"),
        rows=tuple(
            (str(t), tuple(m.carried), tuple(m.total), float(np.linalg.norm(m.total)), float(recorded[t]))
            for t, m in enumerate(moments)
        ),
        note=f"nothing is carried over the edge of a window of {window}; local is what it is in full",
    )


def _norms(moments: Sequence[Moment], trace: Trace) -> Exhibit:
    """What the formulas give beside what the probe recorded while autograd ran."""
    parts = {"local": "local", "carried": "carried", "∂L/∂h_t": ""}
    columns: list[Sequence[str | float]] = [[str(t) for t in range(len(moments))]]
    for part in parts.values():
        columns.append([float(np.linalg.norm(getattr(m, part or "total"))) for m in moments])
        columns.append(_recorded(trace, part).tolist())
    return Exhibit(
        title="Their norms, before the first step",
        heads=("t", *(f"‖{head}‖ {of}" for head in parts for of in ("by hand", "recorded"))),
        rows=tuple(zip(*columns, strict=True)),
    )


SCENARIO = Scenario(
    name="hello-rnn",
    question="What does a gradient through time look like, number by number?",
    lesson=(
        "∂L/∂h_t has two parts: local comes from the loss at t, carried through W_hh from all that is still to come. "
        "Every number can be worked out with a pencil, and the recorded norms are those. Without the carried part a "
        "state learns for its own character alone. Four steps are spelled all the same, for what was read is still in "
        "the state, but it takes several times as many updates."
    ),
    source="Karpathy 2015, min-char-rnn; Williams & Zipser 1995",
    task=_task,
    variants=tuple(
        Variant(name=name, build=partial(_build, window=window), optimizer=_sgd, forbid=EVERY_CODE)
        for name, window in WINDOWS.items()
    ),
    steps=60,
    measure=_measure,
    settings={"lr": 0.1},
    ranges={"lr": (1e-8, 10.0)},
    units={
        "carried_share": ".0%",
        "gain_per_time_step": ".2f",
        "word_at_start": ".1%",
        "word_at_end": ".0%",
        "spelled_after": ".0f",
        "accuracy": ".0%",
    },
    exhibits=_exhibits,
)
