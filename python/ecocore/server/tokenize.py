"""POST /tokenize and /detokenize: what a model's tokenizer makes of a text, and back. No template is applied."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse

from ecocore.errors import InvalidParameter
from ecocore.request import named_errors
from ecocore.server.intake import Intake
from ecocore.server.model_list import ModelList

TokenId = Annotated[int, Field(ge=0, lt=2**32)]


class _Parameters(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Checks a decoded JSON object; an explicit null means absent. Raises InvalidRequest naming the field."""
        with named_errors():
            return cls.model_validate({name: value for name, value in fields.items() if value is not None})


class TokenizeParameters(_Parameters):
    """The body of /tokenize. `add_special_tokens`: put what the model begins every text with before it."""

    model: str
    prompt: str
    add_special_tokens: bool = True


class DetokenizeParameters(_Parameters):
    """The body of /detokenize."""

    model: str
    tokens: list[TokenId]


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
