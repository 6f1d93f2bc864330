"""The published preference pairs as token sequences, for the benchmarks that train on them; and what they share.

    python benchmarks/published_pairs.py [--json] [--data DIRECTORY] [--cache DIRECTORY] [--vocabulary N]

The pairs are the set ``safe_gpt5m`` of arXiv 2603.02229 (safety, judge gpt-5-mini, its default rule: 13,380). The
published files hold no prompts; ``published_prompts`` opens the cases. The chat format marks turns with special
tokens and renders every message by itself; the tokenizer is a byte-level BPE trained on these very texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import published_prompts
from machine import document, show
from published_prompts import (
    END,
    LABELS,
    MARKERS,
    PAD,
    open_case,
    render,
    render_plain,
    render_rewriting,
    without_thinking,
)

from holdfast.exchange.published import import_into
from holdfast.records import Message, PreferencePair
from holdfast.records.errors import StudyError
from holdfast.store import Store
from holdfast.training.encoding import Encoded
from holdfast.training.pairs import build_pairs
from holdfast.training.trees.trees import count_tokens as tree_tokens

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CACHE = Path(tempfile.gettempdir()) / "holdfast-published-pairs"
PACKAGES = ("numpy", "tokenizers", "transformers")
OBJECTIVE, JUDGE = "safety", "gpt-5-mini"
VOCABULARY = 4096
# About 4 M weights, and the shape of a study's tiny base (0.7 M with this vocabulary).
SHAPES: Mapping[str, Mapping[str, int]] = {
    "small": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4},
    "tiny": {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 3},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPairs:
    """The pairs, their distinct trajectories as tokens by id, the tokenizer (of transformers) and the imported run."""

    pairs: tuple[PreferencePair, ...]
    encoded: dict[str, Encoded]
    tokenizer: Any
    run: Path
    toolkits: Mapping[str, Mapping[str, Any]]

    def longest(self) -> int:
        """The length of the longest trajectory with its prompt, in tokens."""
        return max(len(item.ids) for item in self.encoded.values())


# --- loading ---------------------------------------------------------------------------------------------------


def _import_run(data: Path, cache: Path) -> Path:
    """The imported archive; made beside its place and moved there, so that a run which is there is whole."""
    source = data / "published-raw.tar.zst"
    run = cache / f"raw-{source.stat().st_size}"
    if not run.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            import_into(source, Path(folder) / "raw")
            (Path(folder) / "raw").rename(run)
    return run


def _conversations(
    run: Path, toolkits: Mapping[str, Mapping[str, Any]], names: Iterable[str]
) -> dict[str, tuple[Sequence[Message], Sequence[Message]]]:
    """Opening and following messages by trajectory id. Errors: StudyError where a text spells a marker."""
    with Store(run) as store:
        openings = {case.id: open_case(case, toolkits) for case in store.cases()}
        found: dict[str, tuple[Sequence[Message], Sequence[Message]]] = {
            one.id: (openings[one.case_id], tuple(map(without_thinking, one.messages)))
            for one in store.trajectories(sorted(names))
        }
    for name, (opening, messages) in found.items():
        if any("<|turn:" in message.content or PAD in message.content for message in (*opening, *messages)):
            raise StudyError(f"trajectory {name}: a text spells a special token; choose other markers")
    return found


def _train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE of ``vocabulary`` tokens, the special ones first."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in (PAD, END, *MARKERS.values())],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def wrap_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer as transformers takes it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(MARKERS.values()),
        clean_up_tokenization_spaces=False,
    )


def _encode_all(
    tokenizer: Any, conversations: Mapping[str, tuple[Sequence[Message], Sequence[Message]]]
) -> dict[str, Encoded]:
    """Every conversation as the concatenation of its messages' tokens, each distinct opening encoded once.

    The agent's own tokens are its text and the token that ends its turn.
    """
    end = tokenizer.token_to_id(END)
    roles = {role: tokenizer.token_to_id(marker) for role, marker in MARKERS.items()}

    def tokens(messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        agent: list[bool] = []
        for message in messages:
            text = tokenizer.encode(message.content).ids
            ids += [roles[message.role], *text, end]
            agent += [False] + [message.role == "assistant"] * (len(text) + 1)
        return ids, agent

    prompts: dict[str, tuple[list[int], list[bool]]] = {}
    encoded = {}
    for name, (opening, messages) in conversations.items():
        key = opening[-1].content
        if key not in prompts:
            ids, agent = tokens(opening)
            prompts[key] = ids, [False] * len(agent)
        prompt, rest = prompts[key], tokens(messages)
        encoded[name] = Encoded(
            ids=np.array(prompt[0] + rest[0], np.int64),
            agent=np.array(prompt[1] + rest[1], np.bool_),
            prompt=len(prompt[0]),
        )
    return encoded


def _save_encoded(path: Path, encoded: Mapping[str, Encoded]) -> None:
    items = list(encoded.values())
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(
        temporary,
        names=np.array(list(encoded)),
        lengths=np.array([len(item.ids) for item in items]),
        prompts=np.array([item.prompt for item in items]),
        ids=np.concatenate([item.ids for item in items]).astype(np.int32),
        agent=np.concatenate([item.agent for item in items]),
    )
    temporary.replace(path)


def _load_encoded(path: Path) -> dict[str, Encoded]:
    with np.load(path) as file:
        cuts = np.cumsum(file["lengths"])[:-1]
        parts = zip(np.split(file["ids"], cuts), np.split(file["agent"], cuts), file["prompts"].tolist(), strict=True)
        return {
            name: Encoded(ids=ids.astype(np.int64), agent=agent, prompt=prompt)
            for name, (ids, agent, prompt) in zip(file["names"].tolist(), parts, strict=True)
        }


def load(cache: Path = CACHE, *, data: Path = DATA, vocabulary: int = VOCABULARY) -> PublishedPairs:
    """The pairs of ``data``; what takes long is kept under ``cache`` and made anew when the code changes."""
    from tokenizers import Tokenizer

    run = _import_run(data, cache)
    kits = json.loads((data / "toolemu-toolkits.json").read_text(encoding="utf-8"))
    toolkits = {kit["toolkit"]: kit for kit in kits}
    with Store(run) as store:
        selection = build_pairs(store.score_table(), store.trajectory_ids(), objectives=(OBJECTIVE,), judge=JUDGE)
    pairs = selection.pairs()
    code = b"".join(Path(file).read_bytes() for file in (__file__, published_prompts.__file__))
    mark = f"{vocabulary}-{hashlib.sha256(code).hexdigest()[:12]}"
    words, tokens = cache / f"tokenizer-{mark}.json", cache / f"encoded-{mark}.npz"
    if not tokens.exists():
        names = {name for pair in pairs for name in (pair.chosen, pair.rejected)}
        conversations = _conversations(run, toolkits, names)
        openings = {id(opening): opening for opening, _ in conversations.values()}
        groups = [*openings.values(), *(messages for _, messages in conversations.values())]
        tokenizer = _train_tokenizer((message.content for group in groups for message in group), vocabulary)
        tokenizer.save(str(words))
        _save_encoded(tokens, _encode_all(tokenizer, conversations))
    tokenizer = wrap_tokenizer(Tokenizer.from_file(str(words)))
    return PublishedPairs(pairs=pairs, encoded=_load_encoded(tokens), tokenizer=tokenizer, run=run, toolkits=toolkits)


def save_model(directory: Path, tokenizer: Any, *, seed: int, max_positions: int, shape: str = "small") -> Path:
    """A directory with a random Llama of a shape (tied embeddings, fp32) and the tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **SHAPES[shape],
        vocab_size=len(tokenizer),
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


