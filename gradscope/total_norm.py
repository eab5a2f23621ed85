"""‖∂L/∂w‖₂ over all parameters, as backward left the gradients ("raw") and as they were applied."""

from collections.abc import Mapping

import numpy as np

from gradscope.records import COLUMN, Key, Quantity
from gradscope.rows import Rows, scalar_row

_SUMMED = [COLUMN["numel"], COLUMN["nonfinite_count"]]


class TotalNorms:
    """Which sites add up to the total norms.

    The two norms are compared with each other, so where there are applied gradients both are over the parameters that
    have one.

    Args:
        index: The sites, and the index of each.
    """

    def __init__(self, index: Mapping[Key, int]) -> None:
        of = {(m, name): i for (m, quantity, name), i in index.items() if quantity is Quantity.WEIGHT_GRAD}
        applied = {(m, name): i for (m, quantity, name), i in index.items() if quantity is Quantity.APPLIED_GRAD}
        self._raw = np.array(list(of.values()), dtype=np.intp)
        pairs = [(of[key], i) for key, i in applied.items() if key in of]
        self._pairs = np.array(pairs, dtype=np.intp).reshape(-1, 2)
        self._columns = {name: index.get(("", Quantity.TOTAL_NORM, name)) for name in ("raw", "applied")}

    def add_to(self, values: Rows) -> None:
        """Writes the norms into `values`, (site, statistic) of one step."""
        seen = ~np.isnan(values[:, COLUMN["numel"]])
        raw, applied = self._raw[seen[self._raw]], self._pairs[seen[self._pairs[:, 1]], 1]
        if len(applied):
            raw = self._pairs[seen[self._pairs[:, 0]] & seen[self._pairs[:, 1]], 0]
        for name, members in (("raw", raw), ("applied", applied)):
            column = self._columns[name]
            if column is not None and len(members):
                values[column] = _total(values[members])


def _total(rows: Rows) -> Rows:
    norms = rows[:, COLUMN["l2_norm"]].astype(np.float64)
    finite = norms[~np.isnan(norms)]
    row = scalar_row(float(np.linalg.norm(finite)) if len(finite) else np.nan)
    row[_SUMMED] = rows[:, _SUMMED].sum(axis=0)
    return row
