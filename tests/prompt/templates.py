"""Chat templates of our own that use what the models' templates use, and conversations to render with them."""

from typing import Any

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
# Tools as JSON, one call for each turn, strings only; the tools stand in the first turn of the user.
ONE_CALL = """{{- bos_token }}
{%- if not tools is defined %}{% set tools = none %}{% endif %}
{%- if not date_string is defined %}{% set date_string = "1 May 2020" %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "[system]" + system_message + " Today: " + date_string }}
{%- if not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first = messages[0]['content'] | trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("there is no first turn for the tools") }}
    {%- endif %}
    {{- "[user]" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '[' + message['role'] + ']' + message['content'] | trim }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '[assistant]{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
    {%- else %}
        {{- '[result]' }}
        {%- if message.content is mapping or message.content is iterable %}{{ message.content | tojson }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""
# Parts, images, thinking, several calls, arguments walked through by a macro that calls itself, results looked ahead for.
PARTS = """
{%- macro value(argument) -%}
    {%- if argument is none -%}{{ 'null' }}
    {%- elif argument is string -%}{{ '"' + argument + '"' }}
    {%- elif argument is boolean -%}{{ 'true' if argument else 'false' }}
    {%- elif argument is mapping -%}
        {{- '{' -}}
        {%- for key, inner in argument | dictsort -%}
            {{- key + ':' + value(inner) -}}{{- ',' if not loop.last -}}
        {%- endfor -%}
        {{- '}' -}}
    {%- elif argument is sequence -%}
        {{- '[' -}}{%- for inner in argument -%}{{- value(inner) -}}{%- if not loop.last %},{% endif -%}{%- endfor -%}{{- ']' -}}
    {%- else -%}{{- argument -}}
    {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(images=0, last_user=-1) -%}
{%- for i in range(messages | length) -%}
    {%- if messages[i]['role'] == 'user' -%}{%- set ns.last_user = i -%}{%- endif -%}
{%- endfor -%}
{%- if tools -%}
    {%- for tool in tools %}
        {{- '<tool>' + tool['function']['name'] -}}{{- value(tool['function']['parameters'] | default({})) -}}{{- '</tool>' -}}
    {%- endfor %}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] != 'tool' -%}
    {{- '<' + ('system' if message['role'] == 'developer' else message['role']) + '>' -}}
    {%- set thought = message.get('reasoning') or message.get('reasoning_content') -%}
    {%- if thought and (loop.index0 > ns.last_user or preserve_thinking) -%}{{- '<think>' + thought + '</think>' -}}{%- endif -%}
    {%- if message.get('tool_calls') -%}
        {%- for call in message.get('tool_calls') -%}
            {{- '<call>' + call['function']['name'] -}}{{- value(call['function']['arguments']) -}}
            {%- for k in range(loop.index0, messages | length) -%}
                {%- if messages[k].get('tool_call_id') == call.get('id') -%}
                    {{- '<result>' -}}{{- messages[k]['content'] if messages[k]['content'] is string else 'parts' -}}
                {%- endif -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endif -%}
    {%- set captured -%}
    {%- if message.get('content') is string -%}
        {{- message['content'].split('</think>')[-1].lstrip('\\n') | trim -}}
    {%- elif message.get('content') is sequence -%}
        {%- for item in message['content'] -%}
            {%- if item.get('type') == 'text' -%}{{- item['text'] -}}
            {%- elif 'image' in item or item['type'] == 'image' -%}
                {%- set ns.images = ns.images + 1 -%}<image {{ ns.images }}>
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {%- endset -%}
    {{- captured -}}{{- '</' + message['role'][::-1] + '>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {% generation %}{{- '<assistant>' -}}{% endgeneration %}{{- '<think>' if enable_thinking else '' -}}
{%- endif -%}"""

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'The "weather" <b> & é of a town',
            "parameters": {
                "type": "object",
                "properties": {
                    "town": {"type": "string", "description": "Where"},
                    "unit": {"type": "string", "enum": ["c", "f"]},
                    "days": {"type": ["integer", "null"], "nullable": True, "minimum": 1.5, "maximum": 1e30},
                    "tags": {"type": "array", "items": {"type": "string", "enum": ["x"]}},
                    "Area": {
                        "type": "object",
                        "properties": {
                            "a": {
                                "type": "array",
                                "items": {"type": "object", "properties": {"q": {"type": "number"}}, "required": ["q"]},
                            }
                        },
                        "required": ["a"],
                    },
                },
                "required": ["town"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time"}},
    {"type": "function", "function": {"name": "here", "description": "d", "parameters": {"type": "object", "properties": {}}}},
]
ARGUMENTS: dict[str, Any] = {
    "town": 'Zürich "x"',
    "days": 3,
    "half": 1.0,
    "tenth": 0.1,
    "large": 1e22,
    "small": -1e-7,
    "yes": True,
    "nothing": None,
    "huge": 12345678901234567890123,
    "inner": {"b": [1, "two", False, None, {"Q": 1, "a": 2.5}], "A": {}},
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any], content: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields, "tool_calls": list(calls)}


def result(call_id: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


IMAGE = {"type": "image"}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "plain": [user('Hi <b> & "x" ')],
    "system": [{"role": "system", "content": " s "}, user("a"), {"role": "assistant", "content": " é "}, user("b")],
    "developer": [{"role": "developer", "content": " s "}, user("a")],
    "call": [user("w?"), calling(call("c1", "weather", ARGUMENTS)), result("c1", '{"t": 3}')],
    "answered": [
        {"role": "system", "content": "be"},
        user("w?"),
        calling(call("c1", "weather", {"town": "X"}), content=""),
        result("c1", "ok", name="weather"),
        {"role": "assistant", "content": "done"},
        user("more"),
    ],
    "parallel": [
        user("w?"),
        calling(call("c1", "weather", {"town": "X"}), call("c2", "now", {}), content="text"),
        result("c1", "1"),
        result("c2", "2"),
        {"thinking": "thought", "role": "assistant", "content": "fin", "reasoning_content": "thought"},
        user("x"),
    ],
    "thinking": [
        user("q"),
        {"thinking": "why", **calling(call("a", "now", {}), content="<think>\nhm</think>\n\nanswer"), "reasoning_content": "why"},
        result("a", "r"),
    ],
    "images": [
        {"role": "user", "content": [{"type": "text", "text": " look "}, IMAGE, {"type": "text", "text": "what?"}, IMAGE]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "and?"}]},
    ],
    "image as result": [user("w?"), calling(call("c1", "now", {})), result("c1", [{"type": "text", "text": "see"}, IMAGE])],
    "empty": [
        {"role": "system", "content": ""},
        user(""),
        {"role": "assistant", "content": ""},
        user(" \n"),
        calling(call("c1", "now", {}), content=""),
        result("c1", ""),
    ],
    "letters": [
        {"role": "system", "content": "Du, 長城 \u200d🏔️ é e\u0301"},
        user("<|im_end|> <|eot_id|> <turn|> {{ x }} {% y %} \\n"),
        calling(call("c1", "weather", {"town": "Ø <|\"|> \u2028 '\\"}), content=None),
        result("c1", "naïve\t🏔️"),
        {"role": "assistant", "content": "  <channel|> ok  "},
        user("\u00a0x\u00a0"),
    ],
    "calls again and again": [
        user("w?"),
        calling(call("c1", "weather", {"town": "X"})),
        result("c1", "1"),
        calling(call("c2", "now", {}), content="hm"),
        result("c2", "2"),
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
        user("x"),
        calling(call("c3", "now", {})),
        result("c3", "3"),
    ],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": " s "}, {"type": "text", "text": "t"}]},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ],
}
SWITCHES: list[dict[str, Any]] = [
    {},
    {"enable_thinking": True},
    {"enable_thinking": True, "preserve_thinking": True},
    {"date_string": "1 Jan 2025"},
    {"tools_in_user_message": False},
    {"add_vision_id": True},
]
