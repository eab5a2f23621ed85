"""Loops that do to a watched model what one would rather not see: each function makes a training."""

import copy
import gc
import io
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode
from torch_models import data, squares, trained
from watching import Training

LOOPS: dict[str, Callable[[], Training]] = {}


def loop(make: Callable[[], Training]) -> Callable[[], Training]:
    """Puts a training into the table, by its function's name."""
    LOOPS[make.__name__.replace("_", " ")] = make
    return make


def small() -> nn.Sequential:
    """What most of these train."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 2))


def loss_of(model: nn.Module, step: int) -> Tensor:
    """Of random numbers of this step."""
    return model(data(step, 3, 4)).square().mean()


def beside(act: Callable[[nn.Sequential, int], object]) -> Training:
    """A training that does something else before each step."""
    model = small()

    def both(step: int) -> Tensor:
        act(model, step)
        return loss_of(model, step)

    return trained(model, both)


# ---------------------------------------------------------------- copies


def _train_a_while(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        loss_of(model, step + 50).backward()
        optimizer.step()
        optimizer.zero_grad()


@loop
def copies_are_trained() -> Training:
    return beside(lambda model, step: _train_a_while(copy.deepcopy(model)))


@loop
def saved_models_are_trained() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        _train_a_while(torch.load(file, weights_only=False))
        _train_a_while(pickle.loads(pickle.dumps(model)))

    return beside(act)


@loop
def an_average_of_the_weights_is_kept() -> Training:
    model = small()
    average = torch.optim.swa_utils.AveragedModel(model)

    def both(step: int) -> Tensor:
        average.update_parameters(model)
        with torch.no_grad():
            average(data(step, 3, 4))
        return loss_of(model, step)

    return trained(model, both)


@loop
def states_are_loaded() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    start = copy.deepcopy(model.state_dict())

    def both(step: int) -> Tensor:
        if step == 2:
            model.load_state_dict(start, assign=False)
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return loss_of(model, step)

    return trained(model, both, optimizer)


# ---------------------------------------------------------------- other ways to run a model


@loop
def the_model_is_traced() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            torch.jit.trace(copy.deepcopy(model).eval(), data(0, 3, 4))
            torch.jit.trace(model, data(0, 3, 4), check_trace=False)

    return beside(act)


@loop
def the_model_is_exported() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        if step == 1:
            torch.export.export(model.eval(), (data(0, 3, 4),)).module()(data(0, 3, 4))
            model.train()

    return beside(act)


@loop
def transforms_of_functions() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def loss(given: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(model, given, (x,)).square().mean()

        model.eval()
        torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, data(step, 3, 4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its rules are still written in TorchScript
            torch.func.jvp(lambda x: model(x), (data(step, 3, 4),), (data(step, 3, 4),))
        torch.func.jacrev(lambda x: model(x).sum())(data(step, 3, 4))
        model.train()

    return beside(act)


@loop
def other_parameters_are_called_with() -> Training:
    """`functional_call` with gradients, as in meta-learning: those of the other parameters count."""
    model = small()

    def both(step: int) -> Tensor:
        shifted = {name: p * 0.9 for name, p in model.named_parameters()}
        return torch.func.functional_call(model, shifted, (data(step, 3, 4),)).square().mean()

    return trained(model, both)


@loop
def fake_tensors_go_through_it() -> Training:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def act(model: nn.Sequential, step: int) -> None:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model(mode.from_tensor(data(step, 3, 4))).sum()

    return beside(act)


@loop
def operations_are_counted() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> str:
        with FlopCounterMode(display=False) as counter:
            optimizer.zero_grad()
            loss = loss_of(model, number)
            loss.backward()
            optimizer.step()
        return f"{counter.get_total_flops()} {loss.item().hex()}"

    return Training(model, [optimizer], step)


@loop
def other_devices_and_types_are_the_default() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        batch = data(number, 3, 4)
        with torch.device("meta"):
            torch.set_default_dtype(torch.float64)
            try:
                optimizer.zero_grad()
                loss = model(batch).square().mean()
                loss.backward()
                optimizer.step()
            finally:
                torch.set_default_dtype(torch.float32)
        return loss

    return Training(model, [optimizer], step)


@loop
def saved_tensors_are_moved() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return loss_of(model, step)

    return trained(model, both)


@loop
def deterministic_algorithms() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        torch.use_deterministic_algorithms(True)
        try:
            optimizer.zero_grad()
            loss = loss_of(model, number)
            loss.backward()
            optimizer.step()
        finally:
            torch.use_deterministic_algorithms(False)
        return loss

    return Training(model, [optimizer], step)


class _Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).relu()


@loop
def some_results_are_kept_by_a_checkpoint() -> Training:
    """What is computed beside the model must not be among them."""
    model = nn.Sequential(_Attending(), _Attending())
    aten = torch.ops.aten
    kept = [aten.addmm.default, aten.mm.default, aten.bmm.default, aten.clone.default, aten.relu.default]

    def keep() -> object:
        return create_selective_checkpoint_contexts(kept)

    def both(step: int) -> Tensor:
        x = data(step, 2, 5, 8)
        for part in model:
            x = checkpoint(part, x, use_reentrant=False, context_fn=keep)
        return x.square().mean()

    return trained(model, both)


# ---------------------------------------------------------------- gradients


@loop
def gradients_are_zeroed_and_kept() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        optimizer.zero_grad(set_to_none=number % 2 == 0)
        loss = loss_of(model, number)
        loss.backward()
        optimizer.step()
        return loss

    return Training(model, [optimizer], step)


@loop
def a_graph_is_kept_and_gone_through_twice() -> Training:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, number)
        loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
        return loss

    return Training(model, [optimizer], step)


@loop
def a_penalty_on_the_gradient() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        x = data(step, 3, 4).requires_grad_()
        y = model(x).sum()
        (slope,) = torch.autograd.grad(y, x, create_graph=True)
        return y.square() + (slope.norm() - 1).square()

    return trained(model, both)


@loop
def a_backward_that_can_be_differentiated() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it makes a cycle
            loss.backward(create_graph=True)
        penalty = sum(p.grad.square().sum() for p in model.parameters())
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
        gc.collect()
        return loss

    return Training(model, [optimizer], step)


@loop
def an_anomaly_is_looked_for() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
            warnings.simplefilter("ignore")  # that it is slow
            loss = loss_of(model, step)
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            return loss

    return trained(model, both)


# ---------------------------------------------------------------- structure


@loop
def modules_come_and_go() -> Training:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def both(step: int) -> Tensor:
        if step == 1:
            model.append(nn.Linear(4, 4))
            optimizer.add_param_group({"params": list(model[3].parameters())})
        if step == 2:
            del model[1]
            model[0] = nn.Linear(4, 4)
            optimizer.param_groups[0]["params"][:2] = list(model[0].parameters())
        return loss_of(model, step)

    return trained(model, both, optimizer)


@loop
def parameters_are_replaced() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def both(step: int) -> Tensor:
        model[0].weight.data = model[0].weight.data * 0.5
        if step == 1:
            model[0].weight = nn.Parameter(model[0].weight.detach() + 1)
            optimizer.param_groups[0]["params"][0] = model[0].weight
            del model[3].bias
            model[3].bias = None
        return loss_of(model, step)

    return trained(model, both, optimizer)


@loop
def layers_are_frozen_and_thawed() -> Training:
    return beside(lambda model, step: model[0].requires_grad_(step % 2 == 1))


@loop
def layers_are_pruned_and_parametrized() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def both(step: int) -> Tensor:
        if step == 1:
            prune.random_unstructured(model[0], "weight", 0.5)
            parametrize.register_parametrization(model[3], "weight", nn.Tanh())
        if step == 2:
            prune.remove(model[0], "weight")
            parametrize.remove_parametrizations(model[3], "weight")
        return loss_of(model, step)

    return trained(model, both, optimizer)


@loop
def layers_grow() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def both(step: int) -> Tensor:
        optimizer.zero_grad()
        model[0].weight.data = torch.ones(6 + step, 4)
        model[0].bias.data = torch.ones(6 + step)
        model[3].weight.data = torch.ones(2, 6 + step)
        return loss_of(model, step)

    return trained(model, both, optimizer)


@loop
def the_model_changes_its_type() -> Training:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    dtypes = (torch.float32, torch.float64, torch.bfloat16)

    def both(step: int) -> Tensor:
        optimizer.zero_grad()
        model.to(dtypes[step])
        return model(data(step, 3, 4).to(dtypes[step])).square().mean()

    return trained(model, both, optimizer)


@loop
def the_model_is_swapped_for_one_of_another_type() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            model.zero_grad()
            model.double().float()
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    training = beside(act)
    training.all_seen = False  # torch leaves the hooks on the parameters' gradients behind
    return training


# ---------------------------------------------------------------- errors


class _Breaks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        raise ArithmeticError("in the backward")


class _Fragile(nn.Module):
    """Raises in every second call: before it has computed anything, after it, or in the backward."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.fc, self.where, self.calls = nn.Linear(6, 6), where, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls % 2:
            return self.fc(x)
        if self.where == "backward":
            return _Breaks.apply(self.fc(x))
        y = self.fc(x) if self.where == "after" else x
        raise KeyboardInterrupt("in the forward") if self.where == "interrupt" else ArithmeticError(f"{y.shape}")


