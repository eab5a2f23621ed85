"""`gradscope attach SCRIPT` beside the script alone: the same output and exit code, not a bit of a number differs."""

import subprocess
import sys

import pytest
from script_runs import ENVIRONMENT, SCRIPTS, Ended

from gradscope import read_trace
from gradscope.cli import main


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
    "forward called directly": (["direct.py"], {"": ({"first"}, 4)}),
    "a model for each fold": (["folds.py"], {name: ({"0", "1", "2"}, 2) for name in ("", "model2", "model3")}),
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
        linear = {name for name, kind in trace.meta["modules"].items() if kind == "Linear"}
        assert {site.module for site in trace.sites if site.quantity == "weight_grad"} == linear
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


FRAMEWORKS = {
    "with_lightning.py": ({"body.0", "body.1", "head"}, 6),
    "with_transformers.py": (
        {"transformer.wte", "transformer.h.0.attn.c_attn", "transformer.h.1.mlp.act", "lm_head"},
        4,
    ),
    "with_accelerate.py": ({"0", "1", "2"}, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "modules", "steps"), [(s, *e) for s, e in FRAMEWORKS.items()], ids=FRAMEWORKS)
def test_frameworks_are_recorded_and_not_changed(frameworks, tmp_path, script, modules, steps):
    _, attached = both(frameworks, tmp_path, script, str(tmp_path / "output"))
    trace = read_trace(tmp_path / "run.h5")
    assert attached.code == 0
    assert modules <= leaves(trace)
    assert len(trace.steps) == steps


@pytest.mark.slow
def test_each_of_two_processes_is_recorded_and_one_speaks(tmp_path):
    alone = torchrun("distributed.py")
    words = ("-m", "gradscope", "attach", "--out", tmp_path / "run.h5", "distributed.py")
    attached = torchrun(*words)
    assert alone.code == 0, alone.err
    assert attached.code == 0, attached.err
    assert attached.out == alone.out
    assert attached.err.count("steps recorded") == 1
    assert f"the trace of model is in {tmp_path / 'run.rank0.h5'}" in attached.err
    for rank in range(2):
        assert len(read_trace(tmp_path / f"run.rank{rank}.h5").steps) == 4
    ranks = [str(path) for path in sorted(tmp_path.iterdir())]
    assert main(["merge", *ranks, "-o", str(tmp_path / "run.h5")]) == 0
    merged = read_trace(tmp_path / "run.h5")
    assert merged.meta["distributed"] == {"world_size": 2, "parameters": "replicated", "ranks": [0, 1]}
    assert not merged.events


def torchrun(*words):
    """Two processes. On a busy machine the bare script, too, was seen to die of SIGABRT at its end: then once more."""
    for _ in range(3):
        ended = python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words)
        if "Signal 6 (SIGABRT)" not in ended.err:
            break
    return ended


def test_all_that_a_script_sees_of_its_start_is_as_without():
    words = ("plain.py", "--lr", "0.1")
    alone = python("-W", "error", *words, input="said to it\n")
    attached = python("-W", "error", "-m", "gradscope", "attach", "--every", "2", *words, input="said to it\n")
    assert alone.err == ""
    assert (attached.out, attached.code) == (alone.out, 0)
    assert "said to it" in alone.out
    assert "Adam lr 0.1 · 3 steps recorded (0 to 4)" in attached.err


def test_what_follows_the_script_is_the_script_s(zygote):
    alone = zygote.run("plain.py", "--help")
    attached = zygote.run("plain.py", "--help", attached=[])
    assert alone.out.startswith("usage: plain.py [-h] [--lr LR]")
    assert (attached.out, attached.code) == (alone.out, 2)


def test_nothing_is_imported_ahead_of_the_script():
    attached = python("-m", "gradscope", "attach", "hello.py")
    assert attached.out == "hello []\n"
    assert attached.err == "gradscope: nothing was recorded: hello.py never imported torch.\n"
    assert attached.code == 2


def test_a_module_of_a_package(zygote, tmp_path):
    attached = zygote.run("pkg.train", "--x", attached=["--out", str(tmp_path / "run.h5"), "-m"])
    path = SCRIPTS / "pkg" / "train.py"
    assert attached.out.splitlines()[-1] == f"['{path}', '--x'] __main__ pkg pkg.train {path} {SCRIPTS}"
    assert attached.code == 0
    assert len(read_trace(tmp_path / "run.h5").steps) == 3
    assert zygote.run("pkg", attached=["-m", "--quiet"]).code == 0


