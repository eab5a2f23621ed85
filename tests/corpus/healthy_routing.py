"""Parts that work in turns or for some samples: experts, heads, hard choices, weights made by other nets."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, adamw, case, randn
from corpus.tasks import cross_entropy, digits, healthy, perceptron, squared, surface
from torch import Tensor, nn


class Experts(nn.Module):
    """Each sample goes to the best of the experts; the loss of balance is kept in `balance`."""

    def __init__(self, experts: int, width: int = 32, fan_in: int = 64, out: int = 10) -> None:
        super().__init__()
        self.norm, self.router = nn.LayerNorm(fan_in), nn.Linear(fan_in, experts, bias=False)
        self.experts = nn.ModuleList(perceptron(fan_in, width, out, activation=nn.GELU) for _ in range(experts))
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        shares = self.router(x).softmax(1)
        weight, chosen = shares.max(1)
        out = x.new_zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            mine = (chosen == i).nonzero()[:, 0]
            if len(mine):
                out = out.index_add(0, mine, weight[mine, None] * expert(x[mine]))
        load = F.one_hot(chosen, len(self.experts)).float().mean(0)
        self.balance = len(self.experts) * (load * shares.mean(0)).sum()
        return out


def balanced(model: Experts, data: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model, data) + 0.2 * model.balance


@case("h_experts_top_one_of_four")
def _() -> Case:
    """Each sample teaches one expert of four."""
    return healthy(build=lambda: Experts(4), batch=digits, loss=balanced, optimizer=adam(3e-3), steps=120)


@case("h_experts_without_samples_in_some_steps")
def _() -> Case:
    """Eight experts, sixteen samples: in most steps somebody has nothing to do, and no gradient."""
    return healthy(
        build=lambda: Experts(8, 16),
        batch=lambda s: digits(s, 16),
        loss=balanced,
        optimizer=adam(2e-3),
        steps=250,
    )


class SoftMixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(5, 4)
        self.experts = nn.ModuleList(perceptron(5, 24, 1, activation=nn.Tanh) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.cat([expert(x) for expert in self.experts], 1)
        return (self.gate(x).softmax(1) * answers).sum(1, keepdim=True)


@case("h_soft_mixture_of_experts")
def _() -> Case:
    """All experts for all samples, weighed."""
    return healthy(build=SoftMixture, batch=surface, loss=squared, optimizer=adam(5e-3), steps=200)


class ManyTasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = perceptron(64, 64, 48, activation=nn.GELU)
        self.heads = nn.ModuleDict({"which": nn.Linear(48, 10), "odd": nn.Linear(48, 1), "ink": nn.Linear(48, 1)})

    def forward(self, x: Tensor, task: str) -> Tensor:
        return self.heads[task](F.gelu(self.trunk(x)))


def of_task(model: nn.Module, x: Tensor, y: Tensor, task: str) -> Tensor:
    told = model(x, task)
    if task == "which":
        return F.cross_entropy(told, y)
    if task == "odd":
        return F.binary_cross_entropy_with_logits(told[:, 0], (y % 2).float())
    return F.mse_loss(told[:, 0], 5 * x.mean(1))


@case("h_two_heads_in_turns")
def _() -> Case:
    """One task in even steps, another in odd ones: each head rests every other step."""

    def batch(step: int) -> tuple[Tensor, Tensor, str]:
        return *digits(step), "odd" if step % 2 else "which"

    def build() -> nn.Module:
        model = ManyTasks()
        del model.heads["ink"]
        return model

    return healthy(
        build=build, batch=batch, loss=lambda m, b: of_task(m, *b), optimizer=adamw(2e-3, weight_decay=0.0), steps=150
    )


@case("h_three_heads_at_once")
def _() -> Case:
    """Three losses of different sizes, weighed and added."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        return sum(w * of_task(model, *data, task) for task, w in (("which", 1.0), ("odd", 1.0), ("ink", 0.2)))

    return healthy(build=ManyTasks, batch=digits, loss=loss, optimizer=adam(2e-3), steps=100)


