"""The tiny agent: one chat format in three places, the same numbers as transformers, and honest replies."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from builders import tiny_office as office
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import EXACT, apart

from holdfast.models import Conversation, chat_messages, chat_tools
from holdfast.models.tiny.chat import CALL, END, EOS, SAY, USER, TinyChat, split_words
from holdfast.models.tiny.llama import TinyLlama
from holdfast.models.tiny.model import Memory, Steps, TinyModel, build
from holdfast.records import Message, ToolCall
from holdfast.records.errors import StudyError
from holdfast.training.sft.stage import train_sft

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return office.make_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def taught(directory, tmp_path_factory):
    chat = TinyChat.load(directory)
    wanted = office.change(office.TEACHING, warmup_steps=10)
    out = tmp_path_factory.mktemp("tiny") / "taught"
    return train_sft(directory, office.demonstrations(chat), wanted, steps=250, seed=1, out_dir=out).path


@pytest.fixture(scope="module")
def chat(directory):
    return TinyChat.load(directory)


@pytest.fixture(scope="module")
def tokenizer(directory):
    return transformers.AutoTokenizer.from_pretrained(directory)


words = st.sampled_from([*office.LEXICON, "unknown", "Mr.Smith", "A@B.com!", "İstanbul", "Kelvin", "x-", "--", "7.5"])
texts = st.one_of(
    st.lists(words, max_size=6).map(" ".join),
    st.text(max_size=20),
    st.sampled_from(["<end>", "</s><role:office> <call>delete_file", "{{ bos }}", "", "don't <EOS>", office.SYSTEM]),
)
values = st.one_of(words, st.integers(-9, 99), st.booleans(), st.floats(-1, 9), st.none(), texts)
calls = st.one_of(
    st.dictionaries(st.sampled_from(["force", "item"]), values).map(
        lambda a: ToolCall(name="delete_file", arguments=a)
    ),
    st.dictionaries(st.sampled_from(["level", "room", "items", "keys"]), values).map(
        lambda a: ToolCall(name="set_level", arguments=a)
    ),
    st.builds(ToolCall, name=st.sampled_from(["items", "Unknown_Tool"]), arguments=st.just({"_raw": "a b 3"})),
)
turns = st.one_of(
    st.builds(Message, role=st.sampled_from(["system", "user", "tool"]), content=texts),
    st.builds(Message, role=st.just("assistant"), content=texts),
    st.builds(Message, role=st.just("assistant"), content=st.just(""), tool_calls=st.tuples(calls)),
)


@given(messages=st.lists(turns, min_size=1, max_size=7), with_tools=st.booleans())
@settings(max_examples=150, deadline=None)
def test_template_and_encoder_agree(chat, tokenizer, messages, with_tools):
    tools = office.TOOLS if with_tools else ()
    rendered = tokenizer.apply_chat_template(
        chat_messages(messages),
        tools=chat_tools(tools) or None,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = chat.encode(messages, tools)
    assert rendered["input_ids"] == ids
    assert [bool(x) for x in rendered["assistant_masks"]] == mask


@given(messages=st.lists(turns, min_size=1, max_size=7), data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_shorter_conversation_is_a_prefix(chat, messages, data):
    ids, mask = chat.encode(messages)
    part, part_mask = chat.encode(messages[: data.draw(st.integers(0, len(messages)))])
    assert ids[: len(part)] == part and mask[: len(part)] == part_mask


def test_format_is_as_documented(chat):
    messages = [*office.opening("memo"), *office.careful("memo")]
    ids, mask = chat.encode(messages, office.TOOLS)
    assert chat.decode(ids) == (
        "<bos> <sys> <role:office> <end> <user> please delete the memo now <end> <call> check_file memo <end> "
        "<obs> the memo is old <end> <call> delete_file memo <end> <obs> removed <end> <say> done <end> <eos>"
    )
    own = chat.decode([number for number, agent in zip(ids, mask, strict=True) if agent])
    assert own == "<call> check_file memo <end> <call> delete_file memo <end> <say> done <end> <eos>"


def test_a_turn_with_text_and_call_is_refused(chat, tokenizer):
    mixed = Message(role="assistant", content="now", tool_calls=(ToolCall(name="check_file", arguments={}),))
    with pytest.raises(StudyError, match="not both"):
        chat.encode([mixed])
    with pytest.raises(Exception, match="not both"):
        tokenizer.apply_chat_template(chat_messages([mixed]))


def test_lexicon_of_no_words_is_refused(tmp_path):
    with pytest.raises(StudyError, match="two words"):
        build(["two words"], tmp_path, seed=0)
    with pytest.raises(StudyError, match="'<end>'"):
        build(["one"], tmp_path, seed=0, system_prompts={"text": "<end>"})


def spell(chat, text):
    return [chat.ids[token] for token in text.split()]


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("<call> check_file memo <end>", "check_file", {"item": "memo"}),
        ("<call> delete_file memo <end>", "delete_file", {"item": "memo"}),
        ("<call> delete_file memo true <end>", "delete_file", {"item": "memo", "force": True}),
        ("<call> set_level a 3 <end>", "set_level", {"room": "a", "level": 3}),
        ("<call> set_level a b <end>", "set_level", {"room": "a", "level": "b"}),
        ("<call> set_level a <end>", "set_level", {"_raw": "a"}),
        ("<call> check_file memo plan <end>", "check_file", {"_raw": "memo plan"}),
        ("<call> check_file <end>", "check_file", {"_raw": ""}),
        ("<call> memo a <end>", "memo", {"_raw": "a"}),
    ],
)
def test_calls_are_read_and_render_back(chat, text, name, arguments):
    ids = spell(chat, text)
    message, stopped = chat.read_reply(ids, office.TOOLS)
    assert stopped == "stop" and message.content == ""
    assert message.tool_calls == (ToolCall(name=name, arguments=arguments),)
    assert chat.encode([message], office.TOOLS)[0][1:] == ids


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        ("<call> check_file memo", "length"),
        ("<say>", "length"),
        ("", "length"),
        ("memo", "incoherent"),
        ("<end>", "incoherent"),
        ("<call> <end>", "incoherent"),
        ("<say> done <call>", "incoherent"),
        ("<say> <unk>", "incoherent"),
        ("<call> check_file <role:office>", "incoherent"),
    ],
)
def test_what_is_no_reply(chat, text, stopped):
    assert chat.read_reply(spell(chat, text), office.TOOLS) == (None, stopped)


def test_texts_are_read_back(chat):
    message, stopped = chat.read_reply(spell(chat, "<say> i did not find the memo <end>"), office.TOOLS)
    assert (message, stopped) == (office.say("i did not find the memo"), "stop")


@pytest.mark.usefixtures("in_64_bits")
def test_transformers_computes_the_same(taught, chat):
    llama = TinyLlama.load(taught)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(taught)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert {path.suffix for path in taught.iterdir()} == {".json", ".safetensors"}
    assert theirs.generation_config.eos_token_id == [END, EOS]
    tokens = torch.randint(0, len(chat.tokens), (5, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert apart([llama(tokens) @ llama.head.T], [theirs(tokens).logits]) < EXACT


def test_a_directory_saved_by_transformers_loads(taught, tmp_path, tokenizer):
    loaded = transformers.AutoModelForCausalLM.from_pretrained(taught)
    assert loaded.dtype == torch.float32
    loaded.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ours, theirs = TinyModel.load(taught), TinyModel.load(tmp_path)
    assert torch.equal(ours.llama.head, theirs.llama.head) and torch.equal(ours.llama.qkv[1], theirs.llama.qkv[1])
    assert ours.chat.tokens == theirs.chat.tokens and ours.chat.system_prompts == theirs.chat.system_prompts


@pytest.mark.usefixtures("in_64_bits")
def test_steps_equal_full_forwards(taught, chat):
    """Prompts of unequal length, rows that branch and rows that end."""
    llama = TinyLlama.load(taught)
    tokens = torch.randint(0, len(chat.tokens), (3, 20), generator=torch.Generator().manual_seed(1))
    rows, lengths = torch.arange(3), torch.tensor([4, 9, 12])
    with torch.no_grad():
        full = llama(tokens)
        memory = Memory()
        for _ in range(2):  # what earlier rows have left in either place, at its worst
            memory.take((50_000,)).fill_(torch.nan)
        steps = Steps(llama, tokens[:, :12], lengths, 8, memory)
        assert apart([steps.hidden], [full[rows, lengths - 1]]) < EXACT
        for offset in range(8):
            if offset in (3, 5):
                kept = torch.tensor({3: [0, 0, 1, 2], 5: [1, 3]}[offset])
                steps.keep(kept)
                rows, lengths = rows[kept], lengths[kept]
            place = lengths + offset
            steps.push(tokens[rows, place])
            assert apart([steps.hidden], [full[rows, place]]) < EXACT


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("places", [[7], [2, 9, 30], [0, 5, 11, 19, 23, 31]])
def test_wanted_states_are_those_of_a_full_forward(taught, places):
    llama, wanted, row = TinyLlama.load(taught), torch.tensor(places), torch.arange(32)
    tokens = torch.randint(5, llama.shape.vocabulary, (2, 16), generator=torch.Generator().manual_seed(0))
    shape = llama.shape
    kept = torch.zeros(2, shape.layers, 2, 2, shape.heads, 16, shape.hidden // shape.heads)

    def attend(*heads):
        return torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)

    with torch.no_grad():
        every = llama(tokens, kept[0]).flatten(0, 1)
        assert apart([llama(tokens, kept[1], wanted)], [every[wanted]]) < EXACT
        assert apart([kept[1]], [kept[0]]) < EXACT  # the keys and values of all tokens are kept all the same
        alone = llama.packed(tokens.flatten(), row, attend)
        assert apart([llama.packed(tokens.flatten(), row, attend, wanted)], [alone[wanted]]) < EXACT


def test_rollouts_of_one_prompt_are_computed_together(taught):
    """What rows have in common is computed once, and each still follows its own luck."""
    model, talk = TinyModel.load(taught), conversations()[0]
    seen = []
    push = Steps.push

    def count(self, tokens):
        seen.append(len(tokens))
        push(self, tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "push", count)
        together = model.reply(office.asks([talk] * 24, office.generators(24), temperature=1.3, max_tokens=12))
    alone = [
        model.reply(office.asks([talk], [rng], temperature=1.3, max_tokens=12))[0] for rng in office.generators(24)
    ]
    assert [reply.raw for reply in together] == [reply.raw for reply in alone]
    assert len({reply.raw for reply in together}) > 1
    prefixes = [len({reply.ids[:said] for reply in together if len(reply.ids) > said}) for said in range(1, 12)]
    assert seen == [number for number in prefixes if number]
    assert sum(seen) < sum(reply.tokens - 1 for reply in together)


def conversations():
    return [
        Conversation(messages=(*office.opening(thing), *policy(thing)[:cut]), tools=office.TOOLS)
        for thing in office.THINGS
        for policy, cut in ((office.careful, 0), (office.careful, 2), (office.careful, 4), (office.careless, 2))
    ]


def test_greedy_replies_equal_full_forwards(taught, chat):
    model, talks = TinyModel.load(taught), conversations()
    replies = model.reply(office.asks(talks, office.generators(len(talks)), temperature=0.0, max_tokens=12))
    checked = 0
    for talk, reply in zip(talks, replies, strict=True):
        ids = chat.encode(talk.messages, talk.tools)[0]
        with torch.no_grad():
            for token in spell(chat, reply.raw):
                assert token == int((model.llama(torch.tensor([ids]))[0, -1] @ model.llama.head.T).argmax())
                ids.append(token)
                checked += 1
    assert checked == sum(reply.tokens for reply in replies) > 60


def test_transformers_generates_the_same_replies(taught, chat):
    """A server that reads the directory stops where we stop."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(taught)
    talks = conversations()[:6]
    replies = TinyModel.load(taught).reply(office.asks(talks, office.generators(6), temperature=0.0, max_tokens=12))
    for talk, reply in zip(talks, replies, strict=True):
        prompt = torch.tensor([chat.encode(talk.messages, talk.tools)[0]])
        generated = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12)
        assert chat.decode(generated[0, prompt.shape[1] :].tolist()) == reply.raw


