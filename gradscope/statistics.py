"""From a tensor to its statistics: every formula in one place.

A tensor x with n finite elements is reduced to moments, and the moments to a row of `STATISTICS`:

    mean    Σx / n
    rms     √(Σ|x|² / n)
    l2_norm √Σ|x|²
    std     √(Σ|x − mean|² / n), the population's; from rms² − mean², or a second pass where that would cancel
    abs_max, min, max
    zero_fraction       share of elements that are exactly zero, of all elements
    nonfinite_count     elements that are NaN or ±Inf; they are left out of everything above

Complex numbers are measured by magnitude; the elements that a sparse tensor does not store count as zeros.

The choice of operation is everything on a CPU (measured on torch 2.13, one thread, float32, ns per element):
`vector_norm(inf)`, `count_nonzero`, `std_mean`, `isfinite().all()` are scalar loops at 0.5 to 3; `dot` 0.08, `sum`
0.05, numpy's `min` and `max` 0.05 each and `count_nonzero(x == 0)` 0.1. Blocks that fit the cache are read from
memory once for all five, 0.45 together. A sum of squares that is finite and not tiny proves that all elements are
finite and that nothing over- or underflowed; only otherwise the block is done again, slowly and exactly, in float64.

Below a few thousand elements the calls cost more than the arithmetic, so small tensors are collected, joined and
reduced by segment (`many_moments`). On an accelerator nothing waits: the moments stay there until `fetch` brings all
of them, once a step.
"""

import math
import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.records import COLUMN, STATISTICS
from gradscope.rows import Rows, as_float32

Moments: TypeAlias = list[float] | Tensor
ManyMoments: TypeAlias = NDArray[np.float64] | Tensor  # (…, moment)
_Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

SMALL = 4096  # elements; up to here joining tensors is cheaper than measuring each
_BLOCK = 1 << 17  # elements; stays in the cache between the passes, and float32 sums of it keep six digits
_TINY_SQUARE = 1e-32  # mean squares below lose digits when float32's subnormals (1e-38) are flushed to zero
_SMALLEST = 1e-30  # a largest element below that loses digits in float32
_ALL_BUT_CONSTANT = 1e-5  # variance/mean square below which the mean's own rounding counts
_CANCELLING = 100.0  # mean²/variance above which rms² − mean² keeps fewer than five digits of float32 sums

_NATIVE = frozenset({torch.float32, torch.float64})  # what numpy and BLAS compute in; others go through float32
_SIXTEEN_BIT = frozenset({torch.float16, torch.bfloat16})

# Moments in this order, as float64. _STD is NaN where it follows from the others, _SUBNORMAL for all but 16-bit floats.
_NUMEL, _NONFINITE, _SUM, _NORM, _MIN, _MAX, _ZEROS, _STD, _SUBNORMAL = range(9)
_MOMENTS = 9
_NOTHING = [0.0, 0.0, 0.0, 0.0, math.inf, -math.inf, 0.0, math.nan, math.nan]  # of an empty tensor


def measure(x: Tensor) -> Rows:
    """The statistics of one tensor of any shape, strides, layout and dtype of numbers, shape (statistic,)."""
    row: Rows = rows_of(fetch([moments_of(x)]))[0]
    return row


def measure_many(tensors: Sequence[Tensor]) -> Rows:
    """The statistics of each tensor, shape (tensor, statistic)."""
    return rows_of(many_moments(tensors))


def moments_of(x: Tensor) -> Moments:
    """The moments of one tensor, for `fetch`: on a CPU numbers, on an accelerator a tensor nobody has waited for."""
    if x.is_cpu and x.dtype is torch.float32 and x.layout is torch.strided:  # what most tensors are
        return _cpu_moments(x.detach())
    values, implicit_zeros = plain(x)
    if not values.is_cpu:
        return _row_moments(values.reshape(1, -1), implicit_zeros)[0]
    moments = _cpu_moments(values)
    return _with_zeros(moments, implicit_zeros) if implicit_zeros else moments


