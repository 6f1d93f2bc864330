"""The same directories in vLLM, in this process, where it is installed; as they are, or with an adapter in training.

    start of a stage ─ merged, opened once ─▶ engine ◀─ newest adapter, a new id each ─ policy after every update

Log-probabilities are asked for as ``raw_logprobs``: of the logits before temperature and any other processing, as
``Reply`` has them and as training scores them. What differs between the two is arithmetic: 16-bit weights and adapter
here, what of a stack's earlier stages is rounded as it is merged, and kernels. The log of a stage shows it as
``mismatch``. Sums depend on what else is in a batch, so a stage that was broken off goes on with the same seeds but
not always with the same replies. That an adapter changes between steps is written after the interface of vLLM 0.11 and
later and was tried against a stand-in of it alone, never on an accelerator.
"""

from __future__ import annotations

import contextlib
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.models import Ask, Reply, SampledToken
from holdfast.models.directories.opening import check_values, write_whole
from holdfast.models.directories.peft import is_peft
from holdfast.models.directories.stacks import Factors, Lora, is_stack, write_peft_adapter
from holdfast.models.hub.chat import Calls, HubChat
from holdfast.models.hub.hub import check_model, check_vocabulary
from holdfast.models.local.local import Precision, Quantization
from holdfast.records.errors import StudyError
from holdfast.records.outputs import scratch_directory

_ALTERNATIVES = 20
# The ranks for which vLLM reserves room; an adapter of a lower rank fits.
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# The share of an accelerator's memory that an engine takes beside a model under training; vLLM's own is 0.9.
_SHARE_BESIDE_TRAINING = 0.4


class VllmModel:
    """A ``Model`` that vLLM samples; an adapter is merged first.

    Its batches and its luck are vLLM's own: a request's generator gives the seed of its reply. With ``lora_r`` above 0
    it takes adapters of at most that rank on these weights, and leaves memory to the model that trains them. Errors:
    StudyError where vLLM is not installed, the directory is refused, its weights are to be in 8 bits, or adapters of
    this rank or on 32-bit weights are none that vLLM computes with.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        calls: Calls = "auto",
        quantization: Quantization = "none",
        precision: Precision = "bf16",
        lora_r: int = 0,
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
        room = _make_room(lora_r, precision, self.directory) if lora_r > 0 else {}
        tokens = check_model(self.directory, engine="vllm")
        self.chat = HubChat(self.directory, calls=calls)
        check_vocabulary(self.directory, self.chat.tokenizer, tokens)
        check_values(self.directory)  # vLLM computes with what is no number, too
        self._vllm: Any = vllm
        # Goes with this model, or at the latest with the process.
        opened = contextlib.ExitStack()
        self._scratch = opened.enter_context(scratch_directory())
        weakref.finalize(self, opened.close)
        place = self.directory
        if is_stack(place) or is_peft(place):
            place = self._scratch / "merged"
            place.mkdir()
            write_whole(self.directory, place)
        self.engine: Any = vllm.LLM(
            model=str(place),
            dtype="float32" if precision == "fp32" else "bfloat16",
            quantization="bitsandbytes" if quantization == "int4" else None,
            trust_remote_code=False,
            max_logprobs=_ALTERNATIVES,
            logprobs_mode="raw_logprobs",
            **room,
        )
        self._adapter: Any = None
        self.max_positions: int = self.engine.llm_engine.model_config.max_model_len

    def take_adapter(self, factors: Factors, lora: Lora) -> None:
        """Samples with this adapter from now on, and with no earlier one; for an engine that was opened for adapters.

        vLLM reads an adapter when it is first asked for, keeps it by its id, and keeps what prompts are to it by its
        name: each has both to itself, and its files stay until the next one is taken.
        """
        from vllm.lora.request import LoRARequest

        number = 1
        if self._adapter is not None:
            number += self._adapter.lora_int_id
            self.engine.llm_engine.remove_lora(self._adapter.lora_int_id)
            shutil.rmtree(self._adapter.lora_path)
        place = self._scratch / f"update-{number}"
        place.mkdir()
        # Dropout belongs to training.
        write_peft_adapter(place, factors, replace(lora, dropout=0.0), {})
        self._adapter = LoRARequest(lora_name=place.name, lora_int_id=number, lora_path=str(place))

    def reply(self, asks: Sequence[Ask]) -> list[Reply]:
        """One reply per request, in order; see ``holdfast.models.Model``."""
        prompts = [self.chat.prompt_ids(ask.conversation) for ask in asks]
        replies = [Reply(message=None, stopped="context", tokens=0, logprob=0.0, raw="")] * len(asks)
        fitting = [number for number, prompt in enumerate(prompts) if len(prompt) < self.max_positions]
        outputs = self.engine.generate(
            [{"prompt_token_ids": prompts[number]} for number in fitting],
            [self._params(asks[number]) for number in fitting],
            use_tqdm=False,
            lora_request=self._adapter,
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
        sampled = [
            SampledToken(
                text=self.chat.decode([token]),
                logprob=places[token].logprob,
                top={self.chat.decode([other]): likely.logprob for other, likely in places.items()},
            )
            for token, places in zip(ids, output.logprobs, strict=True)
        ]
        logprob, complete = sum(token.logprob for token in sampled), output.finish_reason == "stop"
        return self.chat.finish(ids, ask, complete=complete, logprob=logprob, sampled=sampled)


def _make_room(lora_r: int, precision: Precision, directory: Path) -> dict[str, Any]:
    """How an engine is opened that takes adapters of at most ``lora_r``."""
    if precision == "fp32":
        raise StudyError(f"{directory}: vLLM computes adapters in 16 bits alone; set precision = 'bf16'")
    if lora_r > _RANKS[-1]:
        raise StudyError(f"{directory}: vLLM takes no adapter of rank {lora_r}; set lora_r to {_RANKS[-1]} or less")
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next(rank for rank in _RANKS if rank >= lora_r),
        "gpu_memory_utilization": _SHARE_BESIDE_TRAINING,
    }
