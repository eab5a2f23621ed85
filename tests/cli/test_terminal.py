import io
import shlex
import subprocess
import sys

import pytest

from gradscope.cli import terminal


def written(text, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    terminal.tolerate_any_encoding(stream)
    stream.write(text)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "dL/dy x 2 - 1e-3 ?"), ("latin-1", "dL/dy × 2 - 1e-3 ?"), ("utf-8", "∂L/∂y × 2 − 1e-3 ✗")],
)
def test_characters_that_the_encoding_lacks_have_a_plain_form(encoding, shown):
    assert written("∂L/∂y × 2 − 1e-3 ✗", encoding) == shown


def test_a_formula_stays_one():
    assert written("σ_w² E[φ′(x)²]", "ascii") == "sigma_w^2 E[phi'(x)^2]"


def test_a_stream_that_cannot_be_changed_is_left_alone():
    stream = io.StringIO()
    terminal.tolerate_any_encoding(stream)
    stream.write("∂")
    assert stream.getvalue() == "∂"


def test_say_goes_to_stderr(capsys):
    terminal.say("where")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "gradscope: where\n")


def test_results_are_not_coloured_in_a_pipe(capsys):
    terminal.stdout().print("[red]x[/red]")
    assert capsys.readouterr().out == "x\n"


def test_no_color_is_honoured_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal.stdout().print("[red]x[/red]")
    assert "\x1b[31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.stdout().print("[red]x[/red]")
    assert "\x1b[31m" not in capsys.readouterr().out


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_the_caller_has_closed_change_no_exit_code(closed):
    for words, code in (("list", 0), ("nothing", 2)):
        shell = f"{shlex.quote(sys.executable)} -m gradscope {words} {closed}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
