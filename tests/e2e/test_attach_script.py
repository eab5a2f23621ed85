"""`gradscope attach SCRIPT` beside the script alone: the same output and exit code, not a bit of a number differs."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import gradscope
from gradscope import read_trace

SCRIPTS = Path(__file__).parent / "scripts"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(gradscope.__file__).parents[1])}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class Zygote:
    """Runs scripts in forks of one process."""

    def __init__(self, folder, *preloaded):
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("zygote.py"), *preloaded],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert self._process.stdout.readline() == "ready\n"

    def run(self, *argv, attached=None):
        self._count += 1
        output = str(self._folder / str(self._count))
        job = {"argv": argv, "attached": attached, "cwd": str(SCRIPTS), "output": output}
        print(json.dumps(job), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return Ended(code, *(Path(output + end).read_text(encoding="utf-8") for end in (".out", ".err")))

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    process = Zygote(tmp_path_factory.mktemp("zygote"), "torch", "torch._dynamo", "h5py", "rich.console")
    yield process
    process.close()


def python(*words, cwd=SCRIPTS, **more):
    """A whole Python of its own."""
    environment = {**ENVIRONMENT, **more.pop("env", {})}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, encoding="utf-8", cwd=cwd, env=environment, **more
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def both(zygote, tmp_path, *argv):
    """A script alone, and attached with its trace streamed to run.h5."""
    alone = zygote.run(*argv)
    attached = zygote.run(*argv, attached=["--out", str(tmp_path / "run.h5")])
    assert attached.out == alone.out, attached.err
    assert attached.code == alone.code, attached.err
    assert "parameters" in alone.out or alone.code or alone.err == ""
    return alone, attached


def leaves(trace):
    return {site.module for site in trace.sites if site.quantity == "output"}


TABLE = {
    "gan": (["gan.py"], {"generator": ({"0", "1", "2"}, 5), "critic": ({"0", "1", "2"}, 6)}),
    "LBFGS": (["lbfgs.py"], {"": ({"0", "1", "2"}, 4)}),
    "gradient accumulation": (["accumulation.py"], {"": ({"0", "1", "2"}, 4)}),
    "by hand": (["by_hand.py"], {"": ({"0", "1", "2"}, 5)}),
    "AMP": (["scaled.py"], {"": ({"0", "1", "2"}, 5)}),
    "compiled before the optimizer": (["compiled.py", "before"], {"": ({"first", "last"}, 5)}),
    "compiled after the optimizer": (["compiled.py", "after"], {"": ({"first", "last"}, 5)}),
    "compiled in place": (["compiled.py", "in-place"], {"": ({"first", "last"}, 5)}),
    "a compiled function": (["compiled.py", "function"], {"": ({"first", "last"}, 5)}),
    "workers that are forked": (["processes.py", "workers-fork"], {"": ({"0", "1", "2"}, 4)}),
}


@pytest.mark.parametrize(("argv", "roots"), TABLE.values(), ids=TABLE)
def test_loops_are_recorded_and_not_changed(zygote, tmp_path, argv, roots):
    _, attached = both(zygote, tmp_path, *argv)
    assert attached.code == 0
    for name, (modules, steps) in roots.items():
        trace = read_trace(tmp_path / ("run.h5" if not name else f"run.{name}.h5"))
        assert modules <= leaves(trace)
        assert len(trace.steps) == steps
        assert {site.module for site in trace.sites if site.quantity == "weight_grad"} <= modules
        assert f"{steps} steps recorded" in attached.err
    assert len(list(tmp_path.iterdir())) == len(roots)


def test_a_sick_network_is_found(zygote, tmp_path):
    alone, attached = both(zygote, tmp_path, "sick.py")
    assert alone.err == ""
    assert "error GS101 vanishing-gradient  0" in attached.err
    assert attached.code == 0
    assert zygote.run("sick.py", attached=["--fail-on", "error", "--quiet"]) == Ended(1, alone.out, "")
    assert zygote.run("sick.py", attached=["--fail-on", "never", "--every", "4", "--quiet"]).code == 0


ENDS = {
    "raises": 1,
    "optimizer-raises": 1,
    "backward-raises": 1,
    "own-hook": 1,
    "sys.exit(7)": 7,
    "sys.exit(text)": 1,
    "SystemExit": 0,
    "interrupted": -2,
}


@pytest.mark.parametrize(("how", "code"), ENDS.items(), ids=ENDS)
def test_a_script_ends_as_without(zygote, tmp_path, how, code):
    alone, attached = both(zygote, tmp_path, "ends.py", how)
    assert attached.code == code
    said = by_the_script(alone.err)
    assert by_the_script(attached.err)[: len(said)] == said
    assert "gradscope/" not in attached.err.replace("attach gradscope", "")
    assert len(read_trace(tmp_path / "run.h5").steps) >= 3
    assert "steps recorded" in attached.err


def by_the_script(err):
    """What Python says, without the frames of torch's (with hooks it has other ones), of zygote, and their carets."""
    lines = [line for line in err.splitlines() if line.strip(" ^~")]
    kept = [
        line
        for i, line in enumerate(lines)
        if not any("/torch/" in x or "zygote.py" in x for x in lines[max(i - 1, 0) : i + 1])
    ]
    return [line for line in kept if not line.startswith("    ")]
