"""Attention inside of `nn.MultiheadAttention`, which shows neither its logits nor its queries and keys.

They are computed again from what the module is given, before its forward, so that it takes whatever way it would take.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradscope import attention
from gradscope.probes.base import ForwardHook, Recorder
from gradscope.probes.sharpness import SharpSite

_ARGUMENTS = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")


class MultiheadHook(ForwardHook):
    """Records how sharp the heads of one `nn.MultiheadAttention` are, at sites of that module."""

    __slots__ = ("site",)

    def __init__(self, probe: str, recorder: Recorder, name: str) -> None:
        super().__init__(probe, recorder)
        self.site = SharpSite(name, "0")  # its first output; the second is the weights

    def see(self, module: nn.Module, args: tuple[object, ...], more: object) -> int:
        if not isinstance(module, nn.MultiheadAttention) or not isinstance(more, Mapping):
            return 1
        query, key, _, padding, _, mask = (
            args[i] if i < len(args) else more.get(name) for i, name in enumerate(_ARGUMENTS)
        )
        found = sharpness_of(module, query, key, padding, mask)
        if found is not None:
            self.site.emit(self.recorder, found, self.time)
        return 1


def sharpness_of(
    module: nn.MultiheadAttention, query: object, key: object, padding: object, mask: object
) -> attention.Sharpness | None:
    """Of each head of `module`; None where its weights cannot be read without changing them, as of shards."""
    weights = _weights(module)
    if weights is None or not isinstance(query, Tensor) or not isinstance(key, Tensor) or query.is_nested:
        return None
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        first, second, biases = weights
        q, k = (_batch_first(module, x.detach().float()) for x in (query, key))
        q, k = F.linear(q, first.float(), biases[0]), F.linear(k, second.float(), biases[1])
        extra = 0
        if module.bias_k is not None:
            k, extra = torch.cat([k, module.bias_k.float().expand(len(k), 1, -1)], 1), extra + 1
        if module.add_zero_attn:
            k, extra = F.pad(k, (0, 0, 0, 1)), extra + 1
        heads = module.num_heads
        q, k = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k))
        return attention.of_queries_and_keys(q, k, mask=_added(padding, mask, heads, q, extra))


def _weights(module: nn.MultiheadAttention) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor | None]] | None:
    """What makes queries and keys, and their biases. A parametrization may change its state when it is asked."""
    if "parametrizations" in module._modules:
        return None
    if module.in_proj_weight is not None:
        first, second, _ = module.in_proj_weight.detach().chunk(3)
    else:
        first, second = module.q_proj_weight.detach(), module.k_proj_weight.detach()
    if type(first) is not Tensor:
        return None
    bias = module.in_proj_bias
    biases = (None, None) if bias is None else bias.detach().float().chunk(3)[:2]
    return first, second, (biases[0], biases[1])


def _batch_first(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    if x.ndim == 2:
        return x.unsqueeze(0)
    return x if module.batch_first else x.transpose(0, 1)


def _added(padding: object, mask: object, heads: int, q: Tensor, extra: int) -> Tensor | None:
    """Both masks as what is added to the logits; `nn.MultiheadAttention` means "excluded" by True."""
    total: Tensor | None = None
    for given in (padding, mask):
        if not isinstance(given, Tensor):
            continue
        bias = given.detach()
        if bias.dtype is torch.bool:
            bias = torch.zeros(bias.shape, device=bias.device).masked_fill(bias, -torch.inf)
        if given is padding:
            bias = bias.reshape(-1, 1, 1, bias.shape[-1])
        elif bias.ndim == 3:
            bias = bias.unflatten(0, (-1, heads))
        total = bias if total is None else total + bias
    return None if total is None else F.pad(total, (0, extra)).to(q.device)
