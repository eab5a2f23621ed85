"""Which layer ran last, where it was called as a function: `F.conv2d(x, self.weight)`, `x @ self.weight`."""

from collections.abc import Callable, Mapping
from types import FrameType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradscope.probes.base import Recorder
from gradscope.probes.calls import Watcher

_FEATURES_LAST: tuple[Callable[..., object], ...] = (
    F.linear, F.bilinear, F.embedding, F.layer_norm, F.rms_norm, torch.matmul, torch.mm, torch.addmm, torch.bmm,
    torch.einsum, Tensor.matmul, Tensor.mm, Tensor.addmm, Tensor.bmm, Tensor.__matmul__, Tensor.__rmatmul__,
)  # fmt: skip
_FEATURES_FIRST: tuple[Callable[..., object], ...] = (
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.batch_norm,
    F.instance_norm, F.group_norm,
)  # fmt: skip


def layer_watchers(recorder: Recorder) -> dict[Callable[..., object], Watcher]:
    """Who is told of layers, by function."""
    last, first = _LayerCalls(recorder, features_last=True), _LayerCalls(recorder, features_last=False)
    return {**dict.fromkeys(_FEATURES_LAST, last), **dict.fromkeys(_FEATURES_FIRST, first)}


class _LayerCalls:
    """Notes the layer by its parameter, and where it puts its features."""

    def __init__(self, recorder: Recorder, *, features_last: bool) -> None:
        self.recorder = recorder
        self.features_last = features_last

    def before(self, owner: str, frame: FrameType, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """A product of activations is no layer: it has no parameter."""
        for x in (*args, *kwargs.values()) if kwargs else args:
            weight = x._base if isinstance(x, Tensor) and not isinstance(x, nn.Parameter) else x
            if isinstance(weight, nn.Parameter):
                self.recorder.liveness.layer = id(weight)
                self.recorder.liveness.features_last = self.features_last
                return

    def after(self, noted: object, args: tuple[object, ...], kwargs: Mapping[str, object], result: object) -> None:
        """Nothing more to do."""
