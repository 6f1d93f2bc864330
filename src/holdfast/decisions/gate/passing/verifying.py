"""What of a signed statement, and of what it speaks of, was changed since."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.decisions.gate.passing.signing import (
    ENVELOPE,
    PAYLOAD_TYPE,
    encode,
    name_key,
    parts_of,
    read_bounded,
)
from holdfast.decisions.gate.passing.statement import FILE, PREDICATE_TYPE, SIDES, STATEMENT_TYPE
from holdfast.records.errors import StudyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ENVELOPE_BYTES = 256 << 20


@dataclass(slots=True, kw_only=True)
class Verification:
    """What was found of a signed statement, a line each.

    ``changed`` is not as it was signed, ``holds`` is, ``absent`` was not there to be looked at. ``statement`` is what
    was signed, None where the signature does not hold.
    """

    changed: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    statement: Mapping[str, Any] | None = None


def verify(path: Path, key: Ed25519PublicKey, models: Mapping[str, Path] | None = None) -> Verification:
    """Hold a signed statement against a key, and what it speaks of against its digests.

    ``path`` is the envelope, or the directory of an answer that has it; files of the answer beside it are looked at,
    and directories of weights in ``models`` ("parent", "child"). Errors: StudyError where there is no envelope to read,
    or no directory.
    """
    path = path / ENVELOPE if path.is_dir() else path
    envelope = _read_envelope(path)
    found = Verification()
    found.changed, payload = _check_envelope(envelope, key)
    if found.changed:
        return found
    statement = found.statement = _read_statement(path, payload)
    found.holds = ["the signature", *dict.fromkeys(name.partition(" ")[0] for name, _ in parts_of(statement))]
    _check_files(found, path.parent, statement)
    _check_readable(found, path.parent / FILE, statement)
    for side in SIDES:
        _check_model(found, side, (models or {}).get(side), statement)
    return found


def _read_envelope(path: Path) -> dict[str, Any]:
    data = read_bounded(path, ENVELOPE_BYTES, "a signed statement")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: no JSON; give a signed statement, {ENVELOPE}") from error
    if not isinstance(found, dict) or not isinstance(found.get("payload"), str):
        hint = " (this is the one without)" if isinstance(found, dict) and "predicate" in found else ""
        raise StudyError(f"{path}: no statement with a signature{hint}; give the {ENVELOPE} of `holdfast gate --sign`")
    return found


def _check_envelope(envelope: Mapping[str, Any], key: Ed25519PublicKey) -> tuple[list[str], bytes]:
    """What was changed, a line each, and the payload; nothing where the signature over the whole holds."""
    payload = _decode(envelope["payload"])
    if payload is None:
        return ["payload: no base64 any more"], b""
    kind, mine = envelope.get("payloadType"), name_key(key)
    signatures = envelope.get("signatures")
    signatures = [one for one in signatures if isinstance(one, dict)] if isinstance(signatures, list) else []
    if kind != PAYLOAD_TYPE:
        return [f"payloadType: it is {kind!r}, a statement's is {PAYLOAD_TYPE!r}"], payload
    if any(_fits(key, one.get("sig"), encode(PAYLOAD_TYPE, payload)) for one in signatures):
        return [], payload
    names = [str(one.get("keyid")) for one in signatures]
    if not names:
        return ["signatures: there is none"], payload
    if mine not in names:
        return [f"signatures: made by another key, {', '.join(names)}; that which was given is {mine}"], payload
    return _name_changes(envelope, payload, key), payload


def _name_changes(envelope: Mapping[str, Any], payload: bytes, key: Ed25519PublicKey) -> list[str]:
    """The parts of a statement that are not as they were signed."""
    try:
        statement = json.loads(payload)
        parts = dict(parts_of(statement)) if isinstance(statement, dict) else {}
    except (ValueError, RecursionError):
        return ["payload: no JSON any more"]
    kept = envelope.get("parts")
    kept = kept if isinstance(kept, dict) else {}
    named = [
        f"{name}: {'not as it was signed' if name in kept else 'was not there when it was signed'}"
        for name, value in parts.items()
        if not _fits(key, kept.get(name), encode(f"{PAYLOAD_TYPE}#{name}", value))
    ]
    named += [f"{name}: is gone" for name in kept if name not in parts]
    return named or ["signatures: that over the whole does not fit, though each part is as it was signed"]


def _fits(key: Ed25519PublicKey, signature: object, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    raw = _decode(signature)
    if raw is None:
        return False
    try:
        key.verify(raw, signed)
    except InvalidSignature:
        return False
    return True


def _decode(text: object) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        return None


def _read_statement(path: Path, payload: bytes) -> dict[str, Any]:
    """What was signed. Errors: StudyError where that is a statement of another kind."""
    statement: dict[str, Any] = json.loads(payload)
    kinds = (statement.get("_type"), statement.get("predicateType"))
    if kinds != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise StudyError(f"{path}: signed, but not what a gate found ({kinds[1]}); give a statement of `holdfast gate`")
    return statement


# --- what a statement speaks of -------------------------------------------------------------------------------------


def _check_files(found: Verification, folder: Path, statement: Mapping[str, Any]) -> None:
    """The files of the answer that lie beside the envelope."""
    for name, digest in _subjects(statement):
        if "/" not in name:
            _compare(found, name, folder / name, digest)


def _check_model(found: Verification, side: str, directory: Path | None, statement: Mapping[str, Any]) -> None:
    """One side's weights. Errors: StudyError for a directory that is not there."""
    mine = {name.partition("/")[2]: digest for name, digest in _subjects(statement) if name.startswith(f"{side}/")}
    if directory is None:
        found.absent += (
            [f"{side}: its {len(mine)} files were not looked at; name them with --{side} DIR"] if mine else []
        )
        return
    if not directory.is_dir():
        raise StudyError(f"--{side} {directory}: no directory; name the model's")
    if not mine:
        found.absent.append(f"{side}: its weights were not at hand when this was signed")
    for name, digest in mine.items():
        _compare(found, f"{side}/{name}", directory / name, digest)
    more = sorted(one.name for one in directory.iterdir() if one.is_file() and one.name not in mine) if mine else ()
    found.changed += [f"{side}/{name}: was not there when it was signed" for name in more]


def _subjects(statement: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for one in statement["subject"]:
        yield one["name"], one["digest"]["sha256"]


def _compare(found: Verification, name: str, path: Path, digest: str) -> None:
    try:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        # A statement may be passed on alone; a model without one of its files is another model.
        (found.changed if "/" in name else found.absent).append(f"{name}: is not there")
    except OSError as error:
        found.changed.append(f"{name}: cannot be read ({error.strerror})")
    else:
        (found.holds if same else found.changed).append(name if same else f"{name}: not the file that was signed")


def _check_readable(found: Verification, path: Path, statement: Mapping[str, Any]) -> None:
    """The statement without a signature, which people read: part by part that which was signed."""
    try:
        readable = json.loads(path.read_bytes())
        theirs = dict(parts_of(readable)) if isinstance(readable, dict) else {}
    except FileNotFoundError:
        found.absent.append(f"{FILE}: is not there")
        return
    except (OSError, ValueError, RecursionError):
        found.changed.append(f"{FILE}: cannot be read")
        return
    mine = dict(parts_of(statement))
    changed = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    found.changed += [f"{FILE}: its {name} is not what was signed" for name in changed]
    found.holds += [] if changed else [FILE]
