"""Chat templates: the same text as transformers' jinja2, in a sandbox with bounded work."""

import functools
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.prompt.templates import (
    CHATML,
    CONVERSATIONS,
    ONE_CALL,
    PARTS,
    SWITCHES,
    TOOLS,
    TRICKY,
    call,
    calling,
    result,
    user,
)
from transformers.utils.chat_template_utils import render_jinja_template

from ecocore.errors import InvalidModelFile, InvalidParameter
from ecocore.prompt.template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
# Where the makers' own templates are, if anywhere: none is part of this project.
FOLDER = Path(os.environ.get("ECOCORE_SHARED") or Path(__file__).parents[3] / "shared") / "chat_templates"
MAKERS_OWN = sorted(FOLDER.glob("*.jinja"))


def by_transformers(source: str, turns: list[dict[str, Any]], **options: Any) -> str | None:
    """The text, or None where the template refuses."""
    try:
        (text,), _ = render_jinja_template([turns], chat_template=source, **SPECIAL, **options)
    except Exception:  # noqa: BLE001
        return None
    return str(text)


def by_us(template: ChatTemplate, turns: list[dict[str, Any]], **options: Any) -> str | None:
    try:
        return template.render(turns, **options)
    except InvalidParameter:
        return None


def check_all(source: str) -> int:
    """Every conversation with and without tools, with every switch, open and closed. Gives how many were rendered."""
    template = ChatTemplate(source, SPECIAL)
    rendered = 0
    cases = itertools.product(CONVERSATIONS.items(), (None, TOOLS), SWITCHES, (True, False))
    for (name, turns), tools, switches, generation in cases:
        theirs = by_transformers(source, turns, tools=tools, add_generation_prompt=generation, **switches)
        ours = by_us(template, turns, tools=tools, add_generation_prompt=generation, switches=switches)
        if theirs is None and ours is not None:
            # jinja2 fails to walk through a null content that the other engine passes by. The template knows no calls:
            # they are told in the text and never given to it.
            assert "tool_calls" not in source
            assert any(turn["content"] is None for turn in turns)
            continue
        assert ours == theirs, (name, switches, generation)
        rendered += theirs is not None
    return rendered


@pytest.mark.parametrize("source", [CHATML, TRICKY, ONE_CALL, PARTS], ids=["chatml", "tricky", "one call", "parts"])
def test_every_conversation_is_rendered_as_transformers_does(source: str) -> None:
    assert check_all(source) >= 48


@pytest.mark.skipif(not MAKERS_OWN, reason="set ECOCORE_SHARED to a folder with the makers' templates in chat_templates/*.jinja")
@pytest.mark.parametrize("path", MAKERS_OWN, ids=lambda path: path.name)
def test_the_makers_own_templates_are_rendered_as_transformers_does(path: Path) -> None:
    assert check_all(path.read_text("utf-8")) >= 96


@pytest.mark.skipif(not MAKERS_OWN, reason="set ECOCORE_SHARED to a folder with the makers' templates in chat_templates/*.jinja")
@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("path", MAKERS_OWN, ids=lambda path: path.name)
def test_any_conversation_is_rendered_by_them_as_transformers_does(path: Path, data: st.DataObject) -> None:
    source = path.read_text("utf-8")
    turns, tools = data.draw(rounds()), data.draw(st.none() | st.just(TOOLS))
    template = _compiled(source)
    theirs = by_transformers(source, turns, tools=tools, add_generation_prompt=True)
    ours = by_us(template, turns, tools=tools)
    if theirs is None and any(turn["content"] is None for turn in turns):
        # See `check_all`.
        return
    assert ours == theirs


@functools.cache
def _compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, SPECIAL)


