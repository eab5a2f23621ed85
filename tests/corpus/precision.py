"""Numbers that do not fit into 16 bits."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, gradients, prepare, rms, root, sgd, train
from corpus.measure import BLOWN, STALLS, outputs
from corpus.parts import Mlp, blobs, classify, digits, flat_digits, regress, surface, tokens
from torch import Tensor, nn

LOST = (*STALLS, also("no-gradient"), also("zero-loss-gradient"), also("low-precision-underflow"))
OVER = (*BLOWN, also("low-precision-overflow"))


def _zeros(pattern: str):
    """The share of gradients that are exactly zero in 16 bits and are not in 32."""

    def verify(k: Case) -> dict[str, object]:
        found = {n: g for n, g in gradients(k)[1].items() if pattern in n and g is not None}
        model = prepare(k)[0].float()
        exact = gradients(k.but(precision=None), model=model)[1]
        lost = sum(int(((g == 0) & (exact[n] != 0)).sum()) for n, g in found.items())
        there = sum(int((exact[n] != 0).sum()) for n in found)
        return {"lost": lost / max(there, 1), "sick": lost > 0.5 * there}

    return verify


@case("s_fp16_tiny_loss_without_scaling")
def _() -> Case:
    """Autocast to fp16, a loss weighted by 1e-7, and no loss scaling: the gradients are rounded to zero."""
    c = Case(
        family="precision",
        build=lambda: Mlp([64, 64, 64, 10], nn.GELU),
        batch=flat_digits,
        loss=lambda m, b: 1e-7 * classify(m, b),
        optimizer=adam(2e-3),
        steps=40,
        precision="fp16",
        expect=(root("low-precision-underflow"), *LOST),
        fix=lambda: c.but(loss=classify, loss_scale=1024.0, steps=60),
        verify=_zeros("layers."),
    )
    return c


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 12, 3, padding=1)
        self.mid, self.up = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 1, 3, padding=1)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.act(self.mid(self.act(self.down(x)))))


def _ink(weight: float):
    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        x = data[0]
        filled = (F.avg_pool2d(x, 3, 1, 1) > 0.4).float()
        return weight * F.binary_cross_entropy_with_logits(model(x).float(), filled)

    return loss


@case("s_fp16_mean_over_pixels_underflows")
def _() -> Case:
    """Segmentation in fp16: the mean over 6144 pixels, weighted by 1e-5, is below the smallest number there is."""
    c = Case(
        family="precision",
        build=Segmenter,
        batch=lambda step: digits(step, 96),
        loss=_ink(1e-5),
        optimizer=adam(5e-3),
        steps=30,
        precision="fp16",
        expect=(root("low-precision-underflow"), *LOST),
        fix=lambda: c.but(loss=_ink(1.0), loss_scale=4096.0, steps=60),
        verify=_zeros("down.weight"),
    )
    return c


def _halved(dtype: torch.dtype, sizes: list[int]) -> nn.Module:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Mlp(sizes)
            self.to(dtype)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.to(self.net.head.weight.dtype)).float()

    return Cast()


@case("s_bf16_weights_swallow_small_updates")
def _() -> Case:
    """Weights kept in bf16 under SGD with 1e-4: a step is less than half of the last digit, and is rounded away."""

    def verify(k: Case) -> dict[str, object]:
        before = [p.detach().clone() for n, p in prepare(k)[0].named_parameters() if n.endswith("weight")]
        after = [p.detach() for n, p in train(k, steps=1)[0].named_parameters() if n.endswith("weight")]
        moved = sum(int((a != b).sum()) for a, b in zip(after, before, strict=True)) / sum(b.numel() for b in before)
        return {"moved": moved, "sick": moved < 0.1}

    c = Case(
        family="precision",
        build=lambda: _halved(torch.bfloat16, [64, 48, 48, 10]),
        batch=flat_digits,
        loss=classify,
        optimizer=sgd(1e-4),
        steps=60,
        expect=(root("low-precision-underflow"), root("update-too-small"), *LOST),
        fix=lambda: c.but(build=lambda: _halved(torch.float32, [64, 48, 48, 10]), optimizer=sgd(0.2), steps=100),
        verify=verify,
    )
    return c


@case("s_fp16_model_halved_with_small_loss")
def _() -> Case:
    """model.half(), and a loss weighted by 1e-7 as one of many terms: what comes back lies below 6e-8."""
    c = Case(
        family="precision",
        build=lambda: _halved(torch.float16, [6, 64, 64, 1]),
        batch=lambda step: surface(step, 128),
        loss=lambda m, b: 1e-7 * regress(m, b),
        optimizer=sgd(100.0),
        steps=40,
        expect=(root("low-precision-underflow"), *LOST),
        fix=lambda: c.but(
            build=lambda: _halved(torch.float32, [6, 64, 64, 1]), loss=regress, optimizer=sgd(0.1), steps=120
        ),
        verify=_zeros("net."),
    )
    return c


def _leaves_range(*names: str):
    """Whether one of these modules returns an infinity."""

    def verify(k: Case) -> dict[str, object]:
        bad = [name for name, out in zip(names, outputs(k, *names), strict=True) if not out.isfinite().all()]
        return {"not_finite_at": bad, "sick": bool(bad)}

    return verify


@case("s_fp16_activations_above_65504")
def _() -> Case:
    """Features in the thousands, autocast to fp16: the second layer's sums leave its range."""

    def build(gain: float) -> nn.Module:
        model = Mlp([8, 128, 128, 4])
        for layer in model.layers:
            layer.weight.data.mul_(gain)
        return model

    def batch(step: int, unit: float = 1000.0) -> tuple[Tensor, Tensor]:
        x, y = blobs(step)
        return unit * x, y

    c = Case(
        family="precision",
        build=lambda: build(16.0),
        batch=batch,
        loss=classify,
        optimizer=adam(1e-3),
        steps=20,
        precision="fp16",
        loss_scale=8.0,
        expect=(root("low-precision-overflow", r"(layers|acts)\.[01]|head"), *OVER),
        fix=lambda: c.but(
            build=lambda: build(1.0), batch=lambda step: batch(step, 1.0), optimizer=adam(3e-3), steps=60
        ),
        verify=_leaves_range("layers.0", "layers.1"),
    )
    return c


