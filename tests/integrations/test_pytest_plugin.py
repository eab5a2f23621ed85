"""The plugin as a user meets it: pytest runs in a folder of his, in another process."""

import re
import subprocess
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, bias=0.0):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)
        if bias:
            nn.init.constant_(self.fc1.bias, bias)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Sick(Net):
    def __init__(self):
        super().__init__(bias=-10.0)


class Ajar(Net):  # most of its units are dead: a warning
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.fc1.bias[:13], -10.0)


class Broken(Net):
    def forward(self, x):
        return self.fc2(x)


def batch():
    x = torch.randn(32, 4)
    return x, (x[:, 0] > 0).long()


judged = {"batch": batch, "loss": nn.functional.cross_entropy}


def train(model, steps=10):
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(steps):
        x, y = batch()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
"""

TESTS = """
import unittest

import pytest
import gradscope as package
from nets import *

pytestmark = pytest.mark.gradscope(steps=8)
kept = []


def test_healthy(gradscope):
    assert gradscope.assert_healthy(Net, **judged).ok


def test_sick(gradscope):
    gradscope.assert_healthy(Sick(), **judged)


def test_attached_and_healthy(gradscope):
    model = Net()
    kept.append(model)
    gradscope.attach(model)
    train(model)


def test_afterwards_no_hook_is_left():
    (model,) = kept
    modules = list(model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)


def test_attached_and_sick(gradscope):
    model = Sick()
    before = 1
    gradscope.attach(model)
    train(model)


def test_nothing_is_recorded(gradscope):
    gradscope.attach(Net())


def test_fails_by_itself(gradscope):
    model = Sick()
    gradscope.attach(model)
    train(model)
    assert 1 + 1 == 3


def test_is_skipped(gradscope):
    model = Sick()
    gradscope.attach(model)
    train(model)
    pytest.skip("not today")


@pytest.mark.xfail(raises=package.UnhealthyModel, strict=True)
def test_is_expected_to_be_sick(gradscope):
    model = Sick()
    gradscope.attach(model)
    train(model)


def test_only_checks(gradscope):
    assert gradscope.check(Sick, **judged).codes == {"GS301", "GS103"}


def test_two_models(gradscope):
    gradscope.assert_healthy(Net, **judged)
    for model in (Sick(), Net(), Sick()):
        gradscope.attach(model)
        train(model)


@pytest.mark.parametrize("bias", [0.0, -10.0])
def test_with_parameters(gradscope, bias):
    gradscope.assert_healthy(lambda: Net(bias), **judged)


def test_warns(gradscope):
    gradscope.assert_healthy(Ajar, **judged)


@pytest.mark.gradscope(fail_on="never", steps=5)
class TestMarked:
    def test_class(self, gradscope):
        gradscope.assert_healthy(Sick, **judged)

    @pytest.mark.gradscope(fail_on="warning")
    def test_closest(self, gradscope):
        gradscope.assert_healthy(Ajar, **judged)

    @pytest.mark.gradscope(ignore=["dead-units", "GS103"], fail_on="info", seeds=2)
    def test_ignored(self, gradscope):
        gradscope.assert_healthy(Sick, **judged)


@pytest.mark.gradscope(stepz=5, seeds=0)
def test_wrong_marker():
    pass


@pytest.mark.gradscope("warning")
def test_nameless_option(gradscope):
    pass


@pytest.fixture
def trained(gradscope):
    gradscope.assert_healthy(Sick, **judged)


def test_with_a_fixture_that_judges(trained):
    pass


