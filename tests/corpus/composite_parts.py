"""Faults in one part of a larger model, and one that grows from step to step."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, case, prepare, randn, root, train
from corpus.measure import (
    BLOCKED,
    BLOWN,
    STALLS,
    no_gradient,
    outputs,
    share_of,
    spread,
    through_time,
)
from corpus.parts import Mlp, blobs, classify, digits, flat_digits
from torch import Tensor, nn


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
        self.mu, self.logvar = nn.Linear(48, 8), nn.Linear(48, 8)
        self.dec = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.enc(x)
        mu, logvar = self.mu(h), self.logvar(h).clamp(-8, 8)
        return self.dec(mu + (0.5 * logvar).exp() * torch.randn_like(mu)), mu, logvar


def _elbo(beta: float):
    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        out, mu, logvar = model(data[0])
        divergence = 0.5 * (mu.pow(2) + logvar.exp() - 1 - logvar).sum(1).mean()
        return F.mse_loss(out, data[0]) + beta * divergence

    return loss


@case("s_posterior_of_vae_collapses_under_beta_30")
def _() -> Case:
    """A divergence weighted by 30 drives every posterior to the prior: the code says nothing about the picture."""

    def verify(k: Case) -> dict[str, object]:
        mean = spread(outputs(k, "mu", model=train(k)[0])[0])
        return {"spread_of_means": mean, "sick": mean < 0.05}

    c = Case(
        family="composite",
        build=Variational,
        batch=flat_digits,
        loss=_elbo(30.0),
        optimizer=adam(3e-3),
        steps=150,
        expect=(
            root("constant-output", r"mu|logvar|dec(\.\d)?|"),
            root("rank-collapse", r"mu|logvar|enc(\.\d)?|dec(\.\d)?"),
            root("forward-variance-collapse", r"mu|logvar"),
            *BLOCKED,
            also("dead-units"),
            also("rank-collapse"),
        ),
        fix=lambda: c.but(loss=_elbo(1e-3), steps=200),
        verify=verify,
    )
    return c


class Sparse(nn.Module):
    """One expert per sample, weighted by what the router gives it."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.experts = nn.ModuleList(Mlp([8, 16, 4], nn.SiLU) for _ in range(4))
        self.router.bias.data[1] += bias

    def forward(self, x: Tensor) -> Tensor:
        weight = self.router(x).softmax(1)
        best, which = weight.max(1)
        out = x.new_zeros(len(x), 4)
        for number, expert in enumerate(self.experts):
            rows = which == number
            if rows.any():
                out[rows] = expert(x[rows])
        return best[:, None] * out


@case("s_experts_never_chosen_by_router")
def _() -> Case:
    """The router prefers its second expert by a bias of 60: the other three never see a sample."""
    c = Case(
        family="composite",
        build=lambda: Sparse(60.0),
        batch=blobs,
        loss=classify,
        optimizer=adam(3e-3),
        steps=60,
        expect=(
            root("no-gradient", r"experts(\.[023](\.\w+)*)?|router"),
            root("saturation", r"router|"),
            *STALLS,
            also("constant-output"),
        ),
        fix=lambda: c.but(build=lambda: Sparse(0.0), optimizer=adam(5e-3), steps=80),
        verify=no_gradient(r"experts\.[023]\."),
    )
    return c


class UNet(nn.Module):
    def __init__(self, offset: float) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.enc2 = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.bottom = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.dec2 = nn.Sequential(nn.Conv2d(32, 8, 3, padding=1), nn.SiLU())
        self.dec1, self.last = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.SiLU()), nn.Conv2d(8, 1, 1)
        nn.init.constant_(self.bottom[1].bias, offset)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enc1(x)
        b = self.enc2(a)
        c = F.interpolate(self.bottom(b), scale_factor=2)
        d = F.interpolate(self.dec2(torch.cat([b, c], 1)), scale_factor=2)
        return self.last(self.dec1(torch.cat([a, d], 1)))


def _denoise(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    x = data[0]
    return F.mse_loss(model(x + 0.3 * torch.randn_like(x)), x)


@case("s_dead_bottom_of_unet")
def _() -> Case:
    """The deepest block of a U-Net is silent; the shortcuts do all the work, and the loss falls."""
    c = Case(
        family="composite",
        build=lambda: UNet(-8.0),
        batch=lambda step: digits(step, 24),
        loss=_denoise,
        optimizer=adam(3e-3),
        steps=50,
        expect=(root("dead-units", r"bottom(\.\d)?"), *BLOCKED, also("rank-collapse")),
        fix=lambda: c.but(build=lambda: UNet(0.0)),
        verify=share_of("bottom.2", lambda units: units == 0, above=0.99),
    )
    return c


@case("s_late_layer_inflated_every_step")
def _() -> Case:
    """From step 25 on, a 'normalisation' after the optimizer's step multiplies the third layer by 1.3 instead."""

    def inflate(model: nn.Module, step: int) -> None:
        if step >= 25:
            model.layers[2].weight.data.mul_(1.3)

    def verify(k: Case) -> dict[str, object]:
        start, later = prepare(k)[0], train(k, steps=45)[0]
        a, b = (spread(outputs(k, "layers.2", model=model)[0]) for model in (start, later))
        return {"start": a, "later": b, "sick": not b < 50 * a}

    c = Case(
        family="composite",
        build=lambda: Mlp([8, 32, 32, 32, 4]),
        batch=blobs,
        loss=classify,
        optimizer=adam(1e-3),
        after_step=inflate,
        steps=70,
        expect=(
            root("forward-variance-explosion", r"(layers|acts)\.2|head"),
            root("exploding-gradient", r"(layers|acts)\.\d|head|"),
            *BLOWN,
        ),
        fix=lambda: c.but(after_step=None, optimizer=adam(3e-3)),
        verify=verify,
    )
    return c


class Relay(nn.Module):
    """A loop over LSTM cells in the middle of a nested model."""

    def __init__(self, forget: float) -> None:
        super().__init__()
        self.frontend = nn.Sequential(nn.Linear(4, 16), nn.GELU())
        self.core = nn.ModuleDict({"memory": nn.LSTMCell(16, 20)})
        self.backend = nn.Sequential(nn.LayerNorm(20), nn.Linear(20, 4))
        self.core["memory"].bias_ih.data[20:40] = forget

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 20)
        for now in self.frontend(x).unbind(1):
            h, c = self.core["memory"](now, (h, c))
        return self.backend(h)


def _question(step: int) -> tuple[Tensor, Tensor]:
    x = 0.2 * randn(48, 24, 4, step=step, salt=91)
    y = x[:, :2].mean(1).argmax(1)
    x[torch.arange(48), 0, y] += 1.0
    return x, y


@case("s_memory_in_nested_model_forgets")
def _() -> Case:
    """The cells at the core of a nested model forget at once; frontend and backend are sound."""
    c = Case(
        family="composite",
        build=lambda: Relay(-6.0),
        batch=_question,
        loss=classify,
        optimizer=adam(2e-3),
        steps=50,
        expect=(
            root("vanishing-through-time", r"|core(\.memory)?"),
            root("vanishing-gradient", r"|core(\.memory)?"),
            *STALLS,
            also("saturation"),
        ),
        fix=lambda: c.but(build=lambda: Relay(3.0), optimizer=adam(1e-2), steps=100),
        verify=through_time(below=1e-6),
    )
    return c
