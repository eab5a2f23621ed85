"""Does a way around each block keep a deep net trainable? Convolutional nets and MLPs, with torch's default init.

That init has σ_w² = 1/3, so a ReLU layer passes √(1/6) = 0.41 of the gradient: 1e-8 over twenty layers. Around a block
the gradient comes back whole. Batch normalisation makes all inits alike; its own factor is √(π/(π−1)) = 1.21 per layer.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from gradscope.records import Site, Statistic
from gradscope.scenarios import measures, optimizers
from gradscope.scenarios.base import EVERY_CODE, EXPLOSION, MISTAKES, Scenario, Settings, Task, Trained, Variant

if TYPE_CHECKING:
    from torch import nn


def _task(settings: Settings) -> Task:
    from gradscope.scenarios import tasks

    return tasks.digits("image", batch=32)


def _build(settings: Settings, *, kind: str, skip: bool, norm: bool) -> "nn.Module":
    from gradscope.scenarios import models

    blocks = int(settings["blocks"])
    if kind == "conv":
        return models.block_conv(blocks=blocks, channels=int(settings["channels"]), skip=skip, norm=norm)
    return models.block_mlp(blocks=blocks, width=int(settings["width"]), skip=skip, norm=norm)


def _on_trunk(site: Site) -> bool:
    """Outputs of the stem and of the blocks, where all of the gradient passes."""
    return site.module.rpartition(".")[2] in ("relu", "relu2")


def _measure(trained: Trained) -> Mapping[str, float]:
    trace = trained.trace
    per_block = measures.gain_per_layer(trace, _on_trunk)
    return {
        "gain_at_start": float(per_block[0] ** 0.5),  # a block has two layers
        "gain_per_layer": measures.median(per_block**0.5),
        "gradient_decades": measures.median(measures.gradient_decades(trace, _on_trunk)),
        "dead": measures.worst_share(trace, Statistic.DEAD_FRACTION),
        "accuracy": trained.score["accuracy"],
    }


def _variants(kind: str) -> tuple[Variant, ...]:
    def variant(name: str, *, skip: bool, norm: bool, expect: frozenset[str] = frozenset()) -> Variant:
        return Variant(
            name=f"{kind}, {name}",
            build=partial(_build, kind=kind, skip=skip, norm=norm),
            optimizer=optimizers.sgd,
            expect=expect,
            forbid=EXPLOSION | MISTAKES if expect else EVERY_CODE,
        )

    return (
        variant("plain", skip=False, norm=False, expect=frozenset({"GS101", "GS304"})),
        variant("plain + norm", skip=False, norm=True),
        variant("residual", skip=True, norm=False),
        variant("residual + norm", skip=True, norm=True),
    )


SCENARIO = Scenario(
    name="plain-vs-residual",
    question="Does a way around each block keep a deep net trainable?",
    lesson=(
        "A plain ReLU layer with torch's default init passes √(1/6) = 0.41 of the gradient, so nothing arrives and "
        "nothing is learnt. A residual connection passes it whole, with or without normalisation; normalisation alone "
        "cures the vanishing too, at the price of √(π/(π−1)) = 1.21 per layer at the start."
    ),
    source="He et al. 2016, §4.2; Yang et al. 2019, cor. 3.2",
    task=_task,
    variants=(*_variants("conv"), *_variants("mlp")),
    steps=150,
    measure=_measure,
    settings={"blocks": 10, "channels": 16, "width": 64, "lr": 0.01},
    ranges={"blocks": (1, 50), "channels": (1, 512), "width": (2, 2000), "lr": (1e-8, 10.0)},
    units={
        "gain_at_start": ".3f",
        "gain_per_layer": ".3f",
        "gradient_decades": ".1f",
        "dead": ".0%",
        "accuracy": ".0%",
    },
)
