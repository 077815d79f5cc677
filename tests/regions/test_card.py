"""What other servers say of a model, as they say it."""

from typing import Any

import pytest

from ecocore.regions.card import Card, Dialect

ECOCORE = {
    "id": "m",
    "object": "model",
    "created": 1700000000,
    "owned_by": "ecocore",
    "context_length": 8192,
    "abilities": ["text", "json", "tools", "images"],
    "price": None,
}
VLLM = {"id": "m", "created": 1700000001, "owned_by": "vllm", "root": "/models/m", "max_model_len": 4096, "permission": [{}]}
OPENAI = {"id": "m", "object": "model", "created": 1700000002, "owned_by": "openai"}


def found(*entries: Any) -> Card | None:
    return Card.find({"object": "list", "data": list(entries)}, "m")


def test_each_kind_of_server_is_known_by_its_words() -> None:
    assert found(ECOCORE) == Card(Dialect.ECOCORE, 8192, 1700000000, ("text", "json", "tools", "images"))
    assert found(VLLM) == Card(Dialect.VLLM, 4096, 1700000001)
    assert found(OPENAI) == Card(Dialect.PLAIN, None, 1700000002)


@pytest.mark.parametrize("told", [None, [], 1, {}, {"data": None}, {"data": {"id": "m"}}, {"data": [None, 1, {"id": "x"}, {}]}])
def test_what_is_no_list_or_has_other_models_has_no_card(told: Any) -> None:
    assert Card.find(told, "m") is None


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "4096", None, 2**63, [], {}])
def test_numbers_that_make_no_sense_are_not_told(value: Any) -> None:
    assert found({"id": "m", "context_length": value, "created": value, "max_model_len": 7}) == Card(context_length=7)


@pytest.mark.parametrize(("abilities", "known"), [([], ()), (["images", "flight", 1, None, {}], ("images",)), ("images", None)])
def test_abilities_are_those_that_have_a_name_here(abilities: Any, known: Any) -> None:
    assert found({"id": "m", "abilities": abilities}) == Card(abilities=known)
