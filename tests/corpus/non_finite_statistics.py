"""NaNs out of deviations, missing values, variances and roots."""

import torch
from corpus.case import Case, adam, also, case, root, sgd
from corpus.measure import becomes_nan
from corpus.parts import Mlp, classify, flat_digits, reconstruct, regress, surface
from torch import Tensor, nn

AFTER = (also("non-finite"), also("loss-divergence"), also("exploding-gradient"), also("update-too-large"))


class Standardise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(0)
        return centred / ((centred.pow(2).sum(0) / (len(x) - 1)).sqrt() + 1e-5)


class HandNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inlet, self.norm = nn.Linear(6, 32), Standardise()
        self.act, self.outlet = nn.SiLU(), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outlet(self.act(self.norm(self.inlet(x))))


@case("s_nan_own_batch_norm_on_last_single_sample")
def _() -> Case:
    """A hand-written batch norm: the standard deviation of the one sample left over at step 9 is NaN."""

    def batch(step: int, left_over: int = 1) -> tuple[Tensor, Tensor]:
        return surface(step, left_over if step % 10 == 9 else 64)

    c = Case(
        family="non-finite",
        build=HandNormed,
        batch=batch,
        loss=regress,
        optimizer=sgd(0.05),
        steps=25,
        expect=(root("non-finite", r"norm"), *AFTER),
        fix=lambda: c.but(batch=lambda step: batch(step, 40), optimizer=sgd(0.1), steps=80),
        verify=becomes_nan,
    )
    return c


@case("s_nan_missing_value_in_the_data")
def _() -> Case:
    """One missing value, read as NaN, in the batch of step 12; the model itself is sound."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = flat_digits(step)
        if step == 12:
            x = x.clone()
            x[4, 17] = float("nan")
        return x, y

    c = Case(
        family="non-finite",
        build=lambda: Mlp([64, 32, 32, 10], nn.GELU),
        batch=batch,
        loss=classify,
        optimizer=adam(3e-3),
        steps=25,
        expect=(root("non-finite", r"|layers\.0"), *AFTER),
        fix=lambda: c.but(batch=flat_digits, steps=60),
        verify=becomes_nan,
    )
    return c


class Variational(nn.Module):
    def __init__(self, log_variance: float) -> None:
        super().__init__()
        self.enc, self.act = nn.Linear(64, 32), nn.ReLU()
        self.mu, self.logvar, self.dec = nn.Linear(32, 6), nn.Linear(32, 6), nn.Linear(6, 64)
        self.logvar.weight.data.mul_(log_variance)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.enc(x))
        mu, logvar = self.mu(h), self.logvar(h)
        return self.dec(mu + (0.5 * logvar).exp() * torch.randn_like(mu))


@case("s_nan_variance_overflows_in_encoder")
def _() -> Case:
    """The log-variances of a variational encoder begin in the hundreds: their exp is infinite."""
    c = Case(
        family="non-finite",
        build=lambda: Variational(2000.0),
        batch=flat_digits,
        loss=reconstruct,
        optimizer=adam(2e-3),
        steps=15,
        expect=(root("non-finite", r"|logvar|dec"), root("forward-variance-explosion", r"logvar"), *AFTER),
        fix=lambda: c.but(build=lambda: Variational(0.01), optimizer=adam(5e-3), steps=150),
        verify=becomes_nan,
    )
    return c


class RootOfPositive(nn.Module):
    def __init__(self, safe: bool) -> None:
        super().__init__()
        self.safe = safe

    def forward(self, x: Tensor) -> Tensor:
        inside = x.clamp(min=1e-6) if self.safe else x
        return torch.where(x > 0, inside.sqrt(), torch.zeros_like(x))


@case("s_nan_where_over_square_root")
def _() -> Case:
    """torch.where hides the root of a negative number from the forward pass, and not from the backward pass."""

    class Net(nn.Module):
        def __init__(self, safe: bool) -> None:
            super().__init__()
            self.fc1, self.root, self.fc2 = nn.Linear(6, 32), RootOfPositive(safe), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.root(self.fc1(x)))

    c = Case(
        family="non-finite",
        build=lambda: Net(False),
        batch=surface,
        loss=regress,
        optimizer=sgd(0.02),
        steps=10,
        expect=(root("non-finite", r"root|fc1"), *AFTER, also("dead-units"), also("constant-output")),
        fix=lambda: c.but(build=lambda: Net(True), optimizer=adam(5e-3), steps=120),
        verify=becomes_nan,
    )
    return c
