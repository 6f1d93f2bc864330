"""Conversations as tokens for any tokenizer with a chat template, and sampled tokens as messages.

Calls are written natively where the template shows tools, calls, the thoughts beside them and results, and what it
writes can be read back; else in the text format (``calls``). A system message joins the first user message where
the template has no place for it. A text cannot speak as a control token: one that spells ``<|im_end|>`` is shown as
``< |im_end|>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from holdfast.models import Ask, Conversation, Reply, SampledToken, Stopped, chat_messages, chat_tools, find_answered
from holdfast.models.calls.families import FAMILIES, Family
from holdfast.models.calls.native import MESSAGE, STOP, read_native, read_reply, read_turn, render
from holdfast.models.calls.spelled import PAIRS, spells_call
from holdfast.models.directories.libraries import first_line
from holdfast.models.directories.peft import has_tokenizer, is_peft, text_home
from holdfast.models.directories.stacks import base_of
from holdfast.models.hub.templates import ChatTemplate
from holdfast.records import Message, ToolCall, ToolSpec
from holdfast.records.errors import StudyError, needs

Calls = Literal["auto", "native", "text"]
PROBE_TOOL = ToolSpec(
    name="probe_tool",
    description="probe description",
    parameters={"type": "object", "properties": {"probe_key": {"type": "string"}}, "required": ["probe_key"]},
)
PROBE_CALL = ToolCall(name="probe_tool", arguments={"probe_key": "probe value"})
PROBE_REQUEST = Message(role="user", content="probe request")
PROBE_RESULT = Message(role="tool", content="probe result", name="probe_tool")

Span = tuple[int, int]

_CALLING = Message(role="assistant", content="probe thought", tool_calls=(PROBE_CALL,))
_THINKING = re.compile(r"</?think>")
_SWITCH = "enable_thinking"  # the variable by which templates are told whether the agent thinks
_REWRITES = (
    "the chat template rewrites what comes before message {} once more is said, so that the agent would learn from"
    " another prompt than it was sampled after"
)
_NOT_SAMPLED = "so that the agent would learn from tokens that it did not sample"
# Marks around thoughts, but for those that end more than these.
_MARKS = frozenset(mark for pair in PAIRS for mark in pair) - {"<|end|>"}
_WRITTEN_CALL = re.compile(r"^[\s*#>`_\-]*Action[\s*_`]*:.*\Z", re.DOTALL | re.MULTILINE)


def clean_call_text(message: Message) -> Message:
    """The message without the part of its text that repeats its calls (``Action:`` and what follows)."""
    if not message.tool_calls:
        return message
    return replace(message, content=_WRITTEN_CALL.sub("", message.content).rstrip())


class Unfaithful(Exception):
    """A conversation whose turns a template shows otherwise than they were sampled: how, without a remedy."""


class HubChat:
    """The chat format of a model directory.

    ``native`` says how calls are written, and ``speaks_beside_calls`` whether a text may stand beside them;
    ``channels`` says that replies carry headers, ``thought`` are the marks around a thought that a prompt opens, if it
    does, and ``thinks_on_demand`` says that the agent thinks only where the template is told so, which it is not.
    ``ends`` are the ids of the tokens that end a turn, ``unknown_ends`` those that are said to and that the tokenizer
    does not have, ``unknown`` the token of words without one, ``source`` is the template. ``encode`` of a conversation
    begins with the ``prompt_ids`` of each of its turns of the agent. Errors: StudyError for a directory without a
    tokenizer, template or token that ends a turn, a template that is refused, or ``calls`` that it cannot write.
    """

    def __init__(self, directory: Path | str, *, calls: Calls = "auto") -> None:
        self.directory = Path(directory)
        self.tokenizer = _load_tokenizer(self.directory)
        try:
            source: str = self.tokenizer.get_chat_template(None, tools=[{}])
        except ValueError as error:
            raise StudyError(f"{self.directory}: has no chat template; use a model that was trained to chat") from error
        tokens = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        named = _named_ends(self.tokenizer, self.directory)
        self.ends = tuple(number for number in named if 0 <= number < len(self.tokenizer))
        self.unknown_ends = tuple(number for number in named if number not in self.ends)
        if not self.ends:
            beyond = f" (eos_token_id {named[0]}, the tokenizer has {len(self.tokenizer)})" if named else ""
            raise StudyError(
                f"{self.directory}: no token ends a turn{beyond}: the agent would talk to its limit; name one as"
                " eos_token_id in generation_config.json"
            )
        unknown = self.tokenizer.unk_token_id  # some name one that ends turns, and need none
        self.unknown: int | None = None if unknown in self.ends else unknown
        self._end = self._spell_ends()
        added = self.tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        written = {token.content for token in added if token.content.strip() and token.content in source}
        # The agent's own text may hold what its template calls thinking.
        self._special, self._control = _any_of(special - _MARKS), _any_of(special | written)
        self.source = source
        self._template = ChatTemplate(source, tokens, str(self.directory))
        self._probe(calls)

    def _spell_ends(self) -> re.Pattern[str]:
        names = [self.tokenizer.convert_ids_to_tokens(number) for number in self.ends]
        return re.compile("|".join(re.escape(name) for name in names))

    def _take_written_end(self) -> None:
        """A control token that the template writes behind an answer ends a turn, whether or not settings say so.

        Many a model's name the end of a text alone: its agent would write the user's next turn too.
        """
        written = self._turn_end.lstrip()
        found = self._special.match(written)
        if found and not self.channels and not self._end.match(written):
            self.ends += (int(self.tokenizer.convert_tokens_to_ids(found[0])),)
            self._end = self._spell_ends()

    def _probe(self, calls: Calls) -> None:
        tools = chat_tools([PROBE_TOOL])

        def show(*messages: Message, **how: Any) -> str:
            return self._template.try_out(_as_dicts((PROBE_REQUEST, *messages)), **how) or ""

        prompt, answered = show(prompt=True), show(Message(role="assistant", content="probe answer"))
        if "probe request" not in prompt or "probe answer" not in answered:
            raise StudyError(f"{self.directory}: the chat template drops messages; use a model with another template")
        # What a template writes behind an answer.
        self._turn_end = answered.rpartition("probe answer")[2]
        self.channels = MESSAGE in answered
        self._take_written_end()
        opening = _as_dicts((Message(role="system", content="probe system"), PROBE_REQUEST))
        self._has_system = "probe system" in (self._template.try_out(opening, prompt=True) or "")
        called = show(_CALLING, PROBE_RESULT, tools=tools, prompt=True)
        shows = all(part in called for part in ("probe description", "probe value", "probe result"))
        offered, call = show(tools=tools, prompt=True), show(_CALLING, tools=tools)
        family = self._find_family(offered, call) if shows and offered and call else None
        calling_twice = replace(_CALLING, tool_calls=(PROBE_CALL,) * 2)
        twice = show(calling_twice, PROBE_RESULT, PROBE_RESULT, tools=tools, prompt=True)
        self._parallel = twice.count("probe value") == 2
        if calls == "native" and family is None:
            raise StudyError(
                f"{self.directory}: the chat template writes no calls that can be read; set calls = 'text'"
            )
        # Calls that stand alone have no thought beside them that could be lost.
        whole = "probe thought" in call or (family is not None and family.alone)
        self._family = family if calls == "native" or (calls == "auto" and whole) else None
        self.native = self._family is not None
        self.thought = next((pair for pair in PAIRS if prompt.rstrip().endswith(pair[0])), None)
        # What the prompt has said of a thought before the agent goes on with it.
        self._opened = prompt[prompt.rindex(self.thought[0]) :] if self.thought else ""
        self.thinks_on_demand = _SWITCH in self.source and prompt != show(prompt=True, **{_SWITCH: True})
        self.speaks_beside_calls = not self.native or "probe thought" in call

    def _find_family(self, offered: str, call: str) -> Family | None:
        """The family whose format the template writes calls in, if what it writes can be read back."""
        # Some prompts open the agent's thinking, and the turn closes it where there was none.
        begins = len(offered) if call.startswith(offered) else self._shared(offered, call)
        written = self._end.split(call[begins:])[0]
        for family in FAMILIES:
            found = read_native(written, [PROBE_TOOL], family)
            if found is not None and found.tool_calls == (PROBE_CALL,):
                return family
        return None

    # --- conversations as tokens -------------------------------------------------------------------------------

    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation, and a mask of the same length that is true on the agent's own tokens.

        The ids begin with the prompt that the agent's last turn was sampled after, and each of its turns begins right
        behind its own prompt, as it does for ``prompt_ids``. The agent's own are its texts and calls and the token that
        ends its turn. Errors: StudyError where the template refuses the conversation, or shows a turn otherwise than it
        was sampled, so that the agent would learn from other tokens.
        """
        try:
            return self.encode_as_sampled(messages, tools)
        except Unfaithful as error:
            helps = advise(self, [Conversation(messages=tuple(messages), tools=tuple(tools))])
            raise StudyError(f"{self.directory}: {error}; {helps}") from error

    def encode_as_sampled(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> tuple[list[int], list[bool]]:
        """As ``encode``. Errors: Unfaithful for a turn that is shown otherwise than it was sampled; StudyError."""
        shown = self._shown(messages, tools)
        turns = [number for number, message in enumerate(shown) if message.role == "assistant"]
        opening = self._opening(shown[: turns[0]] if turns else shown, tools)
        if not turns:
            ids, _ = self._ids(opening)
            return ids, [False] * len(ids)
        prompts = [self._render(shown[:turn], tools, prompt=True) if turn else "" for turn in turns]
        text, last = self._close(shown, tools, turns[-1], prompts[-1])
        spans = []
        for turn, (prompt, following) in zip(turns, pairwise(prompts), strict=False):
            if not text.startswith(prompt):
                raise Unfaithful(_REWRITES.format(turn + 1))
            end = self._find_end(text, len(prompt), len(following), shown[: turn + 1], tools)
            self._check_own(text[len(prompt) : end], shown[turn], turn)
            spans.append((len(prompt), end))
        return self._tokenize(text, [*spans, (len(prompts[-1]), last)], [len(opening), *map(len, prompts)])

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """The token ids after which the next message of the agent begins. Errors: StudyError."""
        shown = self._shown(conversation.messages, conversation.tools)
        return self._ids(self._render(shown, conversation.tools, prompt=True))[0]

    def _shown(self, messages: Iterable[Message], tools: Sequence[ToolSpec]) -> list[Message]:
        cleaned = [self._complete(clean_call_text(message)) for message in messages]
        shown = cleaned if self.native else list(render(cleaned, tools))
        shown = [self._neutral(message) for message in shown]
        if self._has_system or not shown or shown[0].role != "system":
            return shown
        system, rest = shown[0], shown[1:]
        if not rest or rest[0].role != "user":
            return [Message(role="user", content=system.content), *rest]
        return [replace(rest[0], content=f"{system.content}\n\n{rest[0].content}"), *rest[1:]]

    def _complete(self, message: Message) -> Message:
        """A reply with the beginning of its thought, which its prompt has; many templates look for both marks."""
        if message.role != "assistant" or self.thought is None:
            return message
        begin, end = self.thought
        before, closed, _ = message.content.partition(end)
        return replace(message, content=self._opened + message.content) if closed and begin not in before else message

    def shows_as_written(self, message: Message) -> bool:
        """Whether a message spells no control token, which would be shown with a space in it."""
        return self._neutral(message) == message

    def _neutral(self, message: Message) -> Message:
        control = self._special if message.role == "assistant" else self._control
        calls = tuple(
            replace(
                call,
                name=_break(self._control, call.name),
                arguments=_map_texts(dict(call.arguments), lambda text: _break(control, text)),
            )
            for call in message.tool_calls
        )
        name = None if message.name is None else _break(self._control, message.name)
        return replace(message, content=_break(control, message.content), tool_calls=calls, name=name)

    def _render(self, shown: Sequence[Message], tools: Sequence[ToolSpec], *, prompt: bool) -> str:
        specs = chat_tools(tools) if self.native else []
        specs = [_map_texts(spec, lambda text: _break(self._control, text)) for spec in specs]
        try:
            return self._template.render(_as_dicts(shown), specs, prompt=prompt)
        except ValueError as error:
            roles = ", ".join(message.role for message in shown[-4:])
            raise StudyError(
                f"{self.directory}: the chat template refuses a conversation that ends in {roles} ({error});"
                " set calls = 'text' or use another model"
            ) from error

    def _opening(self, shown: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        """The text of messages without a prompt, as far as it also begins the prompt that follows them."""
        if not shown:
            return ""
        bare, prompt = self._render(shown, tools, prompt=False), self._render(shown, tools, prompt=True)
        return bare if prompt.startswith(bare) else bare[: self._shared(bare, prompt)]

    def _close(self, shown: Sequence[Message], tools: Sequence[ToolSpec], turn: int, prompt: str) -> tuple[str, int]:
        """The text in which the agent's last turn stands behind its prompt as it wrote it, and where that turn ends."""
        whole = self._render(shown, tools, prompt=False)
        if whole.startswith(prompt):
            end = self._find_end(whole, len(prompt), len(whole), shown[: turn + 1], tools)
            if self._find_change(whole[len(prompt) : end], shown[turn]) is None:
                return whole, end
        # A template may show a turn with more or less around it than was sampled, such as an opening of thoughts.
        said = shown[turn].content.removeprefix(self._opened)
        if not shown[turn].tool_calls and turn == len(shown) - 1:
            ended = self._end.search(self._turn_end)
            own = said + (self._turn_end[: ended.end()] if ended else self._turn_end)
            return f"{prompt}{said}{self._turn_end}", len(prompt) + len(own)
        bare = self._opening(shown[:turn], tools)
        if not whole.startswith(bare):
            raise Unfaithful(_REWRITES.format(turn + 1))
        begin = max(len(bare), self._shared(whole, prompt))
        at = whole.find(said, begin)
        end = self._find_end(whole, max(at, begin), len(whole), shown[: turn + 1], tools)
        if not said or at < 0 or at >= end:
            self._check_own(whole[begin:end], shown[turn], turn)
            at = begin
        own = whole[at:end]
        self._check_own(own, shown[turn], turn)
        return prompt + own + whole[end:], len(prompt) + len(own)

    def _find_end(self, text: str, start: int, bound: int, shown: Sequence[Message], tools: Sequence[ToolSpec]) -> int:
        """Where the agent's turn ends that begins at ``start``; ``shown`` are the messages up to it."""
        if ended := self._end.search(text, start, bound):
            return ended.end()
        after = self._render(shown, tools, prompt=False)
        if text.startswith(after) and start <= len(after) <= bound:
            return len(after)
        tail = self._turn_end.strip()
        at = text.find(tail, start, bound) if tail else -1
        if at < 0:
            raise Unfaithful(
                f"the chat template does not end the turn of message {len(shown)}, so that the agent's own tokens"
                " cannot be told"
            )
        return at + len(tail)

    def _check_own(self, own: str, message: Message, place: int) -> None:
        """Raises Unfaithful where the text of the agent's turn is not what it wrote; white space aside."""
        if (change := self._find_change(own, message)) is not None:
            raise Unfaithful(f"the chat template {change} message {place + 1}, {_NOT_SAMPLED}")

    def _find_change(self, own: str, message: Message) -> str | None:
        """What a template does to a turn of the agent whose text is ``own``: None where it is what the agent wrote."""
        text, said = _squeeze(own), _squeeze(message.content.removeprefix(self._opened))
        if said not in text:
            return "leaves out text of"
        rest = text.removeprefix(said)
        marks = self._family.marks if self._family else ()
        whole = rest in ("", _squeeze(self._turn_end)) or self._end.fullmatch(rest) is not None
        if message.tool_calls:
            whole = not marks or rest.startswith(marks)
        return None if whole and text.startswith(said) else "adds text of its own to"

    def _shared(self, text: str, other: str) -> int:
        """The length of what two texts share, up to the end of a line or a control token."""
        differs = (place for place, (one, two) in enumerate(zip(text, other, strict=False)) if one != two)
        length = next(differs, min(len(text), len(other)))
        return max([text.rfind("\n", 0, length) + 1, *(m.end() for m in self._control.finditer(text, 0, length))])

    def _tokenize(self, text: str, spans: Sequence[Span], cuts: Sequence[int]) -> tuple[list[int], list[bool]]:
        ids, found = self._ids(text)
        prompt, _ = self._ids(text[: cuts[0]])
        places = np.array(found, np.int64).reshape(-1, 2)
        # Tokens that reach over a cut were not sampled so: the reply came after the prompt's own tokens.
        torn = [cut for cut in cuts if bool(((places[:, 0] < cut) & (places[:, 1] > cut)).any())]
        if ids[: len(prompt)] != prompt:
            torn = sorted({cuts[0], *torn})
        if torn:
            bounds = [0, *torn, len(text)]
            pieces = [self._ids(text[first:last]) for first, last in pairwise(bounds)]
            ids = [number for piece, _ in pieces for number in piece]
            moved = [np.array(where, np.int64).reshape(-1, 2) for _, where in pieces]
            places = np.concatenate([where + first for where, first in zip(moved, bounds, strict=False)])
        mask = np.zeros(len(ids), np.bool_)
        for first, last in spans:
            mask |= (places[:, 1] > first) & (places[:, 0] < last)
        return ids, mask.tolist()

    def _ids(self, text: str) -> tuple[list[int], list[Span]]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["input_ids"], encoded["offset_mapping"]

    # --- replies -------------------------------------------------------------------------------------------------

    def stops(self, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        """The texts at which a reply ends, beside the tokens ``ends``."""
        if not tools:
            return ()
        return self._family.stops if self._family else STOP

    def decode(self, ids: Sequence[int]) -> str:
        """The tokens as text, special tokens included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def read(
        self, reply: Sequence[int] | str, tools: Sequence[ToolSpec], made: Sequence[ToolCall] = ()
    ) -> tuple[Message | None, Stopped]:
        """The message that a reply spells, and how it ended; a text is taken to be complete.

        What looks like a call and is not in the chat's own format makes the reply incoherent, unless it tells of one of
        ``made``, the calls of the conversation so far.
        """
        text = reply
        if not isinstance(text, str):
            ended = bool(reply) and reply[-1] in self.ends
            text = self.decode(text[:-1] if ended else text)
            if not ended and not any(stop in text for stop in self.stops(tools)):
                return None, "length"
        message = self._read_text(text, tools, made)
        return (None, "incoherent") if message is None else (message, "stop")

    def finish(
        self, ids: Sequence[int], ask: Ask, *, complete: bool, logprob: float, sampled: Sequence[SampledToken]
    ) -> Reply:
        """The reply that the tokens sampled for a request are; under a schema the whole text is its message."""
        message: Message | None = None
        stopped: Stopped = "length"
        if complete and ask.schema is None:
            message, stopped = self.read(ids, ask.conversation.tools, ask.conversation.calls)
        elif complete:
            text = self.decode([token for token in ids if token not in self.ends])
            message, stopped = Message(role="assistant", content=text), "stop"
        return Reply(
            message=message,
            stopped=stopped,
            tokens=len(ids),
            logprob=logprob,
            raw=self.decode(ids),
            sampled=tuple(sampled) if ask.logprobs else None,
            ids=tuple(ids),
        )

    def _read_text(self, text: str, tools: Sequence[ToolSpec], made: Sequence[ToolCall]) -> Message | None:
        if tools and self.thought and self.thought[1] not in text and spells_call(text, tools, made):
            return None  # the prompt opened the thinking, and nothing says that it ended before the call
        if self._family is not None:
            for stop in self.stops(tools):
                text = text.partition(stop)[0]
            message = read_native(text, tools, self._family, made)
            return None if message and len(message.tool_calls) > 1 and not self._parallel else message
        if not self.channels or MESSAGE not in text:
            return read_reply(text, tools, made)
        turn = read_turn(text)  # the text format under headers
        if turn is None or turn.calls or not turn.said:
            return None
        message = read_reply("\n".join(turn.said), tools, made)
        return replace(message, detail=turn.detail) if message else None


def _load_tokenizer(directory: Path) -> Any:
    with needs("train", f"the model {directory}"):
        from transformers import AutoTokenizer
    home = text_home(directory)
    if not has_tokenizer(home):
        raise StudyError(f"{directory}: holds no tokenizer (tokenizer.json); save it beside the model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(home, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # Tokenizers in Rust raise bare exceptions for damaged files.
        reason = first_line(error)
        raise StudyError(f"{directory}: its tokenizer cannot be read ({reason}); fetch the model again") from error
    if not tokenizer.is_fast:
        raise StudyError(f"{directory}: its tokenizer does not tell where tokens stand; add a tokenizer.json")
    return tokenizer


def _named_ends(tokenizer: Any, directory: Path) -> tuple[int, ...]:
    """The ids that are said to end a turn, by the tokenizer and by the model's settings; it may have none of them."""
    named: list[Any] = [tokenizer.eos_token_id]
    places = dict.fromkeys((directory, base_of(directory))) if is_peft(directory) else (directory,)
    for place in (home / name for name in ("generation_config.json", "config.json") for home in places):
        try:
            ends = json.loads(place.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        named += ends if isinstance(ends, list) else [ends]
    return tuple(dict.fromkeys(number for number in named if isinstance(number, int)))


def _as_dicts(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages with numbered calls: some templates want ids of nine letters or digits."""
    waiting: list[tuple[str, str]] = []
    numbers = count()
    dicts = chat_messages(messages)
    for entry in dicts:
        for call in entry.get("tool_calls", ()):
            call["id"] = f"call{next(numbers):05d}"
        if "tool_calls" in entry:
            waiting = [(call["function"]["name"], call["id"]) for call in entry["tool_calls"]]
        if entry["role"] == "tool" and waiting:
            place = find_answered([name for name, _ in waiting], entry.get("name"))
            entry["tool_call_id"] = waiting.pop(place)[1]
    return dicts


def _squeeze(text: str) -> str:
    """A text without white space: replies are kept without what stands around them."""
    return "".join(text.split())


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    alternatives = sorted((text for text in texts if len(text) > 1 and not _THINKING.fullmatch(text)), key=len)
    return re.compile("|".join(re.escape(text) for text in reversed(alternatives)) or "(?!)")


def _break(control: re.Pattern[str], text: str) -> str:
    return control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _map_texts(value: Any, change: Any) -> Any:
    """A JSON value with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _map_texts(one, change) for key, one in value.items()}
    return [_map_texts(one, change) for one in value] if isinstance(value, list | tuple) else value


# --- what can be trained on ----------------------------------------------------------------------------------------
# A reply is sampled behind a prompt. It may be trained on only where the conversation as tokens begins with that very
# prompt and goes on with what was sampled. Templates of thinking models differ from that in two ways: their prompt
# opens a thought that no later turn shows, and earlier thoughts are left out once more is said.

_CHANNELS = f"its replies stand under headers of channels, which messages do not keep, {_NOT_SAMPLED}"


def check_trainable(chat: HubChat, *, several: bool = True, dialogue: bool = False) -> None:
    """Nothing for a chat format in which episodes can be trained on as they were sampled.

    Tried are an answer and a call, both with the thoughts that the format has; with ``several`` also three turns over
    results, with ``dialogue`` an answer after which the user goes on. Errors: StudyError with what helps.
    """
    tried = _conversations(chat, several, dialogue)
    if (fault := find_fault(chat, tried)) is not None:
        raise StudyError(f"{chat.directory}: {fault}; {advise(chat, tried)}")


def find_fault(chat: HubChat, conversations: Iterable[Conversation]) -> str | None:
    """Why one of these could not be trained on as it was sampled; None where all could."""
    if chat.channels:
        return _CHANNELS
    for conversation in conversations:
        try:
            _compare(chat, conversation)
        except Unfaithful as error:
            return str(error)
        except StudyError as error:
            return str(error).removeprefix(f"{chat.directory}: ").partition(";")[0]
    return None


def advise(chat: HubChat, conversations: Sequence[Conversation]) -> str:
    """What helps where these cannot be trained on; whatever it names was tried on them."""
    other: Calls = "text" if chat.native else "native"
    with suppress(StudyError):  # it may have no other way to write calls
        if find_fault(HubChat(chat.directory, calls=other), conversations) is None:
            return f"set calls = {other!r}"
    several = any(sum(message.role == "assistant" for message in one.messages) > 1 for one in conversations)
    if several and find_fault(chat, _conversations(chat, several=False, dialogue=False)) is None:
        return (
            "make each turn an episode of its own (rollouts.max_turns = 1), or use a template that keeps earlier turns"
            " as they were written, thoughts included"
        )
    return "use a template that shows turns as they were written, thoughts included"


def _conversations(chat: HubChat, several: bool, dialogue: bool) -> list[Conversation]:
    # The thought that a reply of this format begins with; empty where its prompt says that there is none.
    prompt = chat.decode(chat.prompt_ids(Conversation(messages=(PROBE_REQUEST,), tools=(PROBE_TOOL,))))
    opened = prompt.rpartition(PROBE_REQUEST.content)[2]
    begin, end = chat.thought or next((pair for pair in PAIRS if pair[1] in chat.source), PAIRS[0])
    said = f"probe thought\n{end}\n\n" if begin in opened else f"{begin}\nprobe thought\n{end}\n\n"
    if end in opened or (begin not in opened and chat.thinks_on_demand):
        said = ""
    answer = Message(role="assistant", content=f"{said}probe answer")
    calling = Message(role="assistant", content=f"{said}probe words", tool_calls=(PROBE_CALL,))
    if not chat.speaks_beside_calls:
        calling = replace(calling, content="")
    tried: list[tuple[Message, ...]] = [(answer,), (calling,)]
    tried += [(calling, PROBE_RESULT, calling, PROBE_RESULT, answer)] if several else []
    tried += [(answer, PROBE_REQUEST, answer)] if dialogue else []
    return [Conversation(messages=(PROBE_REQUEST, *turns), tools=(PROBE_TOOL,)) for turns in tried]


def _compare(chat: HubChat, conversation: Conversation) -> None:
    """Raises Unfaithful where the tokens of a conversation are not those of its prompts and replies."""
    messages = conversation.messages
    ids, own = chat.encode_as_sampled(messages, conversation.tools)
    for place, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if not chat.shows_as_written(message):
            raise Unfaithful("it thinks between control tokens, which no text can spell")
        prompt = chat.prompt_ids(replace(conversation, messages=messages[:place]))
        begins = len(prompt)
        if ids[:begins] != prompt or not own[begins] or own[begins - 1]:
            raise Unfaithful(f"the tokens of message {place + 1} do not begin where its prompt ends")
