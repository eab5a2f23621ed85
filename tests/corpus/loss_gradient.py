"""Losses that hand (almost) nothing back."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, also, autocast_of, case, prepare, randn, rms, root, sgd
from corpus.measure import STALLS, outputs
from corpus.parts import ConvNet, Mlp, blobs, digits, flat_digits, regress, surface
from torch import Tensor, nn

FLAT = (*STALLS, also("no-gradient"), also("saturation"))


def _at_output(name: str, *, below: float = 1e-7):
    """Size of the loss' gradient at the output of `name`, the last module before the loss."""

    def verify(k: Case) -> dict[str, object]:
        model, _ = prepare(k)
        (out,) = outputs(_keeping(k), name, model=model)
        given = _keeping.loss
        (gradient,) = torch.autograd.grad(given, out, allow_unused=True)
        size = 0.0 if gradient is None else rms(gradient) * len(gradient)
        return {"at_output": size, "sick": size < below}

    return verify


def _keeping(k: Case) -> Case:
    """The same case, whose last loss can be asked for."""

    def loss(model: nn.Module, data: object) -> Tensor:
        _keeping.loss = k.loss(model, data)
        return _keeping.loss

    return k.but(loss=loss)


@case("s_flat_loss_clamped_below_its_start")
def _() -> Case:
    """A cross-entropy clamped to one at most 'against outliers', where everything begins at 2.3."""
    c = Case(
        family="loss",
        build=lambda: Mlp([64, 48, 32, 10]),
        batch=flat_digits,
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="none").clamp(max=1.0).mean(),
        optimizer=adam(2e-3),
        steps=50,
        expect=(root("zero-loss-gradient"), *FLAT),
        fix=lambda: c.but(loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]).clamp(max=100.0), steps=80),
        verify=_at_output("head"),
    )
    return c


class Metric(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedder = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 12))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.embedder(x), dim=1)


def _triplets(step: int) -> tuple[Tensor, Tensor, Tensor]:
    x, y = blobs(step, 60, classes=3)
    order = y.argsort(stable=True)
    x, y = x[order] + 1.2 * randn(60, 8, step=step, salt=62), y[order]
    positive = torch.stack([x[y == label][0] for label in y])
    negative = torch.stack([x[y != label][step % 7] for label in y])
    return x, positive, negative