class OfUnittest(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _given(self, gradscope):
        self.gradscope = gradscope

    def test_unittest_passes(self):
        model = Sick()
        self.gradscope.attach(model)
        train(model)

    def test_unittest_fails(self):
        model = Sick()
        self.gradscope.attach(model)
        train(model)
        self.fail("by itself")


def test_error_of_the_model(gradscope):
    gradscope.assert_healthy(Broken, **judged)


def test_misuse(gradscope):
    gradscope.assert_healthy(Net, **judged, steps=0, select=["GS9"])


def test_misuse_of_attach(gradscope):
    gradscope.attach(Net)
"""

OUTCOMES = {
    "passed": {
        "test_the_model_learns",
        "test_my_own_loop",
        "test_healthy",
        "test_attached_and_healthy",
        "test_afterwards_no_hook_is_left",
        "test_only_checks",
        "test_with_parameters[0.0]",
        "test_warns",
        "test_class",
        "test_ignored",
    },
    "failure": {
        "test_sick",
        "test_attached_and_sick",
        "test_nothing_is_recorded",
        "test_fails_by_itself",
        "test_two_models",
        "test_with_parameters[-10.0]",
        "test_closest",
        "test_unittest_passes",
        "test_unittest_fails",
        "test_error_of_the_model",
        "test_misuse",
        "test_misuse_of_attach",
    },
    "error": {"test_wrong_marker", "test_nameless_option", "test_with_a_fixture_that_judges"},
    "skipped": {"test_is_skipped", "test_is_expected_to_be_sick"},
}


class Run:
    """One run of `TESTS`: what was printed, and the JUnit file."""

    def __init__(self, done: subprocess.CompletedProcess[str], junit: Path) -> None:
        self.returncode, self.out = done.returncode, done.stdout + done.stderr
        self.cases = {case.attrib["name"]: case for case in ElementTree.parse(junit).iter("testcase")}
        parts = re.split(
            r"^_{2,} (?:ERROR at setup of )?(\S+) _{2,}$", self.out.partition("= short test summary")[0], flags=re.M
        )
        self.shown = {name.rpartition(".")[2]: text for name, text in zip(parts[1::2], parts[2::2], strict=True)}
        summary = re.search(r"^=+ gradscope =+\n(.*?)^=+ ", self.out, flags=re.M | re.S)
        assert summary, self.out
        self.summary = [re.sub(r", [\d.]+ s\b", "", line) for line in summary[1].splitlines()]

    def outcomes(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {kind: set() for kind in OUTCOMES}
        for name, case in self.cases.items():
            found[next((c.tag for c in case if c.tag in OUTCOMES), "passed")].add(name)
        return found

    def properties(self, name: str) -> list[tuple[str, str]]:
        return [(p.attrib["name"], p.attrib["value"]) for p in self.cases[name].iter("property")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "nets.py").write_text(NETS)
    (folder / "test_nets.py").write_text(TESTS)
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (shown,) = [block for block in re.findall(r"```python\n(.*?)```", readme, flags=re.S) if "import pytest" in block]
    (folder / "test_readme.py").write_text(shown)
    return folder


@pytest.fixture(scope="module")
def ran(run_pytest, folder: Path) -> Run:
    return Run(run_pytest(folder, "--strict-markers", "--junitxml=one.xml"), folder / "one.xml")


def test_tests_end_as_their_models_deserve(ran: Run) -> None:
    assert ran.returncode == 1
    assert ran.outcomes() == OUTCOMES


@pytest.mark.parametrize("name", ["test_sick", "test_attached_and_sick", "test_unittest_passes"])
def test_a_failure_shows_the_findings_as_the_terminal_does_at_the_line_of_the_test(ran: Run, name: str) -> None:
    text = ran.shown[name]
    assert re.search(
        r"^E +gradscope.UnhealthyModel: Sick is not healthy: error GS301 dead-units at act$", text, flags=re.M
    )
    for piece in ("error GS301 dead-units  act", "cause", "remedy Start with the biases of fc1", "hence  GS103"):
        assert piece in text
    (line,) = re.findall(r"^>.*$", text, flags=re.M)
    assert ("gradscope.assert_healthy(Sick()" in line) or "gradscope.attach(model)" in line


def test_no_frame_of_gradscope_is_ever_shown(ran: Run) -> None:
    assert "pytest_judging.py" not in ran.out
    assert "pytest_settings.py" not in ran.out
    assert "pytest_plugin.py" not in ran.out
    assert "trial.py" not in ran.out
    assert "All traceback entries are hidden" not in ran.out
    assert "During handling of the above exception" not in ran.out
    assert "INTERNALERROR" not in ran.out


def test_a_scope_that_recorded_nothing_fails_with_a_sentence(ran: Run) -> None:
    assert "E       Failed: Net: no step was recorded" in ran.shown["test_nothing_is_recorded"]


@pytest.mark.parametrize("name", ["test_fails_by_itself", "test_unittest_fails"])
def test_a_test_that_fails_by_itself_keeps_its_failure_and_learns_the_findings(ran: Run, name: str) -> None:
    text = ran.shown[name]
    assert "assert (1 + 1) == 3" in text or "AssertionError: by itself" in text
    assert "Captured gradscope call" in text
    assert "error GS301 dead-units  act" in text.partition("Captured gradscope call")[2]


def test_the_users_own_error_keeps_his_frames(ran: Run) -> None:
    text = ran.shown["test_error_of_the_model"]
    assert "nets.py:" in text
    assert "in forward" in text
    assert "E       RuntimeError: mat1 and mat2 shapes cannot be multiplied" in text


def test_misuse_is_one_sentence(ran: Run) -> None:
    text = ran.shown["test_misuse"]
    assert (
        "UsageError: gradscope.assert_healthy: `steps = 0` must be a whole number, 1 or more; `select` names 'GS9'"
        in text
    )
    assert "needs a torch.nn.Module" in ran.shown["test_misuse_of_attach"]
    assert ran.shown["test_wrong_marker"].strip() == (
        "@pytest.mark.gradscope: `stepz` is no option; did you mean 'steps'?;"
        " `seeds = 0` must be a whole number, 1 or more."
    )
    assert ran.shown["test_nameless_option"].strip() == (
        "@pytest.mark.gradscope: 'warning' needs the name of an option, such as `steps=`."
    )


def test_the_summary_has_a_line_for_each_judged_model(ran: Run) -> None:
    sick = "failed: error GS301 dead-units at act"
    for line in (
        "test_readme.py::test_the_model_learns  Sequential  passed  (40 steps, 2 seeds)",
        "test_readme.py::test_my_own_loop  Sequential  passed  (10 steps)",
        "test_nets.py::test_healthy  Net  passed  (8 steps, 1 seed)",  # the module's marker
        f"test_nets.py::test_sick  Sick  {sick}  (8 steps, 1 seed)",
        f"test_nets.py::test_attached_and_sick  Sick  {sick}  (10 steps)",
        "test_nets.py::test_two_models  Net  passed  (8 steps, 1 seed)",
        f"test_nets.py::test_two_models  Sick  {sick}  (10 steps)",
        "test_nets.py::TestMarked::test_class  Sick  passed: error GS301 dead-units at act  (5 steps, 1 seed)",
        "test_nets.py::TestMarked::test_ignored  Sick  passed  (10 steps, 2 seeds)",
        f"test_nets.py::test_with_a_fixture_that_judges  Sick  {sick}  (8 steps, 1 seed)",
    ):
        assert line in ran.summary
    assert sum("test_two_models" in line for line in ran.summary) == 4
    assert not any("test_nothing_is_recorded" in line or "test_afterwards" in line for line in ran.summary)


def test_what_is_below_the_level_is_told_in_the_summary(ran: Run) -> None:
    at = next(i for i, line in enumerate(ran.summary) if "::test_warns" in line)
    assert "Ajar  passed: warning GS301 dead-units at act" in ran.summary[at]
    assert re.match(r"  warning GS301 dead-units at act: 8\d% of the units", ran.summary[at + 1])


def test_junit_has_the_verdicts_as_properties(ran: Run) -> None:
    found = "error GS301 dead-units at act"
    sick = [("model", "Sick"), ("verdict", "failed"), ("findings", found), ("steps", "8")]
    assert ran.properties("test_sick") == [(f"gradscope.{name}", value) for name, value in sick]
    assert dict(ran.properties("test_healthy"))["gradscope.verdict"] == "passed"
    verdicts = [value for name, value in ran.properties("test_two_models") if name == "gradscope.verdict"]
    assert verdicts == ["passed", "failed", "passed", "failed"]
    assert ran.properties("test_afterwards_no_hook_is_left") == []


@pytest.mark.slow
def test_xdist_makes_no_difference(ran: Run, run_pytest, folder: Path) -> None:
    arguments = ("-p", "xdist", "-n", "1", "--junitxml=two.xml")
    spread = Run(run_pytest(folder, *arguments), folder / "two.xml")
    assert spread.returncode == 1
    assert spread.outcomes() == OUTCOMES
    assert sorted(spread.summary) == sorted(ran.summary)
    assert {name: spread.properties(name) for name in spread.cases} == {n: ran.properties(n) for n in ran.cases}
    assert "E       gradscope.UnhealthyModel: Sick is not healthy" in spread.out


def test_a_run_without_judged_models_says_and_imports_nothing(run_pytest, tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        "import sys\n\n\ndef test_light():\n"
        "    heavy = {'torch', 'numpy', 'rich', 'click', 'h5py', 'pandas', 'gradscope.errors', 'gradscope.config'}\n"
        "    assert 'gradscope.integrations.pytest_plugin' in sys.modules\n"
        "    assert not heavy & sys.modules.keys()\n"
    )
    (tmp_path / "pyproject.toml").write_text("[tool.gradscope]\nselct = []\n")  # wrong, and none of its business
    done = run_pytest(tmp_path, "--strict-markers")
    assert done.returncode == 0, done.stdout
    assert "gradscope" not in done.stdout.partition("collected")[2]


def test_pytest_knows_the_marker_the_options_and_the_fixture(run_pytest, tmp_path: Path) -> None:
    assert "@pytest.mark.gradscope(steps, seeds, " in run_pytest(tmp_path, "--markers").stdout
    shown = run_pytest(tmp_path, "--help").stdout
    assert "--gradscope-write-baseline=FILE" in shown
    for name in ("steps", "seeds", "device", "fail_on", "select", "ignore", "baseline", "max_drift"):
        assert f"gradscope_{name} (" in shown
    assert "gradscope -- " in run_pytest(tmp_path, "--fixtures").stdout


def test_the_package_offers_the_plugin() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"gradscope": "gradscope.integrations.pytest_plugin"}


def test_the_class_of_the_fixture_can_be_named_in_annotations() -> None:
    from gradscope.integrations.pytest_judging import Gradscope

    assert {"assert_healthy", "check", "attach"} <= vars(Gradscope).keys()
