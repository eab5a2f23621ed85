import datetime
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradscope.config import CheckTarget, Config, Suppression, overridden, read_config
from gradscope.errors import UsageError
from gradscope.findings import Severity

# as in the text that introduced it, word by word
ISSUE = """
[tool.gradscope]
select = ["GS"]            # prefixes, as in ruff
ignore = ["GS602"]
fail-on = "error"
[tool.gradscope.rules.dead-units]
warn-fraction = 0.3        # thresholds of a rule by name; unknown keys are an error with the nearest name
[[tool.gradscope.suppress]]
rule = "GS301"
module = "backbone.*"
reason = "frozen, pruned on purpose"      # a reason is obligatory
[[tool.gradscope.check]]
name = "encoder"
model = "acme.models:build_encoder"        # callable → nn.Module
batch = "acme.data:tiny_batch"             # callable → (inputs, targets); may take step
loss = "torch.nn.functional:cross_entropy" # callable(outputs, targets); or loss(model, batch)
optimizer = "torch.optim:AdamW"
lr = 1e-3
steps = 20
seeds = 2
"""
TARGET = '[[tool.gradscope.check]]\nname = "a"\nmodel = "m:f"\nbatch = "m:b"\nloss = "m:l"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, file: str = "pyproject.toml") -> Path:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text, encoding="utf-8")
    return Path(file)


def mistakes(text: str) -> str:
    write(text)
    with pytest.raises(UsageError) as caught:
        read_config()
    return str(caught.value)


def test_everything_is_read_with_its_origin(folder):
    write(ISSUE)
    config = read_config()
    file = str(folder / "pyproject.toml")
    assert config.root == folder
    assert config.select == ("GS",)
    assert config.ignore == ("GS602",)
    assert config.fail_on is Severity.ERROR
    assert config.rules == {"dead-units": {"warn_fraction": 0.3}}
    assert config.suppress == (Suppression(rule="GS301", module="backbone.*", reason="frozen, pruned on purpose"),)
    assert config.checks == (
        CheckTarget(
            name="encoder",
            model="acme.models:build_encoder",
            batch="acme.data:tiny_batch",
            loss="torch.nn.functional:cross_entropy",
            optimizer="torch.optim:AdamW",
            lr=1e-3,
            steps=20,
            seeds=2,
        ),
    )
    assert config.origin("select") == f"{file} [tool.gradscope]"
    assert config.origin("rules.dead-units.warn-fraction") == f"{file} [tool.gradscope.rules.dead-units]"
    assert config.origin("suppress.1") == f"{file} [[tool.gradscope.suppress]]"
    assert config.origin("check.encoder.lr") == f"{file} [[tool.gradscope.check]]"
    assert config.origin("check.encoder.device") == "default"
    assert config.origin("baseline") == "default"


def test_a_target_that_says_no_more_than_it_must():
    write(TARGET)
    (target,) = read_config().checks
    assert target == CheckTarget(
        name="a", model="m:f", batch="m:b", loss="m:l", optimizer=None, lr=None, steps=20, seeds=1, device="cpu"
    )


def test_the_other_settings_are_read(folder):
    write(
        'tool.gradscope = {baseline = "ci/known.json", max-drift = 1, fail-on = "never", suppress = ['
        '{rule = "dead-units", module = "", reason = "r", target = "enc*"}, '
        '{rule = "gain-drift", module = "*", reason = "r"}]}'
    )
    config = read_config()
    assert config.baseline == folder / "ci" / "known.json"
    assert config.max_drift == 1.0
    assert config.fail_on is None
    assert config.fails_on == "never"
    assert [(one.rule, one.module, one.target) for one in config.suppress] == [
        ("dead-units", "", "enc*"),
        ("gain-drift", "*", "*"),
    ]


def test_the_nearest_file_that_has_settings_is_read(folder):
    write("[tool.gradscope]\nignore = ['GS1']")
    write("[tool.ruff]", "a/pyproject.toml")
    (folder / "a" / "b").mkdir()
    assert read_config(start=Path("a/b")).ignore == ("GS1",)
    assert read_config(start=Path("a/b")).root == folder
    os.chdir("a/b")
    assert read_config().ignore == ("GS1",)
    write("[tool.gradscope]", "pyproject.toml")
    assert read_config() == Config(root=folder / "a" / "b", file=folder / "a" / "b" / "pyproject.toml")


def test_without_a_file_all_is_default(folder):
    assert read_config() == Config(root=folder)
    assert read_config().fails_on == "error"
    assert read_config().origin("select") == "default"


