"""Gradients of earlier steps that nobody cleared."""

from corpus.case import Case, adam, also, case, gradients, one_step, prepare, root, sgd
from corpus.parts import ConvNet, Mlp, blobs, classify, digits, flat_digits, recall
from torch import Tensor, nn

PILED = (
    also("exploding-gradient"),
    also("update-too-large"),
    also("loss-divergence"),
    also("loss-stall"),
    also("non-finite"),
    also("dead-units"),
    also("saturation"),
    also("forward-variance-explosion"),
)


def _left_over(pattern: str):
    """The size of .grad after five steps, over that of the gradient of the fifth alone."""

    def verify(k: Case) -> dict[str, object]:
        model, optimizer = prepare(k)
        for step in range(4):
            one_step(k, model, optimizer, step)
        fresh = gradients(k, 4, model=model)[1]
        optimizer.step = lambda: None
        one_step(k.but(after_step=None), model, optimizer, 4)
        name = next(n for n in fresh if n.startswith(pattern) and n.endswith("weight"))
        left = dict(model.named_parameters())[name].grad - fresh[name]
        ratio = float(left.norm() / fresh[name].norm())
        return {"left_over": ratio, "sick": ratio > 0.3}

    return verify


@case("s_accumulate_adam_mlp")
def _() -> Case:
    """zero_grad() is never called; Adam hides it for a while."""
    c = Case(
        family="accumulating",
        build=lambda: Mlp([64, 48, 48, 10]),
        batch=flat_digits,
        loss=classify,
        optimizer=adam(3e-3),
        zero_grad=False,
        steps=80,
        expect=(root("accumulating-gradient"), *PILED),
        fix=lambda: c.but(zero_grad=True),
        verify=_left_over("layers.0"),
    )
    return c


@case("s_accumulate_sgd_momentum_convnet")
def _() -> Case:
    """A loop without zero_grad() under momentum SGD: the gradient is the sum of all so far."""
    c = Case(
        family="accumulating",
        build=lambda: ConvNet(3, 10),
        batch=digits,
        loss=classify,
        optimizer=sgd(0.02, momentum=0.9),
        zero_grad=False,
        steps=60,
        expect=(root("accumulating-gradient"), *PILED),
        fix=lambda: c.but(zero_grad=True, optimizer=adam(3e-3)),
        verify=_left_over("convs.0"),
    )
    return c


class Listener(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.LSTM(4, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[0][:, -1])


@case("s_accumulate_only_head_cleared")
def _() -> Case:
    """model.head.zero_grad() stands in the loop where model.zero_grad() was meant: the encoder's pile up."""
    c = Case(
        family="accumulating",
        build=Listener,
        batch=lambda step: recall(step, length=6),
        loss=classify,
        optimizer=sgd(0.1),
        zero_grad=False,
        after_step=lambda m, step: m.head.zero_grad(),
        steps=60,
        expect=(root("accumulating-gradient", "encoder"), root("accumulating-gradient", ""), *PILED),
        fix=lambda: c.but(zero_grad=True, after_step=None, optimizer=adam(1e-2), steps=100),
        verify=lambda k: _encoder_left_over(k),
    )
    return c


def _encoder_left_over(k: Case) -> dict[str, object]:
    model, optimizer = prepare(k)
    for step in range(4):
        one_step(k, model, optimizer, step)
    before = model.encoder.weight_hh_l0.detach().clone()
    fresh = gradients(k, 4, model=model)[1]["encoder.weight_hh_l0"]
    optimizer.step = lambda: None
    one_step(k.but(after_step=None), model, optimizer, 4)
    assert bool((model.encoder.weight_hh_l0 == before).all())
    ratio = float((model.encoder.weight_hh_l0.grad - fresh).norm() / fresh.norm())
    return {"left_over": ratio, "sick": ratio > 0.3}


@case("s_accumulate_in_one_branch")
def _() -> Case:
    """Body and head are cleared one by one, and the gate, added later, was forgotten there."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate = nn.Linear(8, 48), nn.Linear(8, 48)
            self.out = nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.body(x).relu() * self.gate(x).sigmoid())

    def clear_some(model: nn.Module, step: int) -> None:
        model.body.zero_grad()
        model.out.zero_grad()

    c = Case(
        family="accumulating",
        build=Gated,
        batch=blobs,
        loss=classify,
        optimizer=adam(5e-3),
        zero_grad=False,
        after_step=clear_some,
        steps=80,
        expect=(root("accumulating-gradient", "gate"), root("accumulating-gradient", ""), *PILED),
        fix=lambda: c.but(zero_grad=True, after_step=None),
        verify=_left_over("gate"),
    )
    return c
