"""A sample of the published pairs as one small file, for machines that do not have the archives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import published_pairs
from published_prompts import END, MARKERS, PAD

from holdfast.records import PreferencePair
from holdfast.training.encoding import Encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Pairs in random order, their trajectories as tokens by id, and the tokenizer (of transformers)."""

    pairs: tuple[PreferencePair, ...]
    encoded: dict[str, Encoded]
    tokenizer: Any


def take_sample(data: Path, cache: Path, cases: int, *, seed: int = 0) -> Sample:
    """All published pairs of some cases drawn at random."""
    published = published_pairs.load(cache, data=data)
    names = sorted({pair.case_id for pair in published.pairs})
    rng = np.random.default_rng(seed)
    kept = {names[number] for number in rng.choice(len(names), min(cases, len(names)), replace=False).tolist()}
    pairs = [pair for pair in published.pairs if pair.case_id in kept]
    order = rng.permutation(len(pairs)).tolist()
    return make_sample([pairs[number] for number in order], published.encoded, published.tokenizer)


def make_sample(pairs: Sequence[PreferencePair], encoded: dict[str, Encoded], tokenizer: Any) -> Sample:
    """A sample of some pairs, with no trajectory besides theirs."""
    used = sorted({name for pair in pairs for name in (pair.chosen, pair.rejected)})
    return Sample(pairs=tuple(pairs), encoded={name: encoded[name] for name in used}, tokenizer=tokenizer)


def write_sample(path: Path, sample: Sample) -> None:
    """Writes a sample as a compressed ``.npz``; ids take 16 bits where they fit."""
    items = list(sample.encoded.values())
    ids = np.concatenate([item.ids for item in items])
    place = {name: number for number, name in enumerate(sample.encoded)}
    np.savez_compressed(
        path,
        names=np.array(list(sample.encoded)),
        lengths=np.array([len(item.ids) for item in items]),
        prompts=np.array([item.prompt for item in items]),
        ids=ids.astype(np.uint16 if ids.max() < 2**16 else np.uint32),
        agent=np.packbits(np.concatenate([item.agent for item in items])),
        cases=np.array([pair.case_id for pair in sample.pairs]),
        chosen=np.array([place[pair.chosen] for pair in sample.pairs]),
        rejected=np.array([place[pair.rejected] for pair in sample.pairs]),
        gaps=np.array([pair.gap for pair in sample.pairs]),
        tokenizer=np.frombuffer(sample.tokenizer.backend_tokenizer.to_str().encode(), np.uint8),
        labels=np.array(json.dumps([sample.pairs[0].objectives, sample.pairs[0].judge])),
    )


def read_sample(path: Path) -> Sample:
    """A sample as ``write_sample`` left it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    with np.load(path) as file:
        stored = {name: file[name] for name in file.files}
    names, cuts = stored["names"].tolist(), np.cumsum(stored["lengths"])[:-1]
    agent = np.unpackbits(stored["agent"], count=len(stored["ids"])).astype(np.bool_)
    parts = zip(np.split(stored["ids"], cuts), np.split(agent, cuts), stored["prompts"].tolist(), strict=True)
    encoded = {
        name: Encoded(ids=ids.astype(np.int64), agent=own, prompt=prompt)
        for name, (ids, own, prompt) in zip(names, parts, strict=True)
    }
    objectives, judge = json.loads(str(stored["labels"]))
    columns = (stored[name].tolist() for name in ("cases", "chosen", "rejected", "gaps"))
    pairs = tuple(
        PreferencePair(
            case_id=case,
            chosen=names[chosen],
            rejected=names[rejected],
            objectives=tuple(objectives),
            judge=judge,
            gap=gap,
        )
        for case, chosen, rejected, gap in zip(*columns, strict=True)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(stored["tokenizer"].tobytes().decode()),
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(MARKERS.values()),
        clean_up_tokenization_spaces=False,
    )
    return Sample(pairs=pairs, encoded=encoded, tokenizer=tokenizer)
