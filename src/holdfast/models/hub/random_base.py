"""Bases with random weights: a real architecture and a tokenizer of its own, small enough for any machine.

The directory holds what any model of the hub holds, so transformers alone loads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from holdfast.models.directories.libraries import no_progress_bars
from holdfast.models.entries import ModelEntry
from holdfast.records.errors import StudyError

_PAD, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# What a template writes of calls is one token each, which is not special: decoding keeps it.
_CALL_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# The spread of initial weights; smaller ones give tokens that are all alike to a greedy sampler.
_SPREAD = 0.05

CHAT_TEMPLATE = """\
{%- macro show(tool) -%}{{ '\\n' + (tool | tojson) }}{%- endmacro -%}
{%- set opening = messages[0].content if messages[0].role == 'system' else '' -%}
{%- if opening or tools -%}
{{- '<|im_start|>system\\n' + opening -}}
{%- if tools -%}
{{- ('\\n\\n' if opening else '') + '# Tools\\nThese functions can be called:\\n<tools>' -}}
{%- for tool in tools -%}{{- show(tool) -}}{%- endfor -%}
{{- '\\n</tools>\\n\\nTo call one, write its name and arguments as JSON:\\n<tool_call>\\n' -}}
{{- '{"name": NAME, "arguments": ARGUMENTS}\\n</tool_call>' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}
{{- message.content or '' -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n' if message.content or not loop.first -}}
{{- '<tool_call>\\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' -}}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- elif message.role == 'tool' -%}
{%- if loop.first or loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' -}}
{%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- elif message.role == 'user' or not loop.first -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def build_random(directory: Path | str, entry: ModelEntry, texts: Iterable[str], *, seed: int) -> Path:
    """Writes a model directory with random weights and returns its path.

    ``entry`` gives architecture and sizes, ``texts`` teach the tokenizer its ``entry.vocabulary`` tokens. Weights are
    32-bit floats; files depend on the arguments alone. Errors: StudyError for sizes that make no model, and texts too
    few for the vocabulary.
    """
    path = Path(directory)
    if entry.hidden % entry.heads or entry.heads % entry.key_value_heads or entry.hidden // entry.heads % 2:
        raise StudyError(
            f"random model: hidden {entry.hidden}, heads {entry.heads} and key_value_heads {entry.key_value_heads} make"
            " no model; each is to divide the one before, and hidden / heads is to be even"
        )
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = _train_tokenizer(entry, texts)
    with no_progress_bars():
        tokenizer.save_pretrained(path)
        _make_model(entry, tokenizer, seed).save_pretrained(path)
    return path


def _train_tokenizer(entry: ModelEntry, texts: Iterable[str]) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [_PAD, _START, _END]
    tokenizer = Tokenizer(models.BPE())
    # Words with their space, single digits, punctuation, line ends: no token reaches over two of them.
    words = Regex(r"'\w{1,2}| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*\n+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, behavior="isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entry.vocabulary - len(_CALL_TOKENS),
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in _CALL_TOKENS])
    found = tokenizer.get_vocab_size()
    if found < entry.vocabulary:
        raise StudyError(f"random model: its texts make {found} tokens, not {entry.vocabulary}; lower 'vocabulary'")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_END,
        pad_token=_PAD,
        extra_special_tokens=[_START],
        model_max_length=entry.max_positions,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _make_model(entry: ModelEntry, tokenizer: Any, seed: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        entry.architecture,
        vocab_size=entry.vocabulary,
        hidden_size=entry.hidden,
        intermediate_size=entry.ffn,
        num_hidden_layers=entry.layers,
        num_attention_heads=entry.heads,
        num_key_value_heads=entry.key_value_heads,
        max_position_embeddings=entry.max_positions,
        initializer_range=_SPREAD,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # The caller's own luck stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)
