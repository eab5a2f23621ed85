import errno
import io
import json
import os
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from examples import HEALTHY
from verdicts import EVERYTHING, NOTHING, PASSED

from gradscope import plugins
from gradscope.cli.output import Plan, deliver, gate_reports, output_options, placements
from gradscope.errors import UsageError
from gradscope.verdict import Judged, Verdict


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def placed(formats, files, *, quiet=False, inputs=()):
    """The plan in words: {file: format}, and what goes to stdout."""
    plan = placements(formats, [Path(f) for f in files], quiet=quiet, inputs=inputs)
    return {str(path): one.name for one, path in plan.files}, [one.name for one in plan.streamed]


@pytest.mark.parametrize(
    ("formats", "files", "where", "streamed"),
    [
        ([], [], {}, ["text"]),
        (["json"], [], {}, ["json"]),
        (["json"], ["a.json"], {"a.json": "json"}, ["text"]),
        (["json"], ["a.JSON"], {"a.JSON": "json"}, ["text"]),
        (["text", "json"], ["a.json"], {"a.json": "json"}, ["text"]),
        (["json", "text"], ["a.json", "b.txt"], {"a.json": "json", "b.txt": "text"}, ["text"]),
        (["json", "text"], ["b.txt", "a.json"], {"a.json": "json", "b.txt": "text"}, ["text"]),
        (["json"], ["report"], {"report": "json"}, ["text"]),
        (["text", "json"], ["a.json", "report"], {"a.json": "json", "report": "text"}, ["text"]),
        ([], ["a.json"], {"a.json": "json"}, ["text"]),
        (["json"], ["a.json", "b.json"], {"a.json": "json", "b.json": "json"}, ["text"]),
        (["json", "json"], ["a.json"], {"a.json": "json"}, ["text"]),
        (["gitlab"], ["report.json"], {"report.json": "gitlab"}, ["text"]),
        (["json", "gitlab"], ["a.json", "b.json"], {"a.json": "json", "b.json": "gitlab"}, ["text"]),
        (["junit"], ["out.txt"], {"out.txt": "junit"}, ["text"]),
        (["text"], ["report.json"], {"report.json": "json"}, ["text"]),
        (["github", "text"], ["a.sarif", "b.xml"], {"a.sarif": "sarif", "b.xml": "junit"}, ["text", "github"]),
        (["github"], ["log"], {"log": "github"}, ["text"]),
        (["gitlab"], ["a.sarif", "report"], {"a.sarif": "sarif", "report": "gitlab"}, ["text"]),
    ],
)
def test_who_goes_where(formats, files, where, streamed):
    assert placed(formats, files) == (where, streamed)


def test_quiet_leaves_out_the_text_that_nobody_asked_for():
    assert placed(["json"], ["a.json"], quiet=True) == ({"a.json": "json"}, [])
    assert placed(["json"], [], quiet=True) == ({}, ["json"])


