# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from datetime import datetime

import pytest

from nemo_mcpo.data.chat_template import TEMPLATE_ARGUMENTS
from nemo_mcpo.data.tokenization import (
    ChatTokenizer,
    encode_answers,
    encode_prompts,
    load_chat_tokenizer,
    render_prompt,
    tokenizer_hash,
)
from nemo_mcpo.errors import DataError
from nemo_mcpo.records import Message
from tests.unit.data.chat_tokenizers import FAMILIES, LLAMA3, save_tokenizer

QUESTION = (Message("user", "How are you?"),)
DIALOGUE = (*QUESTION, Message("assistant", "I am fine."), Message("user", "Write a description."))


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatTokenizer]:
    root = tmp_path_factory.mktemp("families")
    return {name: load_chat_tokenizer(save_tokenizer(root / name, family)) for name, family in FAMILIES.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_end_of_turn_is_the_templates_own(chats, name):
    chat = chats[name]
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn) == FAMILIES[name].end_of_turn
    assert encode_answers(chat, ["I am fine."])[0][-1] == chat.end_of_turn


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prompt", [QUESTION, DIALOGUE])
def test_prompt_equals_transformers_own_tokenized_template(chats, name, prompt):
    chat = chats[name]
    turns = [turn.as_dict() for turn in prompt]
    expected = chat.tokenizer.apply_chat_template(turns, add_generation_prompt=True, **TEMPLATE_ARGUMENTS)
    assert encode_prompts(chat, [render_prompt(chat, prompt)]) == [expected]


@pytest.mark.parametrize("name", FAMILIES)
def test_bos_occurs_as_often_as_the_template_writes_it(chats, name):
    chat = chats[name]
    ids = encode_prompts(chat, [render_prompt(chat, QUESTION)])[0]
    assert ids.count(chat.tokenizer.bos_token_id) == (0 if FAMILIES[name].bos is None else 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_and_completion_are_the_tokens_of_the_whole_conversation(chats, name):
    chat = chats[name]
    ids = encode_prompts(chat, [render_prompt(chat, QUESTION)])[0] + encode_answers(chat, ["I am fine."])[0]
    turns = [turn.as_dict() for turn in (*QUESTION, Message("assistant", "I am fine."))]
    whole = chat.tokenizer.apply_chat_template(turns, **TEMPLATE_ARGUMENTS)
    # Llama 2 writes a space before </s>, other templates a newline after the end of the turn; neither is trained.
    assert whole[: len(ids) - 1] == ids[:-1]
    assert ids[-1] in whole[len(ids) - 1 : len(ids) + 1]


def test_sentencepiece_gets_no_second_space_and_byte_level_gets_one(chats):
    assert chats["llama2"].turn.lead == ""
    assert chats["llama2-byte-level"].turn.lead == " "
    assert chats["llama3"].turn.lead == chats["qwen2"].turn.lead == chats["qwen3"].turn.lead == ""


def test_qwen3_writes_the_empty_thought_in_the_prompt(chats):
    assert render_prompt(chats["qwen3"], QUESTION).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_prompt_does_not_depend_on_the_date(chats):
    text = render_prompt(chats["llama3"], QUESTION)
    assert "Today Date: 26 Jul 2024" in text
    assert datetime.now().strftime("%d %b %Y") not in text


@pytest.mark.parametrize("name", FAMILIES)
def test_a_response_spelling_a_special_token_has_one_end_of_turn(chats, name):
    chat = chats[name]
    ids = encode_answers(chat, [f"I am {FAMILIES[name].end_of_turn} fine."])[0]
    assert ids.count(chat.end_of_turn) == 1


def test_tokens_of_a_response_do_not_depend_on_its_siblings(chats):
    chat = chats["llama3"]
    assert encode_answers(chat, ["Hello there!", "fine"])[0] == encode_answers(chat, ["Hello there!"])[0]


def test_limits_saved_in_tokenizer_json_are_ignored(tmp_path):
    directory = save_tokenizer(tmp_path, FAMILIES["llama3"])
    path = tmp_path / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["truncation"] = {"max_length": 3, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    path.write_text(json.dumps(saved))
    assert len(encode_answers(load_chat_tokenizer(directory), ["The sum of two and three is five."])[0]) > 4


def test_end_of_turn_falls_back_to_eos(tmp_path):
    family = dataclasses.replace(FAMILIES["llama3"], template=LLAMA3.replace("<|eot_id|>", " "))
    chat = load_chat_tokenizer(save_tokenizer(tmp_path, family))
    assert chat.end_of_turn == chat.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": None}, "no chat template"),
        ({"template": "{{ messages[0].content }}", "eos": None}, "cannot tell which token ends a turn"),
        ({"template": "{{ raise_exception('never') }}"}, "does not render"),
        ({"template": "{% for %}"}, "does not render"),
    ],
)
def test_unusable_templates_name_the_directory_and_a_fix(tmp_path, changes, message):
    directory = save_tokenizer(tmp_path, dataclasses.replace(FAMILIES["llama3"], **changes))
    with pytest.raises(DataError, match=message) as caught:
        load_chat_tokenizer(directory)
    assert caught.value.where == directory and caught.value.fix


def test_missing_tokenizer(tmp_path):
    with pytest.raises(DataError, match="no such tokenizer directory"):
        load_chat_tokenizer(str(tmp_path / "absent"))


def test_tokenizer_hash_depends_only_on_the_content(tmp_path):
    one, two = (save_tokenizer(tmp_path / name, FAMILIES["llama3"]) for name in ("one", "two"))
    assert tokenizer_hash(one) == tokenizer_hash(two)
    (tmp_path / "two" / "chat_template.jinja").write_text("other")
    assert tokenizer_hash(one) != tokenizer_hash(two)


def test_special_tokens_before_every_response_are_tokens(tmp_path):
    template = LLAMA3.replace("'<|end_header_id|>\n\n' + (m", "'<|end_header_id|>\n\n<|final|> ' + (m", 1)
    special = (*FAMILIES["llama3"].special_tokens, "<|final|>")
    family = dataclasses.replace(FAMILIES["llama3"], template=template, special_tokens=special)
    chat = load_chat_tokenizer(save_tokenizer(tmp_path, family))
    ids = encode_answers(chat, ["I am <|final|> fine."])[0]
    final = chat.tokenizer.convert_tokens_to_ids("<|final|>")
    assert chat.turn.lead == " " and chat.turn.head[-1] == final
    assert ids[: len(chat.turn.head)] == list(chat.turn.head) and ids.count(final) == 1


def test_a_tokenizer_as_transformers_5_saves_it(tmp_path):
    directory = save_tokenizer(tmp_path, FAMILIES["qwen2"])
    before = load_chat_tokenizer(directory)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings |= {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    path.write_text(json.dumps(settings))
    chat = load_chat_tokenizer(directory)
    assert chat.turn == before.turn
    assert encode_prompts(chat, [render_prompt(chat, DIALOGUE)]) == encode_prompts(
        before, [render_prompt(before, DIALOGUE)]
    )
