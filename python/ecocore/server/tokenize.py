"""POST /tokenize and /detokenize: what a model's tokenizer makes of a text, and back. No template is applied."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from ecocore.errors import InvalidParameter
from ecocore.request.faults import fault, named_errors
from ecocore.request.json_object import IsText, JsonObject
from ecocore.server.intake import Intake
from ecocore.server.model_list import ModelList

# Telling the ids of 1 MiB, one for each byte at worst, takes the event loop a twentieth of a second.
MAX_PROMPT_BYTES: Final = 2**20


def _within_bytes(prompt: str) -> str:
    if len(prompt.encode()) > MAX_PROMPT_BYTES:
        raise fault("string_above_max_length", f"must have at most {MAX_PROMPT_BYTES} bytes; send it in pieces")
    return prompt


TokenId = Annotated[int, Field(ge=0, lt=2**32)]
LongPrompt = Annotated[str, Field(max_length=MAX_PROMPT_BYTES), IsText, AfterValidator(_within_bytes)]


class TokenizeParameters(JsonObject):
    """The body of /tokenize. `add_special_tokens`: put what the model begins every text with before it."""

    model: str
    prompt: LongPrompt
    add_special_tokens: bool = True

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Checks a decoded JSON object. Raises InvalidRequest naming the field."""
        with named_errors():
            return cls.model_validate(fields)


class DetokenizeParameters(JsonObject):
    """The body of /detokenize."""

    model: str
    tokens: list[TokenId]

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Checks a decoded JSON object. Raises InvalidRequest naming the field."""
        with named_errors():
            return cls.model_validate(fields)


class Tokenize:
    """Both endpoints."""

    def __init__(self, models: ModelList, intake: Intake) -> None:
        self._models = models
        self._intake = intake

    async def tokenize(self, request: Request) -> JSONResponse:
        """POST /tokenize: `{model, prompt}` to `{tokens, count, max_model_len}`."""
        asked = await self._intake.read(request.scope, request.receive, TokenizeParameters.parse)
        region = self._models[asked.model]
        tokens = await region.tokenize(asked.prompt, add_special_tokens=asked.add_special_tokens)
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": region.context_length})

    async def detokenize(self, request: Request) -> JSONResponse:
        """POST /detokenize: `{model, tokens}` to `{prompt}`."""
        asked = await self._intake.read(request.scope, request.receive, DetokenizeParameters.parse)
        try:
            return JSONResponse({"prompt": await self._models[asked.model].detokenize(asked.tokens)})
        except InvalidParameter as error:
            if error.param != "ids":
                raise
            # The tokenizer knows its argument by another name than the client.
            raise InvalidParameter("tokens", error.message, "invalid_value") from None
