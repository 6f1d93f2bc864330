"""Why a model stopped, in the words of all providers.

OpenAI's Chat Completions and Responses, Anthropic, Gemini and Vertex (``FinishReason``), Bedrock (``StopReason``),
Mistral, Cohere, DeepSeek, GLM, vLLM, TGI, Ollama, the Vercel AI SDK and OpenTelemetry name the same few endings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.exchange.traces.dialogue import Said
from holdfast.records import Ending

_WORDS: dict[Ending, str] = {
    Ending.FINISHED: (
        "stop end_turn stop_sequence eos eos_token stop_token end complete completed finished finish done success"
        " tool_calls tool_call tool_use tool_uses function_call function_calls end_of_turn stop_str stopped"
        " compaction compact succeeded ok normal end_token stopsequence"
    ),
    Ending.TRUNCATED: (
        "length max_tokens max_output_tokens max_new_tokens max_length max_completion_tokens token_limit"
        " output_token_limit model_length context_length context_length_exceeded context_window_exceeded"
        " model_context_window_exceeded abort aborted abort_request cancel cancelled canceled interrupted preempted"
        " content_filter content_filtered contentfilter safety recitation prohibited_content blocklist spii"
        " image_safety image_prohibited_content image_recitation language guardrail_intervened guardrails sensitive"
        " refusal incomplete in_progress queued pause_turn pause requires_action too_many_tool_calls blocked"
        " content_policy_violation user_cancel user_cancelled expired max_turns max_iterations max_prompt_tokens"
    ),
    Ending.TIME_LIMIT: "time_limit timeout timed_out deadline_exceeded",
    Ending.INCOHERENT: (
        "malformed_function_call unexpected_tool_call malformed_tool_call malformed_tool_use malformed_model_output"
        " invalid_tool_call invalid_function_call malformed_response tool_call_parse_error"
    ),
    Ending.ERROR: (
        "error errored failed failure network_error server_error internal_error rate_limit rate_limit_exceeded"
        " overloaded insufficient_system_resource missing_thought_signature exception error_toxic error_limit"
    ),
}
ENDINGS: dict[str, Ending] = {word: ending for ending, words in _WORDS.items() for word in words.split()}
_PREFIX = re.compile(r"^(?:.*\.|(?:finish|stop)_?reason_)", re.IGNORECASE)


def fold_reason(reason: str) -> str:
    """A reason in small letters with underscores, without the name of its enumeration."""
    plain = _PREFIX.sub("", _PREFIX.sub("", reason.strip()))
    plain = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", plain)
    return re.sub(r"[\s\-]+", "_", plain).strip("_").lower()


def is_told(reason: str | None) -> bool:
    """Whether a reason says anything; some writers put a word for none."""
    nothing = ("", "null", "none", "unspecified", "finish_reason_unspecified")
    return reason is not None and fold_reason(reason) not in nothing


def read_reason(reason: str | None) -> Ending | None:
    """The ending that a reason names; None where it is of no known word."""
    return None if reason is None else ENDINGS.get(fold_reason(reason))


def find_ending(said: Sequence[Said], reason: str | None, failed: bool = False) -> Ending:
    """How a conversation ended: ``reason`` is why the model stopped last, ``failed`` that the last request broke.

    One that ends with a call that nobody answered, or with an answer that nobody took up, was cut off; calls that the
    provider carries out itself may be the last of a reply.
    """
    found = read_reason(reason)
    if failed or found is Ending.ERROR:
        return Ending.ERROR
    if found is not None and found is not Ending.FINISHED:
        return found
    last = said[-1] if said else None
    if last is not None and (last.role != "assistant" or last.calls):
        served = bool(last.calls) and len(last.served) == len(last.calls)
        return Ending.FINISHED if served and found is Ending.FINISHED else Ending.TRUNCATED
    return Ending.FINISHED
