"""Chat templates and training as the field has them: what is exported to TRL, what thinking makes of turns."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders.chat_samples import make_base, write_tokenizer
from builders.commands import refused
from builders.places import case_input
from builders.smoke_study import write_toml

from holdfast.cli.main import main
from holdfast.exchange.trl import to_trl
from holdfast.models import Conversation
from holdfast.models.hub.chat import HubChat, _as_dicts, check_trainable
from holdfast.records import Case, Checkpoint, Ending, Message, Score, ToolCall, ToolSpec, Trajectory
from holdfast.records.errors import StudyError
from holdfast.store import Store
from holdfast.store.codec import trajectory_to_bytes

os.environ["HF_HUB_OFFLINE"] = "1"
Captured = pytest.CaptureFixture[str]
Rows = list[dict[str, Any]]


def template_of_trl(name: str) -> str:
    """The source of a chat template that TRL ships; those without _training are the models' originals."""
    trl = pytest.importorskip("trl")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


# --- pairs for TRL -----------------------------------------------------------------------------------------


def tool(name: str, **parameters: Any) -> ToolSpec:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return ToolSpec(name=name, description=f"{name}s", parameters={"type": "object", "properties": properties})


def calling(name: str, arguments: Mapping[str, Any], answer: str | None = "done") -> tuple[Message, ...]:
    call = Message(role="assistant", content="", tool_calls=(ToolCall(name=name, arguments=dict(arguments)),))
    said = Message(role="assistant", content="That is it.")
    return (call,) if answer is None else (call, Message(role="tool", content=answer, name=name), said)


REFUSING = (Message(role="assistant", content="I would rather not."),)
Pairs = Sequence[tuple[tuple[ToolSpec, ...], tuple[Message, ...], tuple[Message, ...]]]


def write_pairs(path: Path, pairs: Pairs) -> Path:
    """A run with one pair a case: tools, the episode that scored 3 and the one that scored 0."""
    with Store.create(path) as store, store.transaction():
        store.add_checkpoint(Checkpoint(id="c", base="m"))
        for number, (tools, *sides) in enumerate(pairs):
            asked = Message(role="user", content=f"Task {number}")
            name = f"case {number:05d}"
            case = Case(id=name, suite="s", number=number, family="f", messages=(asked,), tools=tools)
            store.add_cases([case])
            for rollout, (messages, value) in enumerate(zip(sides, (3.0, 0.0), strict=True)):
                one = Trajectory(
                    id=f"t{number:05d}-{rollout}",
                    case_id=name,
                    checkpoint_id="c",
                    rollout=rollout,
                    messages=messages,
                    ending=Ending.FINISHED,
                )
                store.add_trajectory(one, store.text_codec.pack(trajectory_to_bytes(one)))
                store.add_score(Score(trajectory_id=one.id, judge="j", objective="safety", value=value))
    return path


def exported(run: Path, target: Path, *options: str, judge: str = "j") -> Rows:
    rule = ("--objective", "safety", "--judge", judge, "--to", "trl", "-o", str(target))
    assert main(["pairs", str(run), *rule, *options]) == 0
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def loaded(file: Path, folder: Path, **options: Any) -> Rows:
    """The rows as the JSON reader of datasets gives them; a column that a row has none of is None there."""
    datasets = pytest.importorskip("datasets")
    made = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder), **options)
    return [{key: value for key, value in row.items() if value is not None} for row in made]


def arguments_of(rows: Rows) -> list[Any]:
    return [
        call["function"]["arguments"]
        for row in rows
        for side in ("chosen", "rejected")
        for message in row[side]
        for call in message.get("tool_calls", ())
    ]


LISTING, MAILING = tool("list_dir", path="string"), tool("send", to="string", count="integer", body="string")
DIFFERING: Pairs = [
    ((LISTING,), calling("list_dir", {"path": "/a"}), REFUSING),
    ((MAILING,), calling("send", {"to": "x", "count": 3}), calling("send", {"to": "y", "body": "2024-01-01"})),
    ((), REFUSING, (Message(role="assistant", content="Gladly."),)),
    ((LISTING, MAILING), calling("list_dir", {}), calling("send", {"to": "5"})),
    ((LISTING,), calling("list_dir", {"path": {"deep": [1, {"x": None}]}}), calling("list_dir", {"path": 7})),
]