class Chooser(nn.Module):
    """A code of eight letters, each drawn by the Gumbel trick."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.encoder = perceptron(64, 64, 8 * 6, activation=nn.SiLU)
        self.decoder, self.hard = perceptron(8 * 6, 64, 64, activation=nn.SiLU), hard

    def forward(self, x: Tensor) -> Tensor:
        letters = F.gumbel_softmax(self.encoder(x).unflatten(1, (8, 6)), tau=1.0, hard=self.hard)
        return self.decoder(letters.flatten(1))


@case("h_gumbel_softmax_code")
def _() -> Case:
    """A soft choice with noise."""
    return healthy(
        build=lambda: Chooser(hard=False),
        batch=lambda s: (digits(s)[0],) * 2,
        loss=squared,
        optimizer=adam(3e-3),
        steps=150,
    )


@case("h_gumbel_hard_choice")
def _() -> Case:
    """The same, one-hot in the forward pass, soft in the backward pass."""
    return healthy(
        build=lambda: Chooser(hard=True),
        batch=lambda s: (digits(s)[0],) * 2,
        loss=squared,
        optimizer=adam(3e-3),
        steps=200,
    )


class Binary(nn.Module):
    """Signs of weights and of activations; the gradient passes where |value| ≤ 1."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(64, 96, bias=False), nn.BatchNorm1d(96)
        self.fc2, self.bn2 = nn.Linear(96, 96, bias=False), nn.BatchNorm1d(96)
        self.head = nn.Linear(96, 10)

    @staticmethod
    def sign(x: Tensor) -> Tensor:
        kept = x.clamp(-1, 1)
        return kept + (torch.where(x >= 0, 1.0, -1.0) - kept).detach()

    def forward(self, x: Tensor) -> Tensor:
        x = self.sign(self.bn1(F.linear(x, self.sign(self.fc1.weight))))
        return self.head(self.sign(self.bn2(F.linear(x, self.sign(self.fc2.weight)))))


@case("h_binarised_straight_through")
def _() -> Case:
    """Every activation is −1 or 1, by construction, and the net learns."""
    return healthy(build=Binary, batch=digits, loss=cross_entropy, optimizer=adam(3e-3), steps=120)


class FakeQuantized(nn.Module):
    """Weights and activations rounded to 6 bits; a straight-through estimator for the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)])

    @staticmethod
    def rounded(x: Tensor) -> Tensor:
        step = x.detach().abs().max().clamp(min=1e-8) / 31
        return x + ((x / step).round() * step - x).detach()

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = F.linear(self.rounded(F.relu(x) if i else x), self.rounded(layer.weight), layer.bias)
        return x


@case("h_quantisation_aware_rounding")
def _() -> Case:
    """Small changes of a weight are rounded away in the forward pass only."""
    return healthy(build=FakeQuantized, batch=digits, loss=cross_entropy, optimizer=adam(1e-3), steps=100)


class Hyper(nn.Module):
    """A net that makes the weights of another, for each of four tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.task = nn.Embedding(4, 8)
        self.weights = perceptron(8, 32, 5 * 16 + 16 + 16 + 1, activation=nn.Tanh)
        with torch.no_grad():
            self.weights[-1].weight.mul_(0.7)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        made = self.weights(self.task(task))
        w1, b1, w2, b2 = made.split([80, 16, 16, 1], 1)
        h = torch.tanh(torch.einsum("bi,bio->bo", x, w1.view(-1, 5, 16)) + b1)
        return (h * w2).sum(1, keepdim=True) + b2


@case("h_hypernetwork_of_four_tasks")
def _() -> Case:
    """The layers that work have no parameters of their own."""

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        x, _ = surface(step, 128)
        task = torch.arange(128) % 4
        return x, task, torch.sin((x * randn(4, 5, salt=130)[task]).sum(1, keepdim=True) / 2)

    return healthy(
        build=Hyper, batch=batch, loss=lambda m, b: F.mse_loss(m(b[0], b[1]), b[2]), optimizer=adam(5e-3), steps=200
    )


class Film(nn.Module):
    """Features scaled and shifted by a condition; both begin at no change."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.film, self.head = nn.Linear(64, 64), nn.Linear(3, 128), nn.Linear(64, 10)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition).chunk(2, 1)
        return self.head(F.silu((1 + scale) * self.body(x) + shift))


@case("h_film_of_zero_modulation")
def _() -> Case:
    """The answer depends on the digit and on one of three conditions."""

    def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
        x, y = digits(step, 96)
        condition = torch.arange(96) % 3
        return x, F.one_hot(condition, 3).float(), (y + condition) % 10

    return healthy(
        build=Film, batch=batch, loss=lambda m, b: F.cross_entropy(m(b[0], b[1]), b[2]), optimizer=adam(4e-3), steps=200
    )
