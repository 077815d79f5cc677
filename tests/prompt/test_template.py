"""Chat templates: the same text as jinja2 set up the way transformers does, in a sandbox with bounded work."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ecocore.errors import InvalidModelFile, InvalidParameter
from ecocore.prompt.template import ChatTemplate

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRICKY = """{{- bos_token }}
{%- set ns = namespace(found=false) %}
{%- for message in messages %}
    {%- if message.role == 'system' and not ns.found %}{% set ns.found = true %}{% endif %}
    {% if loop.last %}last:{% endif %}
  {{ message['content'] | trim }}|{{ message | tojson }}|{{ message.content.split(' ') | length }}
{%- endfor %}
{{ 'found' if ns.found else 'none' }}{{ tools is none }}{{ undefined_name is defined }}
"""
TEMPLATES = Path(__file__).parents[3] / "shared" / "chat_templates"

conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=40)}),
    min_size=1,
    max_size=5,
)


def by_jinja2(source: str, messages: list[dict[str, Any]], special_tokens: dict[str, str]) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    template = environment.from_string(source)
    return template.render(messages=messages, tools=None, documents=None, add_generation_prompt=True, **special_tokens)


@settings(max_examples=60, deadline=None)
@given(conversations)
@pytest.mark.parametrize("source", [CHATML, TRICKY])
def test_renders_what_jinja2_renders(source: str, messages: list[dict[str, Any]]) -> None:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    assert ChatTemplate(source, special).render(messages) == by_jinja2(source, messages, special)


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="the models' own templates are not beside the checkout")
@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")) if TEMPLATES.is_dir() else [], ids=lambda path: path.name)
def test_renders_the_models_own_templates(path: Path) -> None:
    source = path.read_text("utf-8")
    special = {"bos_token": "<bos>", "eos_token": "<eos>"}
    for messages in (
        [{"role": "user", "content": 'Hi <b> & "x"'}],
        [
            {"role": "system", "content": " s "},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "é"},
            {"role": "user", "content": "b"},
        ],
    ):
        assert ChatTemplate(source, special).render(messages) == by_jinja2(source, messages, special)


def test_a_templates_own_refusal_is_the_clients_error() -> None:
    template = ChatTemplate("{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}", {})
    with pytest.raises(InvalidParameter, match="user first") as raised:
        template.render([{"role": "assistant", "content": "x"}])
    assert raised.value.param == "messages"


@pytest.mark.parametrize(
    "hostile",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__bases__[0].__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_hostile_template_ends_and_reaches_nothing(hostile: str) -> None:
    try:
        rendered = ChatTemplate(hostile, {}).render([{"role": "user", "content": "x"}])
    except (InvalidParameter, InvalidModelFile):
        return
    assert rendered.strip() == ""


def test_a_template_that_cannot_be_compiled_says_so() -> None:
    with pytest.raises(InvalidModelFile, match="chat template"):
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
