"""What of a gate is passed on: model card, the Hub's results, a record of Every Eval Ever, a signed statement."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import verdict_samples as samples
from builders.commands import asked, refused
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from huggingface_hub._eval_results import parse_eval_result_entries

from holdfast.decisions.gate.passing.card import render_card
from holdfast.decisions.gate.passing.every_eval_ever import make_record
from holdfast.decisions.gate.passing.signing import ENVELOPE, read_public_key
from holdfast.decisions.gate.passing.statement import FILE, to_bytes
from holdfast.decisions.gate.passing.verifying import verify
from holdfast.store import Store

Captured = pytest.CaptureFixture[str]
PEM, OPENSSH = forms.Encoding.PEM, forms.PrivateFormat.OpenSSH
PKCS8, PUBLIC = forms.PrivateFormat.PKCS8, forms.PublicFormat.SubjectPublicKeyInfo


def write_keys(folder: Path, name: str = "key", *, private_format: Any = PKCS8) -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}-public.pem"
    private.write_bytes(key.private_bytes(PEM, private_format, forms.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
    return private, public


@pytest.fixture(scope="module")
def signed(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directory of a signed answer on two checkpoints of a study, and the public key."""
    from holdfast.cli.main import main

    folder = tmp_path_factory.mktemp("signed")
    private, public = write_keys(folder)
    sides = [f"{smoke_run}:S", f"{smoke_run}:S,H dose=2"]
    main(["gate", *sides, "-o", str(folder / "answer"), "--sign", str(private), "--model-card", "--quiet"])
    return folder / "answer", public


