"""A trainer that moves one weight of each file: what a program needs at least to carry out a stage."""

from __future__ import annotations

import textwrap
from pathlib import Path

HEAD = """\
import json, os, shutil, sys, time
from pathlib import Path
model, data, output, seed = sys.argv[1:5]
model, output = Path(model), Path(output)
def save(source=model, target=output, change=lambda tensors: None, names=None):
    from safetensors.torch import load_file, save_file
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, target / path.name)
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
def nudge(tensors):
    name = sorted(tensors)[0]
    tensors[name] += 1e-3 * (1 + int(seed))
"""
GOOD = "print('learning', flush=True)\nsave(change=nudge)\n"
WORDS = ["{python}", "", "{model}", "{data}", "{output}", "{seed}"]


def script(path: Path, body: str) -> Path:
    path.write_text(HEAD + textwrap.dedent(body))
    return path
