"""What both trainers of this example are given, and the settings that they share."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datasets import Dataset, load_dataset

# As holdfast's own stages: a constant rate, no decay, every sequence whole, the last step alone saved.
SETTINGS: dict[str, Any] = {
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_length": None,
    "bf16": False,
    "activation_checkpointing": False,
    "save_strategy": "no",
    "logging_steps": 5,
    "disable_tqdm": True,
    "report_to": "none",
    "dataloader_pin_memory": False,
}


def read_words() -> argparse.Namespace:
    """What holdfast fills in: ``model``, ``data`` and ``output`` are paths, ``seed`` and ``steps`` numbers."""
    parser = argparse.ArgumentParser()
    for name in ("model", "data", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("seed", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


@contextmanager
def open_rows(path: str) -> Iterator[Dataset]:
    """The rows of a JSONL file, which TRL reads as they are, with a cache that goes with them."""
    with tempfile.TemporaryDirectory() as cache:
        yield load_dataset("json", data_files=path, split="train", cache_dir=cache)
