import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.rules.gate_slopes import gated_layers, softmax_slopes


@pytest.mark.parametrize(("kind", "layers"), [(nn.LSTM, 2), (nn.GRU, 1)])
def test_mean_slopes_are_those_of_every_element(kind: type[nn.RNNBase], layers: int) -> None:
    torch.manual_seed(0)
    model = kind(3, 5, num_layers=layers)
    x = torch.randn(7, 4, 3)
    with gradscope.attach(model) as scope:
        model(x)[0].pow(2).mean().backward()
        scope.step()
    found = gated_layers(scope.trace)
    assert [layer.module for layer in found] == [""] * layers
    first = {site.name: slope for site, slope in zip(found[0].sites, found[0].slopes[0], strict=True)}
    names = ("input", "forget", "cell", "output") if kind is nn.LSTM else ("reset", "update", "new")
    assert set(first) == {f"{name}_l0" for name in names}
    for name, slope in _slow(model, x, names).items():
        assert first[f"{name}_l0"] == pytest.approx(slope, rel=1e-3)
    np.testing.assert_array_equal(found[0].steepest, found[0].slopes.max(axis=1))


def _slow(model: nn.RNNBase, x: torch.Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Mean slope over the largest, gate by gate and element by element."""
    sums: dict[str, list[float]] = {name: [] for name in names}
    w, u, b, v = model.weight_ih_l0, model.weight_hh_l0, model.bias_ih_l0, model.bias_hh_l0
    h, c = torch.zeros(4, 5), torch.zeros(4, 5)
    for given in x:
        one, other = (given @ w.T + b).chunk(len(names), 1), (h @ u.T + v).chunk(len(names), 1)
        if len(names) == 4:
            i, f, g, o = (p + q for p, q in zip(one, other, strict=True))
            gates = {"input": i.sigmoid(), "forget": f.sigmoid(), "cell": g.tanh(), "output": o.sigmoid()}
            c = gates["forget"] * c + gates["input"] * gates["cell"]
            h = gates["output"] * c.tanh()
        else:
            r, z = (one[0] + other[0]).sigmoid(), (one[1] + other[1]).sigmoid()
            gates = {"reset": r, "update": z, "new": (one[2] + r * other[2]).tanh()}
            h = (1 - z) * gates["new"] + z * h
        for name, y in gates.items():
            sums[name] += (1 - y**2 if name in ("cell", "new") else 4 * y * (1 - y)).flatten().tolist()
    return {name: sum(values) / len(values) for name, values in sums.items()}


def test_a_model_without_gates_has_none() -> None:
    model = nn.RNN(3, 5)
    with gradscope.attach(model) as scope:
        model(torch.randn(7, 4, 3))[0].sum().backward()
        scope.step()
    assert gated_layers(scope.trace) == ()


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(3, 4), nn.ModuleList(nn.Linear(3, 2) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weights = self.router(x).mul(4).softmax(1)
        return (self.weights[..., None] * torch.stack([expert(x) for expert in self.experts], 1)).sum(1)


def test_the_slope_of_a_softmax_is_that_of_all_its_elements() -> None:
    torch.manual_seed(0)
    model = Experts()
    with gradscope.attach(model) as scope:
        model(torch.randn(7, 3)).pow(2).mean().backward()
        scope.step()
    ((column, slope),) = softmax_slopes(scope.trace).items()
    p = model.weights.detach()
    assert scope.trace.sites[column].module == "softmax#0"
    assert slope[0] == pytest.approx(float((p * (1 - p)).sum(1).mean()) / (3 / 4), rel=1e-4)
