"""In which records it is measured how far outputs spread, and which axis of them counts the samples."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradscope.probes.base import Recorder
from gradscope.probes.names import bare_modules
from gradscope.processes import local
from gradscope.records import Statistic
from gradscope.spread import spread_of

_OFTEN = 64  # records; also what goes slowly must be seen to begin


class Spreads:
    """Derives sample_spread and direction_spread of outputs, now and then.

    Args:
        recorder: Where they go.
        probe: Name of the probe that shows the outputs.
        model: Whose layers say whether a sequence comes before the batch.
    """

    def __init__(self, recorder: Recorder, probe: str, model: nn.Module) -> None:
        self._recorder = recorder
        self._records = 0
        self._due = False
        self._sequences_first = sequences_first(model)
        self._recurrent = {name for name, module in bare_modules(model).items() if isinstance(module, nn.RNNBase)}
        recorder.on_step(self, probe)

    def begin(self) -> None:
        """A recorded step begins."""
        self._due = now_and_then(self._records)
        self._records += 1

    def end(self) -> None:
        """It is over."""

    def see(self, module: str, site: int, output: Tensor, path: str = "") -> None:
        """Measures what `module` has returned at `path`, if it is time to."""
        if not self._due:
            return
        y = local(output)
        if y.ndim < 2 or not y.numel() or y.is_complex() or y.layout is not torch.strided:
            return
        if module in self._recurrent and path not in ("", "0"):
            return  # final states: the layers come first
        tokens = y.ndim == 3 and self._recorder.liveness.features_last
        if y.ndim == 3 and path in ("", "0") and self._sequences_first(module):
            y = y.transpose(0, 1)
        found = spread_of(y, tokens=tokens)
        self._recorder.derive(site, Statistic.SAMPLE_SPREAD, found.samples)
        self._recorder.derive(site, Statistic.DIRECTION_SPREAD, found.directions)


def now_and_then(record: int) -> bool:
    """At the records 0, 1, 2, 4, 8, 16, 32, then at every 64th: a run of five steps has four of them."""
    return record % _OFTEN == 0 or record & (record - 1) == 0


def sequences_first(model: nn.Module) -> Callable[[str], bool]:
    """Which modules return (token, sample, feature): recurrent layers and attention of torch, and what is in them."""
    kinds = nn.RNNBase | nn.MultiheadAttention | nn.TransformerEncoderLayer | nn.TransformerDecoderLayer
    found = [
        name for name, module in bare_modules(model).items() if isinstance(module, kinds) and not _batch_first(module)
    ]
    if "" in found:
        return lambda module: True
    insides = tuple(f"{name}." for name in found)
    return lambda module: f"{module}.".startswith(insides)


def _batch_first(module: nn.Module) -> bool:
    return bool(getattr(getattr(module, "self_attn", module), "batch_first", True))
