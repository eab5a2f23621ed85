"""What a case of the corpus is, and how it is trained.

A case is a small training program with a label. A healthy one has nothing of severity warning or above to find; a sick
one says which pathology is its root, in which modules, by construction, and brings its repaired twin and a measurement
that proves the fault by plain autograd. Nothing here, and no case, imports gradscope: `scorer` brings the two together.

    @case("s_stack_of_sigmoids")                       # s_… is sick, h_… healthy; t_… is the twin of s_…
    def _() -> Case:
        ...

The format is that of the labelled samples that the project began with.
"""

import copy
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

SLUGS = frozenset({
    "vanishing-gradient", "exploding-gradient", "vanishing-through-time", "exploding-through-time", "dead-units",
    "saturation", "non-finite", "no-gradient", "zero-loss-gradient", "symmetric-init", "forward-variance-collapse",
    "forward-variance-explosion", "low-precision-underflow", "low-precision-overflow", "update-too-large",
    "update-too-small", "clipping-dominates", "attention-collapse", "rank-collapse", "constant-output",
    "accumulating-gradient", "loss-divergence", "loss-stall",
})  # fmt: skip

_PARAMETER = re.compile(r"(.*?)\.?(weight|bias|in_proj_\w+|(weight|bias)_(ih|hh|hr)_l\d+(_reverse)?)")


@dataclass(frozen=True, slots=True)
class Label:
    """One acceptable finding: a pathology, a regular expression of the modules it may name ("" for any), its role."""

    pathology: str
    modules: str
    role: str

    def __post_init__(self) -> None:
        if self.pathology not in SLUGS:
            raise ValueError(f"{self.pathology!r} is no pathology")

    def fits(self, module: str) -> bool:
        """Whether `module`, or the module that owns the parameter of that name, is one of `modules`."""
        owner = _PARAMETER.fullmatch(module)
        names = {module, owner[1]} if owner else {module}
        names |= {re.sub(r"\[.*?\]$", "", name) for name in names}
        return not self.modules or any(re.fullmatch(self.modules, name) for name in names)


def root(pathology: str, modules: str = "") -> Label:
    """What is to be found as a root; one of several such labels is enough."""
    return Label(pathology, modules, "root")


def also(pathology: str, modules: str = "") -> Label:
    """What may be found beside it."""
    return Label(pathology, modules, "symptom")


@dataclass(kw_only=True)
class Case:
    """One training program.

    Attributes:
        family: "vanish-depth", "time", "units", "healthy" …; for tables.
        build: The model; seeded before.
        batch: Data of a step, the same whenever it is asked for.
        loss: From model and batch.
        optimizer: Of a model.
        steps: Optimizer steps to train.
        expect: Labels of a sick case; empty for a healthy one.
        tolerate: Pathologies that are true of a healthy case but harmless; not counted as false alarms.
        precision: Autocast of the forward pass on the CPU: None, "fp16" or "bf16".
        loss_scale: A static one; gradients are unscaled before clipping and step.
        clip: Of the total norm, by `clip_grad_norm_`.
        zero_grad: False is the forgotten `zero_grad()`.
        accumulate: Micro-batches for one optimizer step.
        after_step: Called with model and step after the optimizer's step, as an average or a scheduler is.
        fix: The same task with the documented repair: the twin.
        verify: Proves the fault without gradscope: figures, and "sick": bool.
        seed: Of everything random but the data.
    """

    family: str
    build: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    steps: int
    expect: tuple[Label, ...] = ()
    tolerate: tuple[str, ...] = ()
    precision: str | None = None
    loss_scale: float = 1.0
    clip: float | None = None
    zero_grad: bool = True
    accumulate: int = 1
    after_step: Callable[[nn.Module, int], object] | None = None
    fix: "Callable[[], Case] | None" = None
    verify: "Callable[[Case], dict[str, Any]] | None" = None
    seed: int = 0
    name: str = field(default="", init=False)

    def but(self, **changes: Any) -> "Case":
        """The same with `changes`: how a twin is written."""
        return replace(self, fix=None, verify=None, expect=(), **changes)


CASES: dict[str, Callable[[], Case]] = {}


