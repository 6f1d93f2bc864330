"""The same directories in vLLM, in this process, where it is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.errors import StudyError
from holdfast.models import Ask, Reply, SampledToken, Stopped
from holdfast.models.hub import check_model
from holdfast.models.hub_chat import Calls, HubChat
from holdfast.models.local import Precision, Quantization
from holdfast.models.stacks import is_stack, write_whole
from holdfast.records import Message

_ALTERNATIVES = 20


class VllmModel:
    """A ``Model`` that vLLM samples; a stack is merged first.

    Its batches and its luck are vLLM's own: a request's generator gives the seed of its reply. Errors: StudyError where
    vLLM is not installed, the directory is refused, or its weights are to be in 8 bits.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        calls: Calls = "auto",
        quantization: Quantization = "none",
        precision: Precision = "bf16",
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise StudyError(
                f"{directory}: vLLM is not installed; install the 'vllm' package, or set kind = 'local'"
            ) from error
        if quantization == "int8":
            raise StudyError(f"{directory}: vLLM does not quantise to int8 as it loads; use int4 or kind = 'local'")
        self.directory = Path(directory)
        check_model(self.directory)
        self.chat = HubChat(self.directory, calls=calls)
        self._vllm: Any = vllm
        self._merged: tempfile.TemporaryDirectory[str] | None = None
        place = self.directory
        if is_stack(place):
            self._merged = tempfile.TemporaryDirectory()
            place = Path(self._merged.name)
            write_whole(self.directory, place)
        self.engine: Any = vllm.LLM(
            model=str(place),
            dtype="float32" if precision == "fp32" else "bfloat16",
            quantization="bitsandbytes" if quantization == "int4" else None,
            trust_remote_code=False,
            max_logprobs=_ALTERNATIVES,
        )
        self.max_positions: int = self.engine.llm_engine.model_config.max_model_len

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per request, in order; see ``holdfast.models.Model``."""
        prompts = [self.chat.prompt_ids(ask.conversation) for ask in asks]
        replies: list[Reply] = [
            Reply(message=None, stopped="context", tokens=0, logprob=0.0, raw="") for _ in range(len(asks))
        ]
        fitting = [number for number, prompt in enumerate(prompts) if len(prompt) < self.max_positions]
        outputs = self.engine.generate(
            [{"prompt_token_ids": prompts[number]} for number in fitting],
            [self._params(asks[number]) for number in fitting],
            use_tqdm=False,
        )
        for number, output in zip(fitting, outputs, strict=True):
            replies[number] = self._finish(asks[number], output.outputs[0])
        return replies

    def _params(self, ask: Ask) -> Any:
        from vllm.sampling_params import StructuredOutputsParams

        schema = None if ask.schema is None else StructuredOutputsParams(json=dict(ask.schema))
        return self._vllm.SamplingParams(
            temperature=ask.temperature,
            max_tokens=ask.max_tokens,
            seed=int(ask.rng.integers(2**31)),
            stop=[] if schema else list(self.chat.stops(ask.conversation.tools)),
            stop_token_ids=list(self.chat.ends),
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            logprobs=_ALTERNATIVES if ask.logprobs else 0,
            structured_outputs=schema,
        )

    def _finish(self, ask: Ask, output: Any) -> Reply:
        ids = list(output.token_ids)
        picked = [places[token].logprob for token, places in zip(ids, output.logprobs, strict=True)]
        message: Message | None = None
        stopped: Stopped = "length"
        if output.finish_reason == "stop" and ask.schema is not None:
            text = self.chat.decode([token for token in ids if token not in self.chat.ends])
            message, stopped = Message(role="assistant", content=text), "stop"
        elif output.finish_reason == "stop":
            message, stopped = self.chat.read(ids, ask.conversation.tools)
        sampled = [
            SampledToken(
                text=self.chat.decode([token]),
                logprob=logprob,
                top={self.chat.decode([other]): one.logprob for other, one in places.items()},
            )
            for token, logprob, places in zip(ids, picked, output.logprobs, strict=True)
        ]
        return Reply(
            message=message,
            stopped=stopped,
            tokens=len(ids),
            logprob=sum(picked),
            raw=self.chat.decode(ids),
            sampled=tuple(sampled) if ask.logprobs else None,
        )
