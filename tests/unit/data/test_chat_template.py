# SPDX-License-Identifier: Apache-2.0
"""Rendering does not depend on the date, and loses no part of a conversation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from nemo_mcpo.data.chat_template import RefusedByTemplate, check_shown, render
from nemo_mcpo.data.tokenization import load_chat_tokenizer
from nemo_mcpo.errors import DataError
from nemo_mcpo.records import Message
from tests.unit.data.chat_tokenizers import FAMILIES, QWEN2, save_tokenizer

USER = Message("user", "2+2?")
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
CALLING = Message("assistant", "", json.dumps({"tool_calls": [CALL]}))
RESULT = Message("tool", "4", '{"tool_call_id": "x1", "name": "add"}')
TOOLS = json.dumps({"tools": [CALL]})

WITH_CALLS = (
    "{% if tools %}{{ '<tools>' + (tools | tojson) + '</tools>' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{% for call in m.tool_calls or [] %}{{ CALL }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
AS_JSON = WITH_CALLS.replace("CALL }}", "call.function.name + ': ' + (call.function.arguments | tojson) }}")
AS_TEXT = WITH_CALLS.replace("CALL }}", "call.function.name + ': ' + call.function.arguments }}")


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerFast:
    return load_chat_tokenizer(save_tokenizer(tmp_path, FAMILIES["qwen2"])).tokenizer


def shown(tokenizer: PreTrainedTokenizerFast, turns: list[Message], inputs: str = "") -> str:
    text = render(tokenizer, turns, inputs, add_generation_prompt=True)
    check_shown(tokenizer, turns, inputs, text, thinking=False)
    return text


@pytest.mark.parametrize("day", ["{{ strftime_now('%Y-%m-%d') }}", "{%- set d = strftime_now('%Y-%m-%d') %}{{ d }}"])
def test_todays_date_is_fixed(tokenizer, day):
    tokenizer.chat_template = day + QWEN2
    assert shown(tokenizer, [USER]).startswith("2024-07-26")


def test_tools_and_calls_are_shown(tokenizer):
    tokenizer.chat_template = AS_JSON
    text = shown(tokenizer, [USER, CALLING, RESULT], TOOLS)
    assert "<tools>" in text and 'add: {"a": 2}' in text and "4" in text


def test_a_template_may_expect_arguments_as_text(tokenizer):
    tokenizer.chat_template = AS_TEXT
    assert 'add: {"a": 2}<' in shown(tokenizer, [USER, CALLING, RESULT])


@pytest.mark.parametrize(
    "template", [AS_TEXT, WITH_CALLS.replace("CALL }}", "'add: ' }}{{ call.function.arguments }}")]
)
@pytest.mark.parametrize("arguments", [{"a": 2}, '{"a": 2}'])
def test_arguments_are_json_with_every_template(tokenizer, template, arguments):
    tokenizer.chat_template = template
    call = {**CALL, "function": {"name": "add", "arguments": arguments}}
    assert 'add: {"a": 2}<' in shown(
        tokenizer, [USER, Message("assistant", "", json.dumps({"tool_calls": [call]})), RESULT]
    )


def test_a_template_that_shows_only_the_first_call_is_refused(tokenizer):
    tokenizer.chat_template = AS_JSON.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    other = {**CALL, "function": {"name": "subtract", "arguments": {}}}
    with pytest.raises(RefusedByTemplate, match="omits part of tool_calls"):
        shown(tokenizer, [USER, Message("assistant", "", json.dumps({"tool_calls": [CALL, other]})), RESULT])


@pytest.mark.parametrize("content", ["2+2", "user", "What is 2+2?"])
def test_an_omitted_turn_whose_words_occur_elsewhere_is_refused(tokenizer, content):
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}{{ m.role + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    )
    with pytest.raises(RefusedByTemplate, match="omits a turn"):
        shown(tokenizer, [Message("system", content), Message("user", "What is 2+2?")])


@pytest.mark.parametrize(
    ("turns", "inputs", "reason"),
    [
        ([USER], TOOLS, "omits tools"),
        ([USER], '{"documents": [{"text": "a"}]}', "omits documents"),
        ([USER], '{"verbosity": "low"}', "omits verbosity"),
        ([USER, CALLING, USER], "", "omits tool_calls"),
        ([USER, Message("assistant", "4", '{"reasoning_content": "two and two"}'), USER], "", "reasoning_content"),
        ([dataclasses.replace(USER, extra='{"name": "Ann"}')], "", "omits name"),
    ],
)
def test_an_omitted_part_is_refused(tokenizer, turns, inputs, reason):
    with pytest.raises(RefusedByTemplate, match=reason):
        shown(tokenizer, turns, inputs)


def test_an_omitted_turn_is_refused(tokenizer):
    tokenizer.chat_template = QWEN2.replace("{{ '<|im_start|>' + m.role", "{% if m.role != 'tool' %}{{ '' + m.role", 1)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>\n' }}{% endfor", "' }}{% endif %}{% endfor")
    shown(tokenizer, [USER])
    with pytest.raises(RefusedByTemplate, match="omits a turn"):
        shown(tokenizer, [USER, Message("tool", "the result"), USER])


def test_escaped_text_counts_as_shown(tokenizer):
    tokenizer.chat_template = QWEN2.replace("m.content +", "(m.content | tojson) +")
    assert '\\"four\\"' in shown(tokenizer, [Message("user", 'say "four"')])


def test_a_template_may_omit_earlier_thoughts(tokenizer):
    tokenizer.chat_template = QWEN2 + "{% if false %}{{ messages[0].reasoning_content }}{% endif %}"
    assert "two and two" not in shown(
        tokenizer, [USER, Message("assistant", "4", '{"reasoning_content": "two and two"}'), USER]
    )


def test_a_thought_is_passed_under_the_key_that_the_template_reads(tokenizer):
    thought = "{% if m.reasoning_content %}{{ '(' + m.reasoning_content + ')' }}{% endif %}{{ m.content + "
    tokenizer.chat_template = QWEN2.replace("+ '\n' + m.content +", "}}" + thought, 1)
    turns = [USER, Message("assistant", "4", '{"thinking": "two and two"}'), USER]
    assert "(two and two)4" in shown(tokenizer, turns)


@pytest.mark.parametrize(
    "failing", ["{{ 1 / 0 }}", "{{ messages[9].content }}", "{{ '' + none }}", "{{ raise_exception('no') }}"]
)
def test_any_exception_of_a_template_is_a_reason(tokenizer, failing):
    tokenizer.chat_template = failing
    with pytest.raises(RefusedByTemplate) as caught:
        render(tokenizer, [USER], add_generation_prompt=True)
    assert caught.value.reason == "chat template refused the prompt" and ": " in caught.value.detail


def test_several_templates_without_a_default(tmp_path):
    directory = save_tokenizer(tmp_path, FAMILIES["qwen2"])
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for names, message in ((("rag", "tool_use"), "no chat template is named default"), (("default", "rag"), "")):
        config["chat_template"] = [{"name": name, "template": QWEN2} for name in names]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        if message:
            with pytest.raises(DataError, match=message) as caught:
                load_chat_tokenizer(directory)
            assert caught.value.fix
        else:
            assert "2+2?" in shown(load_chat_tokenizer(directory).tokenizer, [USER])


def test_tools_are_rendered_by_the_template_for_tools(tokenizer):
    tokenizer.chat_template = {"default": QWEN2, "tool_use": AS_JSON}  # type: ignore[assignment]
    assert "<tools>" in shown(tokenizer, [USER], TOOLS)
    assert "<tools>" not in shown(tokenizer, [USER])


def test_a_template_that_is_not_text(tmp_path):
    directory = save_tokenizer(tmp_path, FAMILIES["qwen2"])
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": 7}))
    with pytest.raises(DataError, match="the chat template is not text"):
        load_chat_tokenizer(directory)


def test_a_missing_tokenizer_names_the_option():
    with pytest.raises(DataError, match=r"text data needs a tokenizer.*--tokenizer"):
        load_chat_tokenizer("")