def _triplet(margin: float):
    def loss(model: nn.Module, data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        a, p, n = (model(part) for part in data)
        return ((a - p).pow(2).sum(1) - (a - n).pow(2).sum(1) + margin).clamp(min=0).mean()

    return loss


@case("s_flat_triplet_margin_of_wrong_sign")
def _() -> Case:
    """The margin of a triplet loss is −4 instead of +1: every triplet is satisfied before training."""
    c = Case(
        family="loss",
        build=Metric,
        batch=_triplets,
        loss=_triplet(-4.0),
        optimizer=adam(2e-3),
        steps=40,
        expect=(root("zero-loss-gradient"), *FLAT),
        fix=lambda: c.but(loss=_triplet(1.0), steps=80),
        verify=_at_output("embedder"),
    )
    return c


class Detector(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.logit, self.sigmoid = nn.Linear(72, 10), nn.Sigmoid()
        self.logit.weight.data.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.sigmoid(self.logit(self.features(x)))


@case("s_flat_sigmoid_under_squared_error")
def _() -> Case:
    """Sigmoid outputs under a squared error begin at logits of thousands: wrong and sure, they get no gradient."""
    c = Case(
        family="loss",
        build=lambda: Detector(200000.0),
        batch=digits,
        loss=lambda m, b: F.mse_loss(m(b[0]), F.one_hot(b[1], 10).float()),
        optimizer=sgd(0.1),
        steps=50,
        expect=(root("zero-loss-gradient"), root("saturation", r"logit|sigmoid"), *FLAT, also("zero-loss-gradient")),
        fix=lambda: c.but(build=lambda: Detector(1.0), optimizer=adam(1e-2), steps=100),
        verify=_at_output("logit", below=3e-3),
    )
    return c


@case("s_flat_class_weights_all_zero")
def _() -> Case:
    """Weights of the classes by integer division: all of them are zero, and so is the loss."""

    def weighted(model: nn.Module, data: tuple[Tensor, Tensor], whole: bool = True) -> Tensor:
        counts = data[1].bincount(minlength=4)
        weight = (4 // counts if whole else 16 / counts).float()
        return (weight[data[1]] * F.cross_entropy(model(data[0]), data[1], reduction="none")).mean()

    c = Case(
        family="loss",
        build=lambda: Mlp([8, 32, 32, 4], nn.SiLU),
        batch=blobs,
        loss=weighted,
        optimizer=adam(3e-3),
        steps=40,
        expect=(root("zero-loss-gradient"), *FLAT),
        fix=lambda: c.but(loss=lambda m, b: weighted(m, b, whole=False), steps=80),
        verify=_at_output("head"),
    )
    return c


@case("s_flat_loss_below_its_floor")
def _() -> Case:
    """relu(loss − 3), a flooding level far above what the loss ever was."""
    c = Case(
        family="loss",
        build=lambda: Mlp([6, 48, 48, 1], nn.Tanh),
        batch=surface,
        loss=lambda m, b: torch.relu(regress(m, b) - 3.0),
        optimizer=sgd(0.1, momentum=0.9),
        steps=40,
        expect=(root("zero-loss-gradient"), *FLAT),
        fix=lambda: c.but(loss=regress, optimizer=sgd(0.05, momentum=0.9), steps=100),
        verify=_at_output("head"),
    )
    return c


@case("s_flat_clamped_probabilities")
def _() -> Case:
    """The probability of the label is clamped to 0.2 … 1 before its log, and is 0.1 for nearly all at the start."""

    def clamped(model: nn.Module, data: tuple[Tensor, Tensor], least: float = 0.2) -> Tensor:
        p = model(data[0]).softmax(1).gather(1, data[1][:, None])
        return -p.clamp(min=least).log().mean()

    c = Case(
        family="loss",
        build=lambda: ConvNet(2, 12),
        batch=digits,
        loss=clamped,
        optimizer=adam(2e-3),
        steps=40,
        expect=(root("zero-loss-gradient"), *FLAT),
        fix=lambda: c.but(loss=lambda m, b: clamped(m, b, 1e-7), steps=80),
        verify=_at_output("fc"),
    )
    return c


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.policy = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.policy(self.shared(x)).log_softmax(1)


def _surrogate(behaviour: float):
    """The clipped objective for the good actions; `behaviour` is the log-probability they were taken with."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        now = model(data[0]).gather(1, data[1][:, None]).squeeze(1)
        ratio = (now - behaviour).exp()
        return 1.0 - torch.minimum(ratio, ratio.clamp(0.8, 1.2)).mean()

    return loss


@case("s_flat_stale_log_probabilities_all_clipped")
def _() -> Case:
    """Stale log-probabilities of −6: every ratio lies above the clip, where the surrogate is flat."""

    def verify(k: Case) -> dict[str, object]:
        model, _ = prepare(k)
        x, y = k.batch(0)
        log_p = model(x)
        with autocast_of(k):
            (given,) = torch.autograd.grad(k.loss(lambda _: log_p, (x, y)), log_p)
        return {"at_output": rms(given), "sick": rms(given) < 1e-9}

    c = Case(
        family="loss",
        build=Agent,
        batch=blobs,
        loss=_surrogate(-6.0),
        optimizer=adam(3e-3),
        steps=40,
        expect=(root("zero-loss-gradient"), *FLAT),
        fix=lambda: c.but(loss=lambda m, b: -m(b[0]).gather(1, b[1][:, None]).mean(), steps=80),
        verify=verify,
    )
    return c


class Adversaries(nn.Module):
    """A generator and a judge that is sure already."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6))
        self.judge = nn.Sequential(nn.Linear(6, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        self.judge.requires_grad_(False)
        self.judge[2].bias.fill_(-sure)

    def forward(self, z: Tensor) -> Tensor:
        return self.judge(self.generator(z))


@case("s_flat_generator_against_a_sure_judge")
def _() -> Case:
    """log(1 − D(G(z))) where the judge gives every fake e⁻³⁰: the generator gets nothing."""

    def batch(step: int) -> tuple[Tensor]:
        return (randn(64, 8, step=step, salt=61),)

    c = Case(
        family="loss",
        build=lambda: Adversaries(30.0),
        batch=batch,
        loss=lambda m, b: (1 - m(b[0]).sigmoid() + 1e-7).log().mean(),
        optimizer=adam(1e-3),
        steps=40,
        expect=(root("zero-loss-gradient"), *FLAT),
        fix=lambda: c.but(loss=lambda m, b: F.softplus(-m(b[0])).mean(), optimizer=adam(2e-2), steps=80),
        verify=_at_output("judge"),
    )
    return c