MISUSED = {
    "no such file": (["nothing.py"], "no such file: 'nothing.py' in "),
    "the end is missing": (["plain"], "no such file: 'plain'; did you mean 'plain.py'?"),
    "python is named": (["python", "plain.py"], "no such file: 'python'; leave it out: `gradscope attach plain.py`."),
    "torchrun is named": (
        ["torchrun", "plain.py"],
        "it goes before gradscope: `torchrun -m gradscope attach plain.py`",
    ),
    "a folder": (["pkg"], "'pkg' is a folder; name the script in it, or a package: `gradscope attach -m PACKAGE`."),
    "no such module": (["-m", "pkg.nothing"], "`-m pkg.nothing`: no such module in "),
    "a file as a module": (["-m", "plain.py"], "`-m plain.py`: no such module; a file needs none: leave out the -m."),
    "no training": (["checksum.py"], "checksum.py trained no model: no optimizer was made and no gradient computed."),
}


@pytest.mark.parametrize(("words", "said"), MISUSED.values(), ids=MISUSED)
def test_misuse_is_a_sentence_and_exit_2(zygote, words, said):
    ended = zygote.run(attached=words)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.startswith("gradscope: ")
    assert ended.err.count("\n") == 1


WRITTEN = {
    "fails before it trains": ("import sys\nimport torch\nsys.exit(3)", 3, "trained no model"),
    "wrong Python": ("def f(:\n", 1, 'run.py", line 1\n    def f(:\n'),
    "no module": (
        "import torch\nw = torch.zeros(2, requires_grad=True)\noptimizer = torch.optim.SGD([w])\n"
        "for _ in range(2):\n    w.sum().backward(); optimizer.step()",
        2,
        "no module holds the parameters of SGD",
    ),
    "attaches by itself": (
        "import torch, gradscope\nm = torch.nn.Linear(2, 2)\no = torch.optim.SGD(m.parameters())\n"
        "scope = gradscope.attach(m, optimizer=o)\nfor _ in range(2):\n    m(torch.ones(1, 2)).sum().backward()\n"
        "    o.step()\nassert len(scope.trace.steps) == 2",
        2,
        "already attached",
    ),
    "becomes another program": (
        "import os, sys, torch\nm = torch.nn.Linear(2, 2)\no = torch.optim.SGD(m.parameters())\n"
        "for _ in range(2):\n    m(torch.ones(1, 2)).sum().backward(); o.step()\n"
        "os.execl(sys.executable, 'python', '-c', 'print(5)')",
        0,
        "2 steps recorded",
    ),
    "trains in a thread": (
        "import threading, time, torch\ndef train():\n    time.sleep(0.2)\n    m = torch.nn.Linear(2, 2)\n"
        "    o = torch.optim.SGD(m.parameters())\n    for _ in range(2):\n"
        "        m(torch.ones(1, 2)).sum().backward(); o.step()\n"
        "threading.Thread(target=train).start()",
        0,
        "2 steps recorded",
    ),
}


@pytest.mark.parametrize(("source", "code", "said"), WRITTEN.values(), ids=WRITTEN)
def test_odd_scripts(zygote, tmp_path, source, code, said):
    script = tmp_path / "run.py"
    script.write_text(source, encoding="utf-8")
    ended = zygote.run(str(script), attached=[])
    assert ended.code == code
    assert said in ended.err
    assert ("Traceback" in ended.err) == ("wrong" in said)


def test_a_file_that_is_not_python(zygote, tmp_path):
    for name, content in {"run.h5": b"\x89HDF\r\n\0\0", "notes.md": b"# Notes\nno program, only words\n"}.items():
        (tmp_path / name).write_bytes(content)
        ended = zygote.run(str(tmp_path / name), attached=[])
        assert ended.code == 2
        assert f"{name}' is no Python file: " in ended.err


CHILDREN = {
    "workers-spawn": (0, "4 steps recorded"),
    "trained-fork": (2, "nothing was recorded: processes that processes.py started did the computing"),
    "both": (0, "a process that the script forked trained too; only the script's own process is recorded."),
}


@pytest.mark.parametrize(("how", "code", "said"), [(h, *e) for h, e in CHILDREN.items()], ids=CHILDREN)
def test_processes_of_the_script_s_own_are_not_recorded(zygote, how, code, said):
    alone = zygote.run("processes.py", how)
    attached = zygote.run("processes.py", how, attached=[])
    assert (attached.out, attached.code) == (alone.out, code)
    assert said in attached.err
