"""Marker over option over [tool.gradscope] over default, and what is said of mistakes in them."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradscope.baseline import Baseline, write_baseline
from gradscope.config import Config
from gradscope.errors import UsageError
from gradscope.findings import Severity
from gradscope.integrations.pytest_settings import Settings, changed, known, settings_of_test
from gradscope.verdict import Identity

WRONG = {
    "a misspelt option": ({"stepz": 3}, "`stepz` is no option; did you mean 'steps'?"),
    "no step": ({"steps": 0}, "`steps = 0` must be a whole number, 1 or more"),
    "half a step": ({"steps": 2.5}, "`steps = 2.5` must be a whole number, 1 or more"),
    "a word for a number": ({"seeds": "two"}, '`seeds = "two"` must be a whole number, 1 or more'),
    "true for a number": ({"seeds": True}, "`seeds = true` must be a whole number, 1 or more"),
    "an unknown level": (
        {"fail_on": "eror"},
        "`fail_on = \"eror\"` must be one of 'error', 'warning', 'info', 'never'",
    ),
    "a code for a list": ({"select": "GS1"}, '`select = "GS1"` must be a list (["GS1"])'),
    "an unknown code": ({"ignore": ["GS9"]}, "`ignore` names 'GS9', which is no rule and no beginning of codes"),
    "a negative drift": ({"max_drift": -1}, "`max_drift = -1` must be above 0"),
    "a drift from nothing": ({"max_drift": 1}, "`max_drift = 1.0` is measured from a baseline, and none is given"),
    "no device": ({"device": 3}, '`device = 3` must be text, in quotes ("…")'),
}


@pytest.fixture
def default(tmp_path: Path) -> Settings:
    return Settings(gate=Config(root=tmp_path))


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_sentence_that_quotes_it(default: Settings, given: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as error:
        changed(default, given, Path(), origin="@pytest.mark.gradscope")
    assert str(error.value).startswith(f"@pytest.mark.gradscope: {said}")
    assert str(error.value).endswith(".")
    assert str(error.value).count("@pytest.mark.gradscope") == 1


def test_all_mistakes_are_told_at_once_by_the_names_of_the_options(default: Settings) -> None:
    given = {"steps": 0, "select": ["GS9"], "fail_on": "x"}
    with pytest.raises(UsageError) as error:
        changed(default, given, Path(), origin="pytest's options", prefix="gradscope_")
    for quoted in ("`gradscope_steps = 0`", "`gradscope_select` names 'GS9'", '`gradscope_fail_on = "x"`'):
        assert quoted in str(error.value)


def test_what_is_said_counts_and_the_rest_stays(default: Settings, tmp_path: Path) -> None:
    given = {"steps": 7, "select": ("GS1", "dead-units"), "fail_on": "warning", "baseline": Path("b.json")}
    once = changed(default, given, tmp_path, origin="a")
    assert (once.steps, once.seeds, once.device) == (7, 1, None)
    assert (once.gate.select, once.gate.ignore) == (("GS1", "dead-units"), ())
    assert once.fail_on is Severity.WARNING
    assert once.gate.baseline == tmp_path / "b.json"
    twice = changed(once, {"steps": None, "seeds": 2, "fail_on": "never", "max_drift": 0.5}, tmp_path, origin="b")
    assert (twice.steps, twice.seeds, twice.fail_on, twice.gate.max_drift) == (7, 2, None, 0.5)
    assert twice.gate.select == once.gate.select


def test_the_closest_marker_wins_option_by_option(default: Settings, tmp_path: Path) -> None:
    marks = [SimpleNamespace(args=(), kwargs=said) for said in ({"steps": 6}, {"steps": 5, "seeds": 3})]
    item = SimpleNamespace(iter_markers=lambda name: iter(marks), config=SimpleNamespace(rootpath=tmp_path))
    of_test = settings_of_test(default, item)
    assert (of_test.steps, of_test.seeds) == (6, 3)


def test_a_baseline_that_is_written_is_not_read(tmp_path: Path) -> None:
    gate = Config(root=tmp_path, baseline=tmp_path / "missing.json")
    with pytest.raises(UsageError, match=r"pytest --gradscope-write-baseline .*missing\.json"):
        known(Settings(gate=gate))
    writing = Settings(gate=gate, writes_baseline=True)
    assert known(writing) is None
    assert writing.fail_on is None
    write_baseline(Baseline(), tmp_path / "there.json")
    there = Settings(gate=Config(root=tmp_path, baseline=tmp_path / "there.json"))
    assert known(there) == Baseline()
    changed_since = Baseline(findings=frozenset({Identity("t.py::a", "GS301", "x")}))
    write_baseline(changed_since, tmp_path / "there.json")
    os.utime(tmp_path / "there.json", ns=(1, 1))  # another time than before, whatever the clock's ticks
    assert known(there) == changed_since


# ---------------------------------------------------------------- in a run

ASKS = "def test_asks(gradscope, request):\n    print(request.getfixturevalue('gradscope')._settings)\n"
NATIVE = tuple(map(int, pytest.__version__.split(".")[:2])) >= (9, 0)  # [tool.pytest], where a number is a number


def test_an_option_of_pytests_is_over_the_pyproject(run_pytest, tmp_path: Path) -> None:
    (tmp_path / "test_asks.py").write_text(ASKS)
    table = "pytest" if NATIVE else "pytest.ini_options"
    (tmp_path / "pyproject.toml").write_text(
        '[tool.gradscope]\nselect = ["GS3"]\nignore = ["GS302"]\nfail-on = "warning"\n'
        "[tool.gradscope.rules.dead-units]\nwarn-fraction = 0.3\n"
        f'[tool.{table}]\ngradscope_steps = 6\ngradscope_fail_on = "info"\ngradscope_max_drift = 0.5\n'
        'gradscope_baseline = "known.json"\n'
    )
    write_baseline(Baseline(), tmp_path / "known.json")
    shown = run_pytest(tmp_path, "-rP", "-o", "gradscope_select=GS1 GS2", "-o", "gradscope_seeds=2").stdout
    for effective in (
        "select=('GS1', 'GS2')",
        "ignore=('GS302',)",
        "fail_on=<Severity.INFO",
        "'warn_fraction': 0.3",
        "max_drift=0.5",
        "steps=6",
        "seeds=2",
    ):
        assert effective in shown


MISTAKES = {
    "ini": ("-o", "gradscope_fail_on=eror", 'pytest\'s options: `gradscope_fail_on = "eror"` must be one of'),
    "no number": ("-o", "gradscope_steps=ten", "`gradscope_steps"),
    "pyproject": ("-c", "pyproject.toml", "`selct` is no setting (did you mean 'select'?)"),
    "baseline": ("-o", "gradscope_baseline=no.json", "/no.json' does not exist; `pytest --gradscope-write-baseline"),
}


@pytest.mark.parametrize(("option", "value", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_the_run_with_4_and_one_sentence(
    run_pytest, tmp_path: Path, option: str, value: str, said: str
) -> None:
    (tmp_path / "test_asks.py").write_text(ASKS)
    (tmp_path / "pyproject.toml").write_text("[tool.gradscope]\nselct = []\n" if option == "-c" else "")
    done = run_pytest(tmp_path, option, value)
    assert done.returncode == 4
    (sentence,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert sentence.startswith("ERROR: gradscope: ")
    assert said in sentence
    assert "INTERNALERROR" not in done.stdout


def test_under_xdist_it_is_told_once_too(run_pytest, tmp_path: Path) -> None:
    (tmp_path / "test_asks.py").write_text(ASKS)
    done = run_pytest(tmp_path, "-p", "xdist", "-n", "2", "-o", "gradscope_fail_on=eror")
    assert done.returncode == 4
    assert done.stderr.count("gradscope_fail_on") == 1
    assert "INTERNALERROR" not in done.stdout
    assert "crashed" not in done.stdout
