"""The edges of steps, from the hooks' reports alone: no model, no gradients."""

import gc
import weakref
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks, register_optimizer_step_pre_hook

from gradscope.probes.base import Target
from gradscope.probes.names import bare_modules, bare_parameters
from gradscope.recorder import StepRecorder
from gradscope.steps import Steps


@dataclass
class Heard:
    """Writes down what `Steps` tells, and does the least that a scope has to."""

    steps: Steps | None = None
    recorder: StepRecorder | None = None
    said: list[str] = field(default_factory=list)

    def begins(self):
        self.said.append("begins")
        self.recorder.boundary = self.recorder.backward_ran = False
        self.recorder.forward = 0
        self.steps.begin()

    def ended(self):
        self.said.append("ended")

    def skipped(self):
        self.said.append("skipped")
        self.begins()

    def watched(self, optimizers):
        self.optimizers = len(optimizers)

    def stalled(self):
        self.said.append("stalled")

    def failed(self, error):
        self.said.append(f"failed: {error}")


class Scaler:
    def __init__(self, scale):
        self.scale = scale

    def get_scale(self):
        return self.scale


def listening(*, optimizers: int = 0, scaler: Scaler | None = None):
    """Steps, the recorder, what was heard, and optimizers that move a layer each."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    target = Target(model=model, modules=bare_modules(model), parameters=bare_parameters(model))
    heard = Heard()
    recorder = StepRecorder({}, heard.begins)
    steps = Steps(target, recorder, heard, scaler)
    heard.steps, heard.recorder = steps, recorder
    made = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in range(optimizers)]
    for optimizer in made:
        steps.watch(optimizer)
    return steps, recorder, heard.said, made


def test_a_forward_at_a_boundary_begins_a_step_and_only_there():
    steps, recorder, said, (optimizer,) = listening(optimizers=1)
    for _ in range(2):
        steps.forward_begins()
        steps.forward_begins()
        recorder.arrived()
        steps.optimizer_stepped(optimizer)
    assert said == ["begins", "ended"] * 2


def test_two_optimizers_that_step_one_after_the_other_end_one_step():
    steps, recorder, said, (first, second) = listening(optimizers=2)
    steps.forward_begins()
    recorder.arrived()
    steps.optimizer_steps(first, closure=False)
    steps.optimizer_stepped(first)
    recorder.arrived()  # a second loss of the same forward
    steps.optimizer_steps(second, closure=False)
    steps.optimizer_stepped(second)
    assert said == ["begins", "ended", "ended"]
    recorder.arrived()  # all have stepped: no forward was seen, but this is another step's
    assert said[-1] == "begins"


def test_one_of_two_that_steps_again_begins_a_step():
    steps, recorder, said, (first, _) = listening(optimizers=2)
    steps.forward_begins()
    for _ in range(3):
        recorder.arrived()
        steps.optimizer_steps(first, closure=False)
        steps.optimizer_stepped(first)
    assert said == ["begins", "ended"] * 3


def test_a_closure_begins_a_step_unless_another_optimizer_has_one_too():
    steps, _, said, (first, second) = listening(optimizers=2)
    for _ in range(2):
        for optimizer in (first, second):
            steps.optimizer_steps(optimizer, closure=True)
            steps.optimizer_stepped(optimizer)
    assert said == ["begins", "ended", "ended"] * 2


def test_without_an_optimizer_the_first_gradient_of_a_backward_is_the_boundary():
    steps, recorder, said, _ = listening()
    for _ in range(2):
        steps.forward_begins()
        recorder.arrived()
        recorder.arrived()
    assert said == ["begins", "ended"] * 2


def test_a_compiled_forward_is_noticed_at_the_first_gradient():
    steps, recorder, said, (optimizer, _) = listening(optimizers=2)
    steps.forward_begins()
    recorder.arrived()
    steps.optimizer_stepped(optimizer)
    recorder.passed = True
    recorder.arrived()
    assert said == ["begins", "ended", "begins"]


def test_a_scale_that_has_fallen_means_a_skipped_step():
    scaler = Scaler(8.0)
    steps, recorder, said, _ = listening(optimizers=1, scaler=scaler)
    steps.forward_begins()
    recorder.arrived()
    steps.forward_begins()  # a micro-batch
    recorder.arrived()
    assert said == ["begins"]
    scaler.scale = 4.0
    steps.forward_begins()
    assert said == ["begins", "skipped", "begins"]
    assert steps.scale == 4.0


def test_what_goes_wrong_at_an_edge_is_reported_and_does_not_raise():
    class Broken(Scaler):
        def get_scale(self):
            raise ValueError("no scale")

    steps, _, said, _ = listening(scaler=Broken(1.0))
    steps.forward_begins()
    assert said == ["begins", "failed: no scale"]


def newcomer_hooks():
    return [hook for hook in _global_optimizer_pre_hooks.values() if type(hook).__module__ == "gradscope.steps"]


def test_closed_steps_leave_no_hook():
    gc.collect()  # scopes that other tests have dropped
    one, _, _, made = listening(optimizers=1)
    other = listening(optimizers=1)[0]
    assert len(newcomer_hooks()) == 1
    one.close()
    assert not made[0]._optimizer_step_pre_hooks
    assert not made[0]._optimizer_step_post_hooks
    assert len(newcomer_hooks()) == 1
    other.close()
    assert not newcomer_hooks()


def test_torch_keeps_no_steps_that_are_gone():
    gone = weakref.ref(listening(optimizers=1)[0])
    gc.collect()
    assert gone() is None
    listening(optimizers=1)[0].close()
    assert not newcomer_hooks()


def test_steps_that_are_collected_while_another_optimizer_steps_do_not_disturb_it():
    lost = [listening(optimizers=1)]
    collected = weakref.ref(lost[0][0])
    other = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)

    def collect(*_):
        lost.clear()
        gc.collect()

    handles = [register_optimizer_step_pre_hook(hook) for hook in (collect, lambda *_: None)]
    try:
        other.step()
    finally:
        for handle in handles:
            handle.remove()
    assert collected() is None
