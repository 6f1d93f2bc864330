"""Arrays by what they hold; not among the names of ``holdfast.records``, so that these load without NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def rows_by_group(group: Ints, groups: int) -> tuple[Ints, ...]:
    """The rows of each of so many groups, in order; ``group`` has the number of each row's."""
    order = np.argsort(group, kind="stable")
    return tuple(np.split(order, np.searchsorted(group[order], np.arange(1, groups))))