class Scores(nn.Module):
    """Scores of queries and keys, in whatever precision they are asked for."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(self.scale * q, k.transpose(1, 2))


class HalfAttention(nn.Module):
    def __init__(self, big: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 64)
        self.q, self.k, self.v = (nn.Linear(64, 64) for _ in range(3))
        self.scores, self.head = Scores(1.0 if big else 64**-0.5), nn.Linear(64, 2)
        for layer in (self.q, self.k) if big else ():
            layer.weight.data.mul_(200)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        weights = self.scores(self.q(x), self.k(x)).softmax(-1)
        return self.head((x + weights @ self.v(x)).mean(1))


@case("s_fp16_attention_scores_overflow")
def _() -> Case:
    """Unscaled products of large queries and keys, in fp16: scores beyond 65504 become infinite, their softmax NaN."""
    c = Case(
        family="precision",
        build=lambda: HalfAttention(True),
        batch=tokens,
        loss=classify,
        optimizer=adam(1e-3),
        steps=20,
        precision="fp16",
        loss_scale=16.0,
        expect=(root("low-precision-overflow", r"scores|"), *OVER, also("attention-collapse")),
        fix=lambda: c.but(build=lambda: HalfAttention(False), optimizer=adam(3e-3), steps=60),
        verify=_leaves_range("scores"),
    )
    return c


@case("s_fp16_loss_scale_two_to_the_24")
def _() -> Case:
    """A fixed loss scale of 2²⁴: the first gradient in fp16 is already infinite."""

    def verify(k: Case) -> dict[str, object]:
        found = gradients(k)[1]
        bad = [n for n, g in found.items() if g is not None and not g.isfinite().all()]
        return {"not_finite": len(bad), "rms": rms(found["head.bias"]), "sick": bool(bad)}

    c = Case(
        family="precision",
        build=lambda: Mlp([8, 48, 48, 4], nn.Tanh),
        batch=blobs,
        loss=classify,
        optimizer=sgd(0.1),
        steps=15,
        precision="fp16",
        loss_scale=2.0**24,
        expect=(root("low-precision-overflow"), *OVER),
        fix=lambda: c.but(loss_scale=2.0**10, steps=60),
        verify=verify,
    )
    return c
