# SPDX-License-Identifier: Apache-2.0
"""Responses after their prompts: thoughts are opened once and closed; calls are written by the template."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from nemo_mcpo.data.chat_template import RefusedByTemplate
from nemo_mcpo.data.rendered_record import check_thoughts, encode_continuations, render_record
from nemo_mcpo.data.tokenization import ChatTokenizer, load_chat_tokenizer
from nemo_mcpo.records import Message, PreferenceRecord, Response
from tests.unit.data.chat_tokenizers import FAMILIES, QWEN2, QWEN3, save_tokenizer

THOUGHT = "<think>\ntwo and two\n</think>\n\n4"
USER = (Message("user", "2+2?"),)
PLAIN, EMPTY = "4", "<think>\n\n</think>\n\n4"
REASONING = json.dumps({"reasoning_content": "two and two"})

OPENED = QWEN2.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
SHORT = QWEN2.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>'")
STRIPPING = OPENED.replace(
    "m.content +", "(m.content.split('</think>')[-1].lstrip() if m.role == 'assistant' else m.content) +"
)
FROM_KEYS = OPENED.replace(
    "m.content +",
    "('<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' if m.role == 'assistant' else '') + m.content +",
)
SWITCH = QWEN2.replace(
    "'<|im_start|>assistant\n'", "'<|im_start|>assistant\n' + ('<think>\n' if thinking else '</think>')"
)
TEMPLATES = {
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "opened": OPENED,
    "short": SHORT,
    "stripping": STRIPPING,
    "keys": FROM_KEYS,
    "switch": SWITCH,
}


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokenizer]:
    root = tmp_path_factory.mktemp("thinking")
    return {
        name: load_chat_tokenizer(
            save_tokenizer(root / name, dataclasses.replace(FAMILIES["qwen2"], template=template))
        )
        for name, template in TEMPLATES.items()
    }


def wholes(chat: ChatTokenizer, *responses: Response, prompt: tuple[Message, ...] = USER) -> list[str]:
    """The text that the model sees after the assistant's header, for each response."""
    rendered = render_record(chat, PreferenceRecord("x:1", prompt, responses))
    ids = encode_continuations(chat, rendered.continuations)
    texts = [rendered.prompt + chat.tokenizer.decode(one) for one in ids]
    return [text.rpartition("<|im_start|>assistant\n")[2] for text in texts]


@pytest.mark.parametrize("name", ["opened", "stripping", "keys"])
def test_an_open_thought_is_continued_or_closed(chats, name):
    texts = wholes(chats[name], Response(PLAIN), Response(THOUGHT), Response(THOUGHT.removeprefix("<think>\n")))
    assert texts == [f"{EMPTY}<|im_end|>", f"{THOUGHT}<|im_end|>", f"{THOUGHT}<|im_end|>"]


def test_a_thought_opened_without_a_line_break(chats):
    texts = wholes(chats["short"], Response(PLAIN), Response(THOUGHT), Response("<think>no break</think>4"))
    assert texts == [f"{EMPTY}<|im_end|>", f"{THOUGHT}<|im_end|>", "<think>no break</think>4<|im_end|>"]


def test_an_unclosed_thought_stays_unclosed(chats):
    for name in ("opened", "qwen3"):
        assert wholes(chats[name], Response("<think>\nso far")) == ["<think>\nso far<|im_end|>"]


@pytest.mark.parametrize("name", ["opened", "stripping", "keys", "qwen3"])
@pytest.mark.parametrize(
    "response",
    [
        Response("<think>\nso far"),
        Response("<think>two</think>4</think>"),
        Response("<think>two<think>two</think>4"),
        Response("Well. <think>two</think>4"),
        Response("4 <think>"),
        Response(THOUGHT, extra=REASONING),
        Response(PLAIN, extra=json.dumps({"reasoning_content": THOUGHT})),
    ],
)
def test_thoughts_are_opened_and_closed_once(chats, name, response):
    with pytest.raises(RefusedByTemplate, match="not opened once and closed"):
        check_thoughts(chats[name], render_record(chats[name], PreferenceRecord("x:1", USER, (response,))))


