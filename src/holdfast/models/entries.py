"""How a study names a model, and how a remote one is reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from holdfast.records.section import Positive, Price, Section, Width

# Hidden width, layers, heads and feed-forward width of a tiny base by its size in millions of weights.
TINY_SIZES: Mapping[str, Mapping[str, int]] = {
    "0.1M": {"hidden": 48, "layers": 3, "heads": 3, "ffn": 128},
    "0.35M": {"hidden": 96, "layers": 3, "heads": 3, "ffn": 256},
    "1M": {"hidden": 160, "layers": 3, "heads": 5, "ffn": 416},
    "2M": {"hidden": 224, "layers": 3, "heads": 7, "ffn": 608},
    "5M": {"hidden": 352, "layers": 3, "heads": 11, "ffn": 960},
}
TINY = "tiny"


class ModelEntry(Section):
    """``[models.NAME]``: a model that the rest of the study calls NAME.

    ``tiny`` is taught by the study, or opened where ``name`` is its directory; ``size`` gives one that is taught
    another shape than ``[model]`` has. ``random`` is made by it with weights that were never trained, of a real
    architecture; ``local`` is a directory, a file of llama.cpp (GGUF) or a repository on the hub that
    transformers loads in this process, ``vllm`` the same in vLLM; ``remote`` is a provider's model as Inspect AI names
    it. ``calls`` says how it calls tools: natively, in a text format in which generation stops at the call, or natively
    where it can. ``start`` names stages of the study that a base is taught by before the study begins.
    """

    @property
    def untaught(self) -> ModelEntry:
        """The same without its ``start``: how its weights are opened and speak."""
        return self.model_copy(update={"start": None})

    kind: Literal["tiny", "random", "local", "vllm", "remote"]
    name: str = ""
    revision: str | None = None
    calls: Literal["auto", "native", "text"] = "auto"
    quantization: Literal["none", "int8", "int4"] = "none"
    precision: Literal["fp32", "bf16"] = "bf16"
    architecture: Literal["qwen2", "llama"] = "qwen2"
    hidden: Width = 64
    layers: Width = 2
    heads: Width = 4
    key_value_heads: Width = 2
    ffn: Width = 128
    vocabulary: Annotated[int, Field(ge=300, le=2**24)] = 2048
    max_positions: Positive = 8192
    # Stages of the study that a base goes through before the study begins; no part of what it is opened as.
    start: tuple[str, ...] | None = Field(default=None, exclude_if=lambda start: start is None)
    # No part of a fingerprint where it is not given.
    size: Literal["0.1M", "0.35M", "1M", "2M", "5M"] | None = Field(default=None, exclude_if=lambda size: size is None)


class EndpointSection(Section):
    """``[endpoints.NAME]``: where the remote model NAME is reached and what it costs; it changes no result.

    ``key_env`` names the environment variable that holds the key; prices are in money per million tokens; ``timeout``
    is in seconds a call.
    """

    base_url: str | None = None
    key_env: str | None = None
    connections: Annotated[int, Field(ge=1, le=1000)] = 16
    timeout: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    retries: Annotated[int, Field(ge=0, le=1000)] = 5
    input_price: Price = 0.0
    output_price: Price = 0.0
    allow_private: bool = False
