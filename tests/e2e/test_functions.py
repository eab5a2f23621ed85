"""A model that calls functions gets the diagnosis of its twin that is made of modules."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradscope

Batch = tuple[Tensor, Tensor]
Act = Callable[[Tensor], Tensor]


class Chain(nn.Module):
    """Dense layers; each activation is a module of its own, or one function."""

    def __init__(self, act: Act | type[nn.Module], depth: int, spoil: Callable[["Chain"], None] | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(depth))
        self.head = nn.Linear(16, 2)
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight, 2**0.5 if act in (nn.ReLU, F.relu) else 1.0)
        self.acts = nn.ModuleList(act() for _ in self.layers) if isinstance(act, type) else [act] * depth
        if spoil is not None:
            with torch.no_grad():
                spoil(self)

    def forward(self, x: Tensor) -> Tensor:
        for layer, act in zip(self.layers, self.acts, strict=True):
            x = act(layer(x))
        return self.head(x)


def low_bias(chain: Chain) -> None:
    chain.layers[1].bias.fill_(-10)


def large_weights(chain: Chain) -> None:
    chain.layers[1].weight.mul_(100)


def vectors() -> Batch:
    x = torch.randn(64, 16)
    return x, (x[:, 0] > 0).long()


def findings(build: Callable[[], nn.Module], batch: Callable[[], Batch], steps: int = 8) -> list[tuple[str, str]]:
    """Codes and modules, roots and symptoms, after a short training."""
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with gradscope.attach(model, optimizer=optimizer) as scope:
        for _ in range(steps):
            x, y = batch()
            optimizer.zero_grad()
            F.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
            optimizer.step()
    return [(finding.code, finding.module) for finding in scope.diagnose().findings]


SICK: dict[str, tuple[str, type[nn.Module], Act, int, Callable[[Chain], None] | None]] = {
    "a chain of sigmoids": ("GS101", nn.Sigmoid, torch.sigmoid, 12, None),
    "relu under a low bias": ("GS301", nn.ReLU, F.relu, 4, low_bias),
    "tanh of too much": ("GS302", nn.Tanh, torch.tanh, 4, large_weights),
}


@pytest.mark.parametrize("name", SICK)
def test_a_sick_model_gets_the_diagnosis_of_its_twin(name: str) -> None:
    code, module, function, depth, spoil = SICK[name]
    wanted = findings(lambda: Chain(module, depth, spoil), vectors)
    assert code in {found for found, _ in wanted}
    renamed = [(found, at.replace("acts.", "layers.")) for found, at in wanted]  # a function is no module: its layer is
    assert findings(lambda: Chain(function, depth, spoil), vectors) == renamed


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + x)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 2)
        self.blocks = nn.Sequential(*[Residual() for _ in range(5)])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(self.blocks(F.relu(self.stem(x))), 2).mean((2, 3)))


class Squeeze(nn.Module):
    """Squeeze and excitation with gates that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Linear(8, 16),
            nn.Linear(16, 8),
            nn.Linear(8, 2),
        )
        nn.init.constant_(self.up.bias, 8.0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        return self.head((x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))[:, :, None, None]).mean((2, 3)))


class GPTBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.blocks = nn.Embedding(20, 16), nn.Sequential(*[GPTBlock(16) for _ in range(4)])
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(ids))))


class LSTM(nn.Module):
    """Written out, in one loop; forget gates that are open, as they should be for a long memory."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.own, self.head = nn.Linear(4, 32), nn.Linear(8, 32), nn.Linear(8, 2)
        with torch.no_grad():
            self.given.bias[8:16] = 9.0

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 8)
        for t in range(x.shape[1]):
            i, f, g, o = (self.given(x[:, t]) + self.own(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + i.sigmoid() * torch.tanh(g)
            h = F.sigmoid(o) * c.tanh()
        return self.head(h)


class Decoder(nn.Module):
    """A sigmoid at the output is meant to reach its bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(16, 16), nn.Linear(16, 2)
        with torch.no_grad():
            self.outside.weight.mul_(60)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.outside(F.relu(self.inside(x))))


HEALTHY: dict[str, tuple[Callable[[], nn.Module], Callable[[], Batch]]] = {
    "ResNet": (ResNet, lambda: (torch.randn(16, 3, 12, 12), torch.randint(2, (16,)))),
    "squeeze and excitation": (Squeeze, lambda: (torch.randn(16, 3, 12, 12), torch.randint(2, (16,)))),
    "GPT": (GPT, lambda: (torch.randint(20, (8, 12)), torch.randint(20, (8, 12)))),
    "LSTM": (LSTM, lambda: (torch.randn(16, 12, 4), torch.randint(2, (16,)))),
    "sigmoid at the output": (Decoder, vectors),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_model_that_calls_functions_is_healthy(name: str) -> None:
    build, batch = HEALTHY[name]
    assert findings(build, batch) == []
