# SPDX-License-Identifier: Apache-2.0
"""From a server's reply to a sample: the tokens that the policy drew, exactly, or the reason why they are not known.

    reply.tokens    a b c END x    ─▶  a b c, finished         the end-of-turn token, and what follows it, is left out
                    a b c OTHER    ─▶  a b c, not finished     another end token: the policy has not ended its turn
                    a b c          ─▶  a b c                   finished where the server stopped at the end of the turn
    reply.text      "red blue"     ─▶  encoded again, and the length compared with what the server counted

An answer that another end token ended is trained without any: the policy drew its tokens, and never the one that our
template writes after an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from nemo_mcpo.data.tokenization import ChatTokenizer, encode_answers
from nemo_mcpo.rollouts.client import RefusedError, Reply
from nemo_mcpo.rollouts.samples import Prompt, Sample, SampleKey

EMPTY = "an empty answer"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What reading an answer takes; threads may share it.

    Attributes:
        size: ids from this one on are no tokens.
        special: tokens that stand for no text, such as those that begin or end something.
        end_of_text: the token at which servers stop without naming it.
        lock: held while the tokenizer works.
    """

    chat: ChatTokenizer
    size: int
    special: frozenset[int]
    end_of_text: int | None
    lock: Lock


def vocabulary_of(chat: ChatTokenizer) -> Vocabulary:
    """The vocabulary of a policy."""
    tokenizer = chat.tokenizer
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {chat.end_of_turn, *tokenizer.all_special_ids}
    size = 1 + max(tokenizer.get_vocab().values())
    return Vocabulary(chat, size, frozenset(special), tokenizer.eos_token_id, Lock())


def sample_of(vocabulary: Vocabulary, key: SampleKey, prompt: Prompt, reply: Reply, max_tokens: int) -> Sample:
    """A sample without a problem, or one whose answer is empty.

    Raises:
        RefusedError: the reply cannot be an answer of the policy to this prompt.
    """
    problem = prompt_problem(prompt, reply) or length_problem(reply, max_tokens)
    if problem:
        raise RefusedError(problem)
    tokens: tuple[int, ...] | None
    if reply.tokens is None:
        text, finished = _own_text(vocabulary, reply)
        tokens, num_tokens = None, _num_tokens(vocabulary, text)
    else:
        tokens, finished = _own_tokens(vocabulary, reply)
        text = _text_of(vocabulary, tokens)
        _check_text((text, _text_of(vocabulary, reply.tokens)), reply.text)
        num_tokens = len(tokens)
    if not text:
        return Sample(key, "", 0, False, EMPTY)
    return Sample(key, text, num_tokens, finished, tokens=tokens, counted=None if tokens else reply.num_tokens)


def prompt_problem(prompt: Prompt, reply: Reply) -> str:
    """Why the server answered another prompt than training will see; nothing where it did not, or does not say."""
    wanted, got = prompt.tokens, reply.prompt_tokens
    number = len(got) if got is not None else reply.num_prompt_tokens
    if number is None or (number == len(wanted) and got in (None, wanted)):
        return ""
    what = f"the server answered a prompt of {number} tokens, the policy's own has {len(wanted)}"
    if got is not None:
        if len(got) > 1 and got[0] == got[1] and got[1:] == wanted:
            return f"{what}: it begins twice with token {got[0]}"
        same = next((n for n, (one, other) in enumerate(zip(got, wanted, strict=False)) if one != other), None)
        return what if same is None else f"{what}: token {same} is {got[same]} instead of {wanted[same]}"
    return f"{what}: another template or tokenizer, two beginning-of-text tokens, or one of us has cut it"


def length_problem(reply: Reply, max_tokens: int) -> str:
    """Why the limit of tokens cannot have been kept; nothing where it was, or where the server does not count."""
    number = reply.num_tokens if reply.tokens is None else len(reply.tokens)
    if number is None or number <= max_tokens + 1:  # a server may leave the token that ended the turn out of the limit
        return ""
    return f"the server generated {number} tokens where max_tokens is {max_tokens}"