def case(name: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Registers a function that returns a case under `name`."""

    def register(make: Callable[[], Case]) -> Callable[[], Case]:
        if name in CASES or name[:2] not in ("s_", "h_"):
            raise ValueError(f"{name!r} is taken, or begins with neither s_ nor h_")
        CASES[name] = make
        return make

    return register


def get(name: str) -> Case:
    """A case by its name; "t_x" is the twin of "s_x"."""
    if name.startswith("t_"):
        fix = CASES["s_" + name[2:]]().fix
        assert fix is not None, name
        made = copy.copy(fix())
        made.family = "twin"
    else:
        made = CASES[name]()
    made.name = name
    return made


def is_held_out(name: str) -> bool:
    """Whether a case is kept for the report: half of them, told by a hash of the name; a twin goes with its case."""
    return hashlib.sha256(name[2:].encode()).digest()[0] % 2 == 1


class Observer:
    """What happens around the steps of a training; gradscope is attached by one."""

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer, case: Case) -> None: ...
    def on_loss(self, step: int, loss: Tensor) -> None: ...
    def finish(self) -> None: ...


def train(case: Case, observer: Observer | None = None, *, steps: int | None = None) -> tuple[nn.Module, list[float]]:
    """The trained model and the loss of every step (of every micro-batch, where they are accumulated)."""
    watching = observer or Observer()
    model, optimizer = prepare(case)
    watching.start(model, optimizer, case)
    torch.manual_seed(case.seed + 1)
    losses = [one_step(case, model, optimizer, step, watching) for step in range(steps or case.steps)]
    watching.finish()
    return model, losses


def prepare(case: Case) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model, in training mode, and optimizer as they are before the first step."""
    torch.manual_seed(case.seed)
    model = case.build().train()
    return model, case.optimizer(model)


def one_step(
    case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, observer: Observer | None = None
) -> float:
    """One forward and backward pass, and the optimizer's step where one is due."""
    data = case.batch(step)
    with autocast_of(case):
        loss = case.loss(model, data)
    (observer or Observer()).on_loss(step, loss)
    if case.zero_grad and step % case.accumulate == 0:
        optimizer.zero_grad(set_to_none=True)
    if loss.requires_grad:
        (loss * case.loss_scale if case.loss_scale != 1.0 else loss).backward()
    if (step + 1) % case.accumulate == 0:
        given = [p for p in model.parameters() if p.grad is not None]
        if case.loss_scale != 1.0:
            for p in given:
                p.grad.div_(case.loss_scale)
        if case.clip is not None:
            nn.utils.clip_grad_norm_(given, case.clip)
        optimizer.step()
        if case.after_step is not None:
            case.after_step(model, step)
    return float(loss.detach())


def autocast_of(case: Case) -> torch.autocast:
    """The autocast context of a case's forward pass."""
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    return torch.autocast("cpu", dtype=dtypes.get(case.precision or "", torch.bfloat16), enabled=bool(case.precision))


# Measuring, by plain autograd.


def gradients(case: Case, step: int = 0, model: nn.Module | None = None) -> tuple[float, dict[str, Tensor | None]]:
    """The loss, and ∂L/∂w of every parameter (None where there is none), at the initial weights or those of `model`."""
    if model is None:
        model, _ = prepare(case)
    torch.manual_seed(case.seed + 1)
    with autocast_of(case):
        loss = case.loss(model, case.batch(step))
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, Tensor | None] = dict.fromkeys(name for name, _ in model.named_parameters())
    if loss.requires_grad:
        scaled = torch.autograd.grad(loss * case.loss_scale, list(trainable.values()), allow_unused=True)
        found |= {n: None if g is None else g / case.loss_scale for n, g in zip(trainable, scaled, strict=True)}
    return float(loss.detach()), found


def rms(values: Tensor) -> float:
    """Root mean square, in double precision."""
    return float(values.detach().double().pow(2).mean().sqrt())


def gradient_rms(found: dict[str, Tensor | None], pattern: str) -> float:
    """Root mean square over the gradients of all parameters whose name `pattern` finds; none counts as zeros."""
    parts = [g.double().flatten() for n, g in found.items() if re.search(pattern, n) and g is not None]
    return rms(torch.cat(parts)) if parts else 0.0


def gradient_norm(found: dict[str, Tensor | None]) -> float:
    """‖∂L/∂w‖₂ over all parameters."""
    return sum(float(g.double().pow(2).sum()) for g in found.values() if g is not None) ** 0.5


def ends(losses: list[float]) -> tuple[float, float]:
    """Mean of the first and of the last tenth of the losses, three at least."""
    some = min(max(3, len(losses) // 10), len(losses))
    return sum(losses[:some]) / some, sum(losses[-some:]) / some


# Parts that cases are made of.


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def sgd(lr: float, **options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """SGD of all trainable parameters."""
    return lambda model: torch.optim.SGD(trainable(model), lr=lr, **options)


def adam(lr: float, **options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Adam of all trainable parameters."""
    return lambda model: torch.optim.Adam(trainable(model), lr=lr, **options)


def adamw(lr: float, **options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """AdamW of all trainable parameters."""
    return lambda model: torch.optim.AdamW(trainable(model), lr=lr, **options)


def generator(step: int, salt: int = 0) -> torch.Generator:
    """Random numbers that depend on the step alone."""
    return torch.Generator().manual_seed(1_000_003 * (salt + 1) + step)


def randn(*shape: int, step: int = 0, salt: int = 0) -> Tensor:
    """Normal numbers of a step."""
    return torch.randn(*shape, generator=generator(step, salt))


def randint(high: int, shape: tuple[int, ...], *, step: int = 0, salt: int = 0) -> Tensor:
    """Whole numbers below `high` of a step."""
    return torch.randint(0, high, shape, generator=generator(step, salt))
