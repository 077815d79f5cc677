"""What a template can show is found out by rendering it."""

import pytest
from tests.prompt.templates import CHATML, ONE_CALL, PARTS

from ecocore.prompt.template import ChatTemplate
from ecocore.prompt.traits import CallForm, TemplateTraits

EVERY = frozenset({"system", "user", "assistant", "tool"})
FIRST_SYSTEM = (
    "{% if messages[0].role == 'system' %}<<{{ messages[0].content }}>>{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('late') }}{% endif %}[{{ m.role }}]{{ m.content }}"
    "{% endfor %}"
)
NO_SYSTEM = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
TEXT_ARGUMENTS = (
    "{{ tools | tojson if tools else '' }}{% for m in messages %}[{{ m.role }}]{{ m.content + '' }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}{% endfor %}"
)
TOOLS_BUT_NO_CALLS = "{{ tools | tojson if tools else '' }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, TemplateTraits(frozenset(), developer=False, systems="any", calls=None)),
        (
            ONE_CALL,
            TemplateTraits(
                frozenset(),
                developer=False,
                systems="any",
                calls=CallForm(null_content=True, parsed_arguments=True, several=False, tagged=False),
            ),
        ),
        (
            PARTS,
            # Results are shown as text alone.
            TemplateTraits(
                EVERY - {"tool"},
                developer=True,
                systems="any",
                calls=CallForm(null_content=True, parsed_arguments=True, several=True, tagged=False),
            ),
        ),
        (FIRST_SYSTEM, TemplateTraits(frozenset(), developer=False, systems="first", calls=None)),
        (NO_SYSTEM, TemplateTraits(frozenset(), developer=False, systems="none", calls=None)),
        (
            TEXT_ARGUMENTS,
            TemplateTraits(
                frozenset(),
                developer=False,
                systems="any",
                calls=CallForm(null_content=False, parsed_arguments=False, several=True, tagged=False),
            ),
        ),
        (TOOLS_BUT_NO_CALLS, TemplateTraits(frozenset(), developer=False, systems="any", calls=None)),
        ("always the same", TemplateTraits(frozenset(), developer=False, systems="none", calls=None)),
        ("{{ raise_exception('never') }}", TemplateTraits(frozenset(), developer=False, systems="none", calls=None)),
    ],
)
def test_a_template_shows_what_it_can(source: str, expected: TemplateTraits) -> None:
    assert TemplateTraits.of(ChatTemplate(source, {"bos_token": "<s>"})) == expected
