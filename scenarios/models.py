"""The networks of the scenarios, as plain as they can be written."""

from collections import OrderedDict
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

    The projection in front makes the recurrent layer's input require a gradient, so that its gradient at each step of
    the sequence can be observed.
    """

    def __init__(self, core: nn.RNNBase, *, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, core.input_size)
        self.recurrent = core
        self.head = nn.Linear(core.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The answer, (batch, outputs)."""
        states, _ = self.recurrent(self.project(x))
        answer: Tensor = self.head(states[:, -1])
        return answer


def recurrent(cell: Cell, *, inputs: int, hidden: int, outputs: int, forget_bias: float = 0.0) -> Recurrent:
    """A recurrent net of one layer.

    "irnn" is an RNN with ReLU that starts by adding up its inputs: identity as recurrent matrix, no bias (Le et al.
    2015). An LSTM's forget gates start with `forget_bias` (Gers et al. 2000; Jozefowicz et al. 2015).
    """
    core: nn.RNNBase
    match cell:
        case "rnn":
            core = nn.RNN(hidden, hidden, batch_first=True)
        case "irnn":
            core = nn.RNN(hidden, hidden, nonlinearity="relu", batch_first=True)
        case "lstm":
            core = nn.LSTM(hidden, hidden, batch_first=True)
        case "gru":
            core = nn.GRU(hidden, hidden, batch_first=True)
    with torch.no_grad():
        if cell == "irnn":
            nn.init.eye_(core.get_parameter("weight_hh_l0"))
            core.get_parameter("bias_ih_l0").zero_()
            core.get_parameter("bias_hh_l0").zero_()
        elif cell == "lstm" and forget_bias:  # gates lie as input, forget, cell, output; two biases add up
            core.get_parameter("bias_ih_l0")[hidden : 2 * hidden] = forget_bias
            core.get_parameter("bias_hh_l0")[hidden : 2 * hidden] = 0
    return Recurrent(core, inputs=inputs, outputs=outputs)
