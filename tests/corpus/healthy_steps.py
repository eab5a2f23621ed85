"""What is done with the gradients: schedules, clipping, accumulation, batches, precision."""

from collections.abc import Callable

import torch
from corpus.case import Case, adam, adamw, case, sgd
from corpus.healthy_transformers import warmed
from corpus.tasks import cross_entropy, digit_images, digit_rows, digits, healthy, perceptron, squared, surface
from torch import Tensor, nn


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 24, 3, 2, 1), nn.GELU(),
        nn.Flatten(), nn.Linear(384, 10),
    )  # fmt: skip


@case("h_clipping_now_and_then")
def _() -> Case:
    """Noisy batches of 24, of which the largest gradients are clipped to one."""
    return healthy(
        build=lambda: perceptron(64, 48, 48, 10, activation=nn.Tanh),
        batch=lambda s: digits(s, 24),
        loss=cross_entropy,
        optimizer=adam(1e-3),
        steps=200,
        clip=1.0,
    )


@case("h_clipping_lstm_outliers")
def _() -> Case:
    """Every tenth batch weighs ten times as much; the clipping holds it."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    def batch(step: int) -> tuple[Tensor, Tensor, float]:
        return *digit_rows(step), 10.0 if step % 10 == 9 else 1.0

    return healthy(
        build=Model,
        batch=batch,
        loss=lambda m, b: b[2] * cross_entropy(m, b),
        optimizer=sgd(0.1, momentum=0.9),
        steps=150,
        clip=1.0,
    )


@case("h_accumulation_of_four_micro_batches")
def _() -> Case:
    """Gradients of four batches are summed on purpose; the loss is divided by four."""
    return healthy(
        build=convolutions,
        batch=lambda s: digit_images(s, 16),
        loss=lambda m, b: cross_entropy(m, b) / 4,
        optimizer=adam(2e-3),
        steps=200,
        accumulate=4,
    )


@case("h_accumulation_of_two_sgd")
def _() -> Case:
    """The same for two, summed, with a rate to match."""
    return healthy(
        build=lambda: perceptron(5, 48, 48, 1, activation=nn.Tanh),
        batch=lambda s: surface(s, 32),
        loss=squared,
        optimizer=sgd(0.05),
        steps=300,
        accumulate=2,
    )


@case("h_one_sample_a_step")
def _() -> Case:
    """Batches of one: the loss jumps, its average falls."""
    return healthy(
        build=lambda: nn.Sequential(nn.LayerNorm(64), perceptron(64, 32, 10, activation=nn.Tanh)),
        batch=lambda s: digits(s, 1),
        loss=cross_entropy,
        optimizer=adam(1e-3),
        steps=300,
    )


@case("h_all_samples_a_step")
def _() -> Case:
    """Full batches of 1,500 digits."""
    return healthy(
        build=lambda: perceptron(64, 64, 10),
        batch=lambda s: digits(0, 1500),
        loss=cross_entropy,
        optimizer=adam(4e-3),
        steps=60,
    )


@case("h_warm_up_from_zero_then_cosine")
def _() -> Case:
    """A rate that begins and ends at zero: first and last steps change nothing, or nearly."""
    optimizer, after_step = warmed(
        adamw(4e-3), lambda s: s / 15 if s < 15 else 0.5 + 0.5 * float(torch.cos(torch.tensor(3.1416 * (s - 15) / 85)))
    )
    return healthy(
        build=convolutions,
        batch=digit_images,
        loss=cross_entropy,
        optimizer=optimizer,
        after_step=after_step,
        steps=100,
    )


@case("h_rate_cut_in_steps")
def _() -> Case:
    """The rate falls to a tenth twice; SGD with Nesterov's momentum."""
    optimizer, after_step = warmed(sgd(0.05, momentum=0.9, nesterov=True), lambda s: 0.1 ** ((s > 60) + (s > 90)))
    return healthy(
        build=lambda: perceptron(64, 64, 64, 10),
        batch=digits,
        loss=cross_entropy,
        optimizer=optimizer,
        after_step=after_step,
        steps=110,
    )


