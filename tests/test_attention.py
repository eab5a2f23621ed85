"""Entropy and largest logit of attention, against a loop over queries in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gradscope import attention
from gradscope.attention import EXCLUDED, of_logits, of_queries_and_keys


def slowly(x: Tensor) -> tuple[list[float], list[float]]:
    """Entropy and largest logit of each head: (batch, head, query, key), excluded keys at −∞."""
    entropies, largest = [], []
    for head in range(x.shape[1]):
        told, top = [], []
        for row in x[:, head].reshape(-1, x.shape[-1]).double():
            seen = [v for v in row.tolist() if v > EXCLUDED]
            top += seen
            if len(seen) < 2:
                continue
            total = math.fsum(math.exp(v - max(seen)) for v in seen)
            p = [math.exp(v - max(seen)) / total for v in seen]
            told.append(-math.fsum(q * math.log(q) for q in p if q) / math.log(len(seen)))
        entropies.append(math.fsum(told) / len(told) if told else math.nan)
        largest.append(max(top, default=math.nan))
    return entropies, largest


def assert_found(found: attention.Sharpness, logits: Tensor) -> None:
    entropy, largest = slowly(logits)
    torch.testing.assert_close(found.entropy, torch.tensor(entropy).double(), rtol=0, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(found.max_logit, torch.tensor(largest).double(), rtol=1e-5, atol=1e-5, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), sharing=st.integers(1, 3), length=st.integers(1, 7),
    keys=st.integers(1, 9), scale=st.sampled_from([None, 0.1, 3.0]), seed=st.integers(0, 99),
    mask=st.sampled_from(["none", "bool", "float", "padding", "nothing", "causal"]),
    block=st.sampled_from([1, 24, 10**6]),
)  # fmt: skip
def test_fused_attention_is_as_sharp_as_its_logits(batch, groups, sharing, length, keys, scale, seed, mask, block):
    draw = torch.Generator().manual_seed(seed)
    heads, width = groups * sharing, 4
    q = torch.randn(batch, heads, length, width, generator=draw) * 3
    k = torch.randn(batch, groups, keys, width, generator=draw)
    logits = q.double() @ k.double().repeat_interleave(sharing, 1).transpose(2, 3) * (0.5 if scale is None else scale)
    given_mask, causal = None, mask == "causal"
    if mask == "bool":
        given_mask = torch.rand(batch, heads, length, keys, generator=draw) > 0.4
    elif mask == "float":
        given_mask = torch.randn(length, keys, generator=draw).masked_fill(torch.eye(length, keys).bool(), -math.inf)
    elif mask == "padding":
        given_mask = (torch.rand(batch, 1, 1, keys, generator=draw) > 0.3).float().sub(1).mul(1e9)
    elif mask == "nothing":
        given_mask = torch.zeros(1, 1, length, keys, dtype=torch.bool)
    if causal:
        logits = logits.masked_fill(~torch.ones(length, keys).tril().bool(), -math.inf)
    elif given_mask is not None and given_mask.dtype is torch.bool:
        logits = logits.masked_fill(~given_mask, -math.inf)
    elif given_mask is not None:
        logits = logits + given_mask
    state = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", block)
        found = of_queries_and_keys(q, k, scale=scale, mask=given_mask, causal=causal)
        assert_found(found, logits)
        assert_found(of_logits(logits.float()), logits)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_logits_are_those_of_torch():
    q, k, mask = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 6, 8), torch.rand(2, 1, 5, 6) > 0.5
    mask[..., 0] = True
    eye = torch.eye(6).expand(2, 2, 6, 6)
    p = F.scaled_dot_product_attention(q, k, eye, mask, scale=0.7, enable_gqa=True)
    found = of_queries_and_keys(q, k, mask=mask, scale=0.7)
    torch.testing.assert_close(found.entropy.float(), torch.tensor(slowly(p.log())[0]))  # log p is a logit, shifted


def test_alike_everywhere_is_one_and_one_key_is_zero():
    alike = of_queries_and_keys(torch.zeros(1, 2, 3, 4), torch.randn(1, 2, 5, 4))
    assert alike.entropy.tolist() == pytest.approx([1, 1])
    assert alike.max_logit.tolist() == [0, 0]
    assert of_logits(torch.eye(6)[None, None] * 1e4).entropy.tolist() == pytest.approx([0], abs=1e-6)


def test_without_an_axis_of_heads_there_is_one():
    q, k = torch.randn(3, 5, 4), torch.randn(3, 7, 4)
    assert_found(of_queries_and_keys(q, k), (q @ k.transpose(1, 2) / 2)[:, None])
    assert_found(of_queries_and_keys(q[0], k[0]), (q[0] @ k[0].T / 2)[None, None])
    many = torch.randn(2, 3, 4, 5, 6)
    assert_found(of_logits(many), many.flatten(0, 1))


@pytest.mark.parametrize(("query", "key"), [((1, 2), (3, 2)), ((3, 2), (1, 2)), ((3, 1), (3, 2)), ((1, 1), (3, 2))])
def test_one_may_stand_for_a_batch(query, key):
    q, k = torch.randn(*query, 5, 4), torch.randn(*key, 6, 4)
    assert_found(of_queries_and_keys(q, k), q @ k.transpose(2, 3) / 2)


def test_what_is_not_finite_or_empty_tells_nothing():
    x = torch.randn(1, 2, 3, 4)
    x[0, 0, 0, 0] = math.nan
    x[0, 1] = math.inf
    found = of_logits(x)
    entropy, largest = slowly(x[:, :1, 1:])
    assert found.entropy[0] == pytest.approx(entropy[0], abs=1e-6)
    assert found.max_logit[0] == pytest.approx(largest[0])
    assert found.entropy[1].isnan()
    assert found.max_logit[1].isnan()
    assert of_logits(torch.empty(0, 2, 3, 4)).entropy.isnan().all()


def test_half_precision_and_autocast_are_measured_in_float32():
    q, k = torch.randn(1, 2, 5, 64), torch.randn(1, 2, 6, 64)
    whole = of_queries_and_keys(q, k)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(of_queries_and_keys(q, k).entropy, whole.entropy)
    half = of_queries_and_keys(q.bfloat16(), k.bfloat16())
    assert_found(half, q.bfloat16().double() @ k.bfloat16().double().transpose(2, 3) / 8)


def test_no_more_than_a_block_is_in_memory_at_once(monkeypatch):
    sizes = []
    kept = attention._Totals.add
    monkeypatch.setattr(attention, "BLOCK", 1000)
    monkeypatch.setattr(attention._Totals, "add", lambda self, x, keys: (sizes.append(x.numel()), kept(self, x, keys)))
    of_queries_and_keys(torch.randn(5, 4, 30, 2), torch.randn(5, 4, 20, 2))
    of_logits(torch.randn(50, 2, 3, 4))
    assert max(sizes) <= 1000
    assert len(sizes) < 20
