"""The networks of the scenarios, as plain as they can be written."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "gelu": nn.GELU,
}

Cell: TypeAlias = Literal["rnn", "irnn", "lstm", "gru"]
Matrix: TypeAlias = Sequence[Sequence[float]]


def initialise(model: nn.Module, init: str, *, scale: float = 1.0) -> None:
    """Sets the weight of every Linear by `init`, times `scale`, and its bias to zero; "default" leaves torch's own."""
    if init == "default":
        return
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                _draw(module.weight, init)
                module.weight.mul_(scale)
                module.bias.zero_()


def _draw(weight: Tensor, init: str) -> None:
    match init:
        case "zeros":
            nn.init.zeros_(weight)
        case "constant":
            nn.init.constant_(weight, 1 / weight.shape[1])  # a unit is the mean of its inputs
        case "normal 0.01":
            nn.init.normal_(weight, std=0.01)
        case "normal 1":
            nn.init.normal_(weight)
        case "xavier":
            nn.init.xavier_normal_(weight)
        case "he":
            nn.init.kaiming_normal_(weight)
        case "orthogonal":
            nn.init.orthogonal_(weight)
        case _:
            raise ValueError(f"{init!r} is no init")


def mlp(
    *,
    depth: int,
    width: int,
    activation: str,
    init: str = "default",
    scale: float = 1.0,
    inputs: int = 64,
    outputs: int = 10,
) -> nn.Sequential:
    """`depth` hidden layers linear1, act1, …, and a linear head."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, depth + 1):
        layers[f"linear{i}"] = nn.Linear(inputs if i == 1 else width, width)
        layers[f"act{i}"] = ACTIVATIONS[activation]()
    layers["head"] = nn.Linear(width, outputs)
    model = nn.Sequential(layers)
    initialise(model, init, scale=scale)
    return model


class Block(nn.Module):
    """Two layers, each followed by a ReLU; with `skip`, what came in is added before the second.

    Source: He et al. 2016, fig. 2.
    """

    def __init__(self, first: nn.Module, second: nn.Module, *, skip: bool) -> None:
        super().__init__()
        self.first, self.relu1 = first, nn.ReLU(inplace=True)
        self.second, self.relu2 = second, nn.ReLU(inplace=True)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Layer, ReLU, layer, the way around, ReLU."""
        y = self.second(self.relu1(self.first(x)))
        if self.skip:
            y += x
        answer: Tensor = self.relu2(y)
        return answer


def block_mlp(*, blocks: int, width: int, skip: bool, norm: bool) -> nn.Sequential:
    """2 · `blocks` + 1 hidden layers on digits in any layout."""

    def layer(inputs: int = width) -> nn.Sequential:
        linear = nn.Linear(inputs, width)
        return nn.Sequential(
            OrderedDict(linear=linear, norm=nn.BatchNorm1d(width)) if norm else OrderedDict(linear=linear)
        )

    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), stem=layer(64), relu=nn.ReLU())
    for i in range(1, blocks + 1):
        layers[f"block{i}"] = Block(layer(), layer(), skip=skip)
    layers["head"] = nn.Linear(width, 10)
    return nn.Sequential(layers)


def block_conv(*, blocks: int, channels: int, skip: bool, norm: bool) -> nn.Sequential:
    """2 · `blocks` + 1 convolutions of 3×3 on 1×8×8 digits, at 4×4 after the first."""

    def layer(inputs: int = channels, stride: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(inputs, channels, 3, stride=stride, padding=1)
        return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels)) if norm else OrderedDict(conv=conv))

    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=layer(1, stride=2), relu=nn.ReLU())
    for i in range(1, blocks + 1):
        layers[f"block{i}"] = Block(layer(), layer(), skip=skip)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(16 * channels, 10)
    return nn.Sequential(layers)


