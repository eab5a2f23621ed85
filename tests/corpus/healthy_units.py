"""Units that are often zero, bounded or switched off, and alive: rectifiers, codes, gates, dropout."""

import torch
import torch.nn.functional as F
from corpus.case import Case, adam, case, generator, randn
from corpus.tasks import cross_entropy, digit_images, digits, healthy, squared, surface
from torch import Tensor, nn


@case("h_rectifiers_zero_half_the_time")
def _() -> Case:
    """Every unit is zero for half of the samples, none for all."""

    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
        for layer in model[:4:2]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        return model

    return healthy(build=build, batch=digits, loss=cross_entropy, optimizer=adam(5e-4), steps=100)


@case("h_relu6_conv_pool")
def _() -> Case:
    """Rectifiers with a ceiling that is hardly reached."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU6(),
            nn.AvgPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU6(),
            nn.Flatten(),
            nn.Linear(512, 10),
        ),
        batch=digit_images,
        loss=cross_entropy,
        optimizer=adam(1e-3),
        steps=70,
    )


class TopCode(nn.Module):
    """Keeps the largest tenth of the code; normalised, so that every unit has its turn."""

    def __init__(self, width: int = 80, kept: int = 8) -> None:
        super().__init__()
        self.encoder, self.norm = nn.Linear(64, width, bias=False), nn.BatchNorm1d(width, affine=False)
        self.decoder, self.kept = nn.Linear(width, 64), kept

    def forward(self, x: Tensor) -> Tensor:
        code = self.norm(self.encoder(x))
        least = code.topk(self.kept, dim=1).values[:, -1:]
        return self.decoder(torch.where(code >= least, code, 0.0))


@case("h_top_k_autoencoder_nine_tenths_zero")
def _() -> Case:
    """Of 80 units eight speak for a sample, others for another one."""
    return healthy(
        build=TopCode,
        batch=lambda s: (digits(s, 128)[0],) * 2,
        loss=squared,
        optimizer=adam(2e-3),
        steps=120,
    )


class SparseCode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.relu, self.decode = nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.relu(self.encode(x))
        return self.decode(code), code


@case("h_sparse_code_with_l1")
def _() -> Case:
    """Data of few causes; the penalty makes most of the code zero, while every unit answers to some samples."""

    def batch(step: int) -> Tensor:
        causes = (torch.rand(192, 24, generator=generator(step, 51)) < 0.1) * (1 + randn(192, 24, step=step).abs())
        return causes @ randn(24, 32, salt=52)

    def loss(model: nn.Module, data: Tensor) -> Tensor:
        again, code = model(data)
        return F.mse_loss(again, data) + 2e-3 * code.abs().mean()

    return healthy(build=SparseCode, batch=batch, loss=loss, optimizer=adam(1e-3), steps=150)


@case("h_sigmoid_pixels_bce")
def _() -> Case:
    """Sigmoid outputs near 0 and 1, for the pixels are; the loss is cross-entropy."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, _ = digits(step)
        return x, (x > 0).float()

    return healthy(
        build=lambda: nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 64), nn.Sigmoid()),
        batch=batch,
        loss=lambda m, b: F.binary_cross_entropy(m(b[0]), b[1]),
        optimizer=adam(5e-3),
        steps=150,
    )


class Highway(nn.Module):
    def __init__(self, width: int = 48, depth: int = 5) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.transform = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)
        for gate in self.gate:
            nn.init.constant_(gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for transform, gate in zip(self.transform, self.gate, strict=True):
            open_ = torch.sigmoid(gate(x))
            x = open_ * F.relu(transform(x)) + (1 - open_) * x
        return self.head(x)


@case("h_highway_gates_mostly_shut")
def _() -> Case:
    """Gates that begin at 0.12, as the authors advise: the layers carry their input through."""
    return healthy(build=Highway, batch=digits, loss=cross_entropy, optimizer=adam(2e-3), steps=80)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))))


@case("h_squeeze_and_excite")
def _() -> Case:
    """Channels weighed by sigmoids of about a half."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.SiLU(),
            SqueezeExcite(16, 4),
            nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.SiLU(),
            SqueezeExcite(24, 6),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(96, 10),
        ),
        batch=digit_images,
        loss=cross_entropy,
        optimizer=adam(3e-3),
        steps=60,
    )


class GatedLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up1, self.mid, self.up2, self.out = (
            nn.Linear(5, 96),
            nn.Linear(48, 48),
            nn.Linear(48, 96),
            nn.Linear(48, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(F.glu(self.up1(x)))
        return self.out(x + F.glu(self.up2(x)))


@case("h_gated_linear_units_regression")
def _() -> Case:
    """Half of every layer gates the other half."""
    return healthy(build=GatedLinear, batch=surface, loss=squared, optimizer=adam(3e-3), steps=150)


@case("h_dropout_half_wide")
def _() -> Case:
    """Half of all units are zero in every step, others each time."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Linear(64, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        ),
        batch=digits,
        loss=cross_entropy,
        optimizer=adam(1e-3),
        steps=100,
    )


@case("h_dropout_of_channels_conv")
def _() -> Case:
    """Whole feature maps are dropped."""
    return healthy(
        build=lambda: nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.GELU(),
            nn.Dropout2d(0.3),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.GELU(),
            nn.Dropout2d(0.3),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(384, 10),
        ),
        batch=digit_images,
        loss=cross_entropy,
        optimizer=adam(2e-3),
        steps=70,
    )


class TwoSenses(nn.Module):
    """Sees one half of the picture with each eye; one of them is shut now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.left_eye = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.right_eye = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.fusion = nn.Sequential(nn.Linear(64, 48), nn.LeakyReLU(), nn.Linear(48, 10))

    def forward(self, x: Tensor, left: float, right: float) -> Tensor:
        seen = torch.cat([left * self.left_eye(x[:, :32]), right * self.right_eye(x[:, 32:])], 1)
        return self.fusion(seen)


@case("h_dropped_modality_every_fourth_step")
def _() -> Case:
    """Each branch is multiplied by zero in every fourth step, so that the model learns to do without."""

    def loss(model: nn.Module, data: tuple[Tensor, Tensor, int]) -> Tensor:
        x, y, step = data
        return F.cross_entropy(model(x, float(step % 4 != 1), float(step % 4 != 3)), y)

    return healthy(build=TwoSenses, batch=lambda s: (*digits(s), s), loss=loss, optimizer=adam(2e-3), steps=120)
