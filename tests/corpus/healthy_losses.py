"""Losses that look odd and are not: scaled, summed, mostly zero, auxiliary, imbalanced."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, case, randn, sgd
from corpus.tasks import cross_entropy, digit_images, digit_rows, digits, healthy, perceptron, squared, surface
from torch import Tensor, nn


class ConvNet(nn.Module):
    def __init__(self, width: int = 12, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm1(self.conv1(x))))
        return self.head(self.pool(F.relu(self.norm2(self.conv2(x)))).flatten(1))


class RowReader(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


@case("h_loss_in_millionths_mlp_adam")
def _() -> Case:
    """Gradients of 1e-8; Adam divides by them, and its epsilon is far below."""
    return healthy(
        build=lambda: perceptron(64, 48, 48, 10),
        batch=digits,
        loss=lambda m, b: 1e-6 * cross_entropy(m, b),
        optimizer=adam(2e-3, eps=1e-16),
        steps=100,
    )


@case("h_loss_in_millionths_conv_adam")
def _() -> Case:
    """The same for convolutions with BatchNorm."""
    return healthy(
        build=ConvNet,
        batch=digit_images,
        loss=lambda m, b: 1e-6 * cross_entropy(m, b),
        optimizer=adam(2e-3, eps=1e-16),
        steps=60,
    )


@case("h_loss_of_ten_thousands_gru_adam")
def _() -> Case:
    """Gradients in the thousands; the steps of Adam do not depend on it."""
    return healthy(
        build=RowReader, batch=digit_rows, loss=lambda m, b: 1e4 * cross_entropy(m, b), optimizer=adam(3e-3), steps=120
    )


@case("h_loss_of_ten_thousands_regression_adam")
def _() -> Case:
    """A squared error in unfortunate units."""
    return healthy(
        build=lambda: perceptron(5, 64, 64, 1, activation=nn.Tanh),
        batch=surface,
        loss=lambda m, b: 1e4 * squared(m, b),
        optimizer=adam(2e-3),
        steps=150,
    )


@case("h_sum_reduction_mlp_adam")
def _() -> Case:
    """A loss in the hundreds, summed over the batch."""
    return healthy(
        build=lambda: perceptron(64, 64, 10),
        batch=lambda s: digits(s, 128),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum"),
        optimizer=adam(2e-3),
        steps=80,
    )


@case("h_sum_reduction_conv_sgd")
def _() -> Case:
    """The same by SGD, its rate divided by the size of the batch."""
    return healthy(
        build=ConvNet,
        batch=digit_images,
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum"),
        optimizer=sgd(0.05 / 64, momentum=0.9),
        steps=60,
    )


class Appraiser(nn.Module):
    """Predicts prices in thousands and gives them in units."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron(5, 48, 48, 1, activation=nn.SiLU)
        self.register_buffer("unit", torch.tensor(1e3))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.unit


@case("h_targets_in_thousands_scaled_output")
def _() -> Case:
    """A loss of a million; the model's output is scaled as its targets are."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = surface(step)
        return x, 1e3 * y

    return healthy(build=Appraiser, batch=batch, loss=squared, optimizer=adam(2e-3), steps=150)


@case("h_raw_columns_through_batchnorm")
def _() -> Case:
    """Ages and incomes as they come; the first layer is a BatchNorm."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = surface(step, 128)
        return x * torch.tensor([12.0, 9e3, 1.0, 0.02, 300.0]) + torch.tensor([45.0, 3e4, 0.0, 1.0, -80.0]), y

    return healthy(
        build=lambda: nn.Sequential(nn.BatchNorm1d(5), perceptron(5, 64, 64, 1)),
        batch=batch,
        loss=squared,
        optimizer=adam(2e-3),
        steps=150,
        seed=1,
    )


@case("h_inputs_off_centre_mlp")
def _() -> Case:
    """Inputs neither centred nor scaled, yet small."""
    return healthy(
        build=lambda: perceptron(64, 64, 10),
        batch=lambda s: (digits(s)[0] + 0.7, digits(s)[1]),
        loss=cross_entropy,
        optimizer=adam(1e-3),
        steps=150,
    )