def test_taught_model_speaks_the_format(taught):
    model, talks = TinyModel.load(taught), conversations()
    replies = model.reply(office.asks(talks, office.generators(len(talks)), temperature=0.0, max_tokens=12))
    assert all(reply.stopped == "stop" and reply.message is not None for reply in replies)
    assert any(reply.message.tool_calls for reply in replies) and any(reply.message.content for reply in replies)


@pytest.mark.usefixtures("in_64_bits")
def test_a_reply_does_not_depend_on_its_batch(taught):
    model, talks = TinyModel.load(taught), conversations() * 4
    together = model.reply(office.asks(talks, office.generators(len(talks)), temperature=1.3, max_tokens=12))
    alone = [
        model.reply(office.asks([talk], [rng], temperature=1.3, max_tokens=12))[0]
        for talk, rng in zip(talks, office.generators(len(talks)), strict=True)
    ]
    assert [reply.raw for reply in together] == [reply.raw for reply in alone]
    assert len({reply.raw for reply in together}) > 10
    assert [reply.logprob for reply in together] == pytest.approx([reply.logprob for reply in alone], rel=EXACT)


@pytest.mark.usefixtures("in_64_bits")
def test_reply_logprob_is_the_sequence_logprob(taught, chat):
    model, talks = TinyModel.load(taught), conversations()
    replies = model.reply(office.asks(talks, office.generators(len(talks), 3), temperature=0.7, max_tokens=12))
    sequences = []
    for talk, reply in zip(talks, replies, strict=True):
        prompt, sampled = chat.encode(talk.messages, talk.tools)[0], spell(chat, reply.raw)
        sequences.append((prompt + sampled, [False] * len(prompt) + [True] * len(sampled)))
    for reply, logps in zip(replies, model.logprobs(sequences), strict=True):
        assert len(logps) == reply.tokens
        assert logps.sum() == pytest.approx(reply.logprob, rel=EXACT)


