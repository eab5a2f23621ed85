"""The sites of a running recording: they are registered as they are met, and get their depth when they run."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from gradscope.cut import Cut
from gradscope.links import Links
from gradscope.records import Key, Quantity, Site
from gradscope.total_norm import TotalNorms


class SiteTable:
    """Sites in the order in which they were registered.

    Attributes:
        module_types: Class names of the modules, by name.
        calls: File and line of a call that is a site, by the name that stands in place of a module's.
        links: Who is given whose output.
        cuts: Calls that take a value out of the graph.
        depths: Of the modules that have run: the order in which they first did, from 1.
        broken: Modules around others, in the order of the forward pass, and the first step in which what they returned
            was not finite.
        dtypes: What modules and parameters, by name, compute and are kept in; only of what is not float32.

    Args:
        module_types: Of those that are known from the start.
    """

    def __init__(self, module_types: Mapping[str, str]) -> None:
        self.module_types = dict(module_types)
        self.calls: dict[str, tuple[str, int]] = {}
        self.cuts: list[Cut] = []
        self.links = Links()
        self.depths: dict[str, int] = {}
        self.broken: dict[str, int] = {}
        self.dtypes: dict[str, str] = {}
        self._order: dict[str, int] = {}  # also of modules that have only run without gradients
        self._index: dict[Key, int] = {}
        self._sites: tuple[Site, ...] = ()
        self._sites_of = (0, 0)  # how many sites and depths there were when _sites was made
        self._totals = TotalNorms({})
        self._totals_of = 0
        self._are: dict[frozenset[Quantity], NDArray[np.bool_]] = {}  # see `are`

    def __len__(self) -> int:
        return len(self._index)

    def index(self, module: str, quantity: Quantity, name: str = "") -> int:
        """Index of a site; registers it when it is new."""
        return self._index.setdefault((module, quantity, name), len(self._index))

    def completed(self, module: str, module_type: str | None = None) -> None:
        """`module` has run: it gets the next depth if it has none."""
        if module not in self.depths:
            if module_type is not None:
                self.module_types[module] = module_type
            self.passed_by(module)
            self.depths[module] = self._order[module]

    def passed_by(self, module: str) -> None:
        """`module` has run without gradients: its place is kept, should it be computed again for the backward."""
        self._order.setdefault(module, len(self._order) + 1)

    def break_containers(self, step: int, containers: Iterable[str]) -> None:
        """What `containers` have returned in `step` is not finite."""
        for container in containers:
            self.broken.setdefault(container, step)

    @property
    def called(self) -> frozenset[str]:
        """Whatever has run, with gradients or without."""
        return frozenset(self._order)

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites registered so far; a module's depth is −1 until it has run."""
        if self._sites_of != (len(self._index), len(self.depths)):
            self._sites_of = len(self._index), len(self.depths)
            self._sites = tuple(
                Site(
                    module=module,
                    module_type=self.module_types.get(module, ""),
                    quantity=quantity,
                    name=name,
                    depth=0 if quantity is Quantity.INPUT and not module else self.depths.get(module, -1),
                )
                for module, quantity, name in self._index
            )
        return self._sites

    def are(self, wanted: frozenset[Quantity]) -> NDArray[np.bool_]:
        """Which sites are of a quantity among `wanted`."""
        known = self._are.get(wanted)
        if known is None or len(known) != len(self._index):
            known = np.array([quantity in wanted for _, quantity, _ in self._index], dtype=bool)
            self._are[wanted] = known
        return known

    def totals(self) -> TotalNorms:
        """What adds up to the total norms, which are registered as soon as there is a gradient to add up."""
        if self._totals_of != len(self._index):
            held = {quantity for _, quantity, _ in self._index}
            for quantity, name in ((Quantity.WEIGHT_GRAD, "raw"), (Quantity.APPLIED_GRAD, "applied")):
                if quantity in held:
                    self.index("", Quantity.TOTAL_NORM, name)
            self._totals, self._totals_of = TotalNorms(self._index), len(self._index)
        return self._totals