@case("h_label_smoothing_wide_mlp")
def _() -> Case:
    """The loss cannot go below the entropy of the smoothed labels."""
    return healthy(
        build=lambda: perceptron(64, 128, 128, 10, activation=nn.GELU),
        batch=digits,
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1], label_smoothing=0.1),
        optimizer=adam(1e-3),
        steps=80,
    )


@case("h_focal_loss_rare_class")
def _() -> Case:
    """One digit against all others: most samples soon weigh nothing."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        rare = (data[1] == 3).float()
        each = F.binary_cross_entropy_with_logits(model(data[0])[:, 0], rare, reduction="none")
        return ((1 - torch.exp(-each)) ** 2 * each).mean()

    return healthy(
        build=lambda: ConvNet(8, 1), batch=lambda s: digit_images(s, 96), loss=loss, optimizer=adam(2e-3), steps=80
    )


@case("h_weighted_classes_one_in_ten")
def _() -> Case:
    """Imbalance met by a weight for the rare class."""
    return healthy(
        build=lambda: perceptron(64, 32, 1, activation=nn.LeakyReLU),
        batch=lambda s: digits(s, 96),
        loss=lambda m, b: F.binary_cross_entropy_with_logits(
            m(b[0])[:, 0], (b[1] == 7).float(), pos_weight=torch.tensor(9.0)
        ),
        optimizer=adam(2e-3),
        steps=100,
    )


@case("h_hinge_most_margins_met")
def _() -> Case:
    """A support vector machine on random features: late in training nine samples of ten give no gradient."""
    return healthy(
        build=lambda: perceptron(64, 96, 10),
        batch=lambda s: digits(s, 96),
        loss=lambda m, b: F.multi_margin_loss(m(b[0]), b[1]),
        optimizer=adam(2e-3),
        steps=120,
    )


@case("h_huber_with_outliers")
def _() -> Case:
    """One target in twenty is off by ten; the loss is linear out there."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = surface(step, 128)
        return x, y + 10.0 * (torch.arange(128) % 20 == 0)[:, None]

    return healthy(
        build=lambda: perceptron(5, 64, 64, 1, activation=nn.ELU),
        batch=batch,
        loss=lambda m, b: F.huber_loss(m(b[0]), b[1], delta=0.5),
        optimizer=adam(2e-3),
        steps=150,
    )


@case("h_pairwise_ranking")
def _() -> Case:
    """Every positive against every negative: an AUC made smooth."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        score, high = model(data[0])[:, 0], data[1][:, 0] > 0.5
        return F.softplus(score[~high][None] - score[high][:, None]).mean()

    return healthy(
        build=lambda: perceptron(5, 32, 32, 1, activation=nn.Tanh),
        batch=lambda s: surface(s, 96),
        loss=loss,
        optimizer=adam(3e-3),
        steps=120,
    )


class DeeplySupervised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()) for _ in range(4))
        self.exits = nn.ModuleList(nn.Linear(64, 10) for _ in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        logits = []
        for block, leave in zip(self.blocks, self.exits, strict=True):
            x = block(x)
            logits.append(leave(x))
        return logits


@case("h_deep_supervision_four_exits")
def _() -> Case:
    """Auxiliary losses of a tenth: the gradient grows towards the input, for it is fed on the way."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        *early, last = [F.cross_entropy(logits, data[1]) for logits in model(data[0])]
        return last + 0.1 * sum(early)

    return healthy(build=DeeplySupervised, batch=digits, loss=loss, optimizer=adam(1e-3), steps=80)


@case("h_curriculum_of_noise")
def _() -> Case:
    """The inputs become noisier as training goes on."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = digits(step)
        return x + min(step / 100, 1.0) * randn(*x.shape, step=step, salt=50), y

    return healthy(
        build=lambda: perceptron(64, 64, 64, 10), batch=batch, loss=cross_entropy, optimizer=adam(2e-3), steps=120
    )
