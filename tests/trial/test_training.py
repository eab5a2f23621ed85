import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradscope.config import CheckTarget
from gradscope.errors import UsageError
from gradscope.rules.engine import diagnose
from gradscope.scope import attach
from gradscope.tracebacks import stage_of, told
from gradscope.trial import Trial, of, train


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def pair():
    return torch.randn(16, 4), torch.randint(3, (16,))


def trial(**given):
    return Trial(**{"model": net, "batch": pair, "loss": F.cross_entropy, "steps": 4, **given})


def same(one, other) -> bool:
    """Whether two traces hold the same sites and, bit by bit, the same numbers."""
    return (
        one.sites == other.sites
        and all(np.array_equal(one.per_step[k], other.per_step[k], equal_nan=True) for k in ("loss", "lr"))
        and one.to_frame().equals(other.to_frame())
    )


def test_the_trace_has_every_step_and_the_seed():
    trace = train(trial(), 3)
    assert list(trace.steps) == [0, 1, 2, 3]
    assert trace.meta["seed"] == 3
    assert np.isfinite(trace.per_step["loss"]).all()


# ---------------------------------------------------------------- the same for the same seed


class Noisy(nn.Module):
    """Draws from every source of random numbers."""

    def __init__(self):
        super().__init__()
        self.body = net()
        self.body[0].weight.data.mul_(random.uniform(0.9, 1.1))

    def forward(self, x):
        return self.body(x + random.gauss(0, 0.1) + torch.from_numpy(np.random.randn(4).astype(np.float32)))


def noisy_pair():
    return torch.from_numpy(np.random.randn(8, 4)).float(), torch.tensor([random.randrange(3) for _ in range(8)])


GIVEN = noisy_pair()
SEEDED = {
    "dropout": trial(),
    "python's and numpy's": trial(model=Noisy, batch=noisy_pair),
    "a given model": trial(model=Noisy(), batch=GIVEN),
    "a loader": trial(
        batch=torch.utils.data.DataLoader(list(zip(*GIVEN, strict=True)), batch_size=4, shuffle=True), steps=5
    ),
}


@pytest.mark.parametrize("what", SEEDED.values(), ids=SEEDED)
def test_the_same_seed_gives_the_same_trace(what):
    first = train(what, 1)
    random.random(), np.random.rand(), torch.rand(1)
    assert same(train(what, 1), first)
    assert not same(train(what, 2), first)


def test_a_model_is_built_once_for_each_seed_when_that_is_set():
    drawn = []

    def build():
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
        return net()

    for seed in (5, 6):
        train(trial(model=build), seed)
    expected = []
    for seed in (5, 6):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        expected.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert drawn == expected