@pytest.fixture
def answer(signed: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, to be changed."""
    shutil.copytree(signed[0], tmp_path / "answer")
    return tmp_path / "answer", signed[1]


# --- cards and records -------------------------------------------------------------------------------------------


def test_the_hub_reads_the_results(signed: tuple[Path, Path]) -> None:
    text = (signed[0] / "eval_results.yaml").read_text()
    assert "in place of OWNER/DATASET" in text.splitlines()[0]
    entries = parse_eval_result_entries(yaml.safe_load(text))
    (verdict,) = json.loads((signed[0] / "gate.json").read_text())["verdicts"]
    found = {one.task_id: one.value for one in entries}
    levels = {one["metric"]: one["child"] for one in verdict["checks"] if one["measured"] and one["child"] is not None}
    assert levels.pop("coverage") is not None and found == pytest.approx(levels, rel=1e-5)
    assert all(verdict["parent"] in str(one.notes) for one in entries)


def test_a_dataset_of_the_hub_is_named(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    sides = [f"{smoke_run}:S", f"{smoke_run}:S,H dose=2", "--quiet", "-o", tmp_path / "out"]
    asked(capsys, "gate", *sides, "--model-card", "--hub-dataset", "us/office")
    text = (tmp_path / "out" / "eval_results.yaml").read_text()
    assert {one.dataset_id for one in parse_eval_result_entries(yaml.safe_load(text))} == {"us/office"}
    assert "OWNER" not in text


def test_names_are_inert_in_a_card() -> None:
    verdict = replace(samples.make_verdict(), child="<b>@you</b> | [x](http://x)", parent="`a`\n# b")
    card = render_card(verdict, "2026-12-01")
    assert "<b>" not in card and "[x](" not in card and "\n# b" not in card and "@you" not in card
    assert verdict.outcome.value in card and verdict.fingerprint in card


def test_a_record_has_what_the_schema_asks_for() -> None:
    """The keys and forms that ``eval.schema.json`` 0.2.1 requires, and the child's own levels."""
    record = make_record(samples.make_verdict(), made=datetime(2026, 12, 1, tzinfo=UTC), suite="office")
    assert set(record) - {"evaluation_timestamp"} == {
        *("schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info"),
        *("eval_library", "evaluation_results"),
    }
    assert record["source_metadata"]["source_type"] == "evaluation_run" and record["retrieved_timestamp"].isdigit()
    assert record["evaluation_results"]
    for result in record["evaluation_results"]:
        metric, score = result["metric_config"], result["score_details"]["score"]
        assert metric["score_type"] == "continuous" and isinstance(metric["lower_is_better"], bool)
        assert metric["min_score"] <= score <= metric["max_score"]
        assert all(isinstance(value, str) for value in result["score_details"]["details"].values())
        assert result["source_data"] == {"dataset_name": "office", "source_type": "other"}


def test_several_comparisons_have_no_card(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    line = refused(capsys, "gate", smoke_run, "--all", "--model-card", "-o", tmp_path / "out")
    assert "--model-card is of one comparison" in line
    private, public = write_keys(tmp_path)
    asked(capsys, "gate", smoke_run, "--all", "-o", tmp_path / "out", "--quiet", "--sign", private)
    assert not (tmp_path / "out" / "every_eval_ever.json").exists()
    code, out, _ = asked(capsys, "verify", tmp_path / "out", "--key", public)
    assert code == 0 and out.splitlines()[-1] == "AS SIGNED"


# --- statements --------------------------------------------------------------------------------------------------


def test_a_signed_answer_is_as_it_was_signed(signed: tuple[Path, Path], smoke_run: Path, capsys: Captured) -> None:
    """Its subjects are the files of the answer and of both models, by their digests."""
    folder, public = signed
    code, out, err = asked(capsys, "verify", folder, "--key", public)
    assert (code, err) == (0, "") and out.splitlines()[-1] == "AS SIGNED"
    statement = json.loads((folder / FILE).read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    for name in {one.name for one in folder.iterdir()} - {FILE, ENVELOPE}:
        assert subjects[name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    predicate = statement["predicate"]
    (verdict,) = json.loads((folder / "gate.json").read_text())["verdicts"]
    assert predicate["verdict"]["comparisons"] == [verdict]
    with Store(smoke_run) as store:
        known = {one.id: one for one in store.checkpoints()}
    for side in ("parent", "child"):
        (found,) = predicate[side]["checkpoints"]
        assert found["digest"] == known[found["id"]].digest
        directory = smoke_run / str(known[found["id"]].path)
        mine = {name.partition("/")[2]: digest for name, digest in subjects.items() if name.startswith(f"{side}/")}
        assert mine == {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in directory.iterdir()}
        assert asked(capsys, "verify", folder, "--key", public, f"--{side}", directory)[0] == 0


def test_the_envelope_is_dsse(signed: tuple[Path, Path]) -> None:
    """Its signature is over type and payload as the standard has it, by no code of ours."""
    envelope = json.loads((signed[0] / ENVELOPE).read_text())
    payload = base64.b64decode(envelope["payload"])
    kind = b"application/vnd.in-toto+json"
    over = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    key = forms.load_pem_public_key(signed[1].read_bytes())
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), over)  # type: ignore[union-attr,call-arg,arg-type]
    assert json.loads(payload) == json.loads((signed[0] / FILE).read_text())


def change(statement: dict[str, Any], *place: Any, value: Any) -> None:
    *way, last = place
    for key in way:
        statement = statement[key]
    statement[last] = value


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a digit": ("verdict", lambda s: change(s, "predicate", "verdict", "comparisons", 0, "cases", value=999)),
    "the outcome": ("verdict", lambda s: change(s, "predicate", "verdict", "outcome", value="PASSED")),
    "a rule": ("rules", lambda s: change(s, "predicate", "rules", "settings", "margin", value=3)),
    "the parent": ("parent", lambda s: change(s, "predicate", "parent", "names", value=["other"])),
    "the child": ("child", lambda s: change(s, "predicate", "child", "checkpoints", 0, "digest", value="0" * 64)),
    "the cases": ("cases", lambda s: change(s, "predicate", "cases", "sha256", value="0" * 64)),
    "limits": ("limits", lambda s: change(s, "predicate", "limits", value=[])),
    "the date": ("made", lambda s: change(s, "predicate", "made", value="2030-01-01")),
    "a file": ("subject gate.json", lambda s: change(s, "subject", 0, "digest", "sha256", value="0" * 64)),
    "a part more": ("blessed", lambda s: change(s, "predicate", "blessed", value=True)),
    "a part less": ("limits", lambda s: s["predicate"].pop("limits")),
    "its type": ("predicateType", lambda s: change(s, "predicateType", value="https://example.org/other")),
}


@pytest.mark.parametrize("case", CHANGES)
def test_each_part_that_was_changed_is_named(case: str, answer: tuple[Path, Path], capsys: Captured) -> None:
    folder, public = answer
    part, make = CHANGES[case]
    envelope = json.loads((folder / ENVELOPE).read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["subject"][0]["name"] == "gate.json"
    make(statement)
    envelope["payload"] = base64.b64encode(to_bytes(statement)).decode()
    (folder / ENVELOPE).write_text(json.dumps(envelope))
    code, out, _ = asked(capsys, "verify", folder / ENVELOPE, "--key", public)
    assert code == 1 and out.splitlines()[-1] == "NOT AS SIGNED"
    named = [line for line in out.splitlines() if line.startswith("changed: ")]
    assert len(named) == 1 and named[0].startswith(f"changed: {part}: ")
    assert "it says" not in out  # nothing of what no signature holds is repeated
    document = json.loads(asked(capsys, "verify", folder, "--key", public, "--json")[1])
    assert document["said"] is None and [f"changed: {line}" for line in document["changed"]] == named


@pytest.mark.parametrize("case", CHANGES)
def test_the_readable_statement_is_held_against_the_signed_one(
    case: str, answer: tuple[Path, Path], capsys: Captured
) -> None:
    folder, public = answer
    part, make = CHANGES[case]
    statement = json.loads((folder / FILE).read_text())
    make(statement)
    (folder / FILE).write_text(json.dumps(statement))
    code, out, _ = asked(capsys, "verify", folder, "--key", public)
    assert code == 1 and f"changed: {FILE}: its {part} is not what was signed" in out


@pytest.mark.parametrize(
    "text", ["[1]", '{"predicate": {"verdict": NaN}}', "{", '{"subject": 3, "predicate": []}', "\udcff"]
)
def test_a_readable_statement_that_is_none_is_told(text: str, answer: tuple[Path, Path], capsys: Captured) -> None:
    (answer[0] / FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    code, out, err = asked(capsys, "verify", answer[0], "--key", answer[1])
    assert (code, err) == (1, "") and f"changed: {FILE}" in out


def test_nothing_of_an_earlier_answer_stays(answer: tuple[Path, Path], smoke_run: Path, capsys: Captured) -> None:
    """A card or a signature that lies beside a new verdict would be taken for its own."""
    asked(capsys, "gate", smoke_run, "--all", "-o", answer[0], "--quiet")
    left = {one.name for one in answer[0].iterdir()}
    assert left == {"gate.html", "gate.json", "gate.xml", "gate.md", "evidence.html", "evidence.json"}


def test_files_of_the_answer_are_held_against_their_digests(answer: tuple[Path, Path], capsys: Captured) -> None:
    folder, public = answer
    page = folder / "gate.html"
    page.write_text(page.read_text().replace("INCONCLUSIVE", "PASS"))
    (folder / "gate.md").unlink()
    code, out, _ = asked(capsys, "verify", folder, "--key", public)
    assert code == 1 and "changed: gate.html: not the file that was signed" in out
    assert "not looked at: gate.md: is not there" in out and "gate.json" in out


def test_weights_are_held_against_their_digests(
    signed: tuple[Path, Path], smoke_run: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder, public = signed
    statement = json.loads((folder / FILE).read_text())
    with Store(smoke_run) as store:
        (wanted,) = statement["predicate"]["child"]["checkpoints"]
        path = smoke_run / str(next(one.path for one in store.checkpoints() if one.id == wanted["id"]))
    other = shutil.copytree(path, tmp_path / "model")
    weights = next(one for one in sorted(other.iterdir()) if one.suffix == ".safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (other / "more.json").write_text("{}")
    gone = next(one for one in sorted(other.iterdir()) if one.suffix == ".json" and one.name != "more.json")
    gone.unlink()
    found = verify(folder, read_public_key(public), {"child": other})
    assert sorted(found.changed) == sorted(
        [
            f"child/{weights.name}: not the file that was signed",
            f"child/{gone.name}: is not there",
            "child/more.json: was not there when it was signed",
        ]
    )
    line = refused(capsys, "verify", folder, "--key", public, "--child", tmp_path / "nowhere")
    assert "no directory" in line


def test_another_key_is_told_from_a_change(answer: tuple[Path, Path], tmp_path: Path, capsys: Captured) -> None:
    _, other = write_keys(tmp_path, "other")
    code, out, _ = asked(capsys, "verify", answer[0], "--key", other)
    assert code == 1 and "signatures: made by another key" in out
    # One who signs anew under the old key's name is found out, too.
    envelope = json.loads((answer[0] / ENVELOPE).read_text())
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    (answer[0] / ENVELOPE).write_text(json.dumps(envelope))
    code, out, _ = asked(capsys, "verify", answer[0], "--key", answer[1])
    assert code == 1 and "that over the whole does not fit" in out


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no signature": lambda one: {**one, "signatures": []},
    "signatures of another form": lambda one: {**one, "signatures": {"sig": 1}},
    "no base64": lambda one: {**one, "payload": one["payload"][:-3] + "!!!"},
    "half a payload": lambda one: {**one, "payload": base64.b64encode(b'{"_type": ').decode()},
    "a list": lambda one: {**one, "payload": base64.b64encode(b"[]").decode()},
    "another type": lambda one: {**one, "payloadType": "text/plain"},
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_envelope_is_never_as_signed(case: str, answer: tuple[Path, Path], capsys: Captured) -> None:
    envelope = json.loads((answer[0] / ENVELOPE).read_text())
    (answer[0] / ENVELOPE).write_text(json.dumps(DAMAGES[case](envelope)))
    code, out, err = asked(capsys, "verify", answer[0], "--key", answer[1])
    assert (code, err) == (1, "") and out.splitlines()[-1] == "NOT AS SIGNED"


def test_what_cannot_be_read_is_refused(answer: tuple[Path, Path], tmp_path: Path, capsys: Captured) -> None:
    folder, public = answer
    private, _ = write_keys(tmp_path, "mine")
    assert "no public Ed25519 key" in refused(capsys, "verify", folder, "--key", private)
    assert "cannot be read" in refused(capsys, "verify", folder, "--key", tmp_path / "none.pem")
    assert "cannot be read" in refused(capsys, "verify", tmp_path / "nowhere", "--key", public)
    assert ENVELOPE in refused(capsys, "verify", folder / FILE, "--key", public)
    assert "no JSON" in refused(capsys, "verify", folder / "gate.html", "--key", public)


def test_a_key_is_read_before_anything_is_done(smoke_run: Path, tmp_path: Path, capsys: Captured) -> None:
    sides = [f"{smoke_run}:S", f"{smoke_run}:S,H dose=2", "-o", tmp_path / "out", "--quiet"]
    key = Ed25519PrivateKey.generate()
    files = {
        "password": key.private_bytes(PEM, PKCS8, forms.BestAvailableEncryption(b"secret")),
        "no private Ed25519 key": generate_private_key(SECP256R1()).private_bytes(PEM, PKCS8, forms.NoEncryption()),
        "no private Ed25519": key.public_key().public_bytes(PEM, PUBLIC),
    }
    for words, data in files.items():
        (tmp_path / "key.pem").write_bytes(data)
        assert words in refused(capsys, "gate", *sides, "--sign", tmp_path / "key.pem")
    assert "not OWNER/NAME" in refused(capsys, "gate", *sides, "--model-card", "--hub-dataset", "office")
    assert "goes with --model-card" in refused(capsys, "gate", *sides, "--hub-dataset", "a/b")
    assert not (tmp_path / "out").exists()
    private, public = write_keys(tmp_path, "ssh", private_format=OPENSSH)
    asked(capsys, "gate", *sides, "--sign", private)
    assert asked(capsys, "verify", tmp_path / "out", "--key", public)[0] == 0