@pytest.mark.parametrize("name", TEMPLATES)
def test_complete_thoughts_pass(chats, name):
    responses = (Response(THOUGHT), Response(f" \n{THOUGHT}"), Response(THOUGHT.removeprefix("<think>\n")))
    check_thoughts(
        chats[name], render_record(chats[name], PreferenceRecord("x:1", USER, (*responses, Response(PLAIN))))
    )


def test_a_thought_that_the_prompt_forbids_is_refused(chats):
    inputs = json.dumps({"enable_thinking": False})
    rendered = render_record(chats["qwen3"], PreferenceRecord("x:1", USER, (Response(THOUGHT),), inputs))
    with pytest.raises(RefusedByTemplate, match="not opened once and closed"):
        check_thoughts(chats["qwen3"], rendered)


def test_a_thought_without_its_opening_tag_gets_it(chats):
    response = Response(THOUGHT.removeprefix("<think>\n"))
    assert wholes(chats["qwen3"], response) == [f"{THOUGHT}<|im_end|>"]


def test_a_template_whose_switch_is_named_thinking(chats):
    assert wholes(chats["switch"], Response(PLAIN)) == ["</think>4<|im_end|>"]
    assert wholes(chats["switch"], Response(THOUGHT)) == [f"{THOUGHT}<|im_end|>"]


def test_a_template_that_writes_the_empty_thought(chats):
    assert wholes(chats["qwen3"], Response(PLAIN), Response("5")) == [f"{EMPTY}<|im_end|>", EMPTY[:-1] + "5<|im_end|>"]


def test_any_thought_in_a_record_selects_the_thinking_prompt(chats):
    texts = wholes(chats["qwen3"], Response(THOUGHT), Response(PLAIN))
    assert texts == [f"{THOUGHT}<|im_end|>", f"{EMPTY}<|im_end|>"]


@pytest.mark.parametrize("name", ["opened", "stripping", "keys", "qwen3"])
def test_a_thought_in_its_own_key_equals_a_thought_in_the_text(chats, name):
    for key in ("reasoning_content", "thinking"):
        response = Response(PLAIN, extra=json.dumps({key: "two and two"}))
        assert wholes(chats[name], response) == [f"{THOUGHT}<|im_end|>"]


def test_a_template_without_thoughts_keeps_the_text_and_refuses_the_key(chats):
    assert wholes(chats["qwen2"], Response(THOUGHT)) == [f"{THOUGHT}<|im_end|>"]
    with pytest.raises(RefusedByTemplate, match="omits reasoning_content"):
        wholes(chats["qwen2"], Response(PLAIN, extra=REASONING))


CALLS = json.dumps({"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": "{}"}}]})
CALLING = QWEN2.replace("m.content +", "m.content + (m.tool_calls | tojson if m.tool_calls else '') +")


@pytest.fixture
def calling(tmp_path: Path) -> ChatTokenizer:
    return load_chat_tokenizer(save_tokenizer(tmp_path, dataclasses.replace(FAMILIES["qwen2"], template=CALLING)))


def test_a_response_may_be_a_call(calling):
    called, plain = wholes(calling, Response("", extra=CALLS), Response(PLAIN))
    assert '"name": "add"' in called and called.endswith("<|im_end|>") and called.count("<|im_end|>") == 1
    assert plain == "4<|im_end|>"


def test_a_call_that_spells_a_special_token_is_refused(calling):
    with pytest.raises(RefusedByTemplate, match="spells a special token"):
        wholes(calling, Response("<|im_end|>", extra=CALLS))


def test_tags_that_are_special_tokens_become_tokens(tmp_path):
    family = dataclasses.replace(
        FAMILIES["qwen2"],
        template=QWEN2.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n[THINK]'"),
        special_tokens=(*FAMILIES["qwen2"].special_tokens, "[THINK]", "[/THINK]"),
    )
    chat = load_chat_tokenizer(save_tokenizer(tmp_path, family))
    end = chat.tokenizer.convert_tokens_to_ids("[/THINK]")
    rendered = render_record(
        chat,
        PreferenceRecord("x:1", (Message("user", "2+2?"),), (Response("[THINK]two[/THINK]4"), Response("4 </s>"))),
    )
    thinking, plain = encode_continuations(chat, rendered.continuations)
    assert thinking.count(end) == plain.count(end) == 1 and plain[0] == end
    assert chat.tokenizer.convert_tokens_to_ids("[THINK]") not in thinking
