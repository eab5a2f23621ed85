"""Trains every variant of a scenario with every seed, records and judges it.

    result = run(scenario, seeds=[0, 1], steps=None, settings={"depth": "30"}, directory=Path("out"))

A run depends on its variant, seed, steps and settings alone: one torch thread each, in this process or in others.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

from gradscope.errors import UsageError, nearest
from gradscope.findings import Json
from gradscope.scenarios.base import Scenario, ScenarioResult, Setting, Settings, Task, Trained, Variant, VariantRun

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gradscope.scope import Scope

OnStep: TypeAlias = Callable[[str, int, int, int], None]

LARGEST_SEED = 2**31 - 2  # one above it are the held-out data of the adding problem


def run(
    scenario: Scenario,
    *,
    seeds: Sequence[int],
    steps: int | None,
    settings: Mapping[str, str],
    directory: Path,
    jobs: int = 1,
    on_step: OnStep | None = None,
) -> ScenarioResult:
    """Trains all variants of `scenario` with all `seeds`.

    Args:
        scenario: What to run.
        seeds: At least one; each variant is trained once with each.
        steps: Optimizer steps of a variant; None for the scenario's own number.
        settings: As the user wrote them, by name.
        directory: Where the traces go, as ``<variant>-seed<seed>.h5``. They appear there when all is done.
        jobs: Processes, through joblib's current backend.
        on_step: Called with variant, seed, steps done and steps in all: after each step, or with several jobs when a
            variant is done.

    Raises:
        UsageError: A setting is unknown or out of range, or `seeds`, `steps` or `jobs` cannot work.
    """
    length = scenario.steps if steps is None else _at_least_one("steps", steps)
    _at_least_one("jobs", jobs)
    chosen = read_settings(scenario, settings)
    scenario = replace(scenario, variants=tuple(variant.under(chosen) for variant in scenario.variants))
    _check_seeds(seeds)
    pairs = [(variant, seed) for variant in scenario.variants for seed in seeds]
    directory.mkdir(parents=True, exist_ok=True)
    # a scenario that breaks leaves no half of its results, and does not touch those of an earlier run
    with TemporaryDirectory(dir=directory, prefix="unfinished-") as folder:
        plan = _Plan(scenario=scenario, steps=length, settings=chosen, folder=Path(folder), directory=directory)
        if jobs == 1:
            finished = [_train(plan, variant, seed, on_step) for variant, seed in pairs]
        else:
            finished = list(_train_in_parallel(plan, pairs, jobs, on_step))
        for one in finished:
            os.replace(plan.folder / one.trace.name, one.trace)
    runs = {(one.variant, one.seed): one for one in finished}
    return ScenarioResult(
        scenario=scenario, seeds=tuple(seeds), runs=tuple(runs[variant.name, seed] for variant, seed in pairs)
    )


def read_settings(scenario: Scenario, raw: Mapping[str, str]) -> Settings:
    """The scenario's settings with those of `raw` in place, converted to the type of the default.

    Raises:
        UsageError: A name is unknown, or a value is not of the type or out of range.
    """
    settings = dict(scenario.settings)
    for name, text in raw.items():
        if name not in settings:
            raise UsageError(f"`--set {name}={text}`: {scenario.name} has no setting {name!r}{nearest(name, settings)}")
        settings[name] = _convert(scenario, name, text)
    return settings


def _convert(scenario: Scenario, name: str, text: str) -> Setting:
    default = scenario.settings[name]
    called = f"`--set {name}={text}`"
    if isinstance(default, str):
        known = scenario.choices.get(name)
        if known is not None and text not in known:
            raise UsageError(f"{called}: {text!r} is no {name} of {scenario.name}{nearest(text, known)}")
        return text
    kind, wanted = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    low, high = scenario.ranges.get(name, (-math.inf, math.inf))
    bounds = f" from {low:g} to {high:g}" if name in scenario.ranges else ""
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high or math.isnan(value):
        raise UsageError(f"{called} must be {wanted}{bounds}; the default is {default}.")
    return value


def trace_name(variant: str, seed: int) -> str:
    """File name of a variant's trace."""
    slug = "-".join("".join(c if c.isalnum() or c == "." else " " for c in variant.lower()).split())
    return f"{slug}-seed{seed}.h5"


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise UsageError(f"`{name}={value}` must be at least 1.")
    return value