def test_the_trace_knows_the_function_that_has_built_the_model(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    lines = train(trial(), 0).meta["sources"]["tests/trial/test_training.py"]
    assert lines[""] == net.__code__.co_firstlineno
    assert set(lines) <= {"", "0", "1", "2", "3"}
    assert train(trial(model=nn.Linear(4, 3)), 0).meta["sources"] == {}  # of a given one nothing is the user's


# ---------------------------------------------------------------- the caller's own


class Tied(nn.Module):
    """Shares a module and a weight, is half frozen, keeps running means, and has a hook."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.shared = nn.Linear(6, 6)
        self.layers = nn.ModuleList([self.shared, nn.BatchNorm1d(6), self.shared])
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.calls = 0
        self.shared.register_forward_hook(lambda module, inputs, output: output * 1.0)

    def forward(self, x):
        self.calls += 1
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(torch.relu(self.frozen(x)))


def everything(model, optimizer):
    """All that a training changes, by bytes, and which objects it is."""
    return (
        {name: (id(p), p.detach().numpy().tobytes(), p.requires_grad) for name, p in model.named_parameters()},
        {name: (id(b), b.numpy().tobytes()) for name, b in model.named_buffers()},
        {
            name: None if p.grad is None else (id(p.grad), p.grad.numpy().tobytes())
            for name, p in model.named_parameters()
        },
        [(name, m.training, list(m._forward_hooks), list(m._forward_pre_hooks)) for name, m in model.named_modules()],
        [list(p._backward_hooks or ()) for p in model.parameters()],
        model.calls,
        [[id(p) for p in group["params"]] for group in optimizer.param_groups],
        {k: {n: v.numpy().tobytes() for n, v in s.items()} for k, s in optimizer.state_dict()["state"].items()},
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_the_caller_s_model_stays_as_it_is(mode, with_optimizer):
    model = Tied()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    x, y = torch.randint(10, (8,)), torch.randint(10, (8,))
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    getattr(model, mode)()
    before = everything(model, optimizer)
    given = {"optimizer": optimizer} if with_optimizer else {}
    trace = train(trial(model=model, batch=(x, y), **given), 0)
    assert everything(model, optimizer) == before
    assert trace.meta["optimizers"][0]["type"] == ("AdamW" if with_optimizer else "Adam")
    assert trace.meta["parameters"] == sum(p.numel() for p in model.parameters())


def test_an_optimizer_of_the_caller_s_goes_on_with_its_state():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = pair()
    twin, its = copy.deepcopy((model, optimizer))
    for one, by in ((model, optimizer), (twin, its)):
        F.cross_entropy(one(x), y).backward()
        by.step()
    trace = train(trial(model=model, batch=(x, y), optimizer=[optimizer], steps=3), 0)
    norms = []
    for _ in range(3):  # what it would have done
        before = twin.weight.detach().clone()
        its.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        its.step()
        norms.append((twin.weight - before).norm().item())
    assert trace.series("weight", "weight_update", "l2_norm").tolist() == pytest.approx(norms)
    assert train(trial(model=model, batch=(x, y), optimizer=optimizer, lr=0.5), 0).per_step["lr"].tolist() == [0.5] * 4


def test_a_model_is_trained_in_training_mode_and_its_parts_stay_as_they_are():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[1].eval()  # frozen on purpose
    modes = []
    model[0].register_forward_hook(lambda *_: modes.append(model[1].training))
    seen = []

    def loss(model, batch):
        seen.append((model.training, model[1].training))
        return F.cross_entropy(model(batch[0]), batch[1])

    train(trial(model=model, loss=loss, steps=1), 0)
    train(trial(model=copy.deepcopy(model).eval(), loss=loss, steps=1), 0)
    assert seen == [(True, False), (True, True)]


def test_a_penalty_on_the_caller_s_model_does_not_reach_it():
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    model[0].weight.grad = held = torch.ones(8, 4)

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets) + model[0].weight.square().mean()

    train(trial(model=model, loss=loss), 0)
    assert model[0].weight.grad is held
    assert held.eq(1).all()
    assert model[0].bias.grad is None
    assert all(a.equal(b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("forbid", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_it_trains_wherever_the_caller_stands(forbid):
    with forbid():
        model, batch = net(), pair()
        assert len(train(trial(model=model, batch=batch), 0).steps) == 4


def test_within_the_caller_s_autocast_weights_are_cast_anew_in_each_step():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net()

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.body(x)

    inside = train(trial(model=Cast, lr=0.1), 0)
    with torch.autocast("cpu", torch.bfloat16):
        around = train(trial(lr=0.1), 0)
    assert around.per_step["loss"].tolist() == pytest.approx(inside.per_step["loss"].tolist(), rel=1e-2)
    assert abs(around.per_step["loss"][0] - around.per_step["loss"][-1]) > 0.01


# ---------------------------------------------------------------- models of all kinds


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(3)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


def lazy_loss(model, batch):
    return F.cross_entropy(model(batch), torch.tensor([0, 1]))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_modules_find_out_their_sizes_before_the_optimizer_is_made():
    drawn = []

    def batch(step):
        drawn.append(step)
        return torch.randn(2, 1, 6, 6), torch.tensor([0, 1])

    trace = train(trial(model=Lazy, batch=batch), 0)
    assert drawn == [0, 1, 2, 3]
    assert trace.meta["shapes"]["conv.weight"] == [4, 1, 3, 3]
    assert (trace.series("head.weight", "weight_update", "l2_norm") > 0).all()
    assert len(train(trial(model=Lazy(), batch=torch.randn(2, 1, 6, 6), loss=lazy_loss), 0).steps) == 4


def test_a_model_that_is_attached_is_copied_without_that():
    model = net()
    with attach(model) as scope:
        assert len(train(trial(model=model), 0).steps) == 4
        assert len(scope.trace.steps) == 0
        F.cross_entropy(model(pair()[0]), pair()[1]).backward()
    assert len(scope.trace.steps) == 1


def test_wrapped_and_compiled_models_have_the_names_of_what_they_wrap():
    names = {site.module for site in train(trial(), 0).sites}
    assert {site.module for site in train(trial(model=nn.DataParallel(net())), 0).sites} == names
    compiled = torch.compile(net(), backend="eager")
    assert {site.module for site in train(trial(model=compiled), 0).sites} == names
    assert {site.module for site in train(trial(model=lambda: torch.compile(net(), backend="eager")), 0).sites} == names
    in_place = net()
    in_place.compile(backend="eager")
    assert {site.module for site in train(trial(model=in_place), 0).sites} == names


def test_a_loss_module_that_holds_the_model_holds_the_copy():
    class Penalised(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, outputs, targets):
            return F.cross_entropy(outputs, targets) + self.model[0].weight.square().sum()

    model = net()
    without, held = train(trial(model=model), 0), train(trial(model=model, loss=Penalised(model)), 0)
    norms = [t.series("0.weight", "weight_grad", "l2_norm")[0] for t in (without, held)]
    assert norms[0] != pytest.approx(norms[1])


OPTIMIZERS = {
    "none": (None, "Adam"),
    "class": (torch.optim.SGD, "SGD"),
    "of the parameters": (lambda parameters: torch.optim.SGD(parameters, lr=0.1), "SGD"),
    "of the model": (lambda model: torch.optim.RMSprop(model.parameters()), "RMSprop"),
    "several": (lambda model: [torch.optim.SGD(model[0].parameters()), torch.optim.Adam(model[3].parameters())], "SGD"),
    "closure": (torch.optim.LBFGS, "LBFGS"),
    "closure among others": (
        lambda model: (torch.optim.SGD(model[0].parameters()), torch.optim.LBFGS(model[3].parameters(), max_iter=2)),
        "SGD",
    ),
}


@pytest.mark.parametrize(("optimizer", "kind"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_of_every_form(optimizer, kind):
    trace = train(trial(optimizer=optimizer), 0)
    assert trace.meta["optimizers"][0]["type"] == kind
    assert list(trace.steps) == [0, 1, 2, 3]
    assert np.isfinite(trace.per_step["loss"]).all()
    assert (trace.series("0.weight", "weight_update", "l2_norm") > 0).all()
    assert (trace.series("3.weight", "weight_update", "l2_norm") > 0).all()


# ---------------------------------------------------------------- misuse


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.lock = nn.Linear(4, 3), (i for i in ())


def frozen():
    return net().requires_grad_(False)


async def building():
    return net()


def unfilled():
    with torch.device("meta"):
        return net()


MISUSE = {
    "no model": ({"model": 3}, "`model=3` is an int; give a torch.nn.Module, or a function that returns one."),
    "a model that needs more": (
        {"model": lambda width: net()},
        "`model=<lambda>` takes (width); it is called without arguments, so give it defaults.",
    ),
    "a function of no model": ({"model": dict}, "`model=dict` must return a torch.nn.Module, it returns a dict."),
    "a coroutine": (
        {"model": building},
        "`model=building` must return a torch.nn.Module, it returns a coroutine.",
    ),
    "a model without values": (
        {"model": unfilled},
        "`model=unfilled`: Sequential is on torch's meta device, where nothing has a value; build it on the CPU, or"
        " give it values: `model.to_empty(device='cpu')` and an initialisation.",
    ),
    "no copy": (
        {"model": Locked()},
        "`model=Locked` cannot be copied (TypeError: cannot pickle 'generator' object); give a function that builds it:"
        " `model=lambda: Locked(…)`.",
    ),
    "no parameters": ({"model": nn.ReLU}, "`model=ReLU`: ReLU has no parameters, so there is nothing to train."),
    "frozen": (
        {"model": frozen},
        "`model=frozen`: no parameter of Sequential requires a gradient, so nothing is trained.",
    ),
    "scripted": (
        {"model": lambda: torch.jit.script(net())},
        "`model=<lambda>` is scripted, so torch lets nobody watch it; give what it was made of.",
    ),
    "no steps": ({"steps": 0}, "`steps=0` must be a whole number from 1 on."),
    "half a step": ({"steps": 1.5}, "`steps=1.5` must be a whole number from 1 on."),
    "lr": ({"lr": -1}, "`lr=-1` must be a finite number above 0."),
    "lr of nothing": ({"lr": 0.0}, "`lr=0.0` must be a finite number above 0."),
    "no device": ({"device": "gpu"}, "`device='gpu'` is no device of torch; known are cpu, cuda, cuda:0, mps."),
    "nothing is computed": (
        {"device": "meta"},
        "`device='meta'` cannot be computed on (Tensor.item() cannot be called on meta tensors); train on the CPU:"
        ' `device="cpu"`.',
    ),
    "an optimizer of another model": (
        {"model": net(), "optimizer": torch.optim.SGD(net().parameters())},
        "`optimizer=SGD` gives a SGD that moves none of the parameters of Sequential; was it made for another model, or"
        " another copy of this one?",
    ),
    "an optimizer of a model to be built": (
        {"optimizer": torch.optim.SGD(net().parameters())},
        "`optimizer=SGD` moves another model than the one that `model=net` will build; give a class such as"
        " torch.optim.AdamW, or a function of the model.",
    ),
    "a loss of something else": (
        {"loss": lambda outputs, targets: torch.ones((), requires_grad=True)},
        "`loss=<lambda>` hands no gradient to any parameter of Sequential in 4 steps: it has a gradient, but not one"
        " that leads to the model; compute it from the model's outputs.",
    ),
    "a closure that nobody calls": (
        {"optimizer": type("Lazy", (torch.optim.SGD,), {"step": lambda self, closure: None})},
        "`optimizer=Lazy` never calls the closure that its step takes.",
    ),
    "an empty batch": (
        {"batch": (torch.ones(0, 4), torch.ones(0))},
        "`batch=tuple` has empty targets in step 0: (0,).",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("given", "message"), MISUSE.values(), ids=MISUSE)
def test_misuse_is_one_sentence(given, message):
    with pytest.raises(UsageError) as caught:
        train(trial(**given), 0)
    assert str(caught.value) == message


def test_a_loss_of_the_caller_s_model_and_not_of_the_copy():
    model = net()
    with pytest.raises(UsageError, match="computes with the model that was given, and not with the copy"):
        train(trial(model=model, loss=lambda m, t: F.cross_entropy(model(torch.ones(16, 4)), t)), 0)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_gpu_that_is_not_there(device):
    with pytest.raises(UsageError) as caught:
        train(trial(device=device), 0)
    assert str(caught.value).startswith(f"`device={device!r}`: torch {torch.__version__} ")
    assert str(caught.value).endswith('; train on the CPU: `device="cpu"`.')


def test_a_gpu_beyond_those_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError) as caught:
        train(trial(device="cuda:7"), 0)
    assert str(caught.value) == "`device='cuda:7'`: there are 2, counted from cuda:0 on."


def fail():
    raise KeyError("acme")


STAGES = {
    "the making of the model": {"model": fail},
    "the batch of step 0": {"batch": fail},
    "the making of the optimizer": {"optimizer": lambda parameters: fail()},
    "the forward pass of step 0": {"batch": (torch.ones(3, 5), torch.tensor([0, 1, 2]))},
    "the loss of step 0": {"loss": lambda o, t: fail()},
    "the backward pass of step 1": {"loss": lambda o, t, kept=[]: kept.append(o.mean()) or sum(kept)},
    "the optimizer's step 0": {"optimizer": lambda p: type("Bad", (torch.optim.SGD,), {"step": lambda *_: fail()})(p)},
}


@pytest.mark.parametrize("stage", STAGES)
def test_what_the_user_s_code_raises_passes_through_with_a_note(stage):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        train(trial(**STAGES[stage]), 0)
    assert not isinstance(caught.value, UsageError)
    assert stage_of(caught.value) == stage
    if isinstance(caught.value, KeyError):
        line = fail.__code__.co_firstlineno + 1
        assert told(caught.value).endswith(f"tests/trial/test_training.py:{line}: KeyError: 'acme'")


def test_what_nan_has_broken_is_told_by_the_trace():
    def loss(outputs, targets):
        outputs = torch.sigmoid(outputs)
        return F.binary_cross_entropy(outputs, torch.zeros_like(outputs))  # raises where it is given NaN

    def build(step_of_nan=0):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        model[0].register_forward_hook(lambda module, inputs, y: next(steps) and y / (y - y))
        steps = iter([None] * step_of_nan + [1])
        return model

    def build_later():
        return build(2)

    for model, recorded in ((build, [0]), (build_later, [0, 1, 2])):
        trace = train(trial(model=model, loss=loss), 0)
        assert list(trace.steps) == recorded
        assert [event.kind for event in trace.events] == ["interrupted"]
        (finding,) = (f for f in diagnose(trace) if f.code == "GS401")
        assert finding.module == "0"


def test_an_error_besides_a_mask_of_infinities_is_the_user_s():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.mask = nn.Linear(4, 3), nn.Identity()

        def forward(self, x):
            mask = self.mask(torch.full((1, 3), -torch.inf))
            return self.fc(x) + mask.exp()

    with pytest.raises(KeyError):
        train(trial(model=Masked, loss=lambda o, t: fail()), 0)


def test_a_function_that_gives_the_same_model_again():
    model = net()
    once = trial(model=lambda: model)
    train(once, 0)
    with pytest.raises(UsageError) as caught:
        train(once, 1)
    assert str(caught.value) == (
        "`model=<lambda>` returns the same model again, already trained; it must build a new one."
    )


# ---------------------------------------------------------------- configured


def test_a_configured_target_is_resolved():
    target = CheckTarget(
        name="encoder",
        model="torch.nn:Identity",
        batch="os:getcwd",
        loss="torch.nn.functional:mse_loss",
        lr=0.1,
        steps=7,
    )
    made = of(target)
    assert (made.model, made.loss, made.lr, made.steps, made.device) == (nn.Identity, F.mse_loss, 0.1, 7, "cpu")
    with pytest.raises(UsageError) as caught:
        train(made, 0)
    assert str(caught.value) == (
        '[[tool.gradscope.check]] encoder: model = "torch.nn:Identity": Identity has no parameters, so there is nothing'
        " to train."
    )


def test_a_reference_that_leads_nowhere_is_quoted():
    target = CheckTarget(name="encoder", model="torch.nn:Linea", batch="os:getcwd", loss="torch:abs")
    with pytest.raises(UsageError) as caught:
        of(target)
    said = "torch.nn has no 'Linea'; did you mean 'Linear'?"
    assert str(caught.value) == f'[[tool.gradscope.check]] encoder: model = "torch.nn:Linea": {said}'
    with pytest.raises(UsageError) as caught:
        of(target, options={"model"})
    assert str(caught.value) == f"`--model torch.nn:Linea`: {said}"
