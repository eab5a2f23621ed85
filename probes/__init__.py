"""The probes, one file each. `PROBES` is what gradscope offers through its own entry point."""

from gradscope.probes.activations import Activations
from gradscope.probes.base import Probe
from gradscope.probes.cells import Cells
from gradscope.probes.flow import Flow
from gradscope.probes.functional import Functional
from gradscope.probes.gradients import Gradients
from gradscope.probes.parameters import Parameters
from gradscope.probes.recurrent import Recurrent

PROBES: tuple[type[Probe], ...] = (Activations, Gradients, Flow, Functional, Parameters, Recurrent, Cells)

__all__ = ["PROBES", "Activations", "Cells", "Flow", "Functional", "Gradients", "Parameters", "Probe", "Recurrent"]
