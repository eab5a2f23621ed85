"""Initial weights under which the signal dies out or blows up on its way forward."""

import torch
from corpus.case import Case, adam, also, case, rms, root, sgd
from corpus.measure import BLOCKED, BLOWN, outputs, spread_ratio
from corpus.parts import ConvNet, Mlp, blobs, classify, digits, flat_digits, he, normal, reconstruct, regress, surface
from torch import Tensor, nn

LAYERS = r"(layers|acts)\.\d+|head"
CONVS = r"(convs|acts)\.\d+|fc"


@case("s_collapse_small_normal_init")
def _() -> Case:
    """std 0.01 in each of ten rectifier layers: the signal shrinks by 0.06 a layer."""
    c = Case(
        family="init-scale",
        build=lambda: Mlp([8] + [64] * 10 + [4], init=normal(0.01)),
        batch=blobs,
        loss=classify,
        optimizer=sgd(0.05, momentum=0.9),
        steps=60,
        expect=(root("forward-variance-collapse", LAYERS), *BLOCKED, also("rank-collapse")),
        fix=lambda: c.but(build=lambda: Mlp([8] + [64] * 4 + [4], init=he), steps=80),
        verify=spread_ratio("layers.0", "layers.3", below=0.01),
    )
    return c


@case("s_collapse_small_conv_init")
def _() -> Case:
    """A plain stack of convolutions with tanh, all drawn with std 0.02."""
    c = Case(
        family="init-scale",
        build=lambda: ConvNet(8, 16, nn.Tanh, normal(0.02)),
        batch=digits,
        loss=classify,
        optimizer=adam(3e-4),
        steps=40,
        expect=(root("forward-variance-collapse", CONVS), *BLOCKED, also("rank-collapse")),
        fix=lambda: c.but(build=lambda: ConvNet(4, 16, nn.Tanh), optimizer=adam(2e-3), steps=80),
        verify=spread_ratio("convs.0", "convs.3", below=0.05),
    )
    return c


class Decoder(nn.Module):
    def __init__(self, std: float | None, depth: int) -> None:
        super().__init__()
        self.project = nn.Linear(64, 32)
        self.hidden = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.act = nn.LeakyReLU(0.2)
        self.pixels = nn.Linear(32, 64)
        for layer in (self.project, *self.hidden, self.pixels):
            normal(std)(layer) if std else he(layer)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.project(x))
        for layer in self.hidden:
            h = self.act(layer(h))
        return self.pixels(h)


@case("s_collapse_generator_init_without_norm")
def _() -> Case:
    """std 0.02 as in generators with batch norm, but here nothing normalises; seven hidden layers."""
    c = Case(
        family="init-scale",
        build=lambda: Decoder(0.02, 7),
        batch=flat_digits,
        loss=reconstruct,
        optimizer=sgd(0.05),
        steps=60,
        expect=(root("forward-variance-collapse", r"project|hidden\.\d|act|pixels"), *BLOCKED, also("rank-collapse")),
        fix=lambda: c.but(build=lambda: Decoder(None, 1), optimizer=adam(3e-3), steps=120),
        verify=lambda k: _pixels_over_input(k),
    )
    return c


def _pixels_over_input(k: Case) -> dict[str, object]:
    (out,) = outputs(k, "pixels")
    ratio = float(out.detach().std(0).mean() / k.batch(0)[0].std(0).mean())
    return {"ratio": ratio, "sick": ratio < 1e-3}


class Shrink(nn.Module):
    def __init__(self, width: int, factor: float) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2, self.factor = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * (x + self.fc2(self.act(self.fc1(x))))


