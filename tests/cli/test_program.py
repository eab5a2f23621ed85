import subprocess
import sys

import click
import pytest
from examples import network

from gradscope.cli import program
from gradscope.errors import UsageError

HEAVY = ("torch", "matplotlib", "pandas", "h5py", "sklearn", "scipy")


def gradscope(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "gradscope", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        **more,
    )


@pytest.mark.parametrize(
    "words", [("--help",), ("list",), ("rule", "--all"), ("config",), ("check", "--help"), ("--version",)]
)
def test_light_commands_import_nothing_heavy(words):
    code = (
        "import sys; from gradscope.cli import main; code = main(sys.argv[1:]); "
        f"print([m for m in {HEAVY} if m in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[] 0"
    assert done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rnu"], "gradscope: 'rnu' is no command; did you mean 'run'?"),
        (["report", "x.h5", "--fail-on", "eror"], "gradscope: Invalid value for '--fail-on': 'eror'"),
        (["run", "x", "--sedes", "3"], "gradscope: No such option"),
        (["report"], "gradscope: Missing argument 'TRACE'"),
    ],
)
def test_misuse_is_one_line_and_exit_2(cli, words, said):
    outcome = cli(*words)
    assert outcome.code == 2
    assert outcome.err.startswith(said)
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


def test_no_command_shows_the_help_and_is_misuse(cli):
    outcome = cli()
    assert outcome.code == 2
    assert "Usage: gradscope" in outcome.err


def test_version_is_the_package_s(cli):
    from gradscope import __version__

    assert __version__ in cli("--version").out


@pytest.fixture
def broken(monkeypatch):
    """A command that raises what it is told to."""

    def install(error):
        def fail():
            raise error

        command = click.Command("fail", callback=fail, params=[program._debug_option()])
        monkeypatch.setitem(program.gradscope.commands, "fail", command)

    return install


def test_an_error_of_gradscope_is_its_sentence_in_one_line(cli, broken):
    broken(UsageError("`x=3` must be\n  larger."))
    outcome = cli("fail")
    assert (outcome.code, outcome.err) == (2, "gradscope: `x=3` must be larger.\n")


@pytest.mark.parametrize("words", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_shows_the_traceback(cli, broken, words):
    broken(UsageError("no"))
    outcome = cli(*words)
    assert "Traceback" in outcome.err
    assert outcome.err.endswith("gradscope: no\n")
    assert outcome.code == 2


def test_an_error_that_nobody_foresaw_is_never_exit_1(cli, broken):
    broken(ZeroDivisionError("division by zero"))
    outcome = cli("fail")
    assert outcome.code == 2
    assert outcome.err.startswith("gradscope: an error that should not happen: ZeroDivisionError")


def test_a_file_that_cannot_be_written_is_named(cli, broken):
    broken(PermissionError(13, "Permission denied", "/root/x.json"))
    assert cli("fail").err == "gradscope: '/root/x.json': Permission denied\n"


def test_interrupting_is_130(cli, broken):
    broken(KeyboardInterrupt())
    outcome = cli("fail")
    assert (outcome.code, outcome.err.strip()) == (130, "gradscope: interrupted")


def test_python_m_gradscope_is_the_same():
    done = gradscope("list", "reports")
    assert done.returncode == 0
    assert "json" in done.stdout
    assert gradscope("nothing").returncode == 2


def test_a_reader_that_goes_away_is_no_error():
    reader = f"{sys.executable} -m gradscope rule --all --debug | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", reader], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 where everything fitted into the pipe


def test_output_in_ascii_does_not_end_the_program(tmp_path):
    network(0.25).save(tmp_path / "run.h5")
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONWARNINGS": "error"}
    done = gradscope("report", tmp_path / "run.h5", "--fail-on", "never", env=environment)
    assert done.returncode == 0, done.stderr
    assert "Gradient dL/dy by depth" in done.stdout
    assert done.stdout.isascii()