def _going_on(where: str) -> Training:
    """Errors are caught, and the training goes on with the next batch."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), _Fragile(where), nn.Linear(6, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def attempt(number: int) -> str:
        optimizer.zero_grad()
        try:
            loss = loss_of(model, number)
            loss.backward()
        except (ArithmeticError, KeyboardInterrupt) as error:
            return f"{type(error).__name__} {error}"
        optimizer.step()
        return loss.item().hex()

    def step(number: int) -> str:
        return f"{attempt(number)} {attempt(number + 10)}"

    return Training(model, [optimizer], step)


@loop
def errors_before_a_forward() -> Training:
    return _going_on("before")


@loop
def errors_after_a_forward() -> Training:
    return _going_on("after")


@loop
def errors_in_the_backward() -> Training:
    return _going_on("backward")


@loop
def interrupts_in_the_forward() -> Training:
    return _going_on("interrupt")


@loop
def errors_in_the_hooks_of_others() -> Training:
    training = _going_on("never")
    fragile = training.model[2]
    fragile.forward = fragile.fc.forward

    def hook(module: nn.Module, args: object, y: Tensor) -> None:
        module.calls += 1
        if module.calls % 2 == 0:
            raise ArithmeticError("in a hook")

    fragile.register_forward_hook(hook)
    return training


@loop
def gradients_that_are_not_finite() -> Training:
    return beside(lambda model, step: model[3].bias.data.fill_(float("nan" if step == 1 else "inf")))


# ---------------------------------------------------------------- the hooks of others


@loop
def hooks_that_remove_themselves() -> Training:
    model = small()

    def act(step: int) -> Tensor:
        handles = []

        def once(*given: object) -> None:
            handles.pop().remove()

        handles.append(model[0].register_forward_hook(once))
        handles.append(model[1].register_forward_pre_hook(once))
        handles.append(model[3].register_full_backward_hook(once))
        return loss_of(model, step)

    return trained(model, act)


@loop
def hooks_that_place_hooks() -> Training:
    model = small()

    def place(module: nn.Module, args: object, y: Tensor) -> None:
        handle = module.register_forward_hook(lambda module, args, y: handle.remove() or y * 2)

    model[0].register_forward_hook(place)
    return squares(model, 3, 4)


@loop
def all_hooks_are_thrown_away() -> Training:
    """Gradscope's too; what it then no longer sees it cannot record, but it must not trip over that."""

    def act(model: nn.Sequential, step: int) -> None:
        if step == 2:
            for module in model.modules():
                module._forward_hooks.clear()
                module._forward_pre_hooks.clear()

    return beside(act)


