"""What the fixture `gradscope` does for one test: it trains or watches models, and judges them."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict, Unpack

import pytest
import torch
from torch import nn

from gradscope.baseline import baseline_of
from gradscope.errors import GradscopeError, UsageError
from gradscope.findings import Diagnosis, Finding, Severity
from gradscope.gate import Policy, judge
from gradscope.health import UnhealthyModel, require_judged, trained
from gradscope.integrations.lifecycle import Options
from gradscope.integrations.pytest_settings import WRITE_BASELINE, Settings, changed, known
from gradscope.reports.verdict_words import gone, leading, outcome, particulars, place
from gradscope.rules.base import Rule
from gradscope.rules.engine import given_rules
from gradscope.rules.selection import chosen_rules
from gradscope.scope import Scope, attach
from gradscope.steps import GradScaler
from gradscope.trace import Trace
from gradscope.tracebacks import without_ours
from gradscope.verdict import Judged, Verdict

if TYPE_CHECKING:
    from gradscope.health import Batch, Device, Loss, Model, Optimizers

__tracebackhide__ = True  # a failure is shown where the test called, not here


class AttachOptions(Options, total=False):
    """What `gradscope.attach` takes beside the model."""

    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None
    scaler: GradScaler | None
    first_step: int


class Told(TypedDict):
    """What is said of one judged model at the end of the run; plain types, as it may come from another process.

    Attributes:
        line: Its name, the verdict and the findings.
        passes: Whether no finding reaches the level at which a test fails.
        below: A line for each finding that does not.
        gone: What the baseline holds and was not found any more; "" for nothing.
        target: What a baseline calls it.
        found: (code, module) of each finding, for the baseline that is written; empty where none is.
        gains: Its gradient profile, likewise.
    """

    line: str
    passes: bool
    below: list[str]
    gone: str
    target: str
    found: list[tuple[str, str]]
    gains: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """A scope, and where the test attached it."""

    scope: Scope
    rules: tuple[Rule, ...] | None
    attached: TracebackType


class Gradscope:
    """The fixture `gradscope`: judges the models of one test.

    Attributes:
        told: Of each model that was judged so far.
    """

    def __init__(self, item: pytest.Item, settings: Settings) -> None:
        self._item, self._settings = item, settings
        self._test = _without_group(item)
        self._watched: list[_Watched] = []
        self.told: list[Told] = []

    def __repr__(self) -> str:
        return f"<gradscope in {self._item.name}>"

    # ---------------------------------------------------------------- for the test

    def check(
        self,
        model: "Model",
        *,
        batch: "Batch",
        loss: "Loss",
        optimizer: "Optimizers" = None,
        lr: float | None = None,
        steps: int | None = None,
        seeds: int | None = None,
        device: "Device" = None,
        rules: Iterable[Rule] | None = None,
    ) -> Diagnosis:
        """`gradscope.check`, with the steps, seeds, rules and accepted findings that hold for this test."""
        settings = self._with({"steps": steps, "seeds": seeds}, "gradscope.check")
        train = partial(trained, model, batch=batch, loss=loss, optimizer=optimizer, lr=lr)
        traces, duration_s = _timed(train, settings, device)
        return self._judge(traces, settings, _listed(rules), duration_s).diagnosis

    def assert_healthy(
        self,
        model: "Model",
        *,
        batch: "Batch",
        loss: "Loss",
        optimizer: "Optimizers" = None,
        lr: float | None = None,
        steps: int | None = None,
        seeds: int | None = None,
        device: "Device" = None,
        rules: Iterable[Rule] | None = None,
        fail_on: Severity | str | None = None,
        select: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
    ) -> Diagnosis:
        """`gradscope.assert_healthy`, with the settings that hold for this test.

        Raises:
            UnhealthyModel: There are findings at or above the level of `fail_on`.
        """
        said = {"steps": steps, "seeds": seeds, "fail_on": fail_on, "select": select, "ignore": ignore}
        settings = self._with(said, "gradscope.assert_healthy")
        if rules is not None and not (select is ignore is None):
            raise UsageError("`rules=` says which rules are asked; leave out `select=` and `ignore=`.")
        train = partial(trained, model, batch=batch, loss=loss, optimizer=optimizer, lr=lr)
        traces, duration_s = _timed(train, settings, device)
        return self._require_healthy(traces, settings, _listed(rules), duration_s)

    def attach(self, model: nn.Module, **options: Unpack[AttachOptions]) -> Scope:
        """`gradscope.attach` until the test ends; if it has passed, what was recorded is judged and may fail it."""
        options["rules"] = rules = _listed(options.get("rules"))
        try:
            scope = attach(model, **options)
        except BaseException as error:
            without_ours(error)
            raise
        here = sys._getframe(1)
        attached = TracebackType(None, here, here.f_lasti, here.f_lineno)
        self._watched.append(_Watched(scope=scope, rules=rules, attached=attached))
        return scope

    # ---------------------------------------------------------------- for the plugin

    def detach(self) -> None:
        """Ends every recording; twice is once."""
        for watched in self._watched:
            watched.scope.detach()

    def judge_scopes(self) -> None:
        """The test has passed: judges what was attached. The failure points to where it was.

        Raises:
            UnhealthyModel: There are findings that fail the test; those of further models go to the report.
        """
        failures = self._failures()
        for failure, _ in failures[1:]:
            self._item.add_report_section("call", "gradscope", str(failure))
        if failures:
            failure, attached = failures[0]
            raise failure.with_traceback(attached)

    def explain(self) -> None:
        """The test has failed by itself: adds to its report what may be the reason."""
        for failure, _ in self._failures():
            if isinstance(failure, UnhealthyModel):
                self._item.add_report_section("call", "gradscope", str(failure))

    def _failures(self) -> "list[tuple[BaseException, TracebackType]]":
        """What is wrong with the recordings, and where they were attached."""
        self.detach()
        scopes, self._watched = self._watched, []
        failures: list[tuple[BaseException, TracebackType]] = []
        for watched in scopes:
            trace = watched.scope.trace
            try:
                self._require_healthy([trace], self._settings, watched.rules)
            except UnhealthyModel as failure:
                failures.append((failure, watched.attached))
            except GradscopeError as error:
                sentence = str(error).removeprefix(f"{self._target}: ")
                failures.append((pytest.fail.Exception(f"{trace.meta.get('model')}: {sentence}"), watched.attached))
        return failures

    # ---------------------------------------------------------------- judging

    def _with(self, said: Mapping[str, object], origin: str) -> Settings:
        return changed(self._settings, said, self._item.config.rootpath, origin=origin)

    def _require_healthy(
        self, traces: Sequence[Trace], settings: Settings, rules: Sequence[Rule] | None, duration_s: float | None = None
    ) -> Diagnosis:
        """Judges as `_judge` does, and raises if there are findings that fail the test, or nothing could be judged."""
        judged = self._judge(traces, settings, rules, duration_s)
        if settings.fail_on is not None and judged.failing(settings.fail_on):
            model = str(traces[0].meta.get("model"))
            raise UnhealthyModel(judged.diagnosis, model=model, fail_on=settings.fail_on)
        if not (judged.known or judged.suppressed):
            asked = chosen_rules(settings.gate) if rules is None else rules
            require_judged(judged.diagnosis, asked, traces)
        return judged.diagnosis

    def _judge(
        self, traces: Sequence[Trace], settings: Settings, rules: Sequence[Rule] | None, duration_s: float | None = None
    ) -> Judged:
        """The verdict on what was trained in `duration_s`; None: the test has trained it."""
        gate = settings.gate
        policy = Policy(
            rules=chosen_rules(gate) if rules is None else tuple(rules),
            suppress=gate.suppress,
            baseline=known(settings),
            max_drift=None if settings.writes_baseline else gate.max_drift,
        )
        seeds = () if duration_s is None else range(len(traces))
        judged = judge(self._target, traces, policy, seeds=seeds, duration_s=duration_s or 0.0)
        self._tell(str(traces[0].meta.get("model")), judged, settings)
        return judged

    @property
    def _target(self) -> str:
        """What the next model is called in a baseline: the test, and the model's number from the second one on."""
        nth = len(self.told) + 1
        return self._test if nth == 1 else f"{self._test}#{nth}"

    def _tell(self, model: str, judged: Judged, settings: Settings) -> None:
        """Notes the verdict for the end of the run, and for JUnit."""
        verdict = outcome(judged, settings.fail_on)
        found = ", ".join(_short(finding) for finding in leading(judged.diagnosis.findings))
        failing = judged.failing(settings.fail_on)
        below = [finding for finding in judged.diagnosis.findings if finding not in failing]
        stays = baseline_of([judged] if settings.writes_baseline else [])
        told = Told(
            line=f"{model}  {verdict}{f': {found}' if found else ''}  ({particulars(judged)})",
            passes=not failing,
            below=[f"{_short(finding)}: {finding.message}" for finding in leading(below)],
            gone=gone(Verdict(targets=(judged,)), option=WRITE_BASELINE),
            target=judged.target,
            found=[(one.code, one.module) for one in stays.findings],
            gains=dict(stays.profiles.get(judged.target, {})),
        )
        self.told.append(told)
        steps = str(judged.diagnosis.steps)
        properties = {"model": model, "verdict": verdict, "findings": found, "steps": steps}
        self._item.user_properties += [(f"gradscope.{key}", value) for key, value in properties.items()]


def _without_group(item: pytest.Item) -> str:
    """The test's id, without the group that pytest-xdist may append to it with `--dist=loadgroup`."""
    if not getattr(item.config.option, "loadgroup", False):
        return item.nodeid
    marks = item.iter_markers("xdist_group")
    groups = sorted({str(mark.args[0] if mark.args else mark.kwargs.get("name", "default")) for mark in marks})
    return item.nodeid.removesuffix(f"@{'_'.join(groups)}")


def _timed(
    train: Callable[..., tuple[Trace, ...]], settings: Settings, device: "Device"
) -> tuple[tuple[Trace, ...], float]:
    """The traces, and how long they took; what the user's code raises has only his own frames."""
    begun = time.perf_counter()
    try:
        traces = train(steps=settings.steps, seeds=settings.seeds, device=settings.device if device is None else device)
    except BaseException as error:
        without_ours(error)
        raise
    return traces, time.perf_counter() - begun


def _short(finding: Finding) -> str:
    return f"{finding.severity.value} {finding.title} at {place(finding.module)}"


def _listed(rules: Iterable[Rule] | None) -> tuple[Rule, ...] | None:
    return None if rules is None else given_rules(rules)