# --- what is shared --------------------------------------------------------------------------------------------


def count_tokens(pairs: Sequence[PreferencePair], encoded: Mapping[str, Encoded]) -> dict[str, int]:
    """Tokens that an epoch's forward passes take, by how much is shared.

    ``naive``: both sides of every pair with the prompt; ``pair_prompt_once``: the prompt once a pair;
    ``distinct``: every trajectory once; ``case_prompt_once``: besides, every case's prompt once; ``case_trie``:
    every shared prefix within a case once; ``trie``: across cases too.
    """
    by_case: dict[str, dict[str, Encoded]] = {}
    for pair in pairs:
        case = by_case.setdefault(pair.case_id, {})
        case |= {name: encoded[name] for name in (pair.chosen, pair.rejected)}
    distinct = [item for case in by_case.values() for item in case.values()]
    prompts = [next(iter(case.values())).prompt for case in by_case.values()]
    sides = [(encoded[pair.chosen], encoded[pair.rejected]) for pair in pairs]
    naive = sum(len(chosen.ids) + len(rejected.ids) for chosen, rejected in sides)
    return {
        "pairs": len(pairs),
        "cases": len(by_case),
        "trajectories": len(distinct),
        "naive": naive,
        "naive_prompt": sum(2 * chosen.prompt for chosen, _ in sides),
        "pair_prompt_once": naive - sum(rejected.prompt for _, rejected in sides),
        "distinct": sum(len(item.ids) for item in distinct),
        "case_prompt_once": sum(prompts) + sum(len(item.ids) - item.prompt for item in distinct),
        "case_trie": sum(tree_tokens([item.ids for item in case.values()]) for case in by_case.values()),
        "trie": tree_tokens([item.ids for item in distinct]),
    }


