"""Chat templates of three styles in our own words, tokenizers for them, and small bases with random weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.models.entries import ModelEntry
from holdfast.models.hub.random_base import CHAT_TEMPLATE, build_random
from holdfast.records import Message, ToolCall, ToolSpec

SEARCH = ToolSpec(
    name="search",
    description="Finds pages about a topic.",
    parameters={"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]},
)
CALL = ToolCall(name="search", arguments={"topic": "tea"})
OPENING = (Message(role="system", content="Be brief."), Message(role="user", content="What is tea?"))
EPISODE = (
    Message(role="assistant", content="Let me look.", tool_calls=(CALL,)),
    Message(role="tool", content="Tea is a drink.", name="search"),
    Message(role="assistant", content="A drink."),
)
RESULT = EPISODE[1]

MARKED_QWEN = CHAT_TEMPLATE
QWEN = CHAT_TEMPLATE.replace("{%- generation -%}\n", "").replace("{%- endgeneration -%}\n", "")
LLAMA = """\
{{- bos_token }}
{%- set first = messages[0] %}
{%- if first.role == "system" or tools %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools %}{% for tool in tools %}{{ tool | tojson }}{{ "\\n" }}{% endfor %}{% endif %}
{{- (first.content if first.role == "system" else "") | trim + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}
{{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" + message.content + "<|eot_id|>" }}
{%- elif message.tool_calls %}
{%- if message.tool_calls | length > 1 %}{{ raise_exception("one call at a time") }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + "}<|eot_id|>" }}
{%- elif message.role != "system" %}
{{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" + message.content | trim + "<|eot_id|>" }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}{% endif %}
"""
MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == "system" %}{{ raise_exception("only user and assistant roles") }}{% endif %}
{%- if message.role == "user" %}
{%- if tools and loop.first %}{{ "[AVAILABLE_TOOLS]" + (tools | tojson) + "[/AVAILABLE_TOOLS]" }}{% endif %}
{{- "[INST]" + message.content + "[/INST]" }}
{%- elif message.tool_calls %}
{{- "[TOOL_CALLS][" }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("ids have nine characters") }}{% endif %}
{%- set shown = {"name": call.function.name, "arguments": call.function.arguments, "id": call.id} %}
{{- ", " if not loop.first }}{{ shown | tojson }}
{%- endfor %}
{{- "]" + eos_token }}
{%- elif message.role == "tool" %}
{{- "[TOOL_RESULTS]" + ({"content": message.content, "call_id": message.tool_call_id} | tojson) + "[/TOOL_RESULTS]" }}
{%- else %}
{{- message.content + eos_token }}
{%- endif %}
{%- endfor %}
"""
STYLES: dict[str, tuple[str, str, list[str]]] = {
    "qwen": (QWEN, "<|im_end|>", ["<|im_start|>"]),
    "marked": (MARKED_QWEN, "<|im_end|>", ["<|im_start|>"]),
    "llama": (LLAMA, "<|eot_id|>", ["<|start_header_id|>", "<|end_header_id|>"]),
    "mistral": (
        MISTRAL,
        "</s>",
        ["[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]"],
    ),
}
TEXTS = [
    " ".join([*map(str, range(40)), "the tea is a drink that people like; what is it made of? leaves and hot water."]),
    '{"name": "search", "arguments": {"topic": "tea"}} <calls> </calls> <results> The answer follows. Thought: Action:',
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi",
]
SMALL = ModelEntry(kind="random", vocabulary=360, max_positions=2048)


def write_tokenizer(directory: Path, template: str | None, end: str, special: list[str]) -> Path:
    """A directory with a byte-level tokenizer and a chat template, without a model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    settings: dict[str, Any] = {} if template is None else {"chat_template": template}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token=end, extra_special_tokens=special, **settings
    )
    fast.save_pretrained(directory)
    return directory


def write_style(directory: Path, style: str) -> Path:
    """A directory with the tokenizer of one of ``STYLES``."""
    return write_tokenizer(directory, *STYLES[style])


def make_base(directory: Path, **changes: Any) -> Path:
    """A model of 64 dimensions and 2 layers with random weights."""
    return build_random(directory, SMALL.model_copy(update=changes), TEXTS, seed=0)


# Of a model of two layers of any architecture.
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
}


def make_other(place: Path, kind: str, **settings: Any) -> Path:
    """The small base with random weights of another architecture."""
    import torch
    import transformers

    base = transformers.AutoConfig.from_pretrained(make_base(place))
    told = {name: getattr(base, name) for name in ("vocab_size", "eos_token_id", "pad_token_id")}
    config = transformers.AutoConfig.for_model(kind, **_SIZES | told | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place)
    return place


TRL_ENDS: dict[str, str] = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "diffusion_gemma": "<turn|>",
    "gemma4": "<turn|>",
    "gemma": "<end_of_turn>",
    "glm4": "<|user|>",
    "gptoss": "<|return|>",
    "llama3": "<|eot_id|>",
    "muse": "<|eot|>",
    "phi3": "<|end|>",
}
"""The tokens that end a turn in templates that TRL ships, by how their names begin; the others use ``<|im_end|>``."""


def trl_templates() -> Path:
    """The folder of TRL's chat templates, or a skip."""
    trl = pytest.importorskip("trl")
    return Path(trl.__file__).parent / "chat_templates"


def write_trl(directory: Path, name: str) -> Path:
    """A directory with a small tokenizer and one of the original templates that TRL ships."""
    source = (trl_templates() / f"{name}.jinja").read_text(encoding="utf-8")
    end = next((end for begin, end in TRL_ENDS.items() if name.startswith(begin)), "<|im_end|>")
    special = re.findall(r'<\|"?\w+\|?>|<\w+\|>|<[a-z]+_of_[a-z]+>|<｜[^｜]+｜>', source)
    return write_tokenizer(directory, source, end, sorted(set(special) - {end}))
