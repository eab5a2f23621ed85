"""What a command line asks to judge, and what it cannot ask."""

from pathlib import Path

import pytest
from builders import trace_of

from gradscope.cli.subjects import Asked, subjects
from gradscope.config import CheckTarget, Config
from gradscope.errors import TraceError, UsageError

ENCODER = CheckTarget(name="encoder", model="acme:build", batch="acme:batch", loss="acme:loss")
DECODER = CheckTarget(name="decoder", model="acme:build", batch="acme:batch", loss="acme:loss")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    trace_of(output_rms=[1.0]).save("run.h5")
    (tmp_path / "other").mkdir()
    trace_of(output_rms=[1.0]).save("other/run.h5")
    (tmp_path / "train.py").write_text("")
    return tmp_path


def asked(*names: str, checks: tuple[CheckTarget, ...] = (ENCODER, DECODER), **others):
    config = Config(root=Path.cwd(), checks=checks)
    return subjects(Asked(names=names, changes=others.pop("changes", {}), **others), config)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), ["encoder", "decoder"]),
        (("decoder",), ["decoder"]),
        (("decoder", "encoder", "decoder"), ["decoder", "encoder"]),
        (("run.h5", "encoder"), ["run.h5", "encoder"]),
        (("other/run.h5",), ["run.h5"]),
        (("run.h5", "other/run.h5"), ["run.h5", "other/run.h5"]),
        (("train.py",), ["train.py"]),
    ],
)
@pytest.mark.usefixtures("folder")
def test_names_are_targets_traces_or_a_script(names, found):
    assert [subject.name for subject in asked(*names)] == found


@pytest.mark.usefixtures("folder")
def test_a_trace_is_read_when_it_is_its_turn():
    (subject,) = asked("run.h5")
    (recorded,) = subject.record()
    assert (recorded.name, len(recorded.traces), recorded.seeds) == ("run.h5", 1, ())
    Path("run.h5").write_text("no HDF5 at all")
    (subject,) = asked("run.h5")
    with pytest.raises(TraceError, match=r"run\.h5"):
        subject.record()


@pytest.mark.usefixtures("folder")
def test_a_target_of_the_settings_comes_before_a_file_of_that_name():
    target = CheckTarget(name="train.py", model="acme:build", batch="acme:batch", loss="acme:loss")
    (subject,) = asked("train.py", "train.py", checks=(target,))
    with pytest.raises(UsageError, match="acme"):  # it is trained, not run
        subject.record()


def test_a_model_can_be_named_without_any_settings():
    (subject,) = asked(checks=(), model="acme:build", batch="acme:batch", loss="acme:loss")
    assert subject.name == "acme:build"


MISUSE = {
    "nothing at all": ((), {"checks": ()}, r"nothing to check.*\[\[tool.gradscope.check\]\]"),
    "misspelt": (("encodr",), {}, "'encodr' is no target of .*did you mean 'encoder'"),
    "no settings": (("encoder",), {"checks": ()}, "is no target .*names none"),
    "a trace that is not there": (("gone.h5",), {}, "no such file: 'gone.h5'"),
    "a script that is not there": (("gone.py",), {}, "no such file: 'gone.py'"),
    "a folder": (("other",), {}, "'other' is a folder"),
    "a model alone": ((), {"model": "acme:build"}, "`--model acme:build` alone .* --batch and --loss"),
    "a loss alone": ((), {"loss": "acme:loss"}, "`--loss acme:loss` alone .* --model and --batch"),
    "a model and a name": (
        ("encoder",),
        {"model": "acme:build", "batch": "acme:batch", "loss": "acme:loss"},
        "leave out `encoder`",
    ),
    "steps for a trace": (("run.h5",), {"changes": {"steps": 5}}, "`--steps 5` says how to train"),
    "two scripts": (("train.py", "other.py"), {"arguments": ()}, "a script is checked by itself"),
    "a script beside a target": (("train.py", "encoder"), {}, "a script is checked by itself"),
    "arguments for nothing": ((), {"arguments": ("--lr", "1")}, "a script is checked by itself, none was named"),
    "a device for a script": (("train.py",), {"changes": {"device": "cpu"}}, "`--device cpu`.*behind `--`"),
}


@pytest.mark.parametrize(("names", "options", "said"), MISUSE.values(), ids=MISUSE)
@pytest.mark.usefixtures("folder")
def test_what_does_not_go_together_is_told_with_the_way_out(names, options, said):
    with pytest.raises(UsageError, match=said):
        asked(*names, **options)
