"""What a recording could not see, and why: a module that is not in the trace is not a healthy one."""

import torch

from gradscope.findings import Json
from gradscope.probes.base import Target, owner_and_name
from gradscope.probes.names import bare_modules, bare_parameters
from gradscope.recorder import StepRecorder
from gradscope.records import Quantity

_GRADIENTS = frozenset({Quantity.WEIGHT_GRAD, Quantity.APPLIED_GRAD})
_OUTPUTS = frozenset({Quantity.OUTPUT, Quantity.OUTPUT_GRAD})


def blind_spots(target: Target, recorder: StepRecorder, watched: frozenset[Quantity]) -> list[Json]:
    """A `{"module": name, "why": sentence}` for each part of the model that no hook has shown so far.

    Args:
        target: The model, and what of it is observed.
        recorder: What has been seen of it.
        watched: What the probes emit; of a module whose outputs nobody watches nothing is said.
    """
    found = dict(recorder.blind_spots)
    now = bare_modules(target.model)
    for name, module in now.items():
        if isinstance(module, torch.jit.ScriptModule):
            found.setdefault(name, "is compiled by torch.jit and takes no hooks")
        elif name not in recorder.table.module_types:
            found.setdefault(name, "was added after `attach`; detach and attach again to see it")
        elif target.modules.get(name, module) is not module:
            found.setdefault(name, "was replaced after `attach`; detach and attach again to see it")
    if watched & _OUTPUTS and "" not in recorder.blind_spots:
        trained = {site.module for site in recorder.observed(_GRADIENTS)}
        for name in target.modules:
            if name in recorder.table.depths or name not in now:
                continue
            if name in trained:
                why = "gets gradients but is never called: its `forward` is called directly, or its weights are read"
            else:
                why = "never ran with gradients in a recorded step"
            found.setdefault(name, why)
        for name in recorder.table.called - recorder.table.depths.keys() - now.keys():
            found.setdefault(name, "is called without gradients, or within a checkpoint with `use_reentrant=True`")
    seen = {site.module for site in recorder.observed(frozenset({Quantity.WEIGHT_GRAD}))}
    held = {id(parameter) for parameter in bare_parameters(target.model).values()}
    lost = [name for name, parameter in target.parameters.items() if id(parameter) not in held]
    lost = [name for name in lost if owner_and_name(name)[0] not in seen]
    if lost and Quantity.WEIGHT_GRAD in watched:
        many = f"{len(lost)} of its parameters were" if len(lost) > 1 else f"its parameter {lost[0]} was"
        found.setdefault(
            "", f"{many} replaced after `attach`, as `fully_shard` does, and are not seen; attach after it"
        )
    return [{"module": name, "why": why} for name, why in found.items()]