def _spread(pairs: Sequence[PreferencePair], failed: set[str]) -> dict[str, int]:
    """How many trajectories failed, and how many pairs and cases hold one of them."""
    touched = [pair for pair in pairs if pair.chosen in failed or pair.rejected in failed]
    return {"trajectories": len(failed), "pairs": len(touched), "cases": len({pair.case_id for pair in touched})}


def count_prefix_failures(published: PublishedPairs) -> dict[str, dict[str, int]]:
    """How often the text of the first messages is no prefix of all, in tokens or as rewritten text.

    ``role_tokens``: our format, the opening alone against the whole; ``role_tokens_header``: with the marker of the
    agent's turn. ``plain_words``: roles as words, the opening up to its last newline; ``plain_words_header``: up to
    "Assistant: ", where a space can merge with the reply. ``rewritten_user``: reasoning before the last user
    message is dropped and tool results are user messages, as in the published training data; ``rewritten_tool``:
    the same where tool results are messages of their own role; any cut between messages after the opening counts.
    """
    header, label = MARKERS["assistant"], f"{LABELS['assistant']}: "
    styles: dict[str, tuple[Callable[[Iterable[Message]], str], str]] = {
        "role_tokens": (render, ""),
        "role_tokens_header": (render, header),
        "plain_words": (render_plain, ""),
        "plain_words_header": (render_plain, label),
    }
    conversations = _conversations(published.run, published.toolkits, published.encoded)
    tokenizer = published.tokenizer.backend_tokenizer
    prompts: dict[str, list[int]] = {}
    failed: dict[str, set[str]] = {name: set() for name in (*styles, "rewritten_user", "rewritten_tool")}
    for name, (opening, messages) in conversations.items():
        for writer in (render, render_plain):
            whole = tokenizer.encode(writer((*opening, *messages))).ids
            for style, (own, ending) in styles.items():
                if own is writer:
                    text = own(opening) + ending
                    if text not in prompts:
                        prompts[text] = tokenizer.encode(text).ids
                    if whole[: len(prompts[text])] != prompts[text]:
                        failed[style].add(name)
        for style, queries in (("rewritten_user", {"user", "tool"}), ("rewritten_tool", {"user"})):
            every = (*opening, *messages)
            complete = render_rewriting(every, frozenset(queries))
            cuts = range(len(opening), len(every))
            if not all(complete.startswith(render_rewriting(every[:cut], frozenset(queries))) for cut in cuts):
                failed[style].add(name)
    return {style: _spread(published.pairs, names) for style, names in failed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the published archives")
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory for what takes long to make")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens of the tokenizer")
    options = parser.parse_args()
    published = load(options.cache, data=options.data, vocabulary=options.vocabulary)
    tokens = count_tokens(published.pairs, published.encoded)
    shared = {name: round(tokens["naive"] / tokens[name], 2) for name in list(tokens)[5:]}
    figures = {"tokens": tokens, **{f"no_prefix_{key}": row for key, row in count_prefix_failures(published).items()}}
    show(document("published_pairs", PACKAGES, figures, {"naive_over": shared}), as_json=options.json)


if __name__ == "__main__":
    main()