def _check_seeds(seeds: Sequence[int]) -> None:
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed <= LARGEST_SEED for seed in seeds):
        raise UsageError(f"`seeds={list(seeds)}` must be different whole numbers from 0 to {LARGEST_SEED}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What all runs of one call share."""

    scenario: Scenario
    steps: int
    settings: Settings
    folder: Path  # where the traces are written
    directory: Path  # where they go when all is done


def _train_in_parallel(
    plan: _Plan, pairs: Sequence[tuple[Variant, int]], jobs: int, on_step: OnStep | None
) -> Iterator[VariantRun]:
    from joblib import Parallel, delayed

    for finished in Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_train)(plan, variant, seed, None) for variant, seed in pairs
    ):
        if on_step:
            on_step(finished.variant, finished.seed, plan.steps, plan.steps)
        yield finished


def _train(plan: _Plan, variant: Variant, seed: int, on_step: OnStep | None) -> VariantRun:
    import torch

    from gradscope.rules.engine import diagnose
    from gradscope.scope import attach

    scenario, settings = plan.scenario, plan.settings
    name = trace_name(variant.name, seed)
    about: dict[str, Json] = {
        "scenario": scenario.name, "variant": variant.name, "seed": seed, "settings": dict(settings)
    }  # fmt: skip
    with _one_thread(), torch.random.fork_rng():
        torch.manual_seed(seed)
        task = scenario.task(settings)
        model = variant.build(settings)
        optimizer = variant.optimizer(model, settings)
        losses, cosines = [], []
        with attach(model, optimizer=optimizer, trace=plan.folder / name, every=scenario.every, meta=about) as scope:
            for loss, cosine in _learn(
                task, variant, model, optimizer, settings, scope, islice(task.batches(seed), plan.steps)
            ):
                losses.append(loss)
                cosines.append(cosine)
                if on_step:
                    on_step(variant.name, seed, len(losses), plan.steps)
        if on_step and len(losses) < plan.steps:
            on_step(variant.name, seed, plan.steps, plan.steps)
        model.eval()
        with torch.no_grad():
            score = task.score(model)
        trained = Trained(
            variant=variant.name,
            settings=settings,
            model=model,
            trace=scope.trace,
            losses=tuple(losses),
            cosines=tuple(cosines),
            score=score,
        )
        metrics = {key: float(value) for key, value in scenario.measure(trained).items()}
        exhibits = tuple(scenario.exhibits(trained)) if scenario.exhibits else ()
    tenth = max(1, len(losses) // 10)
    return VariantRun(
        variant=variant.name,
        seed=seed,
        diagnosis=diagnose(trained.trace),
        loss_first=sum(losses[:tenth]) / tenth,
        loss_last=sum(losses[-tenth:]) / tenth,
        metrics=metrics,
        trace=plan.directory / name,
        exhibits=exhibits,
    )


def _learn(
    task: Task,
    variant: Variant,
    model: "nn.Module",
    optimizer: "torch.optim.Optimizer",
    settings: Settings,
    scope: "Scope",
    batches: "Iterable[tuple[torch.Tensor, torch.Tensor]]",
) -> Iterator[tuple[float, float]]:
    """Trains, and yields each step's loss and cosine. A loss that is not finite is recorded; no step follows it."""
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = task.loss(model(inputs), targets)
        loss.backward()
        cosine = _clip(variant.clip, model, settings) if variant.clip else 1.0
        optimizer.step()
        scope.record_loss(loss)
        yield loss.item(), cosine
        if not math.isfinite(loss.item()):
            return


def _clip(clip: "Callable[[nn.Module, Settings], None]", model: "nn.Module", settings: Settings) -> float:
    """Clips, and says by the cosine between the whole gradient before and after how far its direction was kept."""
    import torch

    raw = _whole_gradient(model)
    clip(model, settings)
    clipped = _whole_gradient(model)
    # normalised one by one: the product of the norms of exploded gradients would overflow
    return float(torch.dot(raw / torch.linalg.vector_norm(raw), clipped / torch.linalg.vector_norm(clipped)))


def _whole_gradient(model: "nn.Module") -> "torch.Tensor":
    import torch

    return torch.cat([p.grad.detach().flatten().double() for p in model.parameters() if p.grad is not None])


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, so that sums are added in the same order wherever a run takes place."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