def test_a_file_can_be_named(folder):
    write("[tool.gradscope]\nbaseline = 'known.json'", "ci/gate.toml")
    assert read_config(Path("ci/gate.toml")).baseline == folder / "ci" / "known.json"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[tool.ruff]", "'gate.toml' has no [tool.gradscope]; write one, or leave out `--config gate.toml`."),
        (None, "'gate.toml' cannot be read: no such file or directory."),
    ],
)
def test_a_named_file_must_have_settings(text, sentence):
    if text is not None:
        write(text, "gate.toml")
    with pytest.raises(UsageError) as caught:
        read_config(Path("gate.toml"))
    assert str(caught.value) == sentence


def test_a_folder_is_no_file():
    with pytest.raises(UsageError, match=r"^'\.' cannot be read: "):
        read_config(Path())


def test_what_is_no_toml_is_shown_with_its_line():
    assert mistakes("[tool.gradscope]\nselect = ['GS'\n[a]").startswith("pyproject.toml is no valid TOML: ")
    assert "line 3" in mistakes("[tool.gradscope]\nselect = ['GS'\nx = 1\n")


def test_another_encoding_is_shown_with_its_line(folder):
    (folder / "pyproject.toml").write_bytes("[tool.gradscope]\n# für\n".encode("latin-1"))
    with pytest.raises(
        UsageError, match=r"^pyproject.toml, line 2: TOML is written in UTF-8, and this is not; save it"
    ):
        read_config()


def test_all_mistakes_stand_in_one_sentence():
    assert mistakes('[tool.gradscope]\nselect = "GS1"\n[tool.gradscope.rules.dead-unit]\n') == (
        'pyproject.toml: [tool.gradscope] has two mistakes: `select = "GS1"` must be a list (["GS1"]); '
        "`rules.dead-unit` is no rule (did you mean 'dead-units'?)."
    )