def many_moments(tensors: Sequence[Tensor]) -> NDArray[np.float64]:
    """The moments of each tensor, shape (tensor, moment): small ones on the CPU are joined, then reduced by segment."""
    result = np.empty((len(tensors), _MOMENTS))
    alone: list[int] = []
    small: dict[torch.dtype, list[int]] = {}
    for index, x in enumerate(tensors):
        if joinable(x):
            small.setdefault(x.dtype, []).append(index)
        else:
            alone.append(index)
    for indices in small.values():
        flat, lengths = join([tensors[i] for i in indices])
        result[indices] = _segment_moments(flat, lengths)
    if alone:
        result[alone] = fetch([moments_of(tensors[i]) for i in alone])
    return result


def join(tensors: Sequence[Tensor]) -> tuple[_Floats, NDArray[np.int64]]:
    """Joinable tensors of one dtype end to end, and their lengths."""
    with torch.no_grad():
        flat = torch._C._nn.flatten_dense_tensors(list(tensors))  # one call for all; DDP's buckets are made so
    return flat.numpy(), np.array([x.numel() for x in tensors])


def fraction_where(x: Tensor, predicate: Callable[[Tensor], Tensor]) -> float | Tensor:
    """Share of the elements of `x` for which `predicate` is true; on an accelerator a 0-dim tensor left there."""
    x = x.detach()
    if x.device.type != "cpu":
        return predicate(x).double().mean()
    flat = _flat(x)
    return sum(int(np.count_nonzero(predicate(b).numpy())) for b in flat.split(_BLOCK)) / max(flat.numel(), 1)


def fractions_where(tensors: Sequence[Tensor], predicate: Callable[[Tensor], Tensor]) -> NDArray[np.float64]:
    """`fraction_where` for each of many joinable tensors of one dtype, shape (tensor,)."""
    flat, lengths = join(tensors)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.add.reduceat(predicate(torch.from_numpy(flat)).numpy(), starts, dtype=np.int64) / lengths


def joinable(x: Tensor) -> bool:
    """Whether `x` is so small, and so plain, that it is better measured together with others."""
    return 0 < x.numel() <= SMALL and x.is_cpu and x.dtype in _NATIVE and x.layout is torch.strided


def fetch(moments: Sequence[Moments]) -> NDArray[np.float64]:
    """Moments as one array (tensor, moment), with one wait for each device that holds some of them."""
    waiting: dict[torch.device, list[int]] = {}
    for index, item in enumerate(moments):
        if isinstance(item, Tensor):
            waiting.setdefault(item.device, []).append(index)
    result = np.array([_NOTHING if isinstance(item, Tensor) else item for item in moments]).reshape(-1, _MOMENTS)
    for indices in waiting.values():
        result[indices] = torch.stack([m for i in indices if isinstance(m := moments[i], Tensor)]).cpu().numpy()
    return result


def fetch_many(batches: Sequence[ManyMoments]) -> list[NDArray[np.float64]]:
    """Each of `batches` as an array, with one wait for each device that holds some of them."""
    waiting: dict[torch.device, list[int]] = {}
    result: list[NDArray[np.float64]] = [np.empty((0, _MOMENTS)) if isinstance(b, Tensor) else b for b in batches]
    for index, batch in enumerate(batches):
        if isinstance(batch, Tensor):
            waiting.setdefault(batch.device, []).append(index)
    for indices in waiting.values():
        there = [batch for i in indices if isinstance(batch := batches[i], Tensor)]
        together = torch.cat(there).cpu().numpy()
        edges = np.cumsum([len(batch) for batch in there])[:-1]
        for i, part in zip(indices, np.split(together, edges), strict=True):
            result[i] = part
    return result


def slice_moments(x: Tensor, axis: int) -> ManyMoments:
    """The moments of x[…, t, …] for each t along `axis`, (t, moment); on an accelerator left there for `fetch_many`."""
    values = plain(x)[0]
    matrix = values.movedim(axis, 0).reshape(values.shape[axis], -1)
    if not matrix.numel():
        return fetch([moments_of(row) for row in matrix])
    if matrix.device.type != "cpu":
        return _row_moments(matrix)
    dtype = matrix.dtype
    matrix = matrix.contiguous() if matrix.dtype in _NATIVE else matrix.float()
    array, n = matrix.numpy(), matrix.shape[1]
    moments = np.full((len(array), _MOMENTS), np.nan)
    moments[:, _NUMEL], moments[:, _NONFINITE] = n, 0
    moments[:, _SUM] = matrix.sum(1).numpy()
    moments[:, _NORM] = torch.linalg.vector_norm(matrix, dim=1).numpy()
    moments[:, _MIN], moments[:, _MAX] = array.min(axis=1), array.max(axis=1)
    zeros = array == 0
    moments[:, _ZEROS] = zeros.sum(axis=1) if zeros.any() else 0  # adding up bools costs more than all else together
    _refine(moments, matrix)
    if dtype in _SIXTEEN_BIT:
        magnitude = np.abs(array)
        moments[:, _SUBNORMAL] = ((magnitude < torch.finfo(dtype).tiny) & (magnitude > 0)).sum(axis=1)
    return moments


