"""The tiny agent's language: words, chat format, and the files that teach it to other libraries.

    <bos> <sys> words <end> <user> words <end> (<call> tool values <end> <obs> words <end>)* <say> words <end> <eos>

Texts are lower-cased and split into words; punctuation is dropped. A system prompt that is known when the
model is built is one token. Tool specifications are not rendered: the agent learns its tools from
demonstrations. A call is rendered as the tool's name and the values of its arguments in the order of the
tool's schema, each value a single word; a missing optional argument must be the last.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from holdfast.models import Stopped
from holdfast.models.calls.values import parameters_of
from holdfast.models.directories.peft import text_home
from holdfast.records import JSON, Message, ToolCall, ToolSpec
from holdfast.records.errors import StudyError

SPECIALS = ("<pad>", "<bos>", "<eos>", "<sys>", "<user>", "<call>", "<obs>", "<say>", "<end>", "<unk>")
PAD, BOS, EOS, SYS, USER, CALL, OBS, SAY, END, UNK = range(len(SPECIALS))
OPENERS = (CALL, SAY)
MOST_POSITIONS = 128  # of a sequence, where nobody says otherwise
_WORD = r"[a-z0-9_@.'-]*[a-z0-9_]"
_OPENING = {"system": SYS, "user": USER, "tool": OBS, "assistant": SAY}
_AGENT_ROLE = "assistant"
# The argument that holds what a call's values were where they cannot be told apart.
RAW = "_raw"
_MIXED = "a message of the tiny agent holds one tool call or text, not both"

# '<' never reaches the tokenizer from a text, so no text can spell a special token.
_TEMPLATE = """\
{%- set prompts = PROMPTS -%}
{%- set schemas = namespace(of={}) -%}
{%- for tool in tools or [] -%}
{%- set schemas.of = dict(schemas.of, **{tool.function.name: tool.function.parameters.properties | default({})}) -%}
{%- endfor -%}
{{- '<bos>' -}}
{%- for message in messages -%}
{%- set text = message.content | default('', true) -%}
{%- if message.role == 'system' -%}
{{- '<sys>' + (prompts[text] if text in prompts else text | replace('<', ' ')) + '<end>' -}}
{%- elif message.role == 'user' -%}
{{- '<user>' + text | replace('<', ' ') + '<end>' -}}
{%- elif message.role == 'tool' -%}
{{- '<obs>' + text | replace('<', ' ') + '<end>' -}}
{%- elif message.tool_calls -%}
{%- if text or message.tool_calls | length > 1 -%}{{- raise_exception("MIXED") -}}{%- endif -%}
{%- set call = message.tool_calls[0].function -%}
{%- generation -%}
{{- '<call>' + call.name | replace('<', ' ') -}}
{%- set order = schemas.of.get(call.name, {}) -%}
{%- for key in order -%}
{%- if key in call.arguments and call.arguments[key] is not none -%}
{{- ' ' + call.arguments[key] | string | replace('<', ' ') -}}
{%- endif -%}
{%- endfor -%}
{%- for key in call.arguments -%}
{%- if key not in order and call.arguments[key] is not none -%}
{{- ' ' + call.arguments[key] | string | replace('<', ' ') -}}
{%- endif -%}
{%- endfor -%}
{{- '<end>' -}}
{%- endgeneration -%}
{%- else -%}
{%- generation -%}{{- '<say>' + text | replace('<', ' ') + '<end><eos>' -}}{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
"""


_MOST_KNOWN = 1 << 14  # texts of which an encoder keeps the tokens


@lru_cache(maxsize=1 << 13)
def split_words(text: str) -> tuple[str, ...]:
    """The words of a text, lower-cased, without punctuation."""
    return tuple(map(sys.intern, re.findall(_WORD, text.lower())))  # texts are many, words few


def chat_template(system_prompts: Mapping[str, str]) -> str:
    """The Jinja template of the chat format; ``system_prompts`` maps a full system text to its token."""
    # ascii() gives escapes that Jinja's own string literals read back.
    literal = "{" + ", ".join(f"{text!a}: {token!a}" for text, token in system_prompts.items()) + "}"
    return _TEMPLATE.replace("PROMPTS", literal).replace("MIXED", _MIXED)


def response_template(argument: str) -> dict[str, Any]:
    """How servers read a reply, as a response template of transformers: a call's values are its one ``argument``.

    Such a template cannot look up the order of a tool's arguments, so it serves agents whose tools take one alone.
    """
    call = {"type": "function", "function": {"name": "{name}", "arguments": {argument: "{content}"}}}
    opening = r"<call>\s*(?P<name>[^\s<]+)"
    return {
        "defaults": {"role": _AGENT_ROLE},
        "start_anchor": "<end>",
        "fields": {
            "tool_calls": {"open_pattern": opening, "close": "<end>", "repeats": True, "transform": call},
            "content": {"open_pattern": r"<say>\s*", "close_pattern": r"\s*<end>"},
        },
    }


def write_tokenizer(
    lexicon: Sequence[str],
    directory: Path,
    *,
    system_prompts: Mapping[str, str],
    max_positions: int,
    argument: str = RAW,
) -> int:
    """Writes the tokenizer files of a model directory and returns the number of tokens.

    ``argument`` is the name that a server gives to the values of a call; see ``response_template``. Raises StudyError
    for a lexicon entry that is not exactly one word, or a system token that is not ``<…>``.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    for word in lexicon:
        if split_words(word) != (word,):
            raise StudyError(f"lexicon of the tiny model: {word!r} is not one lower-case word; split or respell it")
    roles = list(dict.fromkeys(system_prompts.values()))
    for token in roles:
        if not re.fullmatch(r"<[a-z0-9_:.-]+>", token) or token in SPECIALS:
            raise StudyError(f"system prompts of the tiny model: {token!r} is not a free token name such as '<role:x>'")
    names = [*SPECIALS, *roles, *sorted(set(lexicon))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*SPECIALS, *roles)])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
        "chat_template": chat_template(system_prompts),
        "system_prompts": dict(system_prompts),
        "response_template": response_template(argument),
    }
    generation = {"bos_token_id": BOS, "eos_token_id": [END, EOS], "pad_token_id": PAD}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n", encoding="utf-8")
    return len(names)