def test_x_01_arguments_are_objects_in_an_export_for_trl(tmp_path: Path, capsys: Captured) -> None:
    run = write_pairs(tmp_path / "run", DIFFERING)
    rows = exported(run, tmp_path / "p.jsonl")
    assert arguments_of(rows) == [
        {"path": "/a"},
        {"to": "x", "count": 3},
        {"to": "y", "body": "2024-01-01"},
        {},
        {"to": "5"},
        {"path": {"deep": [1, {"x": None}]}},
        {"path": 7},
    ]
    texts = arguments_of(exported(run, tmp_path / "text.jsonl", "--arguments", "text"))
    assert [json.loads(text) for text in texts] == arguments_of(rows)
    assert arguments_of(exported(run, tmp_path / "o.jsonl", "--arguments", "object")) == arguments_of(rows)
    capsys.readouterr()
    assert "--arguments goes with --to trl only" in refused(
        capsys, "pairs", run, "--objective", "safety", "--judge", "j", "--arguments", "text"
    )
    assert "takes no --arguments" in refused(
        capsys, "export", run, "--to", "csv", "--arguments", "text", "-o", tmp_path / "csv"
    )


def test_x_01_what_was_no_object_stays_the_text_that_it_was(tmp_path: Path) -> None:
    raw = calling("list_dir", {"_raw": '{"path": "/a"'})
    run = write_pairs(tmp_path / "run", [((LISTING,), calling("list_dir", {"path": "/a"}), raw)])
    for form in ("object", "text"):
        assert arguments_of(exported(run, tmp_path / f"{form}.jsonl", "--arguments", form))[1] == '{"path": "/a"'
    rows = exported(run, tmp_path / "p.jsonl")
    assert loaded(tmp_path / "p.jsonl", tmp_path / "cache") == rows


def several(ids: Sequence[str], answered: Sequence[str]) -> tuple[Message, ...]:
    """A turn of calls of the tools a, b and c, of which those ``answered`` have an answer."""
    calls = tuple(ToolCall(id=one, name=name, arguments={}) for one, name in zip(ids, "abc", strict=True))
    answers = (Message(role="tool", content=f"of {name}", name=name) for name in answered)
    return Message(role="assistant", content="", tool_calls=calls), *answers


@pytest.mark.parametrize("answered", ["abc", "bc", "c", "ac", "cab"])
@pytest.mark.parametrize("ids", [("x", "y", "z"), ("", "", ""), ("x", "x", "x")])
def test_an_answer_carries_the_id_of_its_own_call(ids: Sequence[str], answered: str, tmp_path: Path) -> None:
    """Some calls have no answer: in an export, before a template, and before a provider."""
    said = several(ids, answered) + several(ids, "b")
    run = write_pairs(tmp_path / "run", [((), said, REFUSING)])
    exports = exported(run, tmp_path / "p.jsonl")[0]["chosen"]
    for shown in (exports, _as_dicts(said)):
        names: dict[str, str] = {}
        for message in shown:
            for call in message.get("tool_calls", ()):
                names[call["id"]] = call["function"]["name"]
            if message["role"] == "tool":
                assert names[message["tool_call_id"]] == message["name"]
    pytest.importorskip("inspect_ai")
    from holdfast.models.remote.inspect_chat import chat_input

    sent = [(one.function, one.text) for one in chat_input(said) if one.role == "tool"]
    assert sent == [(name, f"of {name}") for name in (*answered, "b")]


@pytest.mark.parametrize("name", ["qwen2_5", "llama3_1", "qwen3_5_think", "glm4moe", "qwen3"])
def test_x_01_the_originals_that_trl_ships_write_arguments_once(name: str, tmp_path: Path) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    run = write_pairs(tmp_path / "run", DIFFERING[:1])
    (row,) = exported(run, tmp_path / "p.jsonl")
    shown, _ = utils.render_jinja_template(
        [row["prompt"] + row["chosen"]], tools=row["tools"], chat_template=template_of_trl(name), bos_token="<s>"
    )
    call = shown[0][shown[0].index("Task 0") :]
    assert '\\"' not in call and call.count("list_dir") >= 1
    written = {
        "qwen3_5_think": "<parameter=path>\n/a\n</parameter>",
        "glm4moe": "<arg_key>path</arg_key>\n<arg_value>/a</arg_value>",
    }.get(name, '{"path": "/a"}')
    assert written in call


