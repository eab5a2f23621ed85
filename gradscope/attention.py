"""How sharply attention looks, and how large its logits are.

For each query with the logits x over the n keys that no mask excludes, and p = softmax(x):

    attention_entropy   H(p) / log n, the mean over all queries with n ≥ 2:  1 looks everywhere alike, 0 at one key
    max_logit           the largest x, scaled and masked as softmax gets it

Fused attention never shows its logits, so they are computed again from queries and keys, in float32, a block at a time:
a block holds at most `BLOCK` logits (or one query's, of all heads, if those are more), and three of its size are in
memory at once. No random number is drawn: dropout comes after softmax and is no part of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1 << 19  # logits
EXCLUDED = -9000.0  # at or below, a mask is meant: BERT adds −10 000, others −1e9, the least number, or −∞
_FLOOR = -1e30  # takes the place of −∞, which times zero is no number
_NOTHING = -87.0  # exp is 1e-38 here; below it takes a CPU three times as long, to add less


@dataclass(frozen=True, slots=True)
class Sharpness:
    """Of each head; NaN where no query tells. Shape (head,), float64, on the device of the logits."""

    entropy: Tensor
    max_logit: Tensor


def of_logits(logits: Tensor) -> Sharpness:
    """Of what softmax along the last axis is given: (batch…, head, query, key); without a batch it is one head."""
    x = _four_axes(logits.detach())
    totals = _Totals(x.shape[1], x.device)
    for batch, rows in _blocks(*x.shape):
        part = x[batch, :, rows].float()
        excluded = part <= EXCLUDED
        totals.add(part.masked_fill(excluded, _FLOOR), (~excluded).sum(-1))
    return totals.result()


def of_queries_and_keys(
    query: Tensor, key: Tensor, *, scale: float | None = None, mask: Tensor | None = None, causal: bool = False
) -> Sharpness:
    """Of attention over `query` (batch…, head, query, width) and `key` (batch…, group of heads, key, width).

    Args:
        query: Without a batch there is one head.
        key: As many heads as `query`, or a divisor of that: consecutive heads share one.
        scale: Of the logits; by default 1/√width.
        mask: True where a query may see a key, or what is added to the logits; any shape that fits them.
        causal: Query i sees the keys up to i.
    """
    query, key = _of_one_batch(query.detach(), key.detach())
    q, k = _four_axes(query), _four_axes(key)
    batches, heads, length, width = q.shape
    groups, keys = k.shape[1], k.shape[2]
    factor = 1 / math.sqrt(width) if scale is None else scale
    if mask is not None:
        mask = mask.detach().expand(*query.shape[:-1], keys).reshape(batches, heads, length, keys)
    totals = _Totals(heads, q.device)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        for batch, rows in _blocks(batches, heads, length, keys):
            part = q[batch, :, rows].float() * factor
            n, lines = part.shape[0], part.shape[2]
            x = torch.matmul(part.reshape(n, groups, -1, width), k[batch].float().transpose(2, 3))
            x = x.view(n, heads, lines, keys)
            totals.add(*_masked(x, None if mask is None else mask[batch, :, rows], rows.start if causal else None))
    return totals.result()


def _masked(x: Tensor, mask: Tensor | None, first: int | None) -> tuple[Tensor, Tensor]:
    """Logits with what is excluded at the floor, and how many are left in each row; `first` is the first causal row."""
    allowed: Tensor | None = None
    if mask is not None and mask.dtype is not torch.bool:
        x = x + mask
        mask = mask > EXCLUDED
    if mask is not None:
        allowed = mask
    if first is not None:
        lines, keys = x.shape[-2:]
        seen = torch.arange(first, first + lines, device=x.device)[:, None] >= torch.arange(keys, device=x.device)
        allowed = seen if allowed is None else allowed & seen
    if allowed is None:
        return x, torch.full((), x.shape[-1], device=x.device)
    return x.masked_fill_(~allowed, _FLOOR), allowed.sum(-1)


class _Totals:
    """Sums over blocks, for each head."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self._entropy = torch.zeros(heads, dtype=torch.float64, device=device)
        self._rows = torch.zeros(heads, dtype=torch.float64, device=device)
        self._largest = torch.full((heads,), -math.inf, dtype=torch.float64, device=device)

    def add(self, x: Tensor, keys: Tensor) -> None:
        """Takes in logits (batch, head, query, key), which are overwritten, and the number of keys of each query."""
        largest = x.amax(-1)
        x.sub_(largest[..., None]).clamp_(min=_NOTHING)
        weight = x.exp()
        total = weight.sum(-1)
        entropy = (total.log() - weight.mul_(x).sum(-1) / total) / keys.clamp(min=2).double().log()
        told = (keys >= 2) & entropy.isfinite()
        self._entropy += torch.where(told, entropy, 0.0).sum((0, 2))
        self._rows += told.sum((0, 2))
        seen = (keys >= 1) & largest.isfinite()
        self._largest = torch.maximum(self._largest, torch.where(seen, largest, -math.inf).amax((0, 2)).double())

    def result(self) -> Sharpness:
        """The means and the maxima."""
        largest = self._largest
        return Sharpness(self._entropy / self._rows, torch.where(largest == -math.inf, math.nan, largest))


def _of_one_batch(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Both for the same batch: torch lets one of them stand for many."""
    q, k = query.shape, key.shape
    if q[:-3] != k[:-3] or (len(q) > 2 and q[-3] < k[-3]):
        batch = torch.broadcast_shapes(q[:-3], k[:-3])
        query = query.expand(*batch, *([max(q[-3], k[-3])] if len(q) > 2 else []), *q[-2:])
        key = key.expand(*batch, *k[-3:])
    return query, key


def _four_axes(x: Tensor) -> Tensor:
    """(batch, head, query, …) from (batch…, head, query, …), or from (batch, query, …) of one head."""
    if x.ndim == 4:
        return x
    if x.ndim == 3:
        return x.unsqueeze(1)
    return x.flatten(0, -4) if x.ndim > 4 else x.reshape(1, 1, *x.shape[-2:])


def _blocks(batches: int, heads: int, length: int, keys: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the batch and of the queries, each with at most `BLOCK` logits where one query has not more."""
    if not batches or not length or not keys or not heads:
        return
    rows = min(length, max(1, BLOCK // (heads * keys)))
    many = max(1, BLOCK // (heads * keys * rows)) if rows == length else 1
    for batch in range(0, batches, many):
        for row in range(0, length, rows):
            yield slice(batch, min(batch + many, batches)), slice(row, min(row + rows, length))