def is_tiny(directory: Path) -> bool:
    """Whether a model directory speaks the tiny agent's language."""
    try:
        config = json.loads((text_home(directory) / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, StudyError):
        return False
    return isinstance(config, dict) and "system_prompts" in config


class TinyChat:
    """Encodes messages to token ids and reads replies back; the same ids as the directory's chat template."""

    unknown: int | None = UNK

    def __init__(self, tokens: Sequence[str], system_prompts: Mapping[str, str]) -> None:
        self.tokens = tuple(tokens)
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        self.system_prompts = dict(system_prompts)
        self.first_word = len(SPECIALS) + len(set(self.system_prompts.values()))
        # A conversation is read again at every turn, and a case at every checkpoint.
        self._known: dict[str, tuple[int, ...]] = {}

    @classmethod
    def load(cls, directory: Path | str) -> TinyChat:
        """The chat format of a model directory; raises StudyError where the directory holds none."""
        try:
            home = text_home(Path(directory))
            vocabulary = json.loads((home / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
            config = json.loads((home / "tokenizer_config.json").read_text(encoding="utf-8"))
            prompts = config["system_prompts"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{directory}: no tokenizer of a tiny model ({error!r}); build the model again") from error
        return cls(sorted(vocabulary, key=vocabulary.__getitem__), prompts)

    def encode(self, messages: Iterable[Message], tools: Sequence[ToolSpec] = ()) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation, and a mask of the same length that is true on the agent's own tokens.

        The agent's own are its calls and texts with their closing ``<end>`` and ``<eos>``, never a tool's answer.
        With ``tools``, arguments are put in the order of the tool's schema; without, they keep their own.
        The encoding of the first messages is a prefix of the encoding of all.
        """
        schemas = {tool.name: parameters_of(tool) for tool in tools}
        ids, mask = [BOS], [False]
        for message in messages:
            turn = self._turn(message, schemas)
            ids += turn
            mask += [message.role == _AGENT_ROLE] * len(turn)
        return ids, mask

    def shows_as_written(self, _: Message) -> bool:
        """No text spells a control token: words have no brackets."""
        return True

    def _turn(self, message: Message, schemas: Mapping[str, JSON]) -> list[int]:
        if message.role == "system" and message.content in self.system_prompts:
            return [SYS, self.ids[self.system_prompts[message.content]], END]
        if not message.tool_calls or message.role != _AGENT_ROLE:
            closing = [END, EOS] if message.role == _AGENT_ROLE else [END]
            return [_OPENING[message.role], *self._words(message.content), *closing]
        if message.content or len(message.tool_calls) > 1:
            raise StudyError(_MIXED)
        call = message.tool_calls[0]
        order = [key for key in schemas.get(call.name, ()) if key in call.arguments]
        order += [key for key in call.arguments if key not in order]
        values = [str(call.arguments[key]) for key in order if call.arguments[key] is not None]
        return [CALL, *self._words(call.name), *(number for value in values for number in self._words(value)), END]

    def _words(self, text: str) -> tuple[int, ...]:
        found = self._known.get(text)
        if found is None:
            found = tuple(self.ids.get(word, UNK) for word in split_words(text))
            if len(self._known) < _MOST_KNOWN:
                self._known[text] = found
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """The tokens as text, special tokens included."""
        return " ".join(self.tokens[number] for number in ids)

    def ends_reply(self, token: int, position: int) -> bool:
        """Whether a sampled token is the last of its reply: after the opening, any token that is no word."""
        return token not in OPENERS if position == 0 else token < self.first_word

    def read_reply(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Message | None, Stopped]:
        """The message that sampled tokens spell, and how the reply ended.

        A call whose tool is unknown or whose values do not fit the tool's schema in number is still a call,
        with the values under ``_raw``, for the world to refuse.
        """
        if not ids or not self.ends_reply(ids[-1], len(ids) - 1):
            return None, "length"
        if len(ids) < 2 or ids[-1] != END or (ids[0] == CALL and len(ids) == 2):
            return None, "incoherent"
        words = [self.tokens[number] for number in ids[1:-1]]
        if ids[0] == SAY:
            return Message(role="assistant", content=" ".join(words)), "stop"
        return Message(role="assistant", content="", tool_calls=(_read_call(words[0], words[1:], tools),)), "stop"


def _read_call(name: str, values: Sequence[str], tools: Sequence[ToolSpec]) -> ToolCall:
    tool = next((tool for tool in tools if tool.name.lower() == name), None)
    if tool is not None:
        properties = parameters_of(tool)
        required = tool.parameters.get("required", properties)
        if len(required) <= len(values) <= len(properties):
            pairs = zip(properties.items(), values, strict=False)
            arguments = {key: _read_value(value, schema.get("type")) for (key, schema), value in pairs}
            return ToolCall(name=tool.name, arguments=arguments)
    return ToolCall(name=tool.name if tool else name, arguments={RAW: " ".join(values)})


def _read_value(word: str, kind: object) -> object:
    """A word as the schema's type; a word that is none of that type stays text, for the world to refuse."""
    if kind == "boolean":
        return {"true": True, "false": False}.get(word, word)
    try:
        return int(word) if kind == "integer" else float(word) if kind == "number" else word
    except ValueError:
        return word