def tokens_differ(samples: Sequence[Sample]) -> int:
    """Samples whose text, encoded again, has another number of tokens than the server generated.

    Servers count the token that ended the turn, or do not. Which of the two explains more samples is taken.

    >>> one = Sample(SampleKey(0, 0, 1.0, 0), "red blue", num_tokens=2, finished=True, counted=3)
    >>> tokens_differ([one])
    0
    """
    texts = [sample for sample in samples if sample.tokens is None and sample.counted is not None]
    return min(
        sum(sample.counted != sample.num_tokens + (sample.finished and ends) for sample in texts)
        for ends in (True, False)
    )


def _own_tokens(vocabulary: Vocabulary, reply: Reply) -> tuple[tuple[int, ...], bool]:
    """The answer's tokens, and whether the end-of-turn token followed."""
    ids, end = reply.tokens or (), vocabulary.chat.end_of_turn
    if unknown := [one for one in ids if one >= vocabulary.size]:
        raise RefusedError(f"token id {unknown[0]} is not in the policy's vocabulary of {vocabulary.size}")
    if end in ids:
        own, finished = ids[: ids.index(end)], True
    elif not reply.finished:
        own, finished = ids, False
    elif ids and (ids[-1] in vocabulary.special or ids[-1] == reply.ended_by):
        own, finished = ids[:-1], False
    else:
        own, finished = ids, _ended_turn(vocabulary, reply)
    if inside := [one for one in own if one in vocabulary.special]:
        raise RefusedError(f"the special token {_name(vocabulary, inside[0])!r} stands inside the answer")
    return own, finished


def _own_text(vocabulary: Vocabulary, reply: Reply) -> tuple[str, bool]:
    """The answer's text, and whether the policy ended its turn, as far as a server without ids tells."""
    text, mark = reply.text.strip(), _name(vocabulary, vocabulary.chat.end_of_turn)
    if reply.finished and text.endswith(mark):  # a server that shows special tokens
        return text.removesuffix(mark).strip(), True
    return text, reply.finished and _ended_turn(vocabulary, reply)


def _ended_turn(vocabulary: Vocabulary, reply: Reply) -> bool:
    """Whether a server that stopped, and left the token out at which it did, stopped at the end of the turn."""
    end = vocabulary.chat.end_of_turn
    if reply.ended_by is not None:
        return reply.ended_by in (end, _name(vocabulary, end))
    return reply.tokens is None or vocabulary.end_of_text in (None, end)


def _text_of(vocabulary: Vocabulary, tokens: Sequence[int]) -> str:
    """As judges and servers show it: without special tokens."""
    decode = vocabulary.chat.tokenizer.decode
    with vocabulary.lock:
        return decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


def _check_text(own: Sequence[str], servers: str) -> None:
    """The ids, with or without what ended the answer, are those of the text: of one tokenizer, and of one answer."""
    if servers and _letters(servers) not in map(_letters, own):
        what = "the token ids and the text of the reply differ: the server has another tokenizer"
        raise RefusedError(f"{what}; {own[-1][:40]!r}, {servers[:40]!r}")


def _letters(text: str) -> str:
    """What two ways to decode agree on: not the blanks, nor what they show for half a character."""
    return "".join(text.replace("\N{REPLACEMENT CHARACTER}", "").split())


def _num_tokens(vocabulary: Vocabulary, text: str) -> int:
    """Of a text encoded again, without the end of the turn."""
    if not text:
        return 0
    with vocabulary.lock:
        return len(encode_answers(vocabulary.chat, [text])[0]) - 1


def _name(vocabulary: Vocabulary, token: int) -> str:
    return str(vocabulary.chat.tokenizer.convert_ids_to_tokens(token))
