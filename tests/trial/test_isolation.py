import os
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import backends

from gradscope.trial.isolation import _depth_of_autocast, isolated

# What is asked before and afterwards, and what a thoughtless function does to it.
SHARED = {
    "python's random": (random.getstate, lambda: random.seed(7)),
    "numpy's random": (lambda: str(np.random.get_state()), lambda: np.random.seed(7)),
    "torch's random": (lambda: torch.get_rng_state().tolist(), lambda: torch.manual_seed(7)),
    "torch's seed": (torch.initial_seed, lambda: torch.manual_seed(7)),
    "dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "device": (torch.get_default_device, lambda: torch.set_default_device("meta")),
    "gradients": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda: torch.autocast("cpu").__enter__()),
    "autocast's depth": (_depth_of_autocast, lambda: torch.autocast("cpu").__enter__()),
    "autocast's dtype": (
        lambda: torch.get_autocast_dtype("cpu"),
        lambda: torch.set_autocast_dtype("cpu", torch.float16),
    ),
    "autocast's cache": (torch.is_autocast_cache_enabled, lambda: torch.set_autocast_cache_enabled(False)),
    "anomalies": (torch.is_anomaly_enabled, lambda: torch.autograd.set_detect_anomaly(True)),
    "determinism": (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    ),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(torch.get_num_threads() + 1)),
    "cudnn": (
        lambda: (backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.allow_tf32),
        lambda: [setattr(backends.cudnn, name, True) for name in ("benchmark", "deterministic")],
    ),
    "mkldnn": (lambda: backends.mkldnn.enabled, lambda: setattr(backends.mkldnn, "enabled", False)),
    "precision": (torch.get_float32_matmul_precision, lambda: torch.set_float32_matmul_precision("medium")),
    "tf32": (lambda: backends.cuda.matmul.allow_tf32, lambda: setattr(backends.cuda.matmul, "allow_tf32", True)),
    "folder": (os.getcwd, lambda: os.chdir("/")),
    "sys.path": (lambda: (id(sys.path), list(sys.path)), lambda: sys.path.insert(0, "/nowhere")),
    "another sys.path": (lambda: (id(sys.path), list(sys.path)), lambda: setattr(sys, "path", ["/nowhere"])),
    "sys.argv": (lambda: list(sys.argv), lambda: sys.argv.append("--lr")),
    "environment": (lambda: dict(os.environ), lambda: os.environ.update(PATH="/nowhere", GRADSCOPE_TEST="1")),
    "less environment": (lambda: dict(os.environ), os.environ.clear),
    "warnings": (lambda: list(warnings.filters), lambda: warnings.simplefilter("ignore")),
}


@pytest.mark.parametrize("raising", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize(("look", "change"), SHARED.values(), ids=SHARED)
def test_what_a_function_changes_is_put_back(look, change, raising):
    before = look()
    try:
        with isolated():
            change()
            if raising:
                raise ValueError
    except ValueError:
        pass
    assert look() == before


def test_all_at_once_comes_back_too():
    before = {name: look() for name, (look, _) in SHARED.items()}
    with isolated():
        for _, change in SHARED.values():
            change()
    assert {name: look() for name, (look, _) in SHARED.items()} == before


def test_the_newer_switches_of_precision_are_put_back():
    if not hasattr(backends, "fp32_precision"):
        pytest.skip("before torch 2.9")
    owners = (backends, backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [owner.fp32_precision for owner in owners]
    with isolated():
        for owner in owners:
            owner.fp32_precision = "tf32"
    assert [owner.fp32_precision for owner in owners] == before
    assert backends.cuda.matmul.allow_tf32 is False  # both ways of asking agree again
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("forbid", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_gradients_are_computed_wherever_the_caller_stands(forbid):
    with forbid():
        with isolated():
            x = torch.ones(2, requires_grad=True)
            (x * x).sum().backward()
            assert x.grad.tolist() == [2, 2]
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() is (forbid is torch.inference_mode)


def test_a_folder_that_is_gone_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with isolated():
        os.chdir(tmp_path)
    assert os.getcwd() == str(tmp_path)  # there is nowhere to go back to