MISTAKES = {
    "tool.gradscope = 3": "pyproject.toml: `tool.gradscope` must be a table, [tool.gradscope].",
    "[[tool.gradscope]]": "pyproject.toml: `tool.gradscope` must be a table, [tool.gradscope].",
    "tool.gradscope.fail_on = 'error'": "`fail_on` is no setting (did you mean 'fail-on'?)",
    "tool.gradscope.fail-on = 'fatal'": "`fail-on = \"fatal\"` must be one of 'error', 'warning', 'info', 'never'",
    "tool.gradscope.select = []": '`select = []` leaves no rule; to have all, write ["ALL"]',
    "tool.gradscope.select = ['GS9']": "`select` names 'GS9', which is no rule and no beginning of codes",
    "tool.gradscope.ignore = ['dead-unit']": "`ignore` names 'dead-unit', which is no rule and no beginning of codes",
    "tool.gradscope.baseline = ''": '`baseline = ""` must not be blank',
    "tool.gradscope.max-drift = 0": "`max-drift = 0` must be above 0",
    "tool.gradscope.rules = 3": "`rules = 3` must be a table",
    "tool.gradscope.rules.dead-units.warn-fractoin = 1": "(did you mean 'warn-fraction'?)",
    "tool.gradscope.check = {name = 'a'}": "must be tables, each under [[tool.gradscope.check]]",
    "[[tool.gradscope.suppress]]\nrule = 'GS301'\nmodule = '*'": "`reason` of suppress number 1 is missing",
    "[[tool.gradscope.suppress]]\nrule = 'GS301'\nmodule = '*'\nreason = ' '": (
        '`reason = " "` of suppress number 1 must not be blank'
    ),
    "[[tool.gradscope.suppress]]\nrule = 'GS3x'\nmodule = '*'\nreason = 'r'": "`rule` of suppress number 1 names",
    "[[tool.gradscope.suppress]]\nrules = 'GS3'\nmodule = '*'\nreason = 'r'": "(did you mean 'rule'?)",
    "[[tool.gradscope.check]]\nname = 'a'": "`model`, `batch` and `loss` of check 'a' are missing",
    "[[tool.gradscope.check]]\nmodel = 'm:f'\nbatch = 'm:b'\nloss = 'm:l'": "`name` of check number 1 is missing",
    TARGET + "lr = -1": "`lr = -1` of check 'a' must be above 0",
    TARGET + "lr = '1e-3'": "`lr = \"1e-3\"` of check 'a' must be a finite number",
    TARGET + "steps = 0": "`steps = 0` of check 'a' must be a whole number, 1 or more",
    TARGET + "seeds = 1.5": "`seeds = 1.5` of check 'a' must be a whole number, 1 or more",
    TARGET + "seed = 1": "`seed` of check 'a' is no setting (did you mean 'seeds'?)",
    TARGET + "device = 0": "`device = 0` of check 'a' must be text, in quotes",
    TARGET + "optimizer = 'torch.optim.Adam'": "must be a module and a name in it: write 'torch.optim:Adam'",
    TARGET + "optimizer = 'Adam'": "must be a module and a name in it, such as 'acme.models:build'",
    TARGET + "optimizer = 'acme/optim.py:Adam'": "write 'acme.optim:Adam'",
    TARGET + TARGET: "`name = \"a\"` of check 'a' stands twice, and each needs a name of its own",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_each_mistake_is_quoted(text):
    said = mistakes(text)
    assert MISTAKES[text] in said
    assert "\n" not in said
    assert said.endswith(".")


def test_the_command_line_comes_first(folder):
    write(ISSUE)
    config = overridden(
        read_config(),
        select=("GS3", "GS4"),
        ignore=("GS1",),
        fail_on="never",
        baseline=Path("known.json"),
        max_drift=0.5,
    )
    assert (config.select, config.ignore, config.fail_on) == (("GS3", "GS4"), ("GS1",), None)
    assert (config.baseline, config.max_drift) == (folder / "known.json", 0.5)
    for key in ("select", "ignore", "fail-on", "baseline", "max-drift"):
        assert config.origin(key) == "command line"
    assert "[tool.gradscope]" in overridden(read_config(), fail_on="never").origin("ignore")
    assert config.rules == read_config().rules


def test_nothing_said_changes_nothing():
    write(ISSUE)
    assert overridden(read_config()) == read_config()


@pytest.mark.parametrize(
    ("said", "origin", "sentence"),
    [
        (
            {"select": ("GS9",), "max_drift": -1.0},
            "command line",
            "`--select` names 'GS9', which is no rule and no beginning of codes (`gradscope rule --all` shows all); "
            "`--max-drift -1.0` must be above 0.",
        ),
        (
            {"max_drift": 0.5},
            "command line",
            "`--max-drift 0.5` is measured from a baseline, and none is given.",
        ),
        (
            {"ignore": "GS3"},
            "pytest.ini",
            'pytest.ini: `ignore = "GS3"` must be a list (["GS3"]).',
        ),
        (
            {"fail_on": "fatal"},
            "command line",
            "`--fail-on \"fatal\"` must be one of 'error', 'warning', 'info', 'never'.",
        ),
    ],
)
def test_what_is_said_elsewhere_is_checked_as_well(folder, said, origin, sentence):
    with pytest.raises(UsageError) as caught:
        overridden(Config(root=folder), **said, origin=origin)
    assert str(caught.value) == sentence


KEYS = ["select", "ignore", "fail-on", "rules", "suppress", "check", "baseline", "max-drift", "?"]
RULE_KEYS = ["dead-units", "warn-fraction", "min-steps", "error-fraction"]
ENTRY_KEYS = ["name", "model", "batch", "loss", "lr", "steps", "device", "rule", "module", "reason", "target"]
SIMPLE = st.one_of(
    st.sampled_from(["GS", "GS3", "error", "dead-units", "m:f", "a.b:c", "", "x\ny", "gain-drift", "é"]),
    st.integers(min_value=-3, max_value=10**400),
    st.floats(),
    st.booleans(),
    st.just(datetime.date(2025, 1, 1)),
)
ENTRY = st.dictionaries(st.sampled_from(ENTRY_KEYS), st.one_of(SIMPLE, st.just("m:f")))
ANY = st.one_of(
    SIMPLE,
    st.lists(SIMPLE, max_size=3),
    st.lists(ENTRY, max_size=3),
    st.dictionaries(st.sampled_from(RULE_KEYS), st.one_of(SIMPLE, st.dictionaries(st.sampled_from(RULE_KEYS), SIMPLE))),
)


@given(values=st.one_of(ANY, st.dictionaries(st.sampled_from(KEYS), ANY)))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_is_read_or_told_in_one_sentence(folder, monkeypatch, values):
    file = write("[tool.gradscope]\n")
    monkeypatch.setattr("tomllib.loads", lambda text: {"tool": {"gradscope": values}})
    said, config = "", None
    try:
        config = read_config(file)
    except UsageError as error:
        said = str(error)
    if config is None:
        assert "mistake" in said or "must be a table" in said
        assert said.endswith(".")
        assert "\n" not in said
    else:
        assert overridden(config) == config
        assert set(config.origins) >= {key for key in values if key not in ("rules", "suppress", "check")}
