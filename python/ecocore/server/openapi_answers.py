"""What the endpoints answer, as JSON schemas. They are strict: a member that is not named here is not in an answer.

Requests have no place here: their schemas come from the models that check them.
"""

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
AMOUNT: Final[Schema] = {"type": "string", "pattern": r"^-?[0-9]+\.[0-9]{2,9}$", "description": "Dollars, exact."}
FLAG: Final[Schema] = {"type": "boolean"}


def ref(name: str) -> Schema:
    """A schema of `ANSWERS`, or of a request's model, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    """An array of `items`."""
    return {"type": "array", "items": items}


def one_of(*values: str) -> Schema:
    """One of the strings."""
    return {"type": "string", "enum": list(values)}


def or_null(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def closed(members: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, description: str = "") -> Schema:
    """An object with exactly these members, and perhaps the optional ones."""
    told = {"description": description} if description else {}
    return {
        **told,
        "type": "object",
        "properties": {**members, **(optional or {})},
        "required": list(members),
        "additionalProperties": False,
    }


_LOGPROB: Final = {"token": STRING, "logprob": {"type": "number", "maximum": 0}, "bytes": or_null(array(COUNT))}
_CREATED: Final = {"created": COUNT, "model": STRING}
_TIER: Final = {"service_tier": one_of("default")}
_REASON: Final = one_of("stop", "length", "tool_calls")
_ITEM_STATUS: Final = one_of("in_progress", "completed", "incomplete")

ANSWERS: Final[Mapping[str, Schema]] = {
    "Error": closed(
        {
            "error": closed(
                {
                    "message": STRING,
                    "type": one_of("invalid_request_error", "insufficient_quota", "requests", "tokens", "server_error"),
                    "param": or_null(STRING),
                    "code": or_null(STRING),
                }
            )
        },
        description="Every error of every endpoint.",
    ),
    "Model": closed(
        {
            "id": STRING,
            "object": one_of("model"),
            "created": COUNT,
            "owned_by": STRING,
            "context_length": COUNT,
            "abilities": array(STRING),
            "price": or_null(closed({"input": AMOUNT, "output": AMOUNT, "currency": one_of("USD")})),
        }
    ),
    "Balance": closed({"balance": AMOUNT, "reserved": AMOUNT, "available": AMOUNT, "currency": one_of("USD")}),
    "UsageList": closed(
        {
            "object": one_of("list"),
            "data": array(
                closed(
                    {
                        "date": {"type": "string", "format": "date"},
                        "model": STRING,
                        "requests": COUNT,
                        "prompt_tokens": COUNT,
                        "completion_tokens": COUNT,
                        "cost": AMOUNT,
                    }
                )
            ),
            "currency": one_of("USD"),
        }
    ),
    "ModelList": closed({"object": one_of("list"), "data": array(ref("Model"))}),
    "Usage": closed(
        {
            "prompt_tokens": COUNT,
            "completion_tokens": COUNT,
            "total_tokens": COUNT,
            "prompt_tokens_details": closed({"cached_tokens": COUNT}),
            "completion_tokens_details": closed({"reasoning_tokens": COUNT}),
        }
    ),
    "Logprob": closed({**_LOGPROB, "top_logprobs": array(closed(_LOGPROB))}),
    "ChatCompletion": closed(
        {
            "id": STRING,
            "object": one_of("chat.completion"),
            **_CREATED,
            "system_fingerprint": STRING,
            "choices": array(
                closed(
                    {
                        "index": COUNT,
                        "message": ref("AssistantMessage"),
                        "logprobs": or_null(closed({"content": array(ref("Logprob")), "refusal": {"type": "null"}})),
                        "finish_reason": _REASON,
                    }
                )
            ),
            "usage": ref("Usage"),
        },
        _TIER,
    ),
    "AssistantMessage": closed(
        {"role": one_of("assistant"), "content": or_null(STRING), "refusal": {"type": "null"}},
        {"reasoning_content": STRING, "tool_calls": array(ref("MadeCall"))},
    ),
    "MadeCall": closed({"id": STRING, "type": one_of("function"), "function": closed({"name": STRING, "arguments": STRING})}),
    "Completion": closed(
        {
            "id": STRING,
            "object": one_of("text_completion"),
            **_CREATED,
            "system_fingerprint": STRING,
            "choices": array(
                closed({"index": COUNT, "text": STRING, "logprobs": or_null(ref("LogprobLists")), "finish_reason": _REASON})
            ),
            "usage": ref("Usage"),
        }
    ),
    "LogprobLists": closed(
        {
            "tokens": array(STRING),
            "token_logprobs": array(or_null({"type": "number", "maximum": 0})),
            "top_logprobs": array(or_null({"type": "object", "additionalProperties": {"type": "number", "maximum": 0}})),
            "text_offset": array(COUNT),
        },
        description="Parallel lists, one entry for each token.",
    ),
    "Response": closed(
        {
            "id": STRING,
            "object": one_of("response"),
            "created_at": COUNT,
            "model": STRING,
            "status": one_of("completed", "incomplete"),
            "error": {"type": "null"},
            "incomplete_details": or_null(closed({"reason": one_of("max_output_tokens")})),
            "instructions": or_null(STRING),
            "max_output_tokens": or_null(COUNT),
            "max_tool_calls": {"type": "null"},
            "metadata": {"type": "object", "additionalProperties": STRING},
            "parallel_tool_calls": FLAG,
            "previous_response_id": {"type": "null"},
            "background": FLAG,
            "conversation": {"type": "null"},
            "prompt": {"type": "null"},
            "prompt_cache_key": or_null(STRING),
            "reasoning": closed({"effort": or_null(STRING), "summary": {"type": "null"}}),
            "safety_identifier": or_null(STRING),
            "service_tier": STRING,
            "store": FLAG,
            "temperature": {"type": "number"},
            "text": closed({"format": {"type": "object"}}, {"verbosity": STRING}),
            "tool_choice": {"anyOf": [STRING, {"type": "object"}]},
            "tools": array({"type": "object"}),
            "top_logprobs": COUNT,
            "top_p": {"type": "number"},
            "truncation": one_of("disabled"),
            "user": or_null(STRING),
            "output": array({"anyOf": [ref("OutputMessage"), ref("OutputReasoning"), ref("OutputCall")]}),
            "usage": closed(
                {
                    "input_tokens": COUNT,
                    "input_tokens_details": closed({"cached_tokens": COUNT}),
                    "output_tokens": COUNT,
                    "output_tokens_details": closed({"reasoning_tokens": COUNT}),
                    "total_tokens": COUNT,
                }
            ),
        }
    ),
    "OutputMessage": closed(
        {
            "id": STRING,
            "type": one_of("message"),
            "role": one_of("assistant"),
            "status": _ITEM_STATUS,
            "content": array(
                closed(
                    {
                        "type": one_of("output_text"),
                        "text": STRING,
                        "annotations": {"type": "array", "maxItems": 0},
                        "logprobs": array(ref("Logprob")),
                    }
                )
            ),
        }
    ),
    "OutputReasoning": closed(
        {
            "id": STRING,
            "type": one_of("reasoning"),
            "summary": {"type": "array", "maxItems": 0},
            "status": _ITEM_STATUS,
            "content": array(closed({"type": one_of("reasoning_text"), "text": STRING})),
        }
    ),
    "OutputCall": closed(
        {
            "id": STRING,
            "type": one_of("function_call"),
            "status": _ITEM_STATUS,
            "call_id": STRING,
            "name": STRING,
            "arguments": STRING,
        }
    ),
    "Tokens": closed({"tokens": array(COUNT), "count": COUNT, "max_model_len": COUNT}),
    "DetokenizedText": closed({"prompt": STRING}),
    "Status": closed({"status": one_of("alive", "ready")}),
}
