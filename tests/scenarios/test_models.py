import pytest
import torch
from torch import nn

from gradscope.scenarios import models


def linears(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("activation", sorted(models.ACTIVATIONS))
def test_an_mlp_has_its_depth(activation):
    model = models.mlp(depth=3, width=7, activation=activation)
    assert [name for name, _ in model.named_children()] == [
        "linear1",
        "act1",
        "linear2",
        "act2",
        "linear3",
        "act3",
        "head",
    ]
    assert isinstance(model.act2, models.ACTIVATIONS[activation])
    assert model(torch.randn(5, 64)).shape == (5, 10)


STD = {"normal 0.01": 0.01, "normal 1": 1.0, "xavier": 200**-0.5, "he": 0.1, "orthogonal": 200**-0.5, "zeros": 0.0}


@pytest.mark.parametrize(("init", "std"), STD.items())
def test_an_init_has_its_scale(init, std):
    torch.manual_seed(0)
    weight = models.mlp(depth=2, width=200, activation="relu", init=init).linear2.weight
    assert float(weight.detach().std()) == pytest.approx(std, rel=0.03)


def test_an_orthogonal_layer_keeps_lengths():
    weight = models.mlp(depth=2, width=30, activation="tanh", init="orthogonal").linear2.weight
    assert torch.allclose(weight @ weight.T, torch.eye(30), atol=1e-5)


def test_constant_makes_all_units_equal():
    model = models.mlp(depth=2, width=9, activation="tanh", init="constant")
    assert model.linear2.weight.unique().tolist() == pytest.approx([1 / 9])


def test_scale_scales_and_biases_start_at_zero():
    torch.manual_seed(0)
    plain = models.mlp(depth=2, width=9, activation="tanh", init="xavier")
    torch.manual_seed(0)
    half = models.mlp(depth=2, width=9, activation="tanh", init="xavier", scale=0.5)
    assert torch.equal(half.linear2.weight, plain.linear2.weight / 2)
    assert not any(layer.bias.any() for layer in linears(half))


def test_default_is_torchs_own():
    torch.manual_seed(0)
    ours = models.mlp(depth=1, width=9, activation="tanh")
    torch.manual_seed(0)
    assert torch.equal(ours.linear1.weight, nn.Linear(64, 9).weight)


def test_an_unknown_init_is_an_error():
    with pytest.raises(ValueError, match="'hee' is no init"):
        models.mlp(depth=1, width=9, activation="tanh", init="hee")


BLOCKS = {
    "conv": lambda **how: models.block_conv(channels=4, **how),
    "mlp": lambda **how: models.block_mlp(width=8, **how),
}


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("norm", [False, True])
def test_a_block_net_answers_images(kind, norm):
    model = BLOCKS[kind](blocks=2, skip=True, norm=norm)
    assert model(torch.randn(6, 1, 8, 8)).shape == (6, 10)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == (5 if norm else 0)


@pytest.mark.parametrize("kind", BLOCKS)
def test_skip_is_the_only_difference(kind):
    torch.manual_seed(0)
    plain = BLOCKS[kind](blocks=1, skip=False, norm=False)
    torch.manual_seed(0)
    residual = BLOCKS[kind](blocks=1, skip=True, norm=False)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), residual.parameters(), strict=True))
    x = torch.rand(3, 4, 4, 4) if kind == "conv" else torch.rand(3, 8)
    inner = plain.block1.second(torch.relu(plain.block1.first(x)))
    assert torch.allclose(plain.block1(x), torch.relu(inner))
    assert torch.allclose(residual.block1(x), torch.relu(inner + x))


@pytest.mark.parametrize("cell", ["rnn", "irnn", "lstm", "gru"])
def test_a_recurrent_net_reads_its_last_state(cell):
    model = models.recurrent(cell, inputs=2, hidden=5, outputs=3)
    x = torch.randn(4, 7, 2)
    assert model(x).shape == (4, 3)
    assert torch.equal(model(x), model.head(model.recurrent(x)[0][:, -1]))


def test_a_projection_widens_the_inputs():
    model = models.recurrent("gru", inputs=2, hidden=5, outputs=3, projected=True)
    x = torch.randn(4, 7, 2)
    assert model.recurrent.input_size == 5
    assert torch.equal(model(x), model.head(model.recurrent(model.project(x))[0][:, -1]))


LENGTHS = {(7, 3): [1, 3, 3], (6, 3): [3, 3], (6, 6): [6], (6, 9): [6], (3, 1): [1, 1, 1]}


@pytest.mark.parametrize(("given", "lengths"), LENGTHS.items())
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_windows_follow_each_other_and_the_last_one_is_whole(cell, given, lengths):
    length, window = given
    core = models.recurrent(cell, inputs=2, hidden=4, outputs=1).recurrent
    x = torch.randn(2, length, 2)
    parts = list(models.windows_of(core, x, window))
    assert [part.shape[1] for part in parts] == lengths
    assert torch.allclose(torch.cat(parts, 1), core(x)[0], atol=1e-6)


def test_no_gradient_goes_from_a_window_to_the_one_before():
    core = models.recurrent("lstm", inputs=2, hidden=4, outputs=1).recurrent
    x = torch.randn(2, 6, 2, requires_grad=True)
    *_, last = models.windows_of(core, x, 2)
    last.sum().backward()
    assert (x.grad != 0).any(2).any(0).tolist() == [False] * 4 + [True] * 2


def test_a_speller_answers_every_character():
    model = models.Speller([[1.0, 0.0]], [[0.5]], [[1.0], [-1.0]])
    x = torch.eye(2)[[0, 1]].unsqueeze(0)
    first = torch.tanh(torch.tensor(1.0))
    second = torch.tanh(0.5 * first)
    assert torch.allclose(model(x), torch.stack([first, -first, second, -second]).view(1, 2, 2))


def test_an_irnn_starts_by_adding_up_its_inputs():
    core = models.recurrent("irnn", inputs=4, hidden=4, outputs=1).recurrent
    with torch.no_grad():
        core.weight_ih_l0.copy_(torch.eye(4))
    x = torch.rand(2, 6, 4)
    assert torch.allclose(core(x)[0], x.cumsum(1))
    scaled = models.recurrent("irnn", inputs=4, hidden=4, outputs=1, scale=1.2).recurrent
    assert torch.equal(scaled.weight_hh_l0.detach(), 1.2 * torch.eye(4))


def test_the_forget_bias_is_the_forget_gates_alone():
    torch.manual_seed(0)
    plain = models.recurrent("lstm", inputs=1, hidden=4, outputs=1).recurrent
    torch.manual_seed(0)
    open_ = models.recurrent("lstm", inputs=1, hidden=4, outputs=1, forget_bias=3.0).recurrent
    total = open_.bias_ih_l0 + open_.bias_hh_l0
    assert torch.equal(total[4:8], torch.full((4,), 3.0))
    others = [0, 1, 2, 3, *range(8, 16)]
    assert torch.equal(open_.bias_ih_l0[others], plain.bias_ih_l0[others])