def _refine(moments: NDArray[np.float64], matrix: Tensor) -> None:
    """Does again what float32 has not got right in some rows: sequences end in gradients that have vanished.

    Squares out of range are taken of what is left after dividing by the largest; where a standard deviation would
    cancel it takes a second pass; what is not finite, subnormal or all but constant goes through float64.
    """
    n = matrix.shape[1]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        unit = np.maximum(np.abs(moments[:, _MIN]), np.abs(moments[:, _MAX]))
        square = moments[:, _NORM] ** 2 / n
        exact = ~np.isfinite(unit) | ((unit > 0) & (unit < _SMALLEST))
        wild = ~exact & (unit > 0) & ~((square > _TINY_SQUARE) & np.isfinite(square))
        if wild.any():
            at = np.flatnonzero(wild)
            ratio = matrix[torch.from_numpy(at)] / torch.from_numpy(unit[at]).to(matrix.dtype)[:, None]
            moments[at, _NORM] = torch.linalg.vector_norm(ratio, dim=1).numpy() * unit[at]
            moments[at, _SUM] = ratio.sum(1).numpy() * unit[at]
        mean, rms = moments[:, _SUM] / n, moments[:, _NORM] / math.sqrt(n)
        left = 1 - (mean / rms) ** 2
        varied = ~exact & (moments[:, _MIN] < moments[:, _MAX])
        exact |= varied & ~(left > _ALL_BUT_CONSTANT)
        close = varied & ~exact & ~(left * _CANCELLING > 1)
    if close.any():
        at = np.flatnonzero(close)
        scale = torch.from_numpy(np.stack([unit[at], mean[at] / unit[at]])).to(matrix.dtype)
        off = (matrix[torch.from_numpy(at)] / scale[0][:, None]).sub_(scale[1][:, None])
        moments[at, _STD] = torch.linalg.vector_norm(off, dim=1).numpy() * unit[at] / math.sqrt(n)
    if exact.any():
        at = np.flatnonzero(exact)
        moments[at] = _row_moments(matrix[torch.from_numpy(at)]).numpy()


def rows_of(moments: NDArray[np.float64]) -> Rows:
    """Statistics from moments: (…, moment) → (…, statistic). Statistics that a tensor alone cannot tell are NaN."""
    numel, nonfinite, total, norm, low, high, zeros, std, subnormal = np.moveaxis(moments, -1, 0)
    finite = numel - nonfinite
    rows = np.full((*moments.shape[:-1], len(STATISTICS)), np.nan)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        n = np.where(finite > 0, finite, np.nan)
        mean, rms = np.where(low == high, low, total / n), norm / np.sqrt(n)
        from_moments = rms * np.sqrt(np.maximum(1 - (mean / rms) ** 2, 0))  # rms² itself may be out of range
        rows[..., COLUMN["std"]] = np.where(low == high, 0.0, np.where(np.isnan(std), from_moments, std))
        rows[..., COLUMN["abs_max"]] = np.where(finite > 0, np.maximum(np.abs(low), np.abs(high)), np.nan)
        elements = np.where(numel > 0, numel, np.nan)
        rows[..., COLUMN["zero_fraction"]] = zeros / elements
        rows[..., COLUMN["underflow_fraction"]] = subnormal / elements
    rows[..., COLUMN["numel"]], rows[..., COLUMN["nonfinite_count"]] = numel, nonfinite
    rows[..., COLUMN["mean"]], rows[..., COLUMN["rms"]] = np.where(finite > 0, mean, np.nan), rms
    rows[..., COLUMN["l2_norm"]] = np.where(finite > 0, norm, np.nan)
    rows[..., COLUMN["min"]], rows[..., COLUMN["max"]] = (np.where(finite > 0, v, np.nan) for v in (low, high))
    return as_float32(rows)


