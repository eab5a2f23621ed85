"""The sequences that a recurrent layer is given, in one shape: (time, batch, feature).

A batch of one where there was none; packed sequences padded with zeros, in their own order of falling lengths.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Which sequences of a batch run at which time step, and how tensors about them lie.

    Attributes:
        length: Steps of the longest.
        runs: (first step, step after the last, sequences) where their number stays the same; None for all.
        running: 1 where a sequence runs, else 0, (time, batch, 1); None where all run to the end.
    """

    length: int
    runs: tuple[tuple[int, int, int | None], ...]
    running: Tensor | None = None
    _time_axis: int = 0
    _sizes: Tensor | None = None  # how many run at each step, (time,)
    _order: tuple[Tensor, Tensor] | None = None  # of the batch, by length, and back
    _lengths: Tensor | None = None  # (batch,)

    @classmethod
    def of(cls, x: Tensor | PackedSequence, *, batch_first: bool) -> "Sequence":
        """The sequences in the input of a layer."""
        if isinstance(x, Tensor):
            axis = 1 if batch_first and x.ndim == 3 else 0
            return cls(length=x.shape[axis], runs=((0, x.shape[axis], None),), _time_axis=axis)
        sizes = x.batch_sizes.tolist()
        length = len(sizes)
        edges = [t for t in range(1, length) if sizes[t] != sizes[t - 1]]
        running = torch.arange(sizes[0], device=x.batch_sizes.device) < x.batch_sizes.unsqueeze(1)
        order = None
        if x.sorted_indices is not None and x.unsorted_indices is not None:
            order = x.sorted_indices, x.unsorted_indices
        return cls(
            length=length,
            runs=tuple((t, end, sizes[t]) for t, end in zip([0, *edges], [*edges, length], strict=True)),
            running=running.unsqueeze(2).to(x.data.device, torch.float32),
            _sizes=x.batch_sizes,
            _order=order,
            _lengths=running.sum(0).to(x.data.device),
        )

    def bring(self, tensor: Tensor, dtype: torch.dtype, *, time_first: bool = False) -> Tensor:
        """An input or output of the layer, or its gradient, as (time, batch, feature)."""
        if self._sizes is not None:
            tensor = pad_packed_sequence(PackedSequence(tensor, self._sizes))[0]
        elif tensor.ndim == 2:
            tensor = tensor.unsqueeze(1)
        elif self._time_axis and not time_first:
            tensor = tensor.transpose(0, 1)
        return tensor.to(dtype)

    def bring_state(self, state: Tensor, dtype: torch.dtype) -> Tensor:
        """A first or final state, or its gradient, as (layer and direction, batch, feature)."""
        if state.ndim == 2:
            state = state.unsqueeze(1)
        if self._order is not None:
            state = state.index_select(1, self._order[0])
        return state.to(dtype)

    def restore_state(self, state: Tensor) -> Tensor:
        """What `bring_state` brought, in the order of the user's batch."""
        return state if self._order is None else state.index_select(1, self._order[1])

    def turned(self, tensor: Tensor, reverse: int | bool) -> Tensor:
        """`tensor` in the other direction of time, each sequence within its own length; as it is if not `reverse`."""
        if not reverse:
            return tensor
        if self._lengths is None:
            return tensor.flip(0)
        steps = torch.arange(self.length, device=tensor.device).unsqueeze(1)
        backwards = torch.where(steps < self._lengths, self._lengths - 1 - steps, steps)
        return tensor[backwards, self._batch]

    def masked(self, tensor: Tensor) -> Tensor:
        """`tensor` with zeros past the end of each sequence."""
        return tensor if self.running is None else tensor * self.running

    def last(self, tensor: Tensor) -> Tensor:
        """What `tensor` is at the last step of each sequence, in the direction it runs."""
        return tensor[-1] if self._lengths is None else tensor[self._lengths - 1, self._batch]

    @property
    def _batch(self) -> Tensor:
        assert self._lengths is not None
        return torch.arange(len(self._lengths), device=self._lengths.device)
