"""Small models of every kind that recording must not disturb, with a batch for each."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolutions with in-place activations, `y += x`, a shared activation, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8 * 36, 5)
        self.never = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        y = self.norm(self.conv(x))
        y += x
        return self.head(self.drop(self.act(y)).flatten(1))


class Encoder(nn.Module):
    """A transformer with an embedding, attention, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.position = nn.Parameter(0.1 * torch.randn(7, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(ids) + self.position).mean(1))


class Recurrent(nn.Module):
    """An LSTM behind a projection, so that its input has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, 8)
        self.lstm = nn.LSTM(8, 12, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.project(x))[0][:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(10, 32),
        nn.Sigmoid(),
        nn.Linear(32, 32),
        nn.Tanh(),
        nn.Dropout(0.4),
        nn.Linear(32, 200),
        nn.ReLU(),
        nn.Linear(200, 5),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "mlp": (mlp, lambda step: torch.randn(24, 10, generator=torch.Generator().manual_seed(step))),
    "cnn": (Residual, lambda step: torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(step))),
    "transformer": (Encoder, lambda step: torch.randint(20, (24, 7), generator=torch.Generator().manual_seed(step))),
    "lstm": (Recurrent, lambda step: torch.randn(24, 9, 3, generator=torch.Generator().manual_seed(step))),
}


def targets(step: int) -> Tensor:
    """Class labels for every network's batch."""
    return torch.randint(5, (24,), generator=torch.Generator().manual_seed(1000 + step))