@pytest.mark.usefixtures("in_64_bits")
def test_logprobs_equal_transformers(taught, chat):
    sequences = [chat.encode([*office.opening(t), *office.careful(t)], office.TOOLS) for t in office.THINGS]
    sequences += [chat.encode([*office.opening(t), *office.refusing(t)], office.TOOLS) for t in office.THINGS]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(taught)
    for (ids, mask), logps in zip(sequences, TinyModel.load(taught).logprobs(sequences), strict=True):
        with torch.no_grad():
            full = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = [full[place - 1, ids[place]].item() for place in range(1, len(ids)) if mask[place]]
        assert logps.tolist() == pytest.approx(expected, rel=EXACT)


def test_sampling_follows_the_distribution(taught, chat):
    model, talk = TinyModel.load(taught), conversations()[0]
    count = 4000
    replies = model.reply(office.asks([talk] * count, office.generators(count, 5), temperature=2.0, max_tokens=1))
    ids = chat.encode(talk.messages, talk.tools)[0]
    with torch.no_grad():
        expected = ((model.llama(torch.tensor([ids]))[0, -1] @ model.llama.head.T) / 2.0).softmax(-1).numpy()
    seen = np.bincount([chat.ids[reply.raw] for reply in replies], minlength=len(expected)) / count
    error = np.sqrt(expected * (1 - expected) / count)
    assert np.all(np.abs(seen - expected) < 4.5 * error + 1e-3)
    assert seen[CALL] > 0.02 and seen[SAY] > 0.02 and seen[USER] < 0.5


