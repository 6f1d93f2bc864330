"""Statements signed with Ed25519 in an envelope.

The envelope is DSSE (https://github.com/secure-systems-lab/dsse/blob/master/envelope.md): one signature over type and
payload, which any verifier of such envelopes can check. Beside it stands a signature of each part of the statement: it
names what was changed, where the whole no longer fits. A verdict rests on the one over the whole alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.decisions.gate.passing.statement import to_bytes
from holdfast.records.errors import StudyError, needs, require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ENVELOPE = "statement.dsse.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
KEY_BYTES = 64 << 10


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 key in PEM (PKCS 8 or OpenSSH) without a password. Errors: StudyError."""
    serialization, ed25519 = _cryptography()
    loaders = (serialization.load_pem_private_key, serialization.load_ssh_private_key)
    key: Ed25519PrivateKey = _read_key(
        path,
        [partial(load, password=None) for load in loaders],
        ed25519.Ed25519PrivateKey,
        f"no private Ed25519 key; make one with `openssl genpkey -algorithm ed25519 -out {path}`",
    )
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM or in OpenSSH's form. Errors: StudyError."""
    serialization, ed25519 = _cryptography()
    key: Ed25519PublicKey = _read_key(
        path,
        [serialization.load_pem_public_key, serialization.load_ssh_public_key],
        ed25519.Ed25519PublicKey,
        f"no public Ed25519 key; write it with `openssl pkey -in KEY -pubout -out {path}`",
    )
    return key


def _read_key(path: Path, loaders: Sequence[Callable[[bytes], Any]], kind: type, finding: str) -> Any:
    """A key of a kind by the first loader that reads the file. Errors: StudyError."""
    data = read_bounded(path, KEY_BYTES, "a key")
    for load in loaders:
        try:
            key = load(data)
        except TypeError as error:
            raise StudyError(f"{path}: has a password; give a key without one") from error
        except Exception:  # whatever the library says of a file that is no key
            continue
        if isinstance(key, kind):
            return key
    raise StudyError(f"{path}: {finding}")


def _cryptography() -> tuple[Any, Any]:
    with needs("sign", "signing and verifying"):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    return serialization, ed25519


def name_key(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key, in hexadecimal digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def sign(statement: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The envelope of a statement, as JSON values."""
    payload = to_bytes(statement)
    keyid = name_key(key.public_key())
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": keyid, "sig": base64.b64encode(key.sign(encode(PAYLOAD_TYPE, payload))).decode()}],
        "parts": {
            name: base64.b64encode(key.sign(encode(f"{PAYLOAD_TYPE}#{name}", value))).decode()
            for name, value in parts_of(statement)
        },
    }


def encode(kind: str, payload: bytes) -> bytes:
    """What is signed: DSSE's encoding of a payload and its type."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def parts_of(statement: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The parts that are signed one by one: each subject by its name, each key of the predicate, all other keys."""
    for key, value in statement.items():
        if key == "subject" and isinstance(value, list):
            for number, one in enumerate(value):
                name = one.get("name", number) if isinstance(one, dict) else number
                yield f"subject {name}", to_bytes(one)
        elif key == "predicate" and isinstance(value, dict):
            yield from ((f"{name}", to_bytes(inner)) for name, inner in value.items())
        else:
            yield key, to_bytes(value)


def read_bounded(path: Path, most: int, what: str) -> bytes:
    """A file of at most so many bytes. Errors: StudyError."""
    try:
        require(path.stat().st_size <= most, f"{path}: too large for {what}; give another file")
        return path.read_bytes()
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}); give {what}") from error