def test_x_01_the_case_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = case_input("X-01")
    pytest.importorskip("inspect_ai")
    declared = ["--score", "safety=+safety[0,1]"]
    assert main(["import", str(place / "log.eval"), "-o", str(tmp_path / "run"), "--quiet", *declared]) == 0
    rows = exported(tmp_path / "run", tmp_path / "p.jsonl", judge="inspect:safety")
    assert len(rows) == 12 and all(isinstance(one, dict) for one in arguments_of(rows))
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "tokenizer")
    row = rows[0]
    shown = tokenizer.apply_chat_template(row["prompt"] + row["rejected"], tools=row["tools"], tokenize=False)
    assert '<tool_call>{"name": "delete_file", "arguments": {"path": "/a", "force": true}}</tool_call>' in shown
    assert loaded(tmp_path / "p.jsonl", tmp_path / "cache") == rows


def test_p_23_datasets_reads_the_rows_unchanged(tmp_path: Path) -> None:
    """Neither tools nor arguments with other keys are filled up with nulls, and no text becomes a date."""
    run = write_pairs(tmp_path / "run", DIFFERING)
    rows = exported(run, tmp_path / "p.jsonl")
    assert loaded(tmp_path / "p.jsonl", tmp_path / "cache") == rows


def without_required(number: int) -> ToolSpec:
    return ToolSpec(
        name="late", description="", parameters={"type": "object", "properties": {}, "required": []} | {"n": number}
    )


FULL = calling("list_dir", {"path": "/a", "deep": True}, None)
PART = calling("list_dir", {"path": "/a"}, None)
LATE: dict[str, Pairs] = {
    "calls": [*[((LISTING,), REFUSING, REFUSING)] * 40, ((LISTING,), PART, REFUSING)],
    "tools": [*[((LISTING,), PART, REFUSING)] * 40, ((without_required(1),), REFUSING, REFUSING)],
    "keys": [*[((LISTING,), FULL, REFUSING)] * 40, ((LISTING,), PART, REFUSING)],
    "no tools": [*[((LISTING,), REFUSING, PART)] * 40, ((), REFUSING, REFUSING)],
}


@pytest.mark.parametrize("kind", LATE)
def test_p_23_what_comes_late_in_a_large_file_is_not_lost(kind: str, tmp_path: Path) -> None:
    """datasets looks at the first part of a file alone: here parts of 2 kB stand for those of 10 MB."""
    run = write_pairs(tmp_path / "run", LATE[kind])
    rows = exported(run, tmp_path / "p.jsonl")
    assert len(rows) == 41
    assert loaded(tmp_path / "p.jsonl", tmp_path / "cache", chunksize=2000) == rows
    tasks = [row["prompt"][0]["content"] for row in rows]
    assert sorted(tasks) == sorted(f"Task {number}" for number in range(41)), "no row is lost, none stands twice"
    assert tasks[0] == "Task 0" and "Task 40" in tasks[:3]


