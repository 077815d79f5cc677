"""Chat templates of our own with the structure of the families' templates."""

from typing import Final

# A system turn always, tools in the first turn of the user, one call for each turn, results as JSON.
LLAMA: Final = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- if tools is not none %}
    {%- if messages | length == 0 %}{{- raise_exception("there is no first turn for the tools") }}{%- endif %}
    {%- set first = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nCall one of these:\\n\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception("one call at a time") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

# Tools in tags, several calls in a turn, results that follow each other in one turn.
QWEN_TOOLS: Final = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- else %}{{- 'Be kind.' }}{%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' + tool_call.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""  # noqa: E501 - as the templates have it

# Images, no tools.
QWEN_VISION: Final = """{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
Be kind.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Turns with marks of their own, texts stripped, images bare. Tools in a notation of their own; results stand in the turn that
# called, and the model goes on there. A thought stays only in what came after the last question.
GEMMA: Final = """{%- macro told(it) -%}
    {%- if it is none -%}{{- 'null' -}}
    {%- elif it is string -%}{{- '<|"|>' + it + '<|"|>' -}}
    {%- elif it is boolean -%}{{- 'true' if it else 'false' -}}
    {%- elif it is mapping -%}{{- '{' + pairs(it) + '}' -}}
    {%- elif it is sequence -%}
        {{- '[' -}}{%- for one in it -%}{{- told(one) -}}{{- ',' if not loop.last -}}{%- endfor -%}{{- ']' -}}
    {%- else -%}{{- it -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro pairs(it) -%}
    {%- for key, value in it | dictsort -%}{{- key + ':' + told(value) -}}{{- ',' if not loop.last -}}{%- endfor -%}
{%- endmacro -%}
{%- macro declaration(function) -%}
    {{- '<|tool>declaration:' + function['name'] + '{description:' + told(function['description']) -}}
    {%- set parameters = function['parameters'] -%}
    {%- if parameters -%}
        {{- ',parameters:{properties:{' -}}
        {%- for name, one in parameters['properties'] | dictsort -%}
            {{- name + ':{' -}}
            {%- if one['description'] -%}{{- 'description:' + told(one['description']) + ',' -}}{%- endif -%}
            {{- 'type:' + told(one['type'] | upper) + '}' -}}{{- ',' if not loop.last -}}
        {%- endfor -%}
        {{- '},required:' + told(parameters['required']) + ',type:' + told(parameters['type'] | upper) + '}' -}}
    {%- endif -%}
    {{- '}<tool|>' -}}
{%- endmacro -%}
{%- macro without_thoughts(text) -%}
    {%- set ns = namespace(kept='') -%}
    {%- for part in text.split('<channel|>') -%}{%- set ns.kept = ns.kept + part.split('<|channel>')[0] -%}{%- endfor -%}
    {{- ns.kept | trim -}}
{%- endmacro -%}
{%- set enable_thinking = enable_thinking | default(false) -%}
{%- set ns = namespace(last='', speaker='', name='', asked=-1) -%}
{{- bos_token -}}
{%- if enable_thinking or tools or messages[0]['role'] in ['system', 'developer'] -%}
    {{- '<|turn>system\\n' -}}{{- '<|think|>\\n' if enable_thinking -}}
    {%- if messages[0]['role'] in ['system', 'developer'] -%}
        {%- if messages[0]['content'] is string -%}{{- messages[0]['content'] | trim -}}
        {%- else -%}{%- for part in messages[0]['content'] -%}{{- part['text'] | trim -}}{%- endfor -%}
        {%- endif -%}
        {%- set messages = messages[1:] -%}
    {%- endif -%}
    {%- for tool in tools or [] -%}{{- declaration(tool['function']) -}}{%- endfor -%}
    {{- '<turn|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}{%- if message['role'] == 'user' -%}{%- set ns.asked = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for message in messages -%}
    {%- if message['role'] != 'tool' -%}
    {%- set index = loop.index0 -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {%- if not (role == 'model' and ns.speaker == 'model') -%}{{- '<|turn>' + role + '\\n' -}}{%- endif -%}
    {%- if message.get('reasoning_content') and index > ns.asked -%}
        {{- '<|channel>thought\\n' + message['reasoning_content'] + '\\n<channel|>' -}}
    {%- endif -%}
    {%- for call in message.get('tool_calls') or [] -%}
        {{- '<|tool_call>call:' + call['function']['name'] + '{' + pairs(call['function']['arguments']) + '}<tool_call|>' -}}
    {%- endfor -%}
    {%- set after = namespace(results=0, role='') -%}
    {%- for other in messages[index + 1:] -%}
        {%- if other['role'] != 'tool' and not after.role -%}{%- set after.role = other['role'] -%}{%- endif -%}
        {%- if message.get('tool_calls') and not after.role -%}
            {%- set ns.name = 'unknown' -%}
            {%- for call in message['tool_calls'] -%}
                {%- if call['id'] == other['tool_call_id'] -%}{%- set ns.name = call['function']['name'] -%}{%- endif -%}
            {%- endfor -%}
            {%- set text = other['content'] if other['content'] is string else other['content'] | map(attribute='text') | join -%}
            {{- '<|tool_response>response:' + ns.name + '{value:' + told(text) + '}<tool_response|>' -}}
            {%- set after.results = after.results + 1 -%}
        {%- endif -%}
    {%- endfor -%}
    {%- set said -%}
        {%- if message['content'] is string -%}
            {{- without_thoughts(message['content']) if role == 'model' else message['content'] | trim -}}
        {%- elif message['content'] is sequence -%}
            {%- for part in message['content'] -%}
                {%- if part['type'] == 'text' -%}{{- part['text'] | trim -}}{%- elif part['type'] == 'image' -%}{{- '<|image|>' -}}{%- endif -%}
            {%- endfor -%}
        {%- endif -%}
    {%- endset -%}
    {{- said -}}
    {%- set ns.last = 'results' if after.results else 'calls' if message.get('tool_calls') else 'text' -%}
    {%- if ns.last == 'calls' -%}{{- '<|tool_response>' -}}
    {%- elif role == 'model' and after.role == 'assistant' -%}
    {%- elif said or after.role or ns.last == 'text' -%}{{- '<turn|>\\n' -}}
    {%- endif -%}
    {%- set ns.speaker = role -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if ns.last not in ['calls', 'results'] -%}
        {{- '<|turn>model\\n' -}}{{- '<|channel>thought\\n<channel|>' if not enable_thinking -}}
    {%- elif ns.last == 'results' and enable_thinking -%}
        {{- '<|channel>thought\\n' -}}
    {%- endif -%}
{%- endif -%}"""  # noqa: E501