@case("h_weight_decay_strong")
def _() -> Case:
    """AdamW with a decay of a tenth; biases and norms are spared."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        spared = [p for p in model.parameters() if p.dim() < 2]
        decayed = [p for p in model.parameters() if p.dim() >= 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=2e-3)

    return healthy(
        build=lambda: nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 10)),
        batch=digits,
        loss=cross_entropy,
        optimizer=optimizer,
        steps=100,
    )


@case("h_slower_rate_for_the_backbone")
def _() -> Case:
    """Fine-tuning: a tenth of the head's rate for what is below."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        head = list(model[-1].parameters())
        rest = [p for layer in model[:-1] for p in layer.parameters()]
        return torch.optim.Adam([{"params": rest, "lr": 3e-4}, {"params": head, "lr": 3e-3}])

    return healthy(build=convolutions, batch=digit_images, loss=cross_entropy, optimizer=optimizer, steps=100)


def by(kind: type[torch.optim.Optimizer], **options: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: kind(model.parameters(), **options)


@case("h_adagrad_tanh")
def _() -> Case:
    """Steps that become smaller by themselves."""
    return healthy(
        build=lambda: perceptron(64, 48, 48, 10, activation=nn.Tanh),
        batch=digits, loss=cross_entropy, optimizer=by(torch.optim.Adagrad, lr=0.01), steps=100,
    )  # fmt: skip


@case("h_rmsprop_gru")
def _() -> Case:
    """RMSprop for a recurrent net."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.classifier = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(self.gru(x)[1][-1])

    return healthy(
        build=Model, batch=digit_rows, loss=cross_entropy, optimizer=by(torch.optim.RMSprop, lr=2e-3), steps=120
    )


@case("h_bf16_autocast_conv")
def _() -> Case:
    """Autocast to bfloat16; weights in single precision."""
    return healthy(
        build=convolutions, batch=digit_images, loss=cross_entropy, optimizer=adam(2e-3), steps=70, precision="bf16"
    )


@case("h_bf16_autocast_residual_mlp")
def _() -> Case:
    """The same for a net of LayerNorms and shortcuts."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(64, 48), nn.Linear(48, 10)
            self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(4))
            self.mlps = nn.ModuleList(perceptron(48, 96, 48, activation=nn.GELU) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for norm, mlp in zip(self.norms, self.mlps, strict=True):
                x = x + mlp(norm(x))
            return self.head(x)

    return healthy(build=Net, batch=digits, loss=cross_entropy, optimizer=adamw(1e-3), steps=80, precision="bf16")


@case("h_fp16_autocast_scaled_1024")
def _() -> Case:
    """Half precision with a loss scale."""
    return healthy(
        build=lambda: perceptron(64, 64, 64, 10),
        batch=digits,
        loss=cross_entropy,
        optimizer=adam(2e-3),
        steps=80,
        precision="fp16",
        loss_scale=1024.0,
    )


@case("h_fp16_autocast_scaled_65536_norms")
def _() -> Case:
    """The scale that a GradScaler begins with; gradients of the scaled loss stay far below 65504."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Linear(64, 64),
            nn.LayerNorm(64),
            nn.GELU(),
            nn.Linear(64, 64),
            nn.LayerNorm(64),
            nn.GELU(),
            nn.Linear(64, 10),
        ),
        batch=lambda s: digits(s, 128),
        loss=cross_entropy,
        optimizer=adamw(2e-3),
        steps=80,
        precision="fp16",
        loss_scale=65536.0,
    )


@case("h_overfits_one_batch")
def _() -> Case:
    """The check that everybody makes first: one batch, learned by heart; gradients shrink a hundredfold."""
    return healthy(
        build=convolutions, batch=lambda s: digit_images(0, 32), loss=cross_entropy, optimizer=adam(2e-3), steps=80
    )