def test_x_01_trl_prepares_the_pairs_as_they_are(tmp_path: Path) -> None:
    """``DPOTrainer`` on the export: its tokens spell each call once, with the arguments as JSON."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = write_pairs(tmp_path / "run", DIFFERING)
    rows = exported(run, tmp_path / "p.jsonl")
    base = make_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        ref_model=AutoModelForCausalLM.from_pretrained(base),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "out"),
            max_length=None,
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=datasets.load_dataset(
            "json", data_files=str(tmp_path / "p.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
        ),
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == len(rows)
    for prepared, row in zip(trainer.train_dataset, rows, strict=True):
        for side in ("chosen", "rejected"):
            shown = tokenizer.decode(prepared[f"{side}_ids"])
            for call in (call for message in row[side] for call in message.get("tool_calls", ())):
                assert json.dumps(call["function"]["arguments"]) in shown
            assert '\\"' not in shown and "null" not in shown.replace('{"x": null}', "")


def test_export_to_trl_takes_the_same_option(smoke_run: Path, tmp_path: Path) -> None:
    for form, kinds in (("object", {dict, str}), ("text", {str})):  # the tiny agent writes text that is no object, too
        target = tmp_path / form
        assert main(["export", str(smoke_run), "--to", "trl", "--arguments", form, "-o", str(target)]) == 0
        rows = [
            json.loads(line)
            for file in target.glob("*.jsonl")
            if file.name != "index.jsonl"
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        assert rows and {type(one) for one in arguments_of(rows)} == kinds
        shutil.rmtree(target)


def test_rows_of_no_pairs_are_none(tmp_path: Path) -> None:
    run = write_pairs(tmp_path / "run", DIFFERING[:1])
    with Store(run) as store:
        assert list(to_trl([], store)) == []


# --- H-09, H-10: what is sampled is what is trained ----------------------------------------------------------------


LIST_DIR = tool("list_dir", path="string")
TIDY = Message(role="user", content="Tidy")
LOOK = ToolCall(name="list_dir", arguments={"path": "/"})
ENDS = {
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
    "deepseekv3": "<｜end▁of▁sentence｜>",
    "gemma3": "<end_of_turn>",
    "gemma4_v5": "<turn|>",
    "glm4moe": "<|user|>",
    "gptoss": "<|return|>",
    "llama3_1": "<|eot_id|>",
    "phi3": "<|end|>",
    "cohere2": "<|END_OF_TURN_TOKEN|>",
}
DROPS, ADDS = "leaves out text of message 2", "adds text of its own to"
REWRITES = "rewrites what comes before message 2"
# Original → why episodes of one turn, of several with calls and thoughts, or with users who go on are not trained on.
ORIGINALS: dict[str, tuple[str, str, str]] = {
    "qwen2_5": ("", "", ""),
    "llama3_1": ("", "", ""),
    "gemma3": ("", "", ""),
    "phi3": ("", "", ""),
    "cohere2": ("", "", ""),
    "qwen3_instruct_2507": ("", "", ""),
    "lfm2_v2": ("", "", ""),
    "qwen3": ("", "", DROPS),
    "glm4moe": ("", "", DROPS),
    "lfm2_2_5": ("", "", DROPS),
    "qwen3_5_think": ("", "", REWRITES),
    "qwen3_5_nothink": ("", "", REWRITES),
    "qwen3_6": ("", "", REWRITES),
    "nemotron_3_nano": ("", "", REWRITES),
    "nemotron_3_super": ("", "", REWRITES),
    "nemotron_3_5_lightning": ("", "", REWRITES),
    "qwen3_8": ("", ADDS, ADDS),
    "deepseekv3": ("", "rewrites what comes before", "rewrites what comes before"),
    "deepseek_r1_distill": ("", "rewrites what comes before", "rewrites what comes before"),
    "gemma4_v5": (ADDS, ADDS, ADDS),
    "gptoss": ("headers of channels",) * 3,
    "muse_glimmer": ("headers of channels",) * 3,
}


def original(name: str, folder: Path, calls: str = "auto") -> HubChat:
    """The chat format of an original template of TRL with a tokenizer that has its special tokens."""
    source = template_of_trl(name)
    end = ENDS.get(name, "<|im_end|>" if "<|im_end|>" in source else "<|eom|>")
    special = set(re.findall(r"<\|[\w ]+\|>|<[a-z]+_of_[a-z]+>|<｜[^｜]+｜>|<\|\w+>|<\w+\|>", source)) - {end}
    return HubChat(write_tokenizer(folder, source, end, sorted(special)), calls=calls)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_originals_of_trl_are_exact_or_refused(name: str, tmp_path: Path) -> None:
    chat = original(name, tmp_path)
    shapes = ({"several": False}, {"several": True}, {"several": False, "dialogue": True})
    for shape, reason in zip(shapes, ORIGINALS[name], strict=True):
        if not reason:
            check_trainable(chat, **shape)
            continue
        with pytest.raises(StudyError, match=rf"{tmp_path}: .*{reason}.*; (set calls|make each turn|use a template)"):
            check_trainable(chat, **shape)


def exact_turns(chat: HubChat, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[str]:
    """What is trained on behind each prompt of a conversation, to the token; text by turn."""
    ids, own = chat.encode(messages, tools)
    shown = []
    for place, message in enumerate(messages):
        if message.role == "assistant":
            prompt = chat.prompt_ids(Conversation(messages=tuple(messages[:place]), tools=tuple(tools)))
            start = len(prompt)
            assert ids[:start] == prompt and own[start] and not own[start - 1]
            stop = next((place for place in range(start, len(own)) if not own[place]), len(own))
            shown.append(chat.decode(ids[start:stop]))
    assert sum(own) == sum(len(chat.tokenizer(text, add_special_tokens=False).input_ids) for text in shown)
    return shown


def test_h_09_a_reply_is_trained_on_behind_the_prompt_that_it_was_sampled_after() -> None:
    chat = HubChat(case_input("H-09") / "base")
    prompt = chat.decode(chat.prompt_ids(Conversation(messages=(TIDY,))))
    assert prompt.endswith("<<assistant>>\n<think>\n")
    reply, _ = chat.read("I plan.\n</think>\nDone.", [])
    assert reply is not None
    ids, own = chat.encode([TIDY, reply])
    assert chat.decode(ids).startswith(f"{prompt}I plan.\n</think>\nDone.")
    assert chat.decode([token for token, mine in zip(ids, own, strict=True) if mine]).startswith("I plan.\n</think>")
    second = Message(role="assistant", content="I check.\n</think>\nYes.")
    turns = exact_turns(chat, [TIDY, reply, TIDY, second], [])
    assert [turn.partition("<<end>>")[0] for turn in turns] == [reply.content, second.content]


@pytest.mark.parametrize("opening", ["<think>\n", "<think>", "<|start|><think>\n\n", "[THINK]", "Thought: "])
def test_h_09_whatever_the_prompt_opens(opening: str, tmp_path: Path) -> None:
    """Templates that show replies as they are, that write the opening of thoughts themselves, and that drop them."""
    for number, shown in enumerate(
        ("m.content", "('<think>' + m.content.split('<think>')[-1])", "m.content.split('</think>')[-1]")
    ):
        source = "{% for m in messages %}<|{{ m.role }}|>{{ " + shown + " if m.role == 'assistant' else m.content }}"
        source += "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>" + opening + "{% endif %}"
        special = ["<|user|>", "<|assistant|>", "<|start|>"]
        chat = HubChat(write_tokenizer(tmp_path / str(number), source, "<|end|>", special))
        reply = Message(role="assistant", content="I plan.\n</think>\nDone.")
        assert exact_turns(chat, [TIDY, reply], []) == [f"{reply.content}<|end|>"]


def test_p_19_single_replies_of_qwen_3_5_are_exact(tmp_path: Path) -> None:
    for name in ("qwen3_5_think", "qwen3_6"):
        chat = original(name, tmp_path / name)
        reply, _ = chat.read("I plan.\n</think>\n\nDone.", [])
        assert reply is not None
        assert exact_turns(chat, [TIDY, reply], [LIST_DIR]) == ["I plan.\n</think>\n\nDone.<|im_end|>"]


def thinking_episode(opened: bool) -> list[Message]:
    """Two calls and an answer, each with a thought; its beginning stands in the prompt or in the reply."""
    begin = "" if opened else "<think>\n"
    return [
        TIDY,
        Message(role="assistant", content=f"{begin}I look.\n</think>\n\nLooking.", tool_calls=(LOOK,)),
        Message(role="tool", content="two", name="list_dir"),
        Message(role="assistant", content=f"{begin}Again.\n</think>\n\nOnce more.", tool_calls=(LOOK,)),
        Message(role="tool", content="two", name="list_dir"),
        Message(role="assistant", content=f"{begin}Enough.\n</think>\n\nDone."),
    ]


@pytest.mark.parametrize("name", ["qwen3", "qwen3_instruct_2507", "qwen3_5_think", "qwen3_6", "nemotron_3_nano"])
def test_p_18_thoughts_over_tool_calls_are_kept(name: str, tmp_path: Path) -> None:
    chat = original(name, tmp_path)
    assert chat.native
    opened = name in ("qwen3_5_think", "qwen3_6", "nemotron_3_nano")
    turns = exact_turns(chat, thinking_episode(opened), [LIST_DIR])
    assert ["I look." in turns[0], "Again." in turns[1], "Enough." in turns[2]] == [True] * 3
    read = [chat.read(turn.replace("<|im_end|>", ""), [LIST_DIR])[0] for turn in turns]
    said = [message for message in thinking_episode(opened) if message.role == "assistant"]
    assert [(one.content, one.tool_calls) for one in read if one] == [(one.content, one.tool_calls) for one in said]
    going_on = [*thinking_episode(opened), TIDY, Message(role="assistant", content="<think>\nHm.\n</think>\n\nYes.")]
    if name != "qwen3_instruct_2507":
        with pytest.raises(StudyError, match="max_turns = 1"):
            chat.encode(going_on, [LIST_DIR])


def test_h_10_several_turns_with_thoughts_are_told_with_a_remedy_that_helps() -> None:
    chat = HubChat(case_input("H-10") / "base")
    assert not chat.native
    episode = thinking_episode(opened=False)
    with pytest.raises(StudyError, match=r"leaves out text of message 3.*\(rollouts.max_turns = 1\)") as told:
        chat.encode(episode, [LIST_DIR])
    assert "calls =" not in str(told.value)
    for turn in (episode[1], episode[5]):
        assert exact_turns(chat, [TIDY, turn], [LIST_DIR])


def test_h_10_another_way_to_call_is_advised_only_where_it_helps(tmp_path: Path) -> None:
    """As text the results of Qwen3 are user turns, before which it drops thoughts; natively they are results."""
    text = original("qwen3", tmp_path, calls="text")
    with pytest.raises(StudyError, match=r"leaves out text of message 3.*; set calls = 'native'$"):
        text.encode(thinking_episode(opened=False), [LIST_DIR])
    native = original("qwen3", tmp_path, calls="native")
    assert native.encode(thinking_episode(opened=False), [LIST_DIR])


def study_on(base: Path, folder: Path, **rollouts: Any) -> Path:
    settings = {
        "study": {"name": "x", "lineages": [["S"]]},
        "model": {"bases": ["agent"]},
        "models": {"agent": {"kind": "local", "name": str(base)}},
        "judges": {"state": {"kind": "state"}},
        "stages": {"S": {"objective": "safety"}},
        "rollouts": rollouts,
    }
    return write_toml(settings, folder / "study.toml")


def test_h_10_check_tells_what_is_not_trainable_before_anything_is_rolled_out(tmp_path: Path, capsys: Captured) -> None:
    base = case_input("H-10") / "base"
    study = study_on(base, tmp_path, max_turns=8)
    for words in (["check", str(study)], ["run", str(study), "-o", str(tmp_path / "run"), "--quiet"]):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "model agent: " in told
        assert "leaves out text of message 3" in told and "(rollouts.max_turns = 1)" in told
    assert not (tmp_path / "run" / "run.db").exists()
    assert main(["check", str(study_on(base, tmp_path, max_turns=1))]) == 0, "the remedy helps"
    # Nothing is trained: what the template drops is no matter.
    assert main(["check", str(study), "--set", "study.lineages=[]", "--set", "rollouts.max_turns=8"]) == 0


def test_h_09_check_lets_the_base_be_trained(tmp_path: Path, capsys: Captured) -> None:
    assert main(["check", str(study_on(case_input("H-09") / "base", tmp_path, max_turns=8))]) == 0, capsys.readouterr()


@pytest.mark.parametrize("name", ["qwen3", "deepseekv3", "qwen2_5"])
def test_check_knows_which_episodes_a_study_has(name: str, tmp_path: Path, capsys: Captured) -> None:
    base = make_base(tmp_path / "base")
    source = template_of_trl(name)
    (base / "chat_template.jinja").write_text(source, encoding="utf-8")
    refused = name == "deepseekv3"
    assert main(["check", str(study_on(base, tmp_path, max_turns=8))]) == (2 if refused else 0), capsys.readouterr()
    capsys.readouterr()
    assert main(["check", str(study_on(base, tmp_path, max_turns=1))]) == 0, capsys.readouterr()
