"""Weights under training: a tiny Llama whole, any Hugging Face causal model whole, or a LoRA adapter on either.

Passes see a ``Policy`` only: log-probabilities of a packed tree's tokens, the weights to change, ways to save
them and to sample from them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.models import Ask, Model, Reply
from holdfast.models.directories.files import digest_weights
from holdfast.models.directories.libraries import (
    first_line,
    network_class,
    no_progress_bars,
    short_rotations,
)
from holdfast.models.directories.opening import (
    attach,
    check_finite,
    merge,
    named_factors,
    newest_factors,
    newest_off,
    open_network,
)
from holdfast.models.directories.peft import is_peft
from holdfast.models.directories.stacks import Factors, Lora, base_of, copy_text_files, find_stack, merged, write_stack
from holdfast.models.hub.chat import Calls, HubChat
from holdfast.models.hub.hub import check_model
from holdfast.models.local.local import LocalModel
from holdfast.models.tiny.chat import TinyChat, is_tiny
from holdfast.models.tiny.llama import LlamaShape, TinyLlama
from holdfast.models.tiny.model import TinyModel
from holdfast.models.tiny.products import linear
from holdfast.records.errors import StudyError
from holdfast.study.stages import TrainingSection
from holdfast.training.encoding import ScoredSequence
from holdfast.training.ranks import find_ranks, gather_whole, shard
from holdfast.training.trees.packing import Packed, pack
from holdfast.training.trees.tree_attention import BlockPlan, tree_attention

Precision = Literal["fp32", "bf16"]
_ATTENTION = "holdfast_tree"
# Settings of a stage that say which of its weights are trained, and how passes compute with them.
_WEIGHTS = ("lora_r", "lora_alpha", "lora_dropout", "use_rslora", "precision", "recompute")
_REFUSED = "refused before training"
# How far a tree pass may be from the model's own: mean difference by mean size of log-probabilities.
_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 2e-2}


class Policy(Protocol):
    """A model under training, on one ``device``.

    ``masks`` says whether its attention takes masked blocks.
    """

    max_positions: int
    vocabulary: int
    device: torch.device
    masks: bool

    @property
    def drops_out(self) -> bool:
        """Whether it has dropout in training."""

    def logprobs(self, packed: Packed) -> Tensor:
        """Log-probabilities [P] in nats, as 32-bit floats, of a packed tree's scored tokens."""

    def trainable(self) -> list[nn.Parameter]:
        """The weights that the optimiser changes."""

    def set_training(self, training: bool) -> None:
        """Switches dropout on or off."""

    def save(self, directory: Path) -> None:
        """Writes a model directory: whole weights, or an adapter that names its base, with the tokenizer's files."""

    def sampler(self, calls: Calls = "auto") -> Model:
        """A model that samples from the weights as they are now, without dropout; ask for a new one after an update.

        ``calls`` says how a model of transformers writes calls; a tiny one has one way.
        """


class WholeTiny:
    """All weights of a tiny Llama, in the forward pass that also samples from it; a stack's are merged first."""

    drops_out = False

    def __init__(self, source: Path) -> None:
        self._source, self._model = source, TinyLlama.load(source)
        self._sampler: TinyModel | None = None
        check_finite(self._model.export_weights().items(), f"{source}: {_REFUSED}")
        self.max_positions, self.vocabulary = self._model.shape.max_positions, self._model.shape.vocabulary
        self.device, self.masks = torch.device("cpu"), True

    def logprobs(self, packed: Packed) -> Tensor:
        plan = packed.plan
        # A gradient would be summed over fewer rows, and round otherwise.
        wanted = None if torch.is_grad_enabled() else packed.before
        if plan is None:
            states = self._model(packed.ids, wanted=wanted)
        else:
            states = self._model.packed(
                *(packed.ids[0], packed.positions[0]),
                lambda query, key, value: tree_attention(query, key, value, plan),
                wanted,
            )
        states = states.flatten(0, -2)[packed.before] if wanted is None else states
        return picked_logprobs(states, Head(weight=self._model.head), packed.targets)

    def trainable(self) -> list[nn.Parameter]:
        return list(self._model.parameters())

    def set_training(self, training: bool) -> None:
        self._model.train(training)

    def save(self, directory: Path) -> None:
        self._model.save(directory)
        copy_text_files(self._source, directory)

    def sampler(self, calls: Calls = "auto") -> Model:
        # Its weights are those that are trained, whatever they are by then.
        self._sampler = self._sampler or TinyModel(self._model, TinyChat.load(self._source))
        return self._sampler