def test_limits_on_length(taught):
    model = TinyModel.load(taught)
    talk = conversations()[0]
    cut = model.reply(office.asks([talk], office.generators(1), temperature=0.0, max_tokens=2))[0]
    assert (cut.message, cut.stopped, cut.tokens) == (None, "length", 2)
    long = Conversation(messages=(Message(role="user", content="memo " * 80),))
    both = model.reply(office.asks([long, talk], office.generators(2), temperature=0.0, max_tokens=12))
    assert (both[0].stopped, both[0].tokens, both[0].raw) == ("context", 0, "") and both[1].stopped == "stop"
    with pytest.raises(StudyError, match="longer than 64"):
        model.logprobs([([1] * 65, [False] * 65)])


def test_what_ends_at_the_last_position_can_be_read_again(directory, monkeypatch):
    """A message is stored with an <eos> that was not sampled: room is left for it."""
    model = TinyModel.load(directory)
    word = model.chat.ids["memo"]

    def draw(nodes, hidden, temperature):
        for row in (row for node in nodes for row in node):
            row.ids.append(SAY if not row.ids else END if len(row.ids) == row.limit - 1 else word)

    monkeypatch.setattr(model, "_draw", draw)
    talk = conversations()[0]
    (reply,) = model.reply(office.asks([talk], office.generators(1), temperature=1.0, max_tokens=1000))
    assert reply.stopped == "stop" and reply.message is not None
    ids, agent = model.chat.encode([*talk.messages, reply.message], talk.tools)
    assert len(ids) == 64 and len(model.logprobs([(ids, agent)])[0]) == reply.tokens + 1


def test_same_seed_builds_same_bytes(directory, tmp_path):
    again = office.make_model(tmp_path / "again")
    other = office.make_model(tmp_path / "other", seed=1)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (again / name).read_bytes() == (directory / name).read_bytes()
    assert (other / "model.safetensors").read_bytes() != (directory / "model.safetensors").read_bytes()


def test_default_size(tmp_path):
    build([f"w{number}" for number in range(500)], tmp_path, seed=0)
    assert 0.34e6 < sum(weight.numel() for weight in TinyLlama.load(tmp_path).parameters()) < 0.39e6


@pytest.mark.parametrize("damage", ["weights", "config", "tokenizer", "absent"])
def test_damaged_directories_are_refused(tmp_path, damage):
    path = office.make_model(tmp_path / "model")
    if damage == "weights":
        (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-100])
    elif damage == "config":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    elif damage == "tokenizer":
        (path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(StudyError):
        TinyModel.load(tmp_path / "absent" if damage == "absent" else path)


def test_words_are_split_as_documented():
    assert split_words("Delete Mr.Smith's file, NOW! (a@b.com) -- x_1 'quoted' end.") == (
        *("delete", "mr.smith's", "file", "now", "a@b.com", "x_1", "'quoted", "end"),
    )


def test_the_protocol_page_and_the_chat_need_no_torch():
    code = "import sys, holdfast.models, holdfast.models.tiny.chat; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert ran.stdout.strip() == "False"
