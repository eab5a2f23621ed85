"""`gradscope check SCRIPT --steps N`: scripts of all kinds are stopped after N steps, and judged on them."""

import json
import textwrap

import pytest

NET = """
import atexit, os, signal, sys, threading
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def step():
    loss = model(torch.randn(16, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
def train(steps):
    for number in range(steps):
        step()
        print("step", number)
"""


@pytest.fixture
def check(zygote, tmp_path):
    def write_and_check(source, *arguments, steps=3, options=()):
        (tmp_path / "train.py").write_text(NET + textwrap.dedent(source))
        return zygote.check("train.py", *arguments, options=[*options, "--steps", str(steps)], cwd=tmp_path)

    return write_and_check


def judged(ended):
    """Steps by target, as the document on stdout says."""
    return {target["name"]: target["steps"] for target in json.loads(ended.out)["targets"]}


JSON = ("--output-format", "json")
TABLE = {
    "GAN": ("gan.py", {"gan.py:generator": 3, "gan.py:critic": 4}),
    "LBFGS": ("lbfgs.py", {"lbfgs.py": 3}),
    "gradient accumulation": ("accumulation.py", {"accumulation.py": 3}),
    "by hand": ("by_hand.py", {"by_hand.py": 3}),
    "AMP": ("scaled.py", {"scaled.py": 3}),
    "forward called directly": ("direct.py", {"direct.py": 3}),
    "fewer steps than asked for": ("folds.py", {"folds.py:model": 2, "folds.py:model2": 2, "folds.py:model3": 2}),
}


@pytest.mark.parametrize(("script", "targets"), TABLE.values(), ids=TABLE)
def test_every_model_of_a_script_is_judged_after_its_steps(zygote, script, targets):
    done = zygote.check(script, options=[*JSON, "--steps", "3"])
    assert done.code == 0, done.err
    assert judged(done) == targets
    assert ("random" in done.err) == (script == "folds.py")  # what it prints at its end


@pytest.mark.slow
def test_the_loops_of_frameworks_end_cleanly(frameworks, tmp_path):
    for script, *arguments in (
        ("with_lightning.py",),
        ("with_transformers.py", str(tmp_path)),
        ("with_accelerate.py",),
    ):
        done = frameworks.check(script, *arguments, options=[*JSON, "--steps", "3"])
        assert done.code == 0, done.err
        assert list(judged(done).values()) == [3]
        assert "Traceback" not in done.err
        assert "parameters" not in done.err  # what follows the training


def test_arguments_behind_the_dashes_are_the_scripts(zygote):
    done = zygote.check("plain.py", "--lr", "0.002", options=[*JSON, "--steps", "3"])
    assert (done.code, judged(done)) == (0, {"plain.py": 3})
    refused = zygote.check("plain.py", "--rate", "0.5", options=["--steps", "3"])
    assert refused.code == 2
    assert "unrecognized arguments: --rate 0.5" in refused.err
    assert "plain.py ended with exit code 2 after 0 of 3 steps" in refused.err.splitlines()[-1]


def test_what_a_script_prints_stays_off_stdout_to_the_very_end(check):
    source = """
    atexit.register(print, "at the end")
    atexit.register(lambda: os.system("echo from a child"))
    os.write(1, b"raw")
    train(100)
    print("never")
    """
    done = check(source, options=JSON)
    assert (done.code, judged(done)) == (0, {"train.py": 3})
    assert all(words in done.err for words in ("raw", "step 1", "at the end", "from a child"))
    assert "never" not in done.err
    assert "step 2" not in done.err  # it is stopped at the end of the optimizer's step


def test_clean_up_runs_and_handlers_of_errors_do_not(check):
    source = """
    class Guard:
        def __enter__(self): return self
        def __exit__(self, kind, error, traceback): print("left by", kind.__name__)
    try:
        with Guard():
            while True:
                try:
                    train(1000)
                except Exception:
                    print("caught")
    finally:
        for _ in range(5):
            step()  # as the last of an average of weights might
        print("finally")
    """
    done = check(source, options=JSON)
    assert (done.code, judged(done)) == (0, {"train.py": 3})
    assert ("left by SystemExit\n" in done.err, "finally\n" in done.err, "caught" in done.err) == (True, True, False)


