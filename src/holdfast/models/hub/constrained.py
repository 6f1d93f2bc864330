"""Replies that follow a JSON schema by constraint: at every place only tokens with which the text can still become so.

The grammar is llguidance's. Where few tokens are left, the text is steered to its end, so that a reply that would have
been cut off is a complete JSON value all the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.records import JSON
from holdfast.records.errors import MissingExtra, StudyError

_DEEPEST = 8
_PLAIN = 8  # characters of a value that is under way, such as a number
_ENDINGS = (b"}", b"]", b",", b":", b'"')


class Grammars:
    """Makes constraints for one tokenizer; ``vocabulary`` is the number of the model's logits."""

    def __init__(self, tokenizer: Any, *, vocabulary: int, ends: Sequence[int]) -> None:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise MissingExtra("replies that follow a JSON schema", "train") from error

        self.vocabulary = vocabulary
        self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=list(ends))
        singles = {text: self._tokenizer.tokenize_bytes(text)[-1] for text in _ENDINGS}
        self._endings = {text: one for text, one in singles.items() if self._tokenizer.decode_bytes([one]) == text}

    def start(self, schema: JSON, limit: int) -> Constraint:
        """The constraint of a reply of at most ``limit`` tokens. Errors: StudyError for a schema not to be followed."""
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(dict(schema), overrides={"whitespace_flexible": False})
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise StudyError(f"JSON schema: replies cannot follow it ({matcher.get_error()[:200]}); simplify it")
        # At least half of the tokens are the model's own to spend.
        return Constraint(self, matcher, min(_longest(schema, schema, 0), limit // 2))

    def decode(self, token: int) -> bytes:
        """The bytes of a token."""
        text: bytes = self._tokenizer.decode_bytes([token])
        return text

    def ending(self, text: bytes) -> int | None:
        """The token that is exactly this text, where there is one."""
        return self._endings.get(text)


class Constraint:
    """What a reply may go on with. ``reserve`` is the number of tokens that bring any text of the schema to its end."""

    def __init__(self, grammars: Grammars, matcher: Any, reserve: int) -> None:
        self.reserve = reserve
        self._grammars, self._matcher = grammars, matcher
        self._in_string = self._escaped = False

    def allowed(self, left: int) -> NDArray[np.bool_]:
        """Which tokens [vocabulary] may come next, where ``left`` of them may still be written."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        found = np.zeros(self._grammars.vocabulary, np.bool_)
        shown = np.unpackbits(bits, bitorder="little")[: len(found)]
        found[: len(shown)] = shown
        if left <= self.reserve and not self._escaped:
            for text in (b'"',) if self._in_string else _ENDINGS:
                token = self._grammars.ending(text)
                if token is not None and found[token]:
                    found[:] = False
                    found[token] = True
                    break
        return found

    def copy(self) -> Constraint:
        """The same at the same place, to go another way."""
        other = Constraint(self._grammars, self._matcher.deep_copy(), self.reserve)
        other._in_string, other._escaped = self._in_string, self._escaped
        return other

    def take(self, token: int) -> bool:
        """Go on with a token; whether the reply is complete with it. Errors: ValueError for one not allowed."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"token {token} is not allowed here ({self._matcher.get_error()})")
        for letter in self._grammars.decode(token):
            if self._escaped:
                self._escaped = False
            elif letter == ord("\\"):
                self._escaped = self._in_string
            elif letter == ord('"'):
                self._in_string = not self._in_string
        return bool(self._matcher.is_stopped())


def _longest(schema: Any, root: JSON, depth: int) -> int:
    """The number of characters of the largest value of a schema whose texts are empty and whose lists have one item."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return _PLAIN
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Any = root
        for key in reference[2:].split("/"):
            found = found.get(key) if isinstance(found, Mapping) else None
        return _longest(found, root, depth + 1)
    if "const" in schema or "enum" in schema:
        return max(len(json.dumps(value)) for value in schema.get("enum") or [schema.get("const")])
    size = _PLAIN + int(schema.get("minLength", 0))
    for key, value in (schema.get("properties") or {}).items():
        size += len(json.dumps(key)) + 4 + _longest(value, root, depth + 1)
    if "items" in schema:
        size += max(int(schema.get("minItems", 0)), 1) * (_longest(schema["items"], root, depth + 1) + 2)
    options = [option for name in ("anyOf", "oneOf", "allOf") for option in schema.get(name) or ()]
    return size + max((_longest(option, root, depth + 1) for option in options), default=0)
