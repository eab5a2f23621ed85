"""What a process shares, put back as it was found: functions of the user's are called without a trace of it afterwards.

    with isolated():
        model = build()      # may seed, chdir, set the default dtype, filter warnings, raise
        ...

Gradients are computed inside, wherever the caller stands: also within `torch.no_grad()` or `torch.inference_mode()`.
"""

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TypeVar

import numpy as np
import torch

_State = TypeVar("_State")


def _parts(backend: object) -> list[object]:
    """What of a backend has a precision of its own, since torch 2.9."""
    return [getattr(backend, name) for name in ("matmul", "conv", "rnn") if hasattr(backend, name)]


# Of torch's backends, in the order in which they are put back: that of the older names sets newer ones, and that of a
# whole backend those of its parts.
_SWITCHES: tuple[tuple[object, str], ...] = (
    (torch.backends.cuda.matmul, "allow_tf32"),
    *((torch.backends.cudnn, name) for name in ("allow_tf32", "enabled", "benchmark", "benchmark_limit")),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    (torch.backends.mkldnn, "enabled"),
    (torch.backends, "fp32_precision"),
    (torch.backends.cudnn, "fp32_precision"),
    (torch.backends.mkldnn, "fp32_precision"),
    (torch.backends.cuda.matmul, "fp32_precision"),
    *((backend, "fp32_precision") for backend in _parts(torch.backends.cudnn)),
    *((backend, "fp32_precision") for backend in _parts(torch.backends.mkldnn)),
)


@contextmanager
def isolated() -> Iterator[None]:
    """Restores at its end the random states, torch's settings and the process's own, whatever happened inside."""
    with ExitStack() as back:
        _process(back)
        _random(back)
        _settings(back)
        back.enter_context(warnings.catch_warnings())
        back.enter_context(torch.inference_mode(False))
        back.enter_context(torch.enable_grad())
        if _depth_of_autocast():  # the caller's: what it had cast once would stay what it was at the first step
            torch.set_autocast_cache_enabled(False)
        yield


def _kept(back: ExitStack, get: Callable[[], _State], put: Callable[[_State], object]) -> None:
    """Puts back what `get` says now, unless it still says so then. What cannot be read now is left alone."""
    try:
        before = get()
    except (RuntimeError, OSError):
        return

    def restore() -> None:
        with suppress(RuntimeError, OSError):
            if get() == before:
                return
        with suppress(RuntimeError, OSError):
            put(before)

    back.callback(restore)


def _kept_attribute(back: ExitStack, owner: object, name: str) -> None:
    if hasattr(owner, name):  # not every torch has every switch
        _kept(back, lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _process(back: ExitStack) -> None:
    for name in ("path", "argv"):
        words: list[str] = getattr(sys, name)
        back.callback(_refill, words, list(words))
        back.callback(setattr, sys, name, words)  # the user may have put another list there
    back.callback(_restore_environment, dict(os.environ))
    _kept(back, os.getcwd, os.chdir)
    _kept(back, torch.get_num_threads, torch.set_num_threads)


def _refill(words: list[str], before: list[str]) -> None:
    if words != before:
        words[:] = before


def _restore_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _random(back: ExitStack) -> None:
    back.callback(random.setstate, random.getstate())
    back.callback(np.random.set_state, np.random.get_state())
    back.callback(torch.set_rng_state, torch.get_rng_state())
    if torch.cuda.is_initialized():
        back.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
    else:
        # a seed that is set before CUDA is there waits for it: the last one counts, so the caller's is set again
        back.callback(torch.cuda.manual_seed_all, torch.initial_seed())


def _settings(back: ExitStack) -> None:
    _kept(back, torch.get_default_dtype, torch.set_default_dtype)
    _kept(back, torch.get_default_device, _set_default_device)
    _kept(back, torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly)
    _kept(
        back,
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda found: torch.use_deterministic_algorithms(found[0], warn_only=found[1]),
    )
    for owner, switch in reversed(_SWITCHES):  # the last one is put back first
        _kept_attribute(back, owner, switch)
    _kept(back, torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
    _kept(back, torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled)
    _kept(back, _depth_of_autocast, _leave_autocast)
    for device in ("cpu", "cuda"):
        _kept(back, partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device))
        _kept(back, partial(torch.get_autocast_dtype, device), partial(torch.set_autocast_dtype, device))


def _depth_of_autocast() -> int:
    """How many autocasts have been entered; the weights that they cast are kept until the outermost one is left."""
    torch.autocast_increment_nesting()
    return int(torch.autocast_decrement_nesting())


def _leave_autocast(depth: int) -> None:
    while _depth_of_autocast() > depth:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # a device that is set slows every call