CAUGHT = {
    "goes on": ("for _ in range(100):\n  try: step()\n  except: pass\nprint('done')", "done"),
    "gives up": ("try: train(100)\nexcept BaseException: sys.exit(1)", ""),
    "raises": ("try: train(100)\nexcept BaseException as error: raise RuntimeError('training failed') from error", ""),
}


@pytest.mark.parametrize(("source", "said"), CAUGHT.values(), ids=CAUGHT)
def test_a_script_that_catches_everything_is_judged_on_what_was_asked_for(check, source, said):
    done = check(source, options=JSON)
    assert (done.code, judged(done)) == (0, {"train.py": 3})
    assert said in done.err
    assert ("the script catches what should end it after 3 steps" in done.err) == bool(said)


ENDS = {
    "by itself": ("train(2)", 2),
    "sys.exit()": ("train(2); sys.exit()", 2),
    "os._exit(0)": ("train(2); os._exit(0)", 2),
    "in a thread": ("thread = threading.Thread(target=train, args=(100,)); thread.start()", 3),
    "signal handlers of its own": (
        "signal.signal(signal.SIGTERM, print); signal.signal(signal.SIGINT, print); train(9)",
        3,
    ),
    "elsewhere, without warnings": ("import warnings; warnings.simplefilter('error'); os.chdir('/'); train(9)", 3),
    "after a child": ("train(2)\nif not os.fork(): sys.exit(5)\nos.wait()", 2),
}


@pytest.mark.parametrize(("source", "steps"), ENDS.values(), ids=ENDS)
def test_however_it_ends_it_is_judged_once(check, tmp_path, source, steps):
    done = check(source, options=[*JSON, "--output-format", "text", "-o", "verdict.txt"])
    assert (done.code, judged(done)) == (0, {"train.py": steps}), done.err
    assert "Traceback" not in done.err
    assert (tmp_path / "verdict.txt").exists()


FAILS = {
    "exit code": ("train(2); sys.exit(3)", "train.py ended with exit code 3 after 2 of 3 steps"),
    "at once": ("train(2); os._exit(3)", "train.py ended with exit code 3 after 2 of 3 steps"),
    "a text": ("sys.exit('no data')", "train.py ended with exit code 1 after 0 of 3 steps"),
    "another program": (
        "train(2); os.execv(sys.executable, [sys.executable, '-c', ''])",
        "train.py puts another program into its place (os.exec)",
    ),
    "nothing trained": (
        "print(model(torch.zeros(4)))",
        "nothing was recorded: a model of train.py waited for a step with gradients, and none came",
    ),
    "a recording of its own": (
        "import gradscope\nwith gradscope.attach(model, optimizer=optimizer): train(9)",
        "nothing was recorded: a model of train.py could not be watched. `attach(Sequential)`: this model is already",
    ),
    "no step": ("pass", "nothing was recorded: train.py made an optimizer, but called no module"),
}


@pytest.mark.parametrize(("source", "sentence"), FAILS.values(), ids=FAILS)
def test_a_script_that_gives_up_or_trains_nothing_is_no_pass(check, source, sentence):
    done = check(source)
    assert done.code == 2, done.err
    assert done.out == ""
    assert sentence in done.err.splitlines()[-1]


def test_an_error_is_shown_as_the_scripts_own(check):
    done = check("train(2)\nmodel(torch.zeros(1, 5))")
    assert done.code == 2
    lines = done.err.splitlines()
    assert "Traceback (most recent call last):" in lines
    line = len(NET.splitlines()) + 2
    assert f'train.py", line {line}, in <module>' in done.err
    assert "gradscope/" not in done.err.replace("gradscope: ", "")
    assert lines[-1].startswith(f"gradscope: train.py:{line}: RuntimeError: mat1 and mat2 shapes cannot be multiplied")


def test_a_sick_script_fails_with_its_finding(zygote):
    done = zygote.check("sick.py", options=[*JSON, "--steps", "5"])
    assert done.code == 1, done.err
    assert [finding["target"] for finding in json.loads(done.out)["findings"]][:1] == ["sick.py"]


def test_workers_that_load_data_end_with_it(check):
    source = """
    from torch.utils.data import DataLoader, TensorDataset
    for (x,) in DataLoader(TensorDataset(torch.randn(400, 4)), batch_size=4, num_workers=1):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    """
    done = check(source, options=JSON)
    assert (done.code, judged(done)) == (0, {"train.py": 3})
    assert done.err == ""
