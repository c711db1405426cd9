"""Chat templates rendered by transformers' apply_chat_template.

`cases.json`: `templates` (name → source), `tokens` (the bos/eos strings that templates may use),
`conversations` (name → messages), `tools`, and `renders`: per template, conversation and
add_generation_prompt either `output` or `error` (the message given to raise_exception, or the kind of
failure). The templates named `format_*` were written here in the prompt formats that well-known model
families publish; `feature_*` exercise one part of the template language each; `smollm2` is the
template inside SmolLM2-135M-Instruct's GGUF (Apache-2.0).

    python make.py PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf

Templates that are not ours to commit are compared without committing them: every *.jinja of a directory is rendered into a
file elsewhere, which the test then reads as well.

    python make.py --directory TEMPLATES --out /tmp/cases.json
    LUTHIER_TEMPLATE_CASES=/tmp/cases.json cargo test --release -p luthier-formats renders_as_transformers_does
"""

import argparse
import datetime
import sys
from pathlib import Path

import gguf
import jinja2
import transformers
from tokenizers import Tokenizer, models

sys.path.insert(0, str(Path(__file__).parent.parent))
from golden_io import write_json, write_versions

HERE = Path(__file__).parent
BOS, EOS = "<s>", "</s>"

TEMPLATES = {
    "format_chatml": """{%- if messages[0]['role'] == 'system' -%}
    {%- set start = 1 -%}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' -}}
{%- else -%}
    {%- set start = 0 -%}
    {{- '<|im_start|>system\\nAnswer shortly.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages[start:] -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
""",
    "format_chatml_tools": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- 'Functions:' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<result>\\n' ~ message.content ~ '\\n</result>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls %}
        {{- '<|im_start|>' ~ message.role }}
        {%- if message.content %}{{- '\\n' ~ message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<call>{"name": "' ~ call.name ~ '", "arguments": ' ~ (call.arguments | tojson) ~ '}</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif not (loop.first and tools and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
""",
    "format_llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = '1 Jan 2025' %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n\\n' + system_message + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('One call a turn, please') }}
        {%- endif %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- message.tool_calls[0].function | tojson }}
        {{- '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
    "format_mistral": """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{%- for message in rest | rejectattr('role', 'equalto', 'tool') %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in rest %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system is defined %}
            {{- '[INST] ' + system + '\\n\\n' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + '[/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Unknown role ' ~ message['role']) }}
    {%- endif %}
{%- endfor %}
""",
    "format_gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system turn in this format') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Turns must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '
' + message['content'] | trim + '<end_of_turn>
' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model
'}}{% endif %}""",
    "format_phi3": """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}""",
    "format_think": """{%- set ns = namespace(system='', first=true, user=-1) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = ns.system + message.content %}
    {%- elif message.role == 'user' %}
        {%- set ns.user = loop.index0 %}
    {%- endif %}
{%- endfor %}
{{- bos_token ~ ns.system }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<User>' + message.content }}
    {%- elif message.role == 'assistant' and message.content is not none %}
        {%- set content = message.content %}
        {%- if '</think>' in content and loop.index0 < ns.user %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<Assistant>' + content + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<Assistant><think>\\n' }}{%- endif %}
""",
    "format_generation_tags": """{% for message in messages %}
{{ '<' ~ message.role ~ '>' }}
{%- if message.role == 'assistant' %}{% generation %}{{ message.content ~ eos_token }}{% endgeneration %}{% else %}{{ message.content }}{% endif %}

{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}""",
    "feature_whitespace": """{% if true %}
  indented
{% endif %}
    {% for message in messages %}
{{ message.role }}
    {% endfor %}
{#- a comment -#}
  end
{%+ if true %} kept {% endif +%}
tail

""",
    "feature_strings": """{% for m in messages %}{{ [m.content.strip(), m.content.upper(), m.content.title(), m.content.capitalize(), m.content.replace('e', 'E'), m.content.startswith('H'), m.content.endswith('\\n'), m.content.split(), m.content.split('o', 1), m.content | length, m.content[:3], m.content[-3:], m.content[::-1]] }}
{% endfor %}{{ 'a,b'.split(',') | join('|') }} {{ ' x '.lstrip() }}|{{ ' x '.rstrip() }}| {{ 'abc'.find('c') }} {{ '%s-%d' | format('a', 3) }} {{ 'ab' * 3 }} {{ 'x' ~ 1 ~ none ~ true }}""",
    "feature_json": """{% for m in messages %}{{ m | tojson }}
{{ m | tojson(indent=2) }}
{% endfor %}{{ {'b': [1, 2.5, none, true], 'a': '<&>\\u00e9\\u4f60"\\\\/\\n', 'f': 1e100, 'g': 0.1, 'h': -0.0} | tojson }}
{{ [] | tojson }} {{ {} | tojson(indent=4) }} {{ 'é' | tojson(ensure_ascii=true) }}""",
    "feature_values": """{{ none }} {{ true }} {{ false }} {{ 1 }} {{ 1.0 }} {{ 1.5e3 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 10 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ [1, 'a', none, true, 1.0] }} {{ {'k': 'v', 'n': 1} }} {{ (1, 2) }} {{ 'it\\'s' }} {{ ['it\\'s', "q\\"q", 'é\\n'] }} {{ undefined_name }}|{{ undefined_name is defined }} {{ 3 | string + '4' }} {{ '5' | int + 1 }} {{ 'x' | default('d') }} {{ undefined_name | default('d') }} {{ '' | default('d', true) }} {{ 1 if false }}|{{ 'b' in 'abc' }} {{ 2 not in [1] }} {{ 1 < 2 < 3 }}""",
    "feature_lists": """{{ messages | map(attribute='role') | join(',') }};{{ messages | selectattr('role', 'equalto', 'user') | list | length }};{{ (messages | last).role }};{{ (messages | first).role }};{{ messages[-1].role }};{{ messages[::-1] | map(attribute='role') | list }};{{ range(3) | list }};{{ range(5, 1, -2) | list }};{{ [3, 1, 2] | sort }};{{ [1, 1, 2] | unique | list }};{{ [1, 2, 3] | sum }};{{ ['a', 'b'] + ['c'] }};{{ {'x': 1, 'y': 2}.items() | list }};{{ {'x': 1}.get('z', 'none') }};{{ {'y': 1, 'x': 2} | dictsort }};{{ [1, 2, 3, 4] | batch(3) | list }};{{ ['a', 'B'] | map('upper') | list }};{{ messages | length > 1 }};{% for k, v in {'x': 1, 'y': 2}.items() %}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}""",
    "feature_loops": """{% for m in messages %}{% if loop.index == 4 %}{% break %}{% endif %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ loop.index }}/{{ loop.length }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ loop.cycle('odd', 'even') }} {{ loop.previtem.role if loop.previtem is defined else '-' }} {{ loop.nextitem.role if loop.nextitem is defined else '-' }}
{% else %}empty{% endfor %}{% for m in messages if m.role == 'user' %}{{ m.role }}{{ loop.index }}{% endfor %}""",
    "feature_macros": """{% macro turn(role, text, end='!') %}[{{ role | upper }}: {{ text }}{{ end }}]{% endmacro %}{% for m in messages %}{{ turn(m.role, m.content) }}{{ turn(text=m.content | length, role='n', end='') }}{% endfor %}{% set block %}  a block {{ messages | length }} {% endset %}{{ block | trim }}{% filter upper %}shout{% endfilter %}{% with x = 5 %}{{ x }}{% endwith %}""",
    "feature_iterable": "{{ none is iterable }} {{ 'a' is iterable }} {{ [] is iterable }} {{ {} is iterable }} {{ 1 is iterable }} {{ true is iterable }} {{ nothing is iterable }} {{ tools is iterable and tools | length > 0 }} {{ messages is iterable }} {{ messages[0] is iterable }}",
    "feature_environment": "{{ strftime_now is defined }} {{ raise_exception is defined }} {{ tools is defined }} {{ tools is none }} {{ documents is defined }} {{ documents is none }} {{ bos_token }} {{ eos_token }} {{ unk_token is defined }} {{ pad_token is defined }} {{ add_generation_prompt }}",
    "feature_scope": """{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }} {% endfor %}{{ x }}{% set ns = namespace(x=1) %}{% for m in messages %}{% set ns.x = ns.x + 1 %}{% endfor %} {{ ns.x }}{% if true %}{% set y = 'leaks' %}{% endif %} {{ y }}""",
}

CALL = {
    "type": "function",
    "function": {"name": "look_up", "arguments": {"word": "naïve <b>", "count": 2, "deep": {"a": [1, None]}}},
}
CONVERSATIONS = {
    "one_question": [{"role": "user", "content": "How is 'luthier' pronounced?"}],
    "answered": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}],
    "system_and_turns": [
        {"role": "system", "content": "You tune guitars."},
        {"role": "user", "content": "A string broke."},
        {"role": "assistant", "content": "Which one?"},
        {"role": "user", "content": "The low E."},
    ],
    "spaces": [
        {"role": "user", "content": "  leading\n\n and trailing \n"},
        {"role": "assistant", "content": "\n\tok  "},
    ],
    "empty_content": [
        {"role": "system", "content": ""},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": ""},
    ],
    "unicode_and_marks": [
        {
            "role": "user",
            "content": "Héllo 你好 👩‍👧 {{ x }} {% raw %} <|im_end|> <s> \"quoted\" \\n 'single' <b>&amp;</b>",
        },
        {"role": "assistant", "content": "Ça va — €5 #} \u2028"},
    ],
    "starts_with_assistant": [{"role": "assistant", "content": "Welcome."}, {"role": "user", "content": "Thanks."}],
    "two_users": [{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}],
    "thinking": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4"},
        {"role": "user", "content": "and 3+3?"},
        {"role": "assistant", "content": "<think>\nadd\n</think>\n\n6"},
    ],
    "tool_call": [
        {"role": "system", "content": "Use functions."},
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "found"},
        {"role": "tool", "content": "[1, 2]"},
        {"role": "assistant", "content": "Done."},
    ],
    "extra_keys": [
        {"role": "user", "content": "x", "name": "ann", "weight": 0.5},
        {"role": "assistant", "content": "y", "train": False},
    ],
    "other_role": [{"role": "critic", "content": "Hm."}, {"role": "user", "content": "So?"}],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Finds a word — any 'word'.",
            "parameters": {
                "type": "object",
                "properties": {"word": {"type": "string"}, "count": {"type": "integer"}},
                "required": ["word"],
            },
        },
    }
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", help="the GGUF file with SmolLM2's template")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if bool(arguments.directory) != bool(arguments.out):
        parser.error("--directory and --out go together")
    templates = dict(TEMPLATES)
    if arguments.directory:
        templates = {path.stem: path.read_text("utf-8") for path in sorted(arguments.directory.glob("**/*.jinja"))}
    if arguments.model:
        fields = gguf.GGUFReader(arguments.model).fields
        templates["smollm2"] = fields["tokenizer.chat_template"].contents()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token=BOS, eos_token=EOS
    )
    renders = []
    for template_name, source in templates.items():
        for conversation_name, messages in CONVERSATIONS.items():
            for add in (False, True):
                takes_tools = arguments.directory or template_name == "format_chatml_tools"
                for tools in (None, TOOLS) if takes_tools else (None,):
                    render = {
                        "template": template_name,
                        "conversation": conversation_name,
                        "add_generation_prompt": add,
                    }
                    if tools:
                        render["tools"] = True
                    try:
                        render["output"] = tokenizer.apply_chat_template(
                            messages, tools=tools, chat_template=source, add_generation_prompt=add, tokenize=False
                        )
                    except jinja2.exceptions.TemplateError as error:
                        render["error"] = str(error)
                    except (TypeError, AttributeError, KeyError, ValueError) as error:
                        render["error"] = f"{type(error).__name__}: {error}"
                    renders.append(render)
    failures = sum("error" in render for render in renders)
    print(f"{len(renders)} renders, {failures} of them errors", file=sys.stderr)
    write_json(
        arguments.out or HERE / "cases.json",
        {
            "tokens": {"bos_token": BOS, "eos_token": EOS},
            **({"date": str(datetime.date.today())} if arguments.out else {}),
            "templates": templates,
            "conversations": CONVERSATIONS,
            "tools": TOOLS,
            "renders": renders,
        },
    )
    if not arguments.out:
        write_versions(HERE, ["transformers", "jinja2", "gguf"])


if __name__ == "__main__":
    main()
