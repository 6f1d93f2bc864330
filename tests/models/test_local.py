"""Models of transformers in this process: luck of their own, shared caches, constrained replies, and their limits."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from builders.chat_samples import CALL, OPENING, SEARCH, make_base
from rounding import EXACT

from holdfast.models import Ask, Conversation
from holdfast.models.directories import opening, stacks
from holdfast.models.local.local import LocalModel
from holdfast.models.local.shared import Openings, Turns, count_states
from holdfast.records import Message
from holdfast.records.errors import StepError, StudyError

transformers = pytest.importorskip("transformers")
pytest.importorskip("llguidance")
os.environ["HF_HUB_OFFLINE"] = "1"
RATING = {
    "type": "object",
    "properties": {"reasoning": {"type": "string"}, "score": {"enum": [0, 1, 2, 3]}},
    "required": ["reasoning", "score"],
    "additionalProperties": False,
}
SCHEMAS = [
    RATING,
    {
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
            "total": {"type": "integer"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["items", "total"],
        "$defs": {
            "item": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "price": {"type": "number"}, "sold": {"type": "boolean"}},
                "required": ["id", "price", "sold"],
            }
        },
    },
    {"type": "array", "items": {"type": "string"}, "minItems": 2},
    {"type": "object", "additionalProperties": {"type": "string"}},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("weights") / "base")


@pytest.fixture(scope="module")
def model(base: Path) -> LocalModel:
    return LocalModel(base, precision="fp32")


@pytest.fixture
def wide(base: Path, in_64_bits: None) -> LocalModel:
    """The same model in 64 bits."""
    return LocalModel(base, precision="fp32")


@pytest.fixture(autouse=True)
def fresh(model: LocalModel) -> None:
    model.decoder.clear()
    model.rows = 16


def ask(text: str, *, seed: int = 0, temperature: float = 1.0, max_tokens: int = 12, **rest: Any) -> Ask:
    messages = rest.pop("messages", (Message(role="user", content=text),))
    return Ask(
        speaker="agent",
        conversation=Conversation(messages=messages, tools=rest.pop("tools", ())),
        temperature=temperature,
        max_tokens=max_tokens,
        rng=np.random.default_rng(seed),
        **rest,
    )


def prompt_ids(model: LocalModel, text: str) -> list[int]:
    return model.chat.prompt_ids(ask(text).conversation)


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_greedy_replies_are_those_of_transformers(architecture: str, tmp_path: Path) -> None:
    place = make_base(tmp_path / "base", architecture=architecture)
    model = LocalModel(place, precision="fp32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place)
    texts = ["tea", "what is it made of? leaves and hot water", "alpha beta"]
    replies = model.reply([ask(text, temperature=0.0) for text in texts])
    for text, reply in zip(texts, replies, strict=True):
        prompt = torch.tensor([prompt_ids(model, text)])
        out = theirs.generate(prompt, do_sample=False, max_new_tokens=12)[0, prompt.shape[1] :]
        assert reply.raw == model.chat.decode(out.tolist()) and reply.tokens == 12 and reply.stopped == "length"
        logprobs = theirs(torch.cat([prompt, out[None]], 1)).logits[0, prompt.shape[1] - 1 : -1].log_softmax(-1)
        assert reply.logprob == pytest.approx(logprobs.gather(1, out[:, None]).sum().item(), rel=EXACT)


def test_a_reply_does_not_depend_on_its_batch(wide: LocalModel) -> None:
    model = wide
    texts = ["tea", "tea", "what is it made of? leaves and hot water", "alpha", "beta gamma delta"]
    together = model.reply([ask(text, seed=seed) for seed, text in enumerate(texts)])
    model.decoder.clear()
    for seed, text in enumerate(texts):
        [alone] = model.reply([ask(text, seed=seed)])
        model.decoder.clear()
        assert alone.raw == together[seed].raw
        assert alone.logprob == pytest.approx(together[seed].logprob, rel=EXACT)
    assert together[0].raw != together[1].raw


def test_a_token_takes_one_draw_of_the_requests_own_luck(model: LocalModel) -> None:
    asks = [ask("tea", seed=3, temperature=0.7), ask("tea", seed=3, temperature=0.0)]
    warm, _ = model.reply(asks)
    count = np.random.default_rng(3)
    draws = count.random(warm.tokens)
    assert asks[0].rng.bit_generator.state == count.bit_generator.state
    assert asks[1].rng.bit_generator.state == np.random.default_rng(3).bit_generator.state
    # The tokens by hand, from the probabilities at that temperature.
    ids = prompt_ids(model, "tea")
    found: list[int] = []
    for draw in draws:
        logits = model.model(torch.tensor([[*ids, *found]])).logits[0, -1]
        cumulative = torch.softmax(logits.double() / 0.7, -1).cumsum(-1)
        found.append(int(torch.searchsorted(cumulative, torch.tensor([draw]).double(), right=True)))
    assert model.chat.decode(found) == warm.raw


def test_alternatives_of_every_token(wide: LocalModel) -> None:
    model = wide
    plain, told = model.reply([ask("tea", temperature=0.0), ask("tea", temperature=0.0, logprobs=True)])
    assert plain.sampled is None and told.sampled is not None and len(told.sampled) == told.tokens
    assert sum(one.logprob for one in told.sampled) == pytest.approx(told.logprob, rel=EXACT)
    for one in told.sampled:
        assert max(one.top.values()) == one.logprob == pytest.approx(one.top[one.text], rel=EXACT)
        assert 10 < len(one.top) <= 20 and sum(map(math.exp, one.top.values())) <= 1 + EXACT


def grow(asks: Sequence[Ask], said: Sequence[str]) -> list[Ask]:
    """The same conversations a turn later, after other replies, with the same luck."""
    later = []
    for number, (one, text) in enumerate(zip(asks, said, strict=True)):
        more = (Message(role="assistant", content=text), Message(role="user", content=f"and {number}?"))
        talk = Conversation(messages=(*one.conversation.messages, *more))
        later.append(replace(one, conversation=talk, rng=np.random.default_rng(number)))
    return later


def test_a_later_turn_computes_only_what_is_new(base: Path, wide: LocalModel) -> None:
    model, plain = wide, LocalModel(base, precision="fp32", cache_tokens=0)
    texts = ["tea", "what is it made of? leaves and hot water", "alpha beta gamma"]
    asks = [ask(text, seed=seed) for seed, text in enumerate(texts)]
    others = [ask(text, seed=seed) for seed, text in enumerate(texts)]
    lengths, computed = [], []
    for _ in range(3):
        before = model.decoder.prefilled, plain.decoder.prefilled
        ours, theirs = model.reply(asks), plain.reply(others)
        assert [one.raw for one in ours] == [one.raw for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, rel=EXACT)
        computed.append(model.decoder.prefilled - before[0])
        lengths.append(plain.decoder.prefilled - before[1])
        asks, others = grow(asks, ["tea is hot"] * 3), grow(others, ["tea is hot"] * 3)
    # What is new is "tea is hot", the question and their markers, of a conversation that gets longer and longer.
    assert lengths[2] > lengths[1] > lengths[0] >= computed[0]
    assert computed[1] < 0.75 * lengths[1] and computed[2] < 0.5 * lengths[2]


def test_equal_prompts_are_read_once(model: LocalModel) -> None:
    before = model.decoder.prefilled
    replies = model.reply([ask("tea", seed=seed) for seed in range(6)])
    assert model.decoder.prefilled - before == len(prompt_ids(model, "tea"))
    assert len({reply.raw for reply in replies}) == 6


def some_states(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.ones(1, count, 2), torch.ones(1, count, 2))]


def test_turns_are_bounded_and_the_oldest_is_forgotten() -> None:
    turns = Turns(10)

    def known(*ids: int, opening: int = 0) -> int:
        return count_states(turns.find(ids, opening))

    turns.add([1, 2, 3, 4], 0, some_states(4))
    turns.add([5, 6, 7, 8], 0, some_states(4))
    assert known(1, 2, 3, 9) == 3 and known(5, 6) == 1
    assert known(1, 2, 3, 4) == 3, "the last token is always computed"
    turns.add([1, 2, 3, 4, 5], 0, some_states(5))  # in the place of what it goes on from
    assert known(5, 6, 7, 8, 9) == 4
    turns.add([9, 9, 9], 0, some_states(3))
    assert known(1, 2, 3, 4, 5, 6) == 0 and known(5, 6, 7, 8, 9) == 4
    turns.add(list(range(11)), 0, some_states(11))
    assert known(0, 1, 2, 3) == 0
    turns.add([1, 2, 3, 4], 2, some_states(2))
    assert known(1, 2, 3, 5, opening=2) == 1 and known(1, 2, 3, 5) == 0, "what lies behind another opening"
    turns.clear()
    assert known(9, 9, 9, 9) == 0


def test_openings_are_bounded_and_the_oldest_is_forgotten() -> None:
    openings = Openings(10)
    openings.add((1, 2, 3, 4), some_states(4))
    openings.add((5, 6, 7, 8), some_states(4))
    assert openings.find((1, 2, 3, 4)) is not None and openings.find((1, 2, 3)) is None
    openings.add((9, 9, 9), some_states(3))
    assert openings.find((5, 6, 7, 8)) is None and openings.find((1, 2, 3, 4)) is not None
    openings.clear()
    assert openings.find((9, 9, 9)) is None


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("max_tokens", [60, 200])
def test_random_weights_write_valid_json(model: LocalModel, schema: dict[str, Any], max_tokens: int) -> None:
    limit = max_tokens if schema is not SCHEMAS[1] else 2 * max_tokens
    asks = [ask("rate this", seed=seed, schema=schema, max_tokens=limit) for seed in range(4)]
    asks.append(ask("rate this", schema=schema, max_tokens=limit, temperature=0.0))
    replies = model.reply([*asks, ask("tea", seed=9)])
    for reply in replies[:-1]:
        assert reply.stopped == "stop" and reply.message is not None and reply.tokens <= limit
        jsonschema.validate(json.loads(reply.message.content), schema)
    model.decoder.clear()
    assert model.reply([ask("tea", seed=9)])[0].raw == replies[-1].raw, "other replies of the batch are free"
    if schema is RATING and max_tokens == 200:
        assert len({reply.raw for reply in replies[:-1]}) == 5


def test_a_schema_that_cannot_be_followed_is_told(model: LocalModel) -> None:
    with pytest.raises(StudyError, match="JSON schema: replies cannot follow it"):
        model.reply([ask("tea", schema={"type": "object", "properties": {"a": {"type": "nonsense"}}})])


class Scripted(torch.nn.Module):
    """The model's own forward pass, but its logits spell a script after the prompt."""

    def __init__(self, model: Any, script: list[int], prompt: int) -> None:
        super().__init__()
        self.model, self.script, self.prompt = model, script, prompt
        self.config, self.device, self.set_attn_implementation = (
            model.config,
            model.device,
            model.set_attn_implementation,
        )

    def forward(self, **inputs: Any) -> Any:
        out = self.model(**inputs)
        place = max(int(inputs["position_ids"].max()) + 1 - self.prompt, 0)
        wanted = self.script[place] if place < len(self.script) else 5
        out.logits[:] = 0.0
        out.logits[..., wanted] = 50.0
        return out