class HubModel:
    """A Hugging Face causal model, whole or, with ``lora_r`` above 0, through a LoRA adapter.

    ``precision`` "bf16" computes in bfloat16 by autocast, with the weights that are trained in 32 bits and frozen ones
    in 16. ``recompute`` keeps only layer inputs and computes the rest again in the backward pass.

    What earlier stages of a stack changed is merged into 32-bit weights, which is as exact as not merging and saves a
    tenth to a third of a pass (widths of 1024 and 96, rank 16, on CPU). Rounding to 16 bits would take most of a small
    change away, so beside 16-bit weights it stays an adapter of its own, frozen.

    An adapter that PEFT must merge leaves weights that no directory holds: a stage on it, with an adapter of its own or
    without, is saved whole.

    ``network`` is a model of transformers to take in place of the one in ``source``, where nothing is to be saved.
    """

    def __init__(
        self,
        source: Path,
        *,
        lora_r: int = 0,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        precision: Precision = "fp32",
        recompute: bool = False,
        device: torch.device | None = None,
        network: Any = None,
    ) -> None:
        self._source, self.device = source, device or torch.device("cpu")
        self._home, self._stack, self._merged = source, None, False
        self._lora: Lora | None = None
        self._chats: dict[Calls, HubChat] = {}
        half = precision == "bf16" and lora_r > 0
        self._digest = ""
        if network is None:
            check_source(source)
            # What PEFT merges is rounded as it is merged: 16 bits would take most of it away.
            half = half and (find_stack(source) is not None or not is_peft(source))
            opened = open_network(source, dtype=torch.bfloat16 if half else torch.float32, attention=_ATTENTION)
            network, self._home, self._stack, self._merged = opened.network, opened.home, opened.stack, opened.merged
            self._digest = digest_weights(self._home) if lora_r > 0 else ""
        self._base: Any = network.to(self.device)
        _register_attention()
        self._base.set_attn_implementation(_ATTENTION)
        check_finite(self._base.named_parameters(), f"{self._home}: {_REFUSED}")
        # A model that also sees keeps the settings of its texts in a part of its own.
        config = self._base.config.get_text_config(decoder=True)
        self.max_positions, self.vocabulary = _longest(type(self._base), config), int(config.vocab_size)
        # Flash attention on accelerators takes no mask; many small blocks are cheap there.
        self.masks = self.device.type == "cpu"
        self._precision: Precision = precision
        if self._stack:
            check_finite(named_factors(self._stack), f"{source}: {_REFUSED}")
            if not half:
                merge(self._base, self._stack)
        if lora_r > 0:
            self._lora = Lora(r=lora_r, alpha=lora_alpha, dropout=lora_dropout, rslora=use_rslora)
            attach(self._base, self._lora, self._stack if half else None, self._home)
            if half and not lora_dropout:
                _keep_input_types(self._base)
        if recompute:
            _checkpoint_activations(self._base)
        self._root = _TreePass(self._base)
        self.set_training(False)
        self._check_passes()
        self._ranks = find_ranks()
        if self._ranks is not None:
            shard(self._root, list(getattr(self._base.get_decoder(), "layers", ())), self._ranks)

    def logprobs(self, packed: Packed) -> Tensor:
        with self._autocast():
            logps: Tensor = self._root(packed)
        return logps

    def trainable(self) -> list[nn.Parameter]:
        return [weight for _, weight in self.named_weights()]

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trainable weights by their names in the model."""
        return ((name, weight) for name, weight in self._base.named_parameters() if weight.requires_grad)

    def set_training(self, training: bool) -> None:
        self._base.train(training)

    def save(self, directory: Path) -> None:
        factors = {} if self._lora is None else self.newest()[0]
        whole = self._whole(factors) if self._lora is None or self._merged else {}
        if self._ranks is not None and self._ranks.rank > 0:
            return
        if self._lora is None or self._merged:
            with no_progress_bars():
                self._base.save_pretrained(directory, state_dict=whole)
        else:
            digest = self._digest or digest_weights(self._home)
            write_stack(directory, factors, self._lora, base=self._home, digest=digest, earlier=self._stack)
        copy_text_files(self._source, directory)

    def sampler(self, calls: Calls = "auto") -> Model:
        if is_tiny(self._source):
            return copy_tiny(self._base, self._source)
        if calls not in self._chats:
            self._chats[calls] = HubChat(self._source, calls=calls)
        return LiveModel(self._base, self._chats[calls], self._autocast)

    @cached_property
    def drops_out(self) -> bool:
        """Whether training may use luck, as a module says, or a configuration of what has no module for it."""
        if any(isinstance(module, nn.Dropout) and module.p > 0 for module in self._base.modules()):
            return True
        settings = self._base.config.get_text_config(decoder=True).to_dict()
        named = [name for name, value in settings.items() if isinstance(value, int | float) and value]
        # Heads that summarise or classify are not used.
        return any(
            ("drop" in name or "jitter" in name) and not name.startswith(("summary", "classifier")) for name in named
        )

    @property
    def adapted(self) -> bool:
        """Whether an adapter alone is trained."""
        return self._lora is not None

    def newest(self) -> tuple[Factors, Lora]:
        """The adapter under training, without its scale, and its settings; for a policy that trains an adapter."""
        assert self._lora is not None
        pairs = newest_factors(self._base).items()
        return {name: (self._gather(down), self._gather(up)) for name, (down, up) in pairs}, self._lora

    def without_adapter(self) -> AbstractContextManager[None]:
        """The weights as training found them, inside; for a policy that trains an adapter."""
        return newest_off(self._base)

    def _gather(self, tensor: Tensor) -> Tensor:
        """A weight whole on the first process's host; others keep nothing, so that one weight at a time is whole."""
        whole = gather_whole(tensor.detach())
        return whole.cpu() if self._ranks is None or self._ranks.rank == 0 else whole.new_empty(0)

    def _whole(self, factors: Factors) -> dict[str, Tensor]:
        """The network's weights by their names in a network without adapters, ``factors`` merged in."""
        once = {name for name, _ in self._base.named_parameters()}
        tied = {name for name, _ in self._base.named_parameters(remove_duplicate=False)} - once
        weights: dict[str, Tensor] = {}
        for name, weight in self._base.state_dict().items():
            module, held, _ = name.rpartition(".base_layer.weight")
            if name in tied or ".lora_" in name:
                continue
            whole = self._gather(weight)
            if held and whole.numel():
                assert self._lora is not None
                down, up = factors[module]
                whole = merged(whole, (down, up * self._lora.scale))
            weights[name.replace(".base_layer.", ".")] = whole
        return weights

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16")

    @torch.no_grad()
    def _check_passes(self) -> None:
        """Raises StudyError for a model that computes otherwise over a tree than over its sequences one by one."""
        rng = np.random.default_rng(0)
        half = min(8, self.max_positions // 2)
        # Two sequences with a common beginning: the least tree that has something to share.
        start, *ends = rng.integers(self.vocabulary, size=(3, half))
        rows = np.stack([np.concatenate([start, end]) for end in ends])
        weights = np.array([0.0] + [1.0] * (2 * half - 1), np.float32)
        sequences = [ScoredSequence(name="probe", ids=row, weights=weights) for row in rows]
        ids = torch.from_numpy(rows).to(self.device)
        try:
            packed = pack(sequences, self.device, masks=self.masks)
            with _seen_windows(self._base) as seen:
                ours = self.logprobs(packed)[packed.gather]
            self._base.set_attn_implementation("eager")
            with self._autocast():
                logits = self._base(input_ids=ids, use_cache=False).logits[:, :-1]
            self._base.set_attn_implementation(_ATTENTION)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Other kinds of decoders and of attention raise what they like.
            raise _refused(self._home, first_line(error)) from error
        own = torch.log_softmax(logits.float(), -1).gather(2, ids[:, 1:, None]).flatten()
        # Written so that a difference that is no number is refused too.
        if not (gap := (ours - own).abs().mean()) <= _TOLERANCE[self._precision] * (1 + own.abs().mean()):
            raise _refused(self._home, f"log-probabilities differ by {gap:.2g} nats a token from the model's own")
        told = _windows(type(self._base), self._base.config.get_text_config(decoder=True))
        if told and seen != told:
            raise _refused(self._home, f"its layers attend over windows of {seen}, its configuration says {told}")


class _TreePass(nn.Module):
    """Every use of a network's weights in one forward, which sharding asks for."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self._network = network

    def forward(self, packed: Packed) -> Tensor:
        # An adapter's layers sit inside the network, so its decoder already computes with them.
        decoder = self._network.get_decoder()
        tree = {} if packed.plan is None else {"tree": packed.plan}
        states = decoder(input_ids=packed.ids, position_ids=packed.positions, use_cache=False, **tree)
        states = states.last_hidden_state.flatten(0, 1)
        return picked_logprobs(states[packed.before], Head.of(self._network), packed.targets)


def _refused(source: Path, reason: str) -> StudyError:
    return StudyError(f"{source}: this architecture cannot train on trees ({reason}); use another base model")


def _checkpoint_activations(model: Any) -> None:
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(settings)
    else:  # its name before transformers 5.23
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def _keep_input_types(model: Any) -> None:
    """PEFT hands an adapter its input in 32 bits, which autocast rounds back for the product: the same, for memory.

    Dropout would scale in 16 bits without it.
    """
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


def _windows(kind: type, config: Any) -> list[int | None] | None:
    """Of every layer, how many of the last tokens a token sees by the configuration, None for all.

    Empty where there are no windows, and None where the layers of such a network do not name theirs.
    """
    window = getattr(config, "sliding_window", None)
    source = inspect.getsource(sys.modules[kind.__module__]) if window else ""
    if "sliding_window" not in source:
        return []  # no code of this architecture reads the setting
    if "sliding_window=" not in source:
        return None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _longest(kind: type, config: Any) -> int:
    """The longest sequence that a network of this ``kind`` computes over a tree as by itself.

    In it every token sees what its layer's window holds or all before it, and rotations do not depend on its length.
    """
    bounds = [getattr(config, "max_position_embeddings", sys.maxsize), short_rotations(config)]
    if _windows(kind, config) is None:
        bounds.append(config.sliding_window)
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        bounds.append(getattr(config, "attention_chunk_size", None))
    # Attention that picks keys sees all where there are no more than it picks.
    bounds += [getattr(config, name, None) for name in ("window_size", "keep_window_size", "index_topk")]
    bounds.append((getattr(config, "index_topk_blocks", None) or 0) * getattr(config, "index_block_size", 0))
    return min(int(bound) for bound in bounds if bound)


def longest_sequence(source: Path) -> int:
    """The most tokens that the model of a directory reads, whole or stacked, without opening it."""
    if (shape := LlamaShape.read(source)) is not None:
        return shape.max_positions
    from holdfast.models.hub.fitting import read_config

    config = read_config(base_of(source))
    return _longest(network_class(config), config.get_text_config(decoder=True))


def check_source(source: Path, *, download: bool = True) -> None:
    """Refuses a model that cannot be trained, as far as its headers tell. Errors: StudyError, StoreError."""
    _register_attention()
    check_model(source, engine="training", attention=_ATTENTION, download=download)
    if not is_tiny(source):
        from holdfast.models.hub.fitting import read_config

        config = read_config(base_of(source))
        if network_class(config)._is_stateful:
            raise _refused(source, f"{config.model_type} keeps a state along a sequence, which does not branch")


def _attend(
    *inputs: Any,
    tree: BlockPlan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls one: over a ``tree`` where one is passed, else over rows without gaps."""
    _, query, key, value, *masks = inputs
    length = query.shape[2]
    if any(one is not None for one in (*masks, settings.get("attention_mask"), settings.get("position_bias"))):
        raise TypeError("its layers add numbers of their own to the logits of attention")
    if tree is None and softcap is None and s_aux is None and length <= (sliding_window or length):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        # As over a tree, attention itself drops nothing.
        mixed: Tensor = sdpa_attention_forward(*inputs, **{**settings, "dropout": 0.0})[0]
        return mixed, None
    plan = BlockPlan.row(length) if tree is None else tree
    plan = plan if sliding_window is None else plan.within(sliding_window)
    mixed = tree_attention(query, key, value, plan, settings.get("scaling"), cap=softcap, sinks=s_aux)
    return mixed.transpose(1, 2).contiguous(), None


def _register_attention() -> None:
    """Teaches transformers an attention over trees."""
    from transformers import AttentionInterface

    AttentionInterface.register(_ATTENTION, _attend)


@contextmanager
def _seen_windows(network: Any) -> Iterator[list[int | None]]:
    """The windows that a network's layers name as they attend, inside, in their order."""
    from transformers import AttentionInterface

    seen: list[int | None] = []

    def attend(*inputs: Any, sliding_window: int | None = None, **settings: Any) -> tuple[Tensor, None]:
        seen.append(sliding_window)
        return _attend(*inputs, sliding_window=sliding_window, **settings)

    AttentionInterface.register(f"{_ATTENTION}_seen", attend)
    network.set_attn_implementation(f"{_ATTENTION}_seen")
    try:
        yield seen
    finally:
        network.set_attn_implementation(_ATTENTION)


def open_policy(source: Path, *, lora_r: int = 0, precision: Precision = "fp32", **options: Any) -> Policy:
    """The policy of a model directory, whole or stacked; a tiny Llama trained whole takes its own forward pass.

    ``options`` are the others of ``HubModel``. Among processes that train together its weights are spread over all.

    Errors: StudyError for a directory that ``hub.check_model`` refuses, for weights that are not finite and for an
    architecture that cannot train on trees, StoreError for a stack whose base is missing or another.
    """
    ranks = find_ranks()
    if LlamaShape.read(source) is not None and lora_r == 0 and precision == "fp32" and ranks is None:
        return WholeTiny(source)
    alone = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = alone if ranks is None else ranks.device
    return HubModel(source, lora_r=lora_r, precision=precision, device=device, **options)


def open_trained(source: Path, stage: TrainingSection) -> Policy:
    """The policy of a model directory as a study's stage trains it."""
    return open_policy(source, **{name: getattr(stage, name) for name in _WEIGHTS})


# --- sampling from a network of transformers while it trains, without writing it -----------------------------------


class LiveModel:
    """A ``Model`` around a network under training, for as long as its weights stay.

    It samples in eval mode and puts back what it found. ``autocast`` is what the passes of training run in.
    """

    def __init__(self, network: Any, chat: HubChat, autocast: Callable[[], torch.autocast]) -> None:
        self._network, self._autocast = network, autocast
        # Made anew for each state of the weights, so that no state of other weights is in its cache.
        self._model = LocalModel.around(network, chat)

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per request, in order; see ``holdfast.models.Model``."""
        training = self._network.training
        self._network.eval()
        try:
            with self._autocast():
                return self._model.reply(asks)
        finally:
            self._network.train(training)


@torch.no_grad()
def copy_tiny(network: Any, source: Path) -> TinyModel:
    """The tiny model that a network of transformers is now, its adapters merged; ``source`` is where it came from."""
    shape = LlamaShape.read(source)
    assert shape is not None
    weights = {
        name.replace(".base_layer.", "."): weight.float()
        for name, weight in network.named_parameters()
        if ".lora_" not in name
    }
    for name, module in network.named_modules():
        for adapter in getattr(module, "active_adapters", ()) if hasattr(module, "lora_A") else ():
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(adapter)
    llama = TinyLlama(shape)
    llama.import_weights(weights)
    return TinyModel(llama.eval(), TinyChat.load(source))


# --- from a model's states to the log-probabilities of given tokens -------------------------------------------------

# Logits are computed for so many numbers at a time (64 MiB, 256 on an accelerator), and again in the backward pass,
# where there are more.
LOGIT_NUMBERS, LOGIT_NUMBERS_THERE = 2**24, 2**26


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """From states to logits: ``weight`` [vocabulary, width] and ``bias``, then a factor, then a cap by tanh."""

    weight: Tensor
    bias: Tensor | None = None
    factor: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of a Hugging Face model, with what its configuration does to logits."""
        linear, config = model.get_output_embeddings(), model.config.get_text_config(decoder=True)
        factor = getattr(config, "logit_scale", None) or 1.0
        return cls(
            weight=linear.weight,
            bias=linear.bias,
            factor=factor / (getattr(config, "logits_scaling", None) or 1.0),
            cap=getattr(config, "final_logit_softcapping", None),
        )

    def logits(self, states: Tensor) -> Tensor:
        """Logits [P, vocabulary] in 32-bit floats."""
        product = linear(states, self.weight) if self.bias is None else F.linear(states, self.weight, self.bias)
        logits = product.float()
        logits = logits if self.factor == 1.0 else logits * self.factor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def picked_logprobs(states: Tensor, head: Head, targets: Tensor) -> Tensor:
    """The log-probability [P] of each target under the state [P, width] that predicts it."""

    def piece(states: Tensor, targets: Tensor) -> Tensor:
        return -F.cross_entropy(head.logits(states), targets, reduction="none")

    numbers = LOGIT_NUMBERS if states.device.type == "cpu" else LOGIT_NUMBERS_THERE
    rows = max(1, numbers // len(head.weight))
    if len(states) <= rows:
        return piece(states, targets)
    from torch.utils.checkpoint import checkpoint

    parts = zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
    return torch.cat([checkpoint(piece, *part, use_reentrant=False) for part in parts])