def plain(x: Tensor) -> tuple[Tensor, int]:
    """`x` as a dense real tensor outside of autograd, and the number of zeros that a sparse one did not store."""
    x = x.detach()
    implicit = 0
    if x.layout is not torch.strided:
        values = x.coalesce().values() if x.layout is torch.sparse_coo else x.values()
        implicit, x = x.numel() - values.numel(), values
    if x.is_complex():
        x = x.abs()
    elif not x.is_floating_point():
        x = x.double()
    return x, implicit


def _cpu_moments(x: Tensor) -> list[float]:
    """Moments of a dense real CPU tensor, block by block."""
    flat = _flat(x)
    n = flat.numel()
    if n <= _BLOCK:
        moments = _block_moments(flat, n) if n else list(_NOTHING)
    else:
        moments = [0.0, 0.0, 0.0, 0.0, math.inf, -math.inf, 0.0, math.nan, math.nan]
        for block in flat.split(_BLOCK):
            _add(moments, _block_moments(block, block.numel()))
    if x.dtype in _SIXTEEN_BIT:
        moments[_SUBNORMAL] = _count_subnormal(flat)
    finite = n - moments[_NONFINITE]
    if moments[_MIN] < moments[_MAX]:
        # ratios first: squares may be out of range
        mean, rms = moments[_SUM] / finite, moments[_NORM] / math.sqrt(finite)
        if not (1 - (mean / rms) ** 2) * _CANCELLING > 1:
            moments[_STD] = _two_pass_std(flat, mean, finite)
    return moments


def _block_moments(block: Tensor, n: int) -> list[float]:
    """Moments of a 1-D contiguous tensor that fits the cache; `n` is its length, at least 1."""
    if block.dtype not in _NATIVE:
        block = block.float()
    square = torch.dot(block, block).item()
    if not _TINY_SQUARE * n < square < math.inf:
        return _exact(block)  # zeros, tiny, huge or not finite
    array = block.numpy()
    low, high = float(_minimum(array)), float(_maximum(array))
    zeros = 0
    if low <= 0 <= high:
        zeros = int(np.count_nonzero(np.equal(array, 0, out=_mask()[:n])))
    return [n, 0, block.sum().item(), math.sqrt(square), low, high, zeros, math.nan, math.nan]


def _add(moments: list[float], part: list[float]) -> None:
    """Adds the moments of a part to those of a whole."""
    for index in (_NUMEL, _NONFINITE, _SUM, _ZEROS):
        moments[index] += part[index]
    moments[_NORM] = math.hypot(moments[_NORM], part[_NORM]) if moments[_NORM] else part[_NORM]
    moments[_MIN], moments[_MAX] = min(moments[_MIN], part[_MIN]), max(moments[_MAX], part[_MAX])


def _count_subnormal(flat: Tensor) -> int:
    tiny, count = torch.finfo(flat.dtype).tiny, 0
    for block in flat.split(_BLOCK):
        magnitude = np.abs(block.float().numpy())
        count += int(np.count_nonzero((magnitude < tiny) & (magnitude > 0)))
    return count


def _row_moments(x: Tensor, implicit_zeros: int = 0) -> Tensor:
    """Moments of each row of x, (row, moment), in float64 and on its device; nothing over- or underflows or cancels.

    To each row belong `implicit_zeros` more elements, that a sparse tensor does not store.
    """
    sixteen_bit, tiny = x.dtype in _SIXTEEN_BIT, torch.finfo(x.dtype).tiny
    x = x.double()  # a float32 neither over- nor underflows when squared in float64
    rows, n = x.shape[0], x.shape[1] + implicit_zeros
    if not x.numel():
        return torch.tensor([_NOTHING] * rows, dtype=torch.float64, device=x.device)
    finite = torch.isfinite(x)
    kept = torch.where(finite, x, 0.0)
    bound = 0.0 if implicit_zeros else math.inf
    low = torch.where(finite, x, math.inf).amin(1).clamp(max=bound)
    high = torch.where(finite, x, -math.inf).amax(1).clamp(min=-bound)
    nonfinite = (~finite).sum(1)
    count = (n - nonfinite).clamp(min=1)
    unit = kept.abs().amax(1)
    unit = torch.where(unit > 0, unit, 1.0)
    total = kept.sum(1)
    mean = total / count
    off = torch.where(finite, x - mean[:, None], 0.0).square().sum(1) + implicit_zeros * mean.square()
    zeros = (x == 0).sum(1) + implicit_zeros
    subnormal = ((kept != 0) & (kept.abs() < tiny)).sum(1) if sixteen_bit else torch.full_like(total, math.nan)
    norm = (kept / unit[:, None]).square().sum(1).sqrt() * unit
    return torch.stack(
        [torch.full_like(total, n), nonfinite, total, norm, low, high, zeros, (off / count).sqrt(), subnormal], dim=1
    )


