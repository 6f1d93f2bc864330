"""Products of a tiny model by the other library: the same numbers and gradients, whatever the shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.models.tiny import products
from holdfast.models.tiny.llama import LlamaShape, TinyLlama
from holdfast.records import machine

OTHER = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise") or machine.maker_of_processor() == "",
    reason="no x86 processor, or a torch without the product of oneDNN",
)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@OTHER
@pytest.mark.parametrize("shape", [(64,), (65,), (1, 300), (7, 31), (1023,), (3, 5, 40)])
@pytest.mark.parametrize("outputs", [20, 96, 420])
def test_products_and_gradients_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], outputs: int
) -> None:
    monkeypatch.setattr(products, "_ONEDNN", True)
    states, weight = draw(*shape, 96).requires_grad_(), draw(outputs, 96).requires_grad_()
    back = draw(*shape, outputs)
    found, wanted = products.linear(states, weight), F.linear(states, weight)
    assert found.grad_fn is not None and found.grad_fn.name() != wanted.grad_fn.name()  # type: ignore[union-attr]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    # Sums of up to a thousand terms: what they round is told by the terms' sizes, not by the sum's.
    given = torch.autograd.grad(found, (states, weight), back)
    for mine, its in zip(given, torch.autograd.grad(wanted, (states, weight), back), strict=True):
        assert mine.shape == its.shape
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-3)


@OTHER
@pytest.mark.parametrize("rows", [64, 100, 1024])
def test_it_takes_what_lies_in_memory_in_any_way(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(products, "_ONEDNN", True)
    weight = draw(40, 96).requires_grad_()
    for states in (draw(96, rows).t(), draw(rows, 192)[:, ::2], draw(1, 96).expand(rows, 96), draw(rows, 2, 96)[:, 1]):
        for given in (weight, draw(96, 40).t().requires_grad_(), draw(80, 96)[::2].detach().requires_grad_()):
            # A sum's gradient is one number that stands for all of them.
            both = [kind(states, given) for kind in (products.linear, F.linear)]
            torch.testing.assert_close(*both, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(
                *(torch.autograd.grad(one.sum(), given)[0] for one in both), rtol=1e-4, atol=1e-3
            )


@OTHER
def test_only_what_is_asked_for_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_ONEDNN", True)
    states, weight = draw(80, 96), draw(40, 96).requires_grad_()
    products.linear(states, weight).sum().backward()  # type: ignore[no-untyped-call]
    assert states.grad is None and weight.grad is not None
    with torch.no_grad():
        assert not products.linear(states, weight).requires_grad


@OTHER
def test_few_rows_and_other_numbers_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Tensor) -> Tensor:
        raise AssertionError("the other library was asked")

    monkeypatch.setattr(products, "_ONEDNN", True)
    monkeypatch.setattr(products, "_multiply", never)
    for states, weight in (
        (draw(63, 96), draw(40, 96)),
        (draw(80, 96).double(), draw(40, 96).double()),
        (draw(80, 96).bfloat16(), draw(40, 96).bfloat16()),
    ):
        assert torch.equal(products.linear(states, weight), F.linear(states, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert products.linear(draw(80, 96), draw(40, 96)).dtype == torch.bfloat16
    with pytest.raises(AssertionError, match="was asked"):
        products.linear(draw(64, 96), draw(40, 96))


@pytest.mark.parametrize(("rows", "room"), [(64, 64), (65, 128), (300, 320), (1000, 1024), (5000, 5120)])
def test_rows_come_in_few_numbers(rows: int, room: int) -> None:
    filled = products._fill_up(draw(rows, 4))
    assert len(filled) == room and not filled[rows:].any()
    assert torch.equal(filled[:rows], draw(rows, 4))


@OTHER
def test_a_model_says_the_same_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyLlama(LlamaShape(vocabulary=90, hidden=32, layers=2, heads=2, ffn=48, max_positions=64))
    model.initialize(torch.Generator().manual_seed(1))
    tokens = torch.randint(0, 90, (8, 40), generator=torch.Generator().manual_seed(2))
    found = []
    for other in (False, True):
        monkeypatch.setattr(products, "_ONEDNN", other)
        model.zero_grad()
        loss = F.cross_entropy(products.linear(model(tokens), model.head).flatten(0, 1), tokens.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        found.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    assert len(found[0]) == len(list(model.parameters()))
    for mine, its in zip(*found, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_the_maker_is_read_from_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "processor\t: 0\nvendor_id\t: GenuineSomething\nmodel name\t: Fast 3\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: told)
    assert machine.maker_of_processor() == "GenuineSomething"
    assert machine.describe_machine()["processor"] == "Fast 3"

    def gone(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", gone)
    assert machine.maker_of_processor() == "" and machine.describe_machine()["processor"]
