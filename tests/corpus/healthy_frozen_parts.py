"""Parameters that do not learn on purpose, and layers that begin at zero on purpose."""

import copy

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, adamw, case
from corpus.tasks import cross_entropy, digit_images, digits, healthy, perceptron, squared, surface
from torch import Tensor, nn


class Transfer(nn.Module):
    """A head on features that were there before."""

    def __init__(self, *, under_no_grad: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(32 * 9, 10)
        self.under_no_grad = under_no_grad
        self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.under_no_grad and torch.is_grad_enabled()):
            features = self.backbone(x)
        return self.head(features.flatten(1))


@case("h_frozen_backbone")
def _() -> Case:
    """Only the head requires gradients."""
    return healthy(
        build=lambda: Transfer(under_no_grad=False),
        batch=digit_images,
        loss=cross_entropy,
        optimizer=adam(2e-3),
        steps=80,
    )


@case("h_frozen_features_under_no_grad")
def _() -> Case:
    """The same, and the features are computed without a graph."""
    return healthy(
        build=lambda: Transfer(under_no_grad=True),
        batch=digit_images,
        loss=cross_entropy,
        optimizer=adam(2e-3),
        steps=80,
    )


@case("h_frozen_first_layer_among_trained")
def _() -> Case:
    """Random projections below, two trained layers above."""

    def build() -> nn.Module:
        model = perceptron(5, 96, 48, 1, activation=nn.Tanh)
        model[0].requires_grad_(False)
        return model

    return healthy(build=build, batch=surface, loss=squared, optimizer=adam(3e-3), steps=150)


class Adapted(nn.Module):
    """A frozen linear layer plus B·A of low rank; B is zero at first."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_a.T @ self.lora_b.T


@case("h_lora_with_b_of_zero")
def _() -> Case:
    """Neither A nor what lies below learns in the very first step, for B is zero."""
    return healthy(
        build=lambda: nn.Sequential(
            Adapted(nn.Linear(64, 64), 4), nn.GELU(), Adapted(nn.Linear(64, 64), 4), nn.GELU(), nn.Linear(64, 10)
        ),
        batch=digits,
        loss=cross_entropy,
        optimizer=adamw(3e-3),
        steps=100,
    )


class AdaptedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.query, self.value = Adapted(nn.Linear(32, 32), 4), Adapted(nn.Linear(32, 32), 4)
        self.key, self.output = (nn.Linear(32, 32).requires_grad_(False) for _ in range(2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.view(-1, 8, 8))
        x = x + self.output(F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)))
        return self.head(F.gelu(x).mean(1))


@case("h_lora_on_query_and_value")
def _() -> Case:
    """Adapters on two of four projections of an attention; the others are frozen."""
    return healthy(build=AdaptedAttention, batch=digits, loss=cross_entropy, optimizer=adamw(3e-3), steps=150)


@case("h_last_layer_begins_at_zero")
def _() -> Case:
    """The first prediction is the same for all; from the second step on the body learns."""

    def build() -> nn.Module:
        model = perceptron(64, 64, 64, 10, activation=nn.GELU)
        nn.init.zeros_(model[-1].weight)
        nn.init.zeros_(model[-1].bias)
        return model

    return healthy(build=build, batch=digits, loss=cross_entropy, optimizer=adam(2e-3), steps=80)


class ZeroGamma(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


@case("h_residual_branches_of_zero_gamma")
def _() -> Case:
    """Every block begins as the identity: the last BatchNorm of its branch has γ = 0."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), *(ZeroGamma(16) for _ in range(3)), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(256, 10),
        ),
        batch=digit_images, loss=cross_entropy, optimizer=adam(2e-3), steps=60,
    )  # fmt: skip


class ReZero(nn.Module):
    def __init__(self, depth: int = 8, width: int = 48) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, width), nn.Linear(width, 10)
        self.branches = nn.ModuleList(perceptron(width, width, width) for _ in range(depth))
        self.alphas = nn.Parameter(torch.zeros(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for alpha, branch in zip(self.alphas, self.branches, strict=True):
            x = x + alpha * branch(x)
        return self.head(x)


@case("h_rezero_branches")
def _() -> Case:
    """Eight branches, each weighed by a learned number that begins at zero."""
    return healthy(build=ReZero, batch=digits, loss=cross_entropy, optimizer=adam(3e-3), steps=80)


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = perceptron(64, 96, 96, 10).requires_grad_(False)
        self.student = perceptron(64, 24, 10, activation=nn.GELU)
        with torch.no_grad():
            self.teacher[-1].weight.mul_(12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            wanted = self.teacher(x)
        return self.student(x), wanted


@case("h_distillation_from_frozen_teacher")
def _() -> Case:
    """A small net learns the answers of a larger one, at a temperature of two."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        given, wanted = (F.log_softmax(logits / 2, 1) for logits in model(data[0]))
        return 4 * F.kl_div(given, wanted, log_target=True, reduction="batchmean")

    return healthy(build=Student, batch=lambda s: digits(s, 96), loss=loss, optimizer=adam(3e-3), steps=150)


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online = perceptron(64, 48, 48, 10, activation=nn.SiLU)
        self.average = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.online(x)

    @torch.no_grad()
    def follow(self, keep: float) -> None:
        for slow, fast in zip(self.average.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, 1 - keep)


@case("h_moving_average_of_weights")
def _() -> Case:
    """A copy that follows the weights after every step and is used for nothing yet."""
    return healthy(
        build=Averaged,
        batch=digits,
        loss=cross_entropy,
        optimizer=adam(2e-3),
        steps=80,
        after_step=lambda m, s: m.follow(0.98),
    )


class MeanTeacher(Averaged):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            wanted = self.average(x)
        return self.online(x + 0.3 * torch.randn_like(x)), wanted


@case("h_mean_teacher_consistency")
def _() -> Case:
    """The average is a teacher for the samples without labels."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        given, wanted = model(data[0])
        return F.cross_entropy(given[:32], data[1][:32]) + F.mse_loss(given.softmax(1), wanted.softmax(1))

    return healthy(
        build=MeanTeacher,
        batch=lambda s: digits(s, 96),
        loss=loss,
        optimizer=adam(2e-3),
        steps=100,
        after_step=lambda m, s: m.follow(0.95),
    )
