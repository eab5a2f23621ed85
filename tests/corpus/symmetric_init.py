"""Units that begin alike, get the same gradient, and stay alike."""

import torch
from corpus.case import Case, adam, also, case, prepare, root, sgd, train
from corpus.measure import BLOCKED, STALLS
from corpus.parts import ConvNet, Mlp, blobs, classify, digits, flat_digits, recall, regress, surface, tokens
from torch import Tensor, nn

ALIKE = (*STALLS, also("rank-collapse"), also("symmetric-init"))


def _rows_alike(name: str, rows: slice = slice(None)):
    """The largest difference between rows of that weight after training, in units of its own size."""

    def verify(k: Case) -> dict[str, object]:
        weight = dict(train(k)[0].named_parameters())[name].detach()[rows].flatten(1)
        apart = float((weight - weight[0]).abs().max() / weight.abs().max().clamp(min=1e-12))
        return {"apart": apart, "sick": apart < 1e-4}

    return verify


def constant(value: float, bias: float = 0.0):
    """All weights the same."""

    def init(layer: nn.Module) -> None:
        nn.init.constant_(layer.weight, value)
        nn.init.constant_(layer.bias, bias)

    return init


@case("s_alike_all_zeros")
def _() -> Case:
    """A tanh network whose weights are all zero, head included: only the last bias ever moves."""

    def build() -> nn.Module:
        model = Mlp([8, 32, 32, 4], nn.Tanh, constant(0.0))
        constant(0.0)(model.head)
        return model

    c = Case(
        family="init",
        build=build,
        batch=blobs,
        loss=classify,
        optimizer=adam(5e-3),
        steps=60,
        expect=(root("symmetric-init", r"(layers|acts)\.[01]|head|"), *ALIKE, *BLOCKED),
        fix=lambda: c.but(build=lambda: Mlp([8, 32, 32, 4], nn.Tanh)),
        verify=_rows_alike("layers.1.weight"),
    )
    return c


@case("s_alike_constant_rows_in_mlp")
def _() -> Case:
    """All weights 0.05: the forty-eight units of each layer are one."""

    def build() -> nn.Module:
        model = Mlp([64, 48, 48, 10], nn.Sigmoid, constant(0.05))
        constant(0.05)(model.head)
        return model

    c = Case(
        family="init",
        build=build,
        batch=flat_digits,
        loss=classify,
        optimizer=sgd(0.1, momentum=0.9),
        steps=60,
        expect=(root("symmetric-init", r"(layers|acts)\.[01]|head|"), *ALIKE, also("constant-output")),
        fix=lambda: c.but(build=lambda: Mlp([64, 48, 48, 10], nn.SiLU)),
        verify=_rows_alike("layers.0.weight"),
    )
    return c


@case("s_alike_constant_kernels")
def _() -> Case:
    """Every kernel of a small convolutional net begins as the same mean filter."""

    def build() -> nn.Module:
        model = ConvNet(3, 12, init=constant(0.02, 0.01))
        constant(0.01)(model.fc)
        return model

    c = Case(
        family="init",
        build=build,
        batch=digits,
        loss=classify,
        optimizer=adam(2e-3),
        steps=50,
        expect=(root("symmetric-init", r"(convs|acts)\.[012]|fc|"), *ALIKE),
        fix=lambda: c.but(build=lambda: ConvNet(3, 12), steps=80),
        verify=lambda k: _channels_alike(k),
    )
    return c


def _channels_alike(k: Case) -> dict[str, object]:
    weight = train(k)[0].convs[0].weight.detach().flatten(1)
    apart = float((weight - weight[0]).norm() / weight.norm())
    return {"apart": apart, "sick": apart < 1e-3}


class Regressor(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.stem, self.act1 = nn.Linear(6, 32), nn.Tanh()
        self.widened, self.act2 = nn.Linear(32, 64), nn.Tanh()
        self.value = nn.Linear(64, 1)
        if tied:
            with torch.no_grad():
                self.widened.weight.copy_(self.widened.weight[:1].expand(64, 32))
                self.widened.bias.fill_(0.0)
                self.value.weight.fill_(0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.act2(self.widened(self.act1(self.stem(x)))))


@case("s_alike_layer_widened_by_copies")
def _() -> Case:
    """A layer was widened by copying one unit sixty-four times, without noise, and with equal outgoing weights."""
    c = Case(
        family="init",
        build=lambda: Regressor(True),
        batch=surface,
        loss=regress,
        optimizer=adam(3e-3),
        steps=80,
        expect=(root("symmetric-init", r"widened|act2|value"), *ALIKE),
        fix=lambda: c.but(build=lambda: Regressor(False)),
        verify=_rows_alike("widened.weight"),
    )
    return c


class Heads(nn.Module):
    def __init__(self, same: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 24)
        self.attn = nn.MultiheadAttention(24, 4, batch_first=True)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 2)
        if same:
            for weight in (self.attn.in_proj_weight, self.attn.out_proj.weight):
                nn.init.constant_(weight, 0.05)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(self.norm(x.mean(1) + self.attn(x, x, x, need_weights=False)[0].mean(1)))


@case("s_alike_attention_projections_constant")
def _() -> Case:
    """All projections of a multi-head attention are 0.05: the features of q, k and v, and the heads, are one."""
    c = Case(
        family="init",
        build=lambda: Heads(True),
        batch=tokens,
        loss=classify,
        optimizer=adam(2e-3),
        steps=60,
        expect=(root("symmetric-init", r"attn(\.out_proj)?"), *ALIKE, also("constant-output")),
        fix=lambda: c.but(build=lambda: Heads(False)),
        verify=lambda k: _projections_alike(k),
    )
    return c


def _projections_alike(k: Case) -> dict[str, object]:
    """Rank of the query projection before training, by its singular values."""
    values = torch.linalg.svdvals(prepare(k)[0].attn.in_proj_weight.detach()[:24])
    return {"second_over_first": float(values[1] / values[0]), "sick": bool(values[1] < 1e-5 * values[0])}


class Remember(nn.Module):
    def __init__(self, value: float | None) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 20, batch_first=True), nn.Linear(20, 4)
        for part in (*self.lstm.parameters(), *self.head.parameters()) if value else ():
            nn.init.constant_(part, value)
        nn.init.constant_(self.lstm.bias_ih_l0[20:40], 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@case("s_alike_lstm_constant")
def _() -> Case:
    """Every weight of the LSTM is 0.1: twenty cells count the same thing."""
    c = Case(
        family="init",
        build=lambda: Remember(0.1),
        batch=lambda step: recall(step, length=8),
        loss=classify,
        optimizer=adam(1e-2),
        steps=60,
        expect=(root("symmetric-init", r"lstm|head|"), *ALIKE),
        fix=lambda: c.but(build=lambda: Remember(None), steps=80),
        verify=_rows_alike("lstm.weight_ih_l0", slice(0, 20)),
    )
    return c
