"""What the fixture does, without a pytest around it but the one that runs this."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gradscope
from gradscope.config import Config, Suppression
from gradscope.errors import UsageError
from gradscope.integrations.pytest_judging import Gradscope
from gradscope.integrations.pytest_settings import Settings
from gradscope.rules.dead_units import DeadUnits
from gradscope.rules.saturation import Saturation


class Sick(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        nn.init.constant_(self[0].bias, -10.0)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(16, 4)
    return x, (x[:, 0] > 0).long()


JUDGED = {"batch": batch, "loss": nn.functional.cross_entropy}
Judging = Callable[..., Gradscope]


@pytest.fixture
def judging(request: pytest.FixtureRequest, tmp_path: Path) -> Judging:
    def of(*, writes_baseline: bool = False, **gate: object) -> Gradscope:
        settings = Settings(gate=Config(root=tmp_path, **gate), steps=6, writes_baseline=writes_baseline)
        return Gradscope(request.node, settings)

    return of


def train(model: nn.Module, steps: int = 6) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(steps):
        x, y = batch()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def test_the_findings_are_those_of_the_package(judging: Judging) -> None:
    ours = judging().check(Sick, **JUDGED)
    assert ours.to_dict() == gradscope.check(Sick, **JUDGED, steps=6).to_dict()


def test_what_the_call_says_counts_before_the_settings(judging: Judging) -> None:
    watch = judging()
    assert watch.check(Sick, **JUDGED, steps=4, seeds=2).steps == 8
    assert watch.assert_healthy(Sick, **JUDGED, fail_on="never").codes == {"GS103", "GS301"}
    assert not watch.assert_healthy(Sick, **JUDGED, ignore=["GS301", "GS103"]).findings
    assert watch.check(Sick, **JUDGED, rules=[DeadUnits()]).codes == {"GS301"}
    with pytest.raises(UsageError, match="leave out `select=`"):
        watch.assert_healthy(Sick, **JUDGED, rules=[DeadUnits()], select=["GS1"])


def test_not_judged_is_not_healthy(judging: Judging) -> None:
    with pytest.raises(UsageError, match="nothing could be judged"):
        judging().assert_healthy(nn.Linear(4, 2), **JUDGED, rules=[DeadUnits()], steps=1)


def test_an_accepted_finding_fails_nothing(judging: Judging) -> None:
    accepted = Suppression(rule="GS301", module="*", reason="on purpose", target="*test_an_accepted*")
    watch = judging(suppress=(accepted,))
    watch.assert_healthy(Sick, **JUDGED)
    assert "suppressed" in watch.told[0]["line"]
    elsewhere = judging(suppress=(Suppression(rule="GS301", module="0", reason="on purpose"),))
    with pytest.raises(gradscope.UnhealthyModel):
        elsewhere.assert_healthy(Sick, **JUDGED)


def test_attach_takes_what_the_packages_attach_takes(judging: Judging, tmp_path: Path) -> None:
    watch = judging()
    model = Sick()
    scope = watch.attach(model, trace=tmp_path / "run.h5", every=2, rules=iter([DeadUnits()]))
    train(model)
    with pytest.raises(gradscope.UnhealthyModel) as failure:
        watch.judge_scopes()
    assert failure.value.diagnosis.codes == {"GS301"}
    assert scope.diagnose().codes == {"GS301"}
    assert len(gradscope.read_trace(tmp_path / "run.h5").steps) == 3
    watch.judge_scopes()  # once is enough


def test_a_failure_points_to_where_the_scope_was_attached(judging: Judging) -> None:
    watch = judging()
    model = Sick()
    here = inspect.currentframe()
    assert here is not None
    line = here.f_lineno + 1
    watch.attach(model)
    train(model)
    with pytest.raises(gradscope.UnhealthyModel) as failure:
        watch.judge_scopes()
    last = failure.traceback[-1]
    assert (last.path, last.lineno + 1) == (Path(__file__), line)


def test_detaching_leaves_no_hook_and_twice_is_once(judging: Judging) -> None:
    watch = judging()
    model = Sick()
    watch.attach(model)
    train(model)
    watch.detach()
    watch.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


def test_the_callers_model_is_left_alone(judging: Judging) -> None:
    model = Sick()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    judging().check(model, **JUDGED)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_rule_that_cannot_judge_a_scope_is_said(judging: Judging) -> None:
    watch = judging()
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    watch.attach(model, rules=[Saturation()])
    train(model, steps=1)
    with pytest.raises(pytest.fail.Exception, match="Sequential: nothing could be judged"):
        watch.judge_scopes()


@pytest.mark.parametrize("nodeid", ["t.py::test[a@b]", "t.py::test[a@b]@nets"])
def test_a_baseline_knows_no_groups_of_xdist(tmp_path: Path, nodeid: str) -> None:
    marks = [SimpleNamespace(args=("nets",), kwargs={})]
    item = SimpleNamespace(
        nodeid=nodeid,
        name="test[a@b]",
        user_properties=[],
        config=SimpleNamespace(rootpath=tmp_path, option=SimpleNamespace(loadgroup=True)),
        iter_markers=lambda name: iter(marks),
    )
    watch = Gradscope(item, Settings(gate=Config(root=tmp_path), steps=3))
    for _ in range(2):
        watch.check(Sick, **JUDGED)
    assert [one["target"] for one in watch.told] == ["t.py::test[a@b]", "t.py::test[a@b]#2"]