class Ladder(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inlet = nn.Linear(6, 32)
        self.rungs = nn.Sequential(*(Shrink(32, factor) for _ in range(8)))
        self.outlet = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outlet(self.rungs(self.inlet(x)))


@case("s_collapse_shortcut_scaled_down")
def _() -> Case:
    """The factor 0.1 stands before the whole sum, shortcut included, instead of before the branch."""
    c = Case(
        family="init-scale",
        build=lambda: Ladder(0.1),
        batch=surface,
        loss=regress,
        optimizer=adam(1e-3),
        steps=60,
        expect=(
            root("forward-variance-collapse", r"inlet|rungs(\.\d(\.\w+)?)?|outlet"),
            root("vanishing-gradient", r"inlet|rungs(\.\d(\.\w+)?)?"),
            *BLOCKED,
            also("rank-collapse"),
        ),
        fix=lambda: c.but(build=lambda: Ladder(1.0), steps=100),
        verify=spread_ratio("inlet", "rungs.7", below=1e-4),
    )
    return c


@case("s_explosion_unit_normal_init")
def _() -> Case:
    """torch.randn weights in eight rectifier layers of width 64: six times larger each."""
    c = Case(
        family="init-scale",
        build=lambda: Mlp([8] + [64] * 8 + [4], init=normal(1.0)),
        batch=blobs,
        loss=classify,
        optimizer=sgd(1e-3),
        steps=40,
        expect=(root("forward-variance-explosion", LAYERS), *BLOWN),
        fix=lambda: c.but(build=lambda: Mlp([8] + [64] * 3 + [4], init=he), optimizer=sgd(0.05), steps=80),
        verify=spread_ratio("layers.0", "head", above=1e3),
    )
    return c


@case("s_explosion_conv_he_times_four")
def _() -> Case:
    """A gain of four applied on top of He's in nine plain convolutions."""

    def wide(conv: nn.Module) -> None:
        he(conv)
        conv.weight.data.mul_(4)

    c = Case(
        family="init-scale",
        build=lambda: ConvNet(9, 12, init=wide),
        batch=digits,
        loss=classify,
        optimizer=adam(1e-3),
        steps=40,
        expect=(root("forward-variance-explosion", CONVS), *BLOWN),
        fix=lambda: c.but(build=lambda: ConvNet(4, 12, init=he), optimizer=adam(2e-3), steps=80),
        verify=spread_ratio("convs.0", "fc", above=1e3),
    )
    return c


class Residual(nn.Module):
    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.up, self.act, self.down = nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        he(self.up)
        nn.init.normal_(self.down.weight, std=0.02 if norm else (2 * width) ** -0.5 * 1.6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(self.norm(x))))


class ResMlp(nn.Module):
    def __init__(self, norm: bool, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 24)
        self.blocks = nn.ModuleList(Residual(24, norm) for _ in range(depth))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@case("s_explosion_residual_without_norm")
def _() -> Case:
    """Twenty residual blocks whose branches are as large as the stream, and no norm: it doubles every block."""
    c = Case(
        family="init-scale",
        build=lambda: ResMlp(False, 20),
        batch=flat_digits,
        loss=classify,
        optimizer=sgd(1e-3, momentum=0.9),
        steps=40,
        expect=(
            root("forward-variance-explosion", r"stem|blocks\.\d+(\.\w+)?|head"),
            root("exploding-gradient", r"stem|blocks\.\d+(\.\w+)?|head"),
            *BLOWN,
        ),
        fix=lambda: c.but(build=lambda: ResMlp(True, 6), optimizer=sgd(0.05, momentum=0.9), steps=80),
        verify=spread_ratio("stem", "blocks.5", above=20.0),
    )
    return c


class Coupling(nn.Module):
    def __init__(self, std: float, flip: bool) -> None:
        super().__init__()
        self.net, self.flip = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2)), flip
        nn.init.normal_(self.net[2].weight, std=std)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.flip(1).chunk(2, 1) if self.flip else x.chunk(2, 1)
        shift, log_scale = self.net(a).chunk(2, 1)
        return torch.cat([a, b * log_scale.exp() + shift], 1), log_scale.sum(1)


class Flow(nn.Module):
    def __init__(self, std: float) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(std, flip=True) for _ in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(x))
        for coupling in self.couplings:
            x, log_det = coupling(x)
            total = total + log_det
        return x, total


def _likelihood(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    z, log_det = model(data[0])
    return (0.5 * z.pow(2).sum(1) - log_det).mean()


def _bent(step: int) -> tuple[Tensor, Tensor]:
    x, y = surface(step, 128, 4)
    return 2.0 * torch.stack([x[:, 0], x[:, 0] ** 2 + 0.3 * x[:, 1]], 1), y


@case("s_explosion_flow_log_scales")
def _() -> Case:
    """The coupling nets of a flow begin with log-scales of several units: exp of them multiplies up."""

    def verify(k: Case) -> dict[str, object]:
        first, last = (rms(out) for out in outputs(k, "couplings.0", "couplings.5"))
        return {"first": first, "last": last, "sick": not last < 100}

    c = Case(
        family="init-scale",
        build=lambda: Flow(2.0),
        batch=_bent,
        loss=_likelihood,
        optimizer=adam(1e-4),
        steps=40,
        expect=(
            root("forward-variance-explosion", r"couplings\.\d(\.net(\.\d)?)?"),
            root("exploding-gradient", r"couplings\.\d(\.net(\.\d)?)?"),
            *BLOWN,
        ),
        fix=lambda: c.but(build=lambda: Flow(0.01), optimizer=adam(5e-3), steps=150),
        verify=verify,
        seed=1,
    )
    return c
