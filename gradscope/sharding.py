"""How the parameters of a model lie in several processes: whole in each, or in parts. A merge must know."""

from torch import Tensor, nn

from gradscope.findings import Json
from gradscope.probes.base import Target
from gradscope.probes.names import FSDP1, bare_modules, has_flat_parameters, is_fully_sharded
from gradscope.processes import local
from gradscope.recorder import StepRecorder


def note_sharding(target: Target, recorder: StepRecorder, meta: "dict[str, Json]") -> None:
    """Puts what is known of it into `recorder` and `meta`; FSDP2 frees what it has gathered in a single process too.

    More may be known in the first step than when the model was attached: that may be before it is sharded.
    """
    if recorder.sharded:
        return
    flat = has_flat_parameters(target.model)
    by_fsdp2 = any(map(is_fully_sharded, bare_modules(target.model).values()))
    dtensors = [parameter for parameter in target.parameters.values() if local(parameter) is not parameter]
    if not (flat or by_fsdp2 or dtensors):
        return
    recorder.sharded = True
    about = meta.get("distributed")
    if not isinstance(about, dict):
        return
    about["parameters"] = "sharded"
    if flat:
        message = f"{FSDP1} hides the raw gradients of parameters; all else is seen, and under `fully_shard` all is"
        recorder.tell("not-observed", "", message)
    if dtensors and (not by_fsdp2 or any(_cut_twice(parameter) for parameter in dtensors)):
        message = (
            "parameters are sharded by more than the data: merged figures of activations are not those of one process,"
            " as the ranks of tensor parallelism share a batch"
        )
        recorder.tell("approximate", "", message)


def _cut_twice(parameter: nn.Parameter | Tensor) -> bool:
    """Whether a DTensor is sharded along two dimensions of its mesh."""
    placements = getattr(parameter, "placements", ())
    return sum(bool(placement.is_shard()) for placement in placements) > 1
