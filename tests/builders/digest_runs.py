"""What tests of digests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

Captured = pytest.CaptureFixture[str]


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "bit":
        data[len(data) // 2] ^= 4
    elif how == "nan":
        data[-4:] = np.float32(np.nan).tobytes()
    elif how == "cut":
        del data[-8:]
    elif how == "header":
        data[12] ^= 1
    path.write_bytes(data)