_minimum, _maximum = np.minimum.reduce, np.maximum.reduce  # the methods add a call in Python


def _mask() -> NDArray[np.bool_]:
    """A block of bools, kept for each thread: fresh memory would cost more in page faults than the comparison does."""
    mask: NDArray[np.bool_] | None = getattr(_kept, "mask", None)
    if mask is None:
        mask = _kept.mask = np.empty(_BLOCK, dtype=np.bool_)
    return mask


_kept = threading.local()


def _two_pass_std(flat: Tensor, mean: float, finite: float) -> float:
    norm = 0.0
    for block in flat.split(_BLOCK):
        centred = (block if block.dtype in _NATIVE else block.float()) - mean
        square = torch.dot(centred, centred).item()
        sound = _TINY_SQUARE * block.numel() < square < math.inf
        norm = math.hypot(norm, math.sqrt(square) if sound else _exact(centred)[_NORM])
    return norm / math.sqrt(finite)


def _exact(block: Tensor) -> list[float]:
    """Moments of a 1-D tensor, NaN and Inf left out, in float64 and scaled: nothing over- or underflows."""
    array = block.double().numpy()
    kept = array[np.isfinite(array)]
    bad = len(array) - len(kept)
    if not len(kept):
        return [len(array), bad, 0, 0, math.inf, -math.inf, 0, math.nan, math.nan]
    low, high = float(kept.min()), float(kept.max())
    unit = max(abs(low), abs(high)) or 1.0
    ratio = kept / unit
    zeros = int(np.count_nonzero(kept == 0))
    norm = math.sqrt(float(ratio @ ratio)) * unit
    return [len(array), bad, float(ratio.sum()) * unit, norm, low, high, zeros, math.nan, math.nan]


def _flat(x: Tensor) -> Tensor:
    """All elements of `x`, 1-D and contiguous, in the order of memory where that needs no copy."""
    if x.is_contiguous():
        return x.view(-1)
    if x.ndim > 1:
        by_stride = sorted(range(x.ndim), key=x.stride, reverse=True)
        x = x.permute(by_stride)  # contiguous now if x was a transposed or channels-last view
    return x.reshape(-1)


def _segment_moments(flat: _Floats, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """Moments of consecutive segments, none of them empty: (segment, moment)."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    x = flat.astype(np.float64)
    moments = np.full((len(lengths), _MOMENTS), np.nan)
    moments[:, _NUMEL], moments[:, _NONFINITE] = lengths, 0
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        moments[:, _SUM] = np.add.reduceat(x, starts)
        moments[:, _NORM] = np.sqrt(np.add.reduceat(x * x, starts))
        moments[:, _MIN], moments[:, _MAX] = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
        moments[:, _ZEROS] = np.add.reduceat(flat == 0, starts, dtype=np.int64)
        # in float64 the sums of float32 values neither overflow nor cancel; those of float64 values may
        square, mean = moments[:, _NORM] ** 2 / lengths, moments[:, _SUM] / lengths
        sound = np.isfinite(square) & (square > 1e-280) & ((1 - mean**2 / square) * 1e9 > 1)
        sound |= np.isfinite(square) & (moments[:, _MIN] == moments[:, _MAX])
    for i in np.flatnonzero(~sound):
        moments[i] = _cpu_moments(torch.from_numpy(x[starts[i] : starts[i] + lengths[i]]))
    return moments


def _with_zeros(moments: list[float], zeros: int) -> list[float]:
    """The moments of a sparse tensor from those of its values and the number of zeros that it does not store."""
    numel, nonfinite, total, norm, low, high, stored_zeros, _, subnormal = moments
    n = numel + zeros - nonfinite
    std = math.sqrt(max(norm**2 / n - (total / n) ** 2, 0.0))
    return [numel + zeros, nonfinite, total, norm, min(low, 0.0), max(high, 0.0), stored_zeros + zeros, std, subnormal]