@loop
def hooks_on_everything() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        from torch.nn.modules.module import register_module_forward_hook

        with register_module_forward_hook(lambda module, args, y: y * 1.1 if isinstance(module, nn.Linear) else None):
            return loss_of(model, step)

    return trained(model, both)


# ---------------------------------------------------------------- threads, processes, signals


@loop
def another_thread_evaluates_it() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        def evaluate() -> None:
            with torch.no_grad():
                model[:2](data(step, 3, 4))

        thread = threading.Thread(target=evaluate)
        thread.start()
        thread.join()

    return beside(act)


@loop
def a_child_process_trains_it() -> Training:
    def act(model: nn.Sequential, step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forking with threads
            child = os.fork()
        if child == 0:
            try:
                _train_a_while(model)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    return beside(act)


class _Batches(torch.utils.data.Dataset[Tensor]):
    """Its samples come from the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            self.model(data(index, 4))
        return data(index, 4)


@loop
def workers_that_load_data_hold_the_model() -> Training:
    model = small()

    def both(step: int) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (batch,) = torch.utils.data.DataLoader(_Batches(model), batch_size=4, num_workers=step % 2)
        return model(batch).square().mean()

    return trained(model, both)


@loop
def signals_interrupt_it() -> Training:
    model = small()
    model.insert(1, _Alarm())
    return squares(model, 3, 4)


class _Alarm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        before = signal.signal(signal.SIGUSR1, lambda *_: torch.rand(()))
        os.kill(os.getpid(), signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, before)
        return x
