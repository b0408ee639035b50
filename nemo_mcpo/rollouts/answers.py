# SPDX-License-Identifier: Apache-2.0
"""From a server's reply to a sample: exactly the tokens that the policy drew, or why they are unknown.

    reply.tokens    a b c END x    ─▶  a b c, finished         the end-of-turn token and what follows it are dropped
                    a b c OTHER    ─▶  a b c, not finished     another end token: the policy did not end its turn
                    a b c          ─▶  a b c                   finished if the server stopped at the end of the turn
    reply.text      "red blue"     ─▶  encoded again; its length is compared with the server's count

An answer ended by another end token is trained without an end token, since the policy never drew the one that our
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
    """The vocabulary of a policy, for reading replies; thread-safe.

    Attributes:
        size: ids of this size and above are not tokens.
        special: tokens that stand for no text, such as those that begin or end a turn.
        end_of_text: the token at which servers stop without reporting it.
        lock: held while the tokenizer is used.
    """

    chat: ChatTokenizer
    size: int
    special: frozenset[int]
    end_of_text: int | None
    lock: Lock


def vocabulary_of(chat: ChatTokenizer) -> Vocabulary:
    """Build the vocabulary of a policy from its tokenizer."""
    tokenizer = chat.tokenizer
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {chat.end_of_turn, *tokenizer.all_special_ids}
    size = 1 + max(tokenizer.get_vocab().values())
    return Vocabulary(chat, size, frozenset(special), tokenizer.eos_token_id, Lock())


def sample_of(vocabulary: Vocabulary, key: SampleKey, prompt: Prompt, reply: Reply, max_tokens: int) -> Sample:
    """Turn a reply into a sample, which has a problem only if its answer is empty.

    Raises:
        RefusedError: the reply cannot be the policy's answer to this prompt.
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
    """Why the server's prompt differs from the one that training sees; empty if it does not, or if it is unknown."""
    wanted, got = prompt.tokens, reply.prompt_tokens
    number = len(got) if got is not None else reply.num_prompt_tokens
    if number is None or (number == len(wanted) and got in (None, wanted)):
        return ""
    what = f"the server's prompt has {number} tokens, the policy's has {len(wanted)}"
    if got is not None:
        if len(got) > 1 and got[0] == got[1] and got[1:] == wanted:
            return f"{what}: it begins with token {got[0]} twice"
        same = next((n for n, (one, other) in enumerate(zip(got, wanted, strict=False)) if one != other), None)
        return what if same is None else f"{what}: token {same} is {got[same]} instead of {wanted[same]}"
    return f"{what}: different template or tokenizer, a second beginning-of-text token, or a truncated prompt"


def length_problem(reply: Reply, max_tokens: int) -> str:
    """Why the reply violates ``max_tokens``; empty if it does not, or if the server does not count tokens."""
    number = reply.num_tokens if reply.tokens is None else len(reply.tokens)
    if number is None or number <= max_tokens + 1:  # a server may exclude the end-of-turn token from the limit
        return ""
    return f"the server generated {number} tokens, but max_tokens is {max_tokens}"


def tokens_differ(samples: Sequence[Sample]) -> int:
    """The number of samples whose text, encoded again, differs in length from the server's count.

    Some servers count the end-of-turn token, others do not; the convention that explains more samples is assumed.

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
    """The answer's tokens, and whether the end-of-turn token followed them."""
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
        raise RefusedError(f"the answer contains the special token {_name(vocabulary, inside[0])!r}")
    return own, finished


def _own_text(vocabulary: Vocabulary, reply: Reply) -> tuple[str, bool]:
    """The answer's text, and whether the policy ended its turn, for a server that returns no ids."""
    text, mark = reply.text.strip(), _name(vocabulary, vocabulary.chat.end_of_turn)
    if reply.finished and text.endswith(mark):  # a server that shows special tokens
        return text.removesuffix(mark).strip(), True
    return text, reply.finished and _ended_turn(vocabulary, reply)


def _ended_turn(vocabulary: Vocabulary, reply: Reply) -> bool:
    """Whether a server that stopped without returning the stop token stopped at the end of the turn."""
    end = vocabulary.chat.end_of_turn
    if reply.ended_by is not None:
        return reply.ended_by in (end, _name(vocabulary, end))
    return reply.tokens is None or vocabulary.end_of_text in (None, end)


def _text_of(vocabulary: Vocabulary, tokens: Sequence[int]) -> str:
    """The text of tokens as judges and servers show it, without special tokens."""
    decode = vocabulary.chat.tokenizer.decode
    with vocabulary.lock:
        return decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


def _check_text(own: Sequence[str], servers: str) -> None:
    """Raise RefusedError unless the ids, with or without the end token, decode to the reply's text."""
    if servers and _letters(servers) not in map(_letters, own):
        what = "the token ids and the text of the reply differ: the server uses a different tokenizer"
        raise RefusedError(f"{what}; {own[-1][:40]!r}, {servers[:40]!r}")


def _letters(text: str) -> str:
    """The characters on which two decoders agree: no white space, and no replacements of partial characters."""
    return "".join(text.replace("\N{REPLACEMENT CHARACTER}", "").split())


def _num_tokens(vocabulary: Vocabulary, text: str) -> int:
    """Number of tokens of a text, without the end-of-turn token."""
    if not text:
        return 0
    with vocabulary.lock:
        return len(encode_answers(vocabulary.chat, [text])[0]) - 1


def _name(vocabulary: Vocabulary, token: int) -> str:
    return str(vocabulary.chat.tokenizer.convert_ids_to_tokens(token))