@st.composite
def rounds(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Perhaps a system text; then questions, calls with their results, answers: of any text, and of none."""
    text = st.text(max_size=12) | st.sampled_from(["", " ", "\n x \n", "über 長城 🏔️", '{"a": 1}', "<channel|>", "</think>y"])
    turns: list[dict[str, Any]] = [{"role": "system", "content": draw(text)}] if draw(st.booleans()) else []
    for number in range(draw(st.integers(1, 3))):
        turns.append(user(draw(text)))
        names = [f"c{number}{place}" for place in range(draw(st.integers(0, 2)))]
        if names:
            arguments = st.dictionaries(st.text("abAB_", min_size=1, max_size=3), st.integers() | text, max_size=2)
            calls = [call(name, "weather", draw(arguments)) for name in names]
            turns.append(calling(*calls, content=draw(st.none() | text)))
            turns.extend(result(name, draw(text)) for name in names)
        if draw(st.booleans()):
            turns.append({"role": "assistant", "content": draw(text)})
    return turns


conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=40)}),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(conversations)
@pytest.mark.parametrize("source", [CHATML, TRICKY, ONE_CALL, PARTS])
def test_any_text_is_rendered_as_transformers_does(source: str, turns: list[dict[str, Any]]) -> None:
    theirs = by_transformers(source, turns, add_generation_prompt=True)
    assert by_us(ChatTemplate(source, SPECIAL), turns) == theirs


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abAB_", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text("abcXYZ", min_size=1, max_size=4), json_values, max_size=4))
@example({"X": 70368744177664.62, "Y": -70368744177664.62, "Z": 70368744177664.61})  # two digits end either way as near
@pytest.mark.parametrize("source", [ONE_CALL, PARTS])
def test_any_arguments_are_rendered_as_transformers_does(source: str, arguments: dict[str, Any]) -> None:
    function = {"name": "f", "arguments": arguments}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "a", "content": "y"},
    ]
    theirs = by_transformers(source, turns, add_generation_prompt=True)
    assert theirs is not None
    assert by_us(ChatTemplate(source, SPECIAL), turns) == theirs


def test_a_templates_own_refusal_is_the_clients_error() -> None:
    template = ChatTemplate("{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}", {})
    with pytest.raises(InvalidParameter, match="user first") as raised:
        template.render([{"role": "assistant", "content": "x"}])
    assert raised.value.param == "messages"


def test_switches_cannot_take_the_place_of_messages() -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", SPECIAL)
    hostile = {"messages": [{"content": "other"}], "bos_token": "other"}
    assert template.render([{"role": "user", "content": "x"}], switches=hostile) == "<s>x"


@pytest.mark.parametrize(
    "hostile",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__bases__[0].__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages[0].tool_calls[0].function.arguments.x.value.__class__ }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 1000000000 }}",
        "{% include 'chat' %}",
        "{% import '/etc/passwd' as x %}",
    ],
)
def test_a_hostile_template_ends_and_reaches_nothing(hostile: str) -> None:
    number = {"function": {"name": "f", "arguments": {"x": 1e300}}}
    try:
        rendered = ChatTemplate(hostile, {}).render([{"role": "user", "content": "x", "tool_calls": [number]}])
    except (InvalidParameter, InvalidModelFile):
        return
    assert rendered.strip() == ""


def test_a_conversation_that_needs_too_much_work_is_told_so() -> None:
    squared = "{% for a in messages %}{% for b in messages %}{% set x = a.content ~ b.content %}{% endfor %}{% endfor %}"
    turns = [{"role": "user", "content": "x"}] * 4096
    with pytest.raises(InvalidParameter, match="send fewer"):
        ChatTemplate(squared, {}).render(turns)
    assert ChatTemplate(CHATML, {}).render(turns).count("<|im_start|>user") == 4096


def test_a_template_that_cannot_be_compiled_says_so() -> None:
    with pytest.raises(InvalidModelFile, match="chat template cannot be compiled"):
        ChatTemplate("{% for %}", {})


def test_several_threads_may_render() -> None:
    template = ChatTemplate(CHATML, {})
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(template.render([{"role": "user", "content": "x"}]))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert len(results) == 8


@pytest.mark.parametrize(("source", "tokens"), [("\ud800", {}), ("{{ bos_token }}", {"bos_token": "<\udfff>"})])
def test_half_a_character_is_the_files_fault(source: str, tokens: dict[str, str]) -> None:
    with pytest.raises(InvalidModelFile, match="half a character"):
        ChatTemplate(source, tokens)
