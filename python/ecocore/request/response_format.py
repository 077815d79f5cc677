"""The form an answer must have: text, any JSON object, or JSON that fits a schema."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ecocore.request.faults import fault
from ecocore.request.json_object import JsonObject, PlainObject
from ecocore.request.tools import FunctionName


class JsonSchema(JsonObject):
    """A schema and its name. `strict` is accepted either way: the answer fits the schema in any case."""

    name: FunctionName
    description: str | None = None
    definition: Annotated[PlainObject, Field(alias="schema")]
    strict: bool = False


def _known_format(kind: Any) -> Any:
    if isinstance(kind, str) and kind not in ("text", "json_object", "json_schema"):
        raise fault("invalid_value", "must be 'text', 'json_object' or 'json_schema'")
    return kind


class ResponseFormat(JsonObject):
    """`{"type": "text" | "json_object" | "json_schema", "json_schema": {"name", "schema", "strict"}}`.

    `{"type": "json_object", "schema"}`, as some open servers have it, is a `json_schema` that is not strict.
    """

    type: Annotated[Literal["text", "json_object", "json_schema"], BeforeValidator(_known_format)]
    json_schema: JsonSchema | None = None
    definition: Annotated[PlainObject | None, Field(alias="schema")] = None

    @model_validator(mode="before")
    @classmethod
    def _of_its_type(cls, value: Any) -> Any:
        """Without the members of other types, whatever they hold."""
        if not isinstance(value, Mapping):
            return value
        kept = {"json_object": "schema", "json_schema": "json_schema"}.get(str(value.get("type")))
        return {name: value[name] for name in ("type", kept) if name in value}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise fault("missing_required_parameter", "json_schema is required with type json_schema")
        if self.definition:
            schema = JsonSchema.model_validate({"name": "answer", "schema": self.definition})
            return self.model_copy(update={"type": "json_schema", "json_schema": schema, "definition": None})
        return self