@pytest.mark.parametrize(
    ("formats", "files", "sentence"),
    [
        (["jsn"], [], "`--output-format jsn` is no format; did you mean 'json'?"),
        (["csv"], [], "`--output-format csv` shows a trace, not what the gate has judged; text, json"),
        (
            ["json", "text"],
            [],
            "`--output-format json` and `--output-format text` would both go to stdout; give all but one a file: "
            "`-o FILE.txt`.",
        ),
        (
            [],
            ["report"],
            "`-o report`: which format? Say it with `--output-format NAME`, or by the file's suffix: .txt",
        ),
        (["json"], ["no/such/a.json"], "`-o no/such/a.json`: there is no folder 'no/such'; create it first."),
        (["json"], ["folder"], "`-o folder` is a folder; name a file in it."),
        (["json"], ["-"], "`-o -`: leave it out; a format without a file goes to stdout."),
        (["json", "text"], ["a.x", "./a.x"], "`-o a.x` is given twice, for json and text; give each its own file."),
        (["json"], ["a.json", "a.json"], "`-o a.json` is given twice, for json; give each its own file."),
        (
            ["json"],
            ["run.h5"],
            "`-o run.h5` is a file that is judged or read, or written by another option; name another one.",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(formats, files, sentence, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "run.h5").write_bytes(b"")
    with pytest.raises(UsageError) as error:
        placed(formats, files, inputs=[tmp_path / "run.h5"])
    assert str(error.value).startswith(sentence)


def test_a_file_without_permission(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match=r"`-o a.json` cannot be written: no permission"):
        placed(["json"], ["a.json"])


def test_files_are_written_and_text_goes_to_stdout(capsys, tmp_path):
    deliver(placements(["json"], [Path("a.json"), Path("b.txt")], quiet=False), EVERYTHING)
    said = capsys.readouterr()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["ok"] is False
    assert "1 could not be judged" in (tmp_path / "b.txt").read_text(encoding="utf-8")
    assert "1 could not be judged" in said.out
    assert said.err == "gradscope: wrote a.json\ngradscope: wrote b.txt\n"
    assert sorted(os.listdir()) == ["a.json", "b.txt"]


def test_quiet_says_nothing(capsys):
    deliver(placements(["json"], [Path("a.json")], quiet=True), PASSED)
    assert capsys.readouterr() == ("", "")


class Broken:
    """A format that fails half-way."""

    name, suffix, about, to_stream = "broken", ".broken", "fails", True

    def write(self, trace, diagnosis, destination):
        raise NotImplementedError

    def write_verdict(self, verdict, destination):
        destination.write_text("half", encoding="utf-8")
        raise ZeroDivisionError


def test_a_file_is_written_completely_or_not_at_all(tmp_path):
    (tmp_path / "a.broken").write_text("as it was", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        deliver(Plan(((Broken(), Path("a.broken")),), ()), PASSED)
    assert os.listdir() == ["a.broken"]
    assert (tmp_path / "a.broken").read_text(encoding="utf-8") == "as it was"


def test_a_file_that_cannot_be_written_is_named_as_it_was_written(monkeypatch):
    def full(draft, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UsageError, match=r"^`-o a.json` cannot be written: No space left on device; name another"):
        deliver(placements([], [Path("a.json")], quiet=True), PASSED)
    assert not list(Path().iterdir())


def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    target = tmp_path / "real.json"
    target.write_text("{}", encoding="utf-8")
    target.chmod(0o640)
    (tmp_path / "a.json").symlink_to(target)
    deliver(placements([], [Path("a.json")], quiet=True), PASSED)
    assert (tmp_path / "a.json").is_symlink()
    assert json.loads(target.read_text(encoding="utf-8"))["ok"] is True
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_device_is_not_replaced():
    deliver(placements(["json", "text"], [Path(os.devnull), Path(os.devnull)], quiet=True), PASSED)
    assert not Path(os.devnull).is_file()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_gets_the_report(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    reader = os.open(tmp_path / "a.json", os.O_RDONLY | os.O_NONBLOCK)
    try:
        deliver(placements([], [Path("a.json")], quiet=True), NOTHING)
        assert json.loads(os.read(reader, 1 << 16))["targets"] == []
    finally:
        os.close(reader)


def test_what_a_program_reads_is_utf_8_whatever_the_terminal_has(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    named = Verdict(targets=(Judged(target="größe", diagnosis=HEALTHY),))
    deliver(placements(["json"], [], quiet=False), named)
    assert json.loads(raw.getvalue().decode("utf-8"))["targets"][0]["name"] == "größe"
    assert "größe".encode() in raw.getvalue()
    assert sys.stdout.encoding == "ascii"


def test_formats_of_third_parties_are_found(monkeypatch):
    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda kind: (*load(kind), Broken()))
    assert "broken" in gate_reports()
    assert placed([], ["a.broken"]) == ({"a.broken": "broken"}, ["text"])


def test_the_options_of_a_command():
    @click.command()
    @output_options
    def command(formats, files, quiet):
        click.echo(repr((formats, [str(f) for f in files], quiet)))

    arguments = ["--output-format", "json", "-o", "a.json", "--output-format", "sarif", "-o", "b.sarif", "-q"]
    result = CliRunner().invoke(command, arguments)
    assert result.output == "(('json', 'sarif'), ['a.json', 'b.sarif'], True)\n"
