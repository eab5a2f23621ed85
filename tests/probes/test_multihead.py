"""What is recorded of nn.MultiheadAttention is what its own weights say."""

import math

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.probes.multihead import sharpness_of

HEADS, WIDTH, BATCH, LENGTH, KEYS = 2, 6, 3, 4, 5

KINDS: dict[str, dict[str, int | bool]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "bias for keys": {"add_bias_kv": True},
    "zero key": {"add_zero_attn": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True},
    "no bias": {"bias": False},
    "other widths": {"kdim": 3, "vdim": 2},
}
MASKS: dict[str, tuple[Tensor | None, Tensor | None]] = {
    "none": (None, None),
    "padding": (torch.arange(KEYS) >= torch.tensor([[5], [3], [2]]), None),
    "causal": (None, torch.ones(LENGTH, KEYS).triu(1).bool()),
    "added": (None, torch.randn(BATCH * HEADS, LENGTH, KEYS, generator=torch.Generator().manual_seed(3))),
    "both": (
        torch.zeros(BATCH, KEYS).masked_fill(torch.arange(KEYS) >= torch.tensor([[5], [3], [2]]), -math.inf),
        torch.zeros(LENGTH, KEYS).masked_fill(torch.ones(LENGTH, KEYS).triu(1).bool(), -math.inf),
    ),
}


def entropy_of(p: Tensor) -> Tensor:
    """Of each head, from the weights (batch, head, query, key) that the module itself returns."""
    keys = (p > 0).sum(-1)
    h = torch.special.entr(p.double()).sum(-1) / keys.clamp(min=2).log()
    told = keys >= 2
    return torch.where(told, h, 0).sum((0, 2)) / told.sum((0, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_entropy_is_that_of_the_weights_it_returns(kind: str, mask: str) -> None:
    torch.manual_seed(0)
    options = KINDS[kind]
    module = nn.MultiheadAttention(WIDTH, HEADS, **options)  # type: ignore[arg-type]
    query, key = torch.randn(BATCH, LENGTH, WIDTH) * 3, torch.randn(BATCH, KEYS, int(options.get("kdim", WIDTH)))
    value = torch.randn(BATCH, KEYS, int(options.get("vdim", WIDTH)))
    if not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    padding, excluded = MASKS[mask]
    weights = module(query, key, value, padding, True, excluded, average_attn_weights=False)[1]
    found = sharpness_of(module, query, key, padding, excluded)
    assert found is not None
    torch.testing.assert_close(found.entropy, entropy_of(weights), rtol=0, atol=1e-5)
    if kind == "plain" and mask == "none":
        q, k = (x.unflatten(2, (HEADS, -1)).permute(1, 2, 0, 3) for x in project(module, query, key))
        logits = q @ k.transpose(2, 3) / math.sqrt(WIDTH / HEADS)
        torch.testing.assert_close(found.max_logit.float(), logits.amax((0, 2, 3)))


def project(module: nn.MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    first, second, _ = module.in_proj_weight.chunk(3)
    return query @ first.t(), key @ second.t()


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.2, batch_first=True)
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x, value=x, need_weights=False)[0])


def test_heads_are_sites_of_the_module() -> None:
    torch.manual_seed(0)
    model, x = Encoder(), torch.randn(BATCH, LENGTH, WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wanted = sharpness_of(model.attention, x, x, None, None)
    assert wanted is not None
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(2):
            model(x).square().mean().backward()
            optimizer.step()
    trace = scope.trace
    for head in range(HEADS):
        found = trace.series("attention", "output", "attention_entropy", name=f"head{head}")
        assert found[0] == pytest.approx(float(wanted.entropy[head]), rel=1e-6)
    whole = trace.series("attention", "output", "max_logit", name="0")
    assert whole[0] == pytest.approx(float(wanted.max_logit.max()), rel=1e-6)
    assert not [s for s in trace.sites if "#" in s.module]


def test_unbatched_half_precision_and_unreadable_weights() -> None:
    module, x = nn.MultiheadAttention(WIDTH, HEADS), torch.randn(LENGTH, WIDTH)
    alone = sharpness_of(module, x, x, None, None)
    together = sharpness_of(module, x[:, None], x[:, None], None, None)
    assert alone is not None
    assert together is not None
    torch.testing.assert_close(alone.entropy, together.entropy)
    with torch.autocast("cpu", torch.bfloat16):
        cast = sharpness_of(module, x.bfloat16(), x.bfloat16(), None, None)
    assert cast is not None
    torch.testing.assert_close(cast.entropy, alone.entropy, rtol=0, atol=0.01)
    nn.utils.parametrizations.spectral_norm(module, "in_proj_weight")
    assert sharpness_of(module, x, x, None, None) is None