class Recurrent(nn.Module):
    """A sequence (batch, time, feature) → an answer read from the last step.

    With a `window`, no gradient goes back from one window to the one before: truncated backpropagation through time.
    """

    def __init__(
        self, core: nn.RNNBase, *, outputs: int, project: nn.Linear | None = None, window: int | None = None
    ) -> None:
        super().__init__()
        self.project = project
        self.recurrent = core
        self.head = nn.Linear(core.hidden_size, outputs)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """The answer, (batch, outputs)."""
        *_, last = windows_of(self.recurrent, x if self.project is None else self.project(x), self.window)
        answer: Tensor = self.head(last[:, -1])
        return answer


def windows_of(core: nn.RNNBase, x: Tensor, window: int | None) -> Iterator[Tensor]:
    """The states of `core` over `x`, (batch, time, hidden): of one `window` of steps after another, or of all at once.

    The state goes on from window to window, detached. Where they do not divide the sequence it is the first one that is
    shorter, so the last, which a loss may read alone, is whole.
    """
    state = None
    length = x.shape[1]
    edges = [0, *range(length % window or window, length, window), length] if window else [0, length]
    for start, stop in pairwise(edges):
        states, state = core(x[:, start:stop], state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        yield states


def recurrent(
    cell: Cell,
    *,
    inputs: int,
    hidden: int,
    outputs: int,
    projected: bool = False,
    scale: float = 1.0,
    forget_bias: float | None = None,
    window: int | None = None,
) -> Recurrent:
    """A recurrent net of one layer, behind a linear one of its width if `projected`.

    "irnn" is an RNN with ReLU that starts by adding up its inputs: identity as recurrent matrix, no bias, input
    weights of deviation 0.1 (Le et al. 2015, where it is 0.001 and the training a thousand times as long); the identity
    times `scale`, if given. An LSTM's forget gates start with `forget_bias`, if given (Gers et al. 2000; Jozefowicz et
    al. 2015).
    """
    width = hidden if projected else inputs
    core: nn.RNNBase
    match cell:
        case "rnn":
            core = nn.RNN(width, hidden, batch_first=True)
        case "irnn":
            core = nn.RNN(width, hidden, nonlinearity="relu", batch_first=True)
        case "lstm":
            core = nn.LSTM(width, hidden, batch_first=True)
        case "gru":
            core = nn.GRU(width, hidden, batch_first=True)
    with torch.no_grad():
        if cell == "irnn":
            nn.init.normal_(core.get_parameter("weight_ih_l0"), std=0.1)
            nn.init.eye_(core.get_parameter("weight_hh_l0")).mul_(scale)
            core.get_parameter("bias_ih_l0").zero_()
            core.get_parameter("bias_hh_l0").zero_()
        elif cell == "lstm" and forget_bias is not None:  # gates lie as input, forget, cell, output; two biases add up
            core.get_parameter("bias_ih_l0")[hidden : 2 * hidden] = forget_bias
            core.get_parameter("bias_hh_l0")[hidden : 2 * hidden] = 0
    project = nn.Linear(inputs, hidden) if projected else None
    return Recurrent(core, outputs=outputs, project=project, window=window)


class Speller(nn.Module):
    """One-hot characters (batch, time, character) → scores of the next one at every step, in the same shape.

    Starts with the given matrices, (hidden, character), (hidden, hidden) and (character, hidden); no biases.
    """

    def __init__(self, w_xh: Matrix, w_hh: Matrix, w_hy: Matrix, *, window: int | None = None) -> None:
        super().__init__()
        hidden, characters = len(w_xh), len(w_hy)
        self.rnn = nn.RNN(characters, hidden, bias=False, batch_first=True)
        self.head = nn.Linear(hidden, characters, bias=False)
        self.window = window
        with torch.no_grad():
            self.rnn.get_parameter("weight_ih_l0").copy_(torch.tensor(w_xh))
            self.rnn.get_parameter("weight_hh_l0").copy_(torch.tensor(w_hh))
            self.head.weight.copy_(torch.tensor(w_hy))

    def forward(self, x: Tensor) -> Tensor:
        """A softmax of them is the probability of each character."""
        scores: Tensor = self.head(torch.cat(list(windows_of(self.rnn, x, self.window)), dim=1))
        return scores
