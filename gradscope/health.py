"""Is this model healthy? A few steps of training say, on a copy of it.

    >>> import torch, gradscope
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> x, y = torch.randn(64, 10), torch.randint(3, (64,))
    >>> gradscope.check(model, batch=(x, y), loss=nn.functional.cross_entropy).ok
    True
    >>> nn.init.constant_(model[0].bias, -20)[0].item()
    -20.0
    >>> gradscope.assert_healthy(model, batch=(x, y), loss=nn.functional.cross_entropy)
    Traceback (most recent call last):
    gradscope.UnhealthyModel: Sequential is not healthy: error GS301 dead-units at 1
    ...

The caller's model, its gradients and mode, random states and settings are afterwards what they were.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from gradscope.config import FAIL_ON, NEVER
from gradscope.errors import UsageError
from gradscope.findings import Diagnosis, Finding, Severity
from gradscope.rules.base import Rule

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gradscope.trace import Trace

    Model: TypeAlias = nn.Module | Callable[[], nn.Module]
    Batch: TypeAlias = (
        "tuple[object, object] | list[object] | Callable[[], object] | Callable[[int], object] | Iterable[object]"
    )
    Loss: TypeAlias = "Callable[..., torch.Tensor] | nn.Module | type[nn.Module]"
    Optimizers: TypeAlias = "torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Callable[..., object] | None"
    Device: TypeAlias = "str | torch.device | int | None"

_WIDTH = 100


class UnhealthyModel(AssertionError):  # noqa: N818 (it is a failed assertion)
    """The model is not healthy; the text is what a terminal would show.

    Attributes:
        diagnosis: All that was found.
    """

    def __init__(self, diagnosis: Diagnosis, *, model: str = "the model", fail_on: Severity = Severity.ERROR) -> None:
        self.diagnosis = diagnosis
        self._said = (model, fail_on)
        super().__init__(f"{_headline(diagnosis, model, fail_on)}\n\n{_as_the_terminal_shows(diagnosis)}")

    def __reduce__(
        self,
    ) -> "tuple[Callable[[Diagnosis, str, Severity], UnhealthyModel], tuple[Diagnosis, str, Severity]]":
        return _unhealthy, (self.diagnosis, *self._said)  # tests that run in other processes send it home


UnhealthyModel.__module__ = "gradscope"


def _unhealthy(diagnosis: Diagnosis, model: str, fail_on: Severity) -> UnhealthyModel:
    return UnhealthyModel(diagnosis, model=model, fail_on=fail_on)


def trained(
    model: "Model",
    *,
    batch: "Batch",
    loss: "Loss",
    optimizer: "Optimizers" = None,
    lr: float | None = None,
    steps: int = 20,
    seeds: int = 1,
    device: "Device" = None,
) -> "tuple[Trace, ...]":
    """Trains as `check` does, and returns what was recorded: a trace for each seed."""
    __tracebackhide__ = True
    from gradscope.trial import Trial, train

    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UsageError(f"`seeds={seeds!r}` must be a whole number from 1 on: how many times to train.")
    trial = Trial(model=model, batch=batch, loss=loss, optimizer=optimizer, lr=lr, steps=steps, device=device)
    return tuple(train(trial, seed) for seed in range(seeds))


def check(
    model: "Model",
    *,
    batch: "Batch",
    loss: "Loss",
    optimizer: "Optimizers" = None,
    lr: float | None = None,
    steps: int = 20,
    seeds: int = 1,
    device: "Device" = None,
    rules: Iterable[Rule] | None = None,
) -> Diagnosis:
    """What a few steps of training show of a model's health. A copy is trained; nothing of the caller's changes.

    Everything can be given in the form in which it is at hand:

        >>> import torch, gradscope
        >>> from torch import nn
        >>> def build():
        ...     return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
        >>> def batch(step):
        ...     x = torch.randn(64, 10)
        ...     return x, x[:, :3].argmax(1)
        >>> given = {"batch": batch, "loss": nn.CrossEntropyLoss, "optimizer": torch.optim.AdamW}
        >>> gradscope.check(build, **given, lr=3e-4, seeds=2).steps
        40
        >>> def penalised(model, batch):
        ...     x, y = batch
        ...     return nn.functional.cross_entropy(model(x), y) + 1e-4 * model[0].weight.square().sum()
        >>> gradscope.check(build, batch=batch, loss=penalised, steps=10).worst is None
        True

    Args:
        model: A module, of which a copy is trained; or a function that builds a new one, which is trained itself. It
            is called once for each seed, when the random states are seeded.
        batch: The same `(inputs, targets)` for every step; or a function of nothing or of the step that returns them;
            or an iterable of them such as a DataLoader, which is begun anew at its end. The model is called as
            `model(inputs)`, for a tuple as `model(*inputs)`, for a mapping as `model(**inputs)`.
        loss: A function of (outputs, targets), a loss module or its class; or a function of (model, batch), whose first
            parameter is called `model` or annotated as a module: then a batch may be anything.
        optimizer: A class, or a function, of the trainable parameters; of the model, where its first parameter is
            called `model`; it may return several. Or the optimizer of `model`, which is copied with its state. None is
            Adam.
        lr: Learning rate; by default the optimizer's own, and 1e-3 for Adam.
        steps: Optimizer steps.
        seeds: How often it is trained, with the seeds 0 to seeds − 1.
        device: Where it is trained; by default where the model is.
        rules: Instead of all installed ones.

    Raises:
        UsageError: Something cannot work, such as a loss that is no single number. What your own code raises passes
            through as it is, with a note that says when.
    """
    __tracebackhide__ = True
    asked = _rules(rules, None, None)
    traces = trained(model, batch=batch, loss=loss, optimizer=optimizer, lr=lr, steps=steps, seeds=seeds, device=device)
    return _diagnosis(traces, asked)


def assert_healthy(
    model: "Model",
    *,
    batch: "Batch",
    loss: "Loss",
    optimizer: "Optimizers" = None,
    lr: float | None = None,
    steps: int = 20,
    seeds: int = 1,
    device: "Device" = None,
    fail_on: Severity | str = Severity.ERROR,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    rules: Iterable[Rule] | None = None,
) -> Diagnosis:
    """Fails if a few steps of training show that a model is not healthy; for tests. See `check` for what it is given.

    Only what is given here counts; pytest's fixture `gradscope` has the same method and goes by `[tool.gradscope]` too.

        def test_the_encoder_is_healthy():
            gradscope.assert_healthy(build_encoder, batch=tiny_batch, loss=nn.CrossEntropyLoss, ignore=["GS302"])

    Args:
        model: And `batch`, `loss`, `optimizer`, `lr`, `steps`, `seeds`, `device`: as for `check`.
        batch: See `check`.
        loss: See `check`.
        optimizer: See `check`.
        lr: See `check`.
        steps: See `check`.
        seeds: See `check`.
        device: See `check`.
        fail_on: Lowest severity for which it fails: "error", "warning" or "info"; or "never".
        select: Beginnings of the codes, or names, of the rules that are asked; by default all installed ones.
        ignore: Of those that are not; the longer of two that match counts, as in ruff.
        rules: Instead of all installed ones; then `select` and `ignore` cannot be given.

    Returns:
        What was found below `fail_on`.

    Raises:
        UnhealthyModel: A finding reaches `fail_on`; its text lists the findings as the terminal does.
        UsageError: As for `check`; also where no rule could judge.
    """
    __tracebackhide__ = True
    threshold = _severity(fail_on)
    asked = _rules(rules, select, ignore)
    traces = trained(model, batch=batch, loss=loss, optimizer=optimizer, lr=lr, steps=steps, seeds=seeds, device=device)
    diagnosis = _diagnosis(traces, asked)
    if threshold is not None and any(finding.severity.reaches(threshold) for finding in diagnosis.findings):
        raise UnhealthyModel(diagnosis, model=str(traces[0].meta.get("model")), fail_on=threshold)
    require_judged(diagnosis, asked, traces)
    return diagnosis


def require_judged(diagnosis: Diagnosis, rules: Sequence[Rule], traces: "Sequence[Trace]") -> None:
    """Raises a `UsageError` where nothing was trained, or no rule could judge: that is not healthy, it is not known."""
    from gradscope.rules.learning import reached

    if not diagnosis.findings and not any(reached(trace) for trace in traces):
        raise UsageError(
            f"no parameter got a gradient in {diagnosis.steps} recorded step{'s' * (diagnosis.steps != 1)}, so nothing"
            " was trained that could be judged; does the loss depend on the model's outputs?"
        )
    reasons = {item.rule: item.reason for item in diagnosis.not_judged}
    if not diagnosis.findings and all(rule.name in reasons for rule in rules):
        said = "; ".join(f"{rule.name}: {reasons[rule.name]}" for rule in rules[:3])
        raise UsageError(f"nothing could be judged ({said}); train for more steps, or ask other rules.")


def _diagnosis(traces: "Sequence[Trace]", rules: tuple[Rule, ...]) -> Diagnosis:
    from gradscope.gate import Policy, judge

    name = str(traces[0].meta.get("model"))
    return judge(name, traces, Policy(rules=rules), seeds=range(len(traces))).diagnosis


def _rules(
    rules: Iterable[Rule] | None, select: Sequence[str] | None, ignore: Sequence[str] | None
) -> tuple[Rule, ...]:
    from gradscope.rules.engine import given_rules
    from gradscope.rules.selection import rules_named

    if rules is None:
        return rules_named(select=select, ignore=ignore)
    if select is not None or ignore is not None:
        raise UsageError("`rules=` says which rules are asked; leave out `select=` and `ignore=`.")
    return given_rules(rules)


def _severity(given: Severity | str) -> Severity | None:
    """None for "never"."""
    if given not in FAIL_ON:
        raise UsageError(f"`fail_on={given!r}` must be one of {', '.join(map(repr, FAIL_ON))}.")
    return None if given == NEVER else Severity(given)


def _headline(diagnosis: Diagnosis, model: str, fail_on: Severity) -> str:
    """One line for a list of failed tests."""
    failing = [f for f in diagnosis.findings if f.severity.reaches(fail_on)]
    roots: Sequence[Finding] = [f for f in failing if f in diagnosis.roots] or failing
    if not roots:
        return f"{model} is not healthy"
    first = roots[0]
    more = f", and {len(roots) - 1} more" if len(roots) > 1 else ""
    where = f" at {first.module}" if first.module else ""
    return f"{model} is not healthy: {first.severity.value} {first.title}{where}{more}"


def _as_the_terminal_shows(diagnosis: Diagnosis) -> str:
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=_WIDTH, color_system=None, highlight=False, legacy_windows=False).print(diagnosis)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