def scripted_reply(base: Path, calls: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    model = LocalModel(base, precision="fp32", calls=calls)
    one = ask("", messages=OPENING, tools=(SEARCH,), temperature=0.0, max_tokens=150)
    script = model.chat.tokenizer(text).input_ids
    prompt = len(model.chat.prompt_ids(one.conversation))
    assert model.decoder.unshared is None
    monkeypatch.setattr(model.decoder, "_model", Scripted(model.model, script, prompt))
    return model.reply([one])[0], len(script)


@pytest.mark.parametrize(
    ("calls", "call", "more"),
    [
        (
            "text",
            '<calls>\n{"name": "search", "arguments": {"topic": "tea"}}\n</calls>',
            "\n<results>tea</results> So.",
        ),
        (
            "native",
            '<tool_call>\n{"name": "search", "arguments": {"topic": "tea"}}\n</tool_call>',
            "\n<tool_response>\ntea</tool_response> So.",
        ),
    ],
)
def test_generation_stops_at_the_call(
    base: Path, calls: str, call: str, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply, script = scripted_reply(base, calls, f"I look.\n{call}{more}", monkeypatch)
    assert reply.message == Message(role="assistant", content="I look.", tool_calls=(CALL,))
    assert reply.stopped == "stop" and reply.tokens < script - 4
    assert "So." not in reply.raw and "tea<" not in reply.raw
    broken, _ = scripted_reply(base, calls, call.replace('"name"', '"tool"') + more, monkeypatch)
    assert broken.message is None and broken.stopped == "incoherent"
    answer, _ = scripted_reply(base, calls, "A drink.<|im_end|>and more", monkeypatch)
    assert answer.message == Message(role="assistant", content="A drink.") and answer.stopped == "stop"
    assert answer.raw == "A drink.<|im_end|>"


def test_a_conversation_that_leaves_no_room(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.max_positions == 2048
    monkeypatch.setattr(model, "max_positions", 512)
    before = np.random.default_rng(0).bit_generator.state
    long, short = ask("tea " * 400), ask("tea")
    full, other = model.reply([long, short])
    assert (full.message, full.stopped, full.tokens, full.raw) == (None, "context", 0, "")
    assert other.tokens == 12 and long.rng.bit_generator.state == before
    room = model.max_positions - len(prompt_ids(model, "tea " * 200))
    [cut] = model.reply([ask("tea " * 200, temperature=0.0, max_tokens=10_000)])
    assert cut.stopped == "length" and 0 < room - cut.tokens < 4


def write_stack(base: Path, place: Path, size: float) -> stacks.Factors:
    generator = torch.Generator().manual_seed(1)
    factors = {}
    for name, weight in opening.read_weights(base).items():
        if (module := name.removesuffix(".weight")).endswith("_proj"):
            down = size * torch.randn(4, weight.shape[1], generator=generator)
            factors[module] = (down, size * torch.randn(weight.shape[0], 4, generator=generator))
    lora = stacks.Lora(r=4, alpha=8)
    stacks.write_stack(place, factors, lora, base=base, digest=stacks.digest_weights(base))
    stacks.copy_text_files(base, place)
    return factors


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_small_change_is_whole_beside_weights_of_16_bits(base: Path, tmp_path: Path) -> None:
    """Merged into them, most of it would be rounded away: the checkpoint that speaks would be nearly its parent."""
    factors = write_stack(base, tmp_path / "small", 2e-3)
    model = LocalModel(tmp_path / "small", precision="bf16")
    name = "model.layers.1.mlp.up_proj"
    module, (down, up) = model.model.get_submodule(name), factors[name]
    change = 2.0 * up @ down
    own = opening.read_weights(base)[name + ".weight"].bfloat16()
    assert ((own.float() + change).bfloat16() == own).float().mean() > 0.8, "what a merge would lose"
    given = torch.randn(3, change.shape[1], generator=torch.Generator().manual_seed(0))
    made = module.lora_B["earlier"](module.lora_A["earlier"](given)) * module.scaling["earlier"]
    torch.testing.assert_close(made, given @ change.T)
    assert torch.equal(module.base_layer.weight, own)
    assert module.active_adapters == ["earlier"] and not module.merged
    assert model.reply([ask("tea")])[0].tokens > 0


def test_a_stack_speaks_as_its_merged_weights_do(base: Path) -> None:
    stacked, merged = base.parent / "stacked", base.parent / "merged"
    write_stack(base, stacked, 0.2)
    merged.mkdir()
    opening.write_whole(stacked, merged)
    found = [
        LocalModel(place, precision="fp32").reply([ask("tea", seed=4), ask("alpha", temperature=0.0)])
        for place in (stacked, merged, base)
    ]
    assert found[0] == found[1] and found[0][0].raw != found[2][0].raw


def test_want_of_memory_halves_the_rows(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["tea", "alpha beta", "gamma", "delta epsilon zeta", "eta"]
    asks = [ask(text, seed=seed, schema=RATING if seed == 2 else None) for seed, text in enumerate(texts)]
    expected = [reply.raw for reply in model.reply(asks)]
    sizes: list[int] = []
    real = model.decoder._step

    def step(batch: Any, tokens: Sequence[int]) -> Any:
        sizes.append(len(tokens))
        if len(tokens) > 2 and len(batch.rows[0].ids) > 3:
            raise torch.OutOfMemoryError("no memory left")
        return real(batch, tokens)

    monkeypatch.setattr(model.decoder, "_step", step)
    asks = [ask(text, seed=seed, schema=RATING if seed == 2 else None) for seed, text in enumerate(texts)]
    assert [reply.raw for reply in model.reply(asks)] == expected
    assert max(sizes) == 5 and model.rows == 2
    monkeypatch.setattr(model.decoder, "_step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none at all")))
    with pytest.raises(StepError, match=r"memory does not suffice for one conversation of \d+ tokens \(none at all\)"):
        model.reply([ask("tea")])


def test_logits_that_are_no_numbers_end_the_step(base: Path) -> None:
    broken = LocalModel(base, precision="fp32")
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[3] = torch.nan
    with pytest.raises(StepError, match="logits are not numbers"):
        broken.reply([ask("tea")])


def test_windows_are_sampled_without_gaps(tmp_path: Path) -> None:
    """A sliding window counts columns: rows of several lengths are not put beside each other, nor prefixes reused."""
    place = make_base(tmp_path / "base")
    config = json.loads((place / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    config["layer_types"] = ["sliding_attention"] * 2
    (place / "config.json").write_text(json.dumps(config))
    model = LocalModel(place, precision="fp32")
    assert "DynamicSlidingWindowLayer" in (model.decoder.unshared or "")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place)
    texts = ["tea", "what is it made of?", "tea", "alpha beta gamma"]
    for text, reply in zip(texts, model.reply([ask(text, temperature=0.0) for text in texts]), strict=True):
        prompt = torch.tensor([prompt_ids(model, text)])
        out = theirs.generate(prompt, do_sample=False, max_new_tokens=12)[0, prompt.shape[1] :]
        assert reply.raw == model.chat.decode(out.tolist())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can quantise")
def test_quantization_needs_a_gpu(base: Path) -> None:
    for kind in ("int8", "int4"):
        with pytest.raises(StudyError, match=f"quantization {kind} needs an NVIDIA GPU"):
            LocalModel(base, quantization=kind)  # type: ignore[arg-type]


def test_half_precision_speaks_too(base: Path) -> None:
    [reply] = LocalModel(base).reply([ask("tea", temperature=0.0)])
    assert reply.tokens == 12 and math.isfinite(reply.logprob or math.nan)


def test_vllm_is_named_where_it_is_not_installed(base: Path) -> None:
    import importlib.util

    from holdfast.models.local.vllm import VllmModel

    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed")
    with pytest.raises(StudyError, match="vLLM is not installed"):
        VllmModel(base)
