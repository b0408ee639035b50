# SPDX-License-Identifier: Apache-2.0
"""Checks that a server samples from the policy, before a whole run depends on it.

    prompt     the server answers the prompt that training sees
    length     max_tokens is respected, and an answer that it cut is not reported as finished
    T = 0      gives the same answer twice, and T → 0 gives that answer, so the temperature is respected
    T = 2      gives different answers for different seeds
    T = 100    makes nearly all tokens equally likely: many one-token draws coincide only if a top_k that was not
               requested, from generation_config.json or the server's defaults, leaves few tokens

On a GPU, greedy answers can differ where two tokens are almost equally likely, since a request that finds its prompt
in the cache is computed in a different order. So only two of several draws have to agree.

A server that refuses T = 100 is not checked for a top_k; vLLM 0.32 accepts at most 2, but follows the ``top_k`` of
requests. A repetition penalty or min_p that was not requested cannot be detected this way; requests and the exported
directory disable them, for servers that read either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial

import openai

from nemo_mcpo.errors import RolloutError
from nemo_mcpo.rollouts.answers import length_problem, prompt_problem
from nemo_mcpo.rollouts.client import RefusedError, Reply, send
from nemo_mcpo.rollouts.probe import Ask, draw
from nemo_mcpo.rollouts.samples import Prompt
from nemo_mcpo.rollouts.serving import Serving

HOT, FLAT = 2.0, 100.0
"""Temperatures at which answers of 48 tokens differ unless the policy is certain of every token, and at which nearly
all tokens are equally likely."""
COLD = (0.01, 0.01, 0.001, 0.001, 1e-4, 1e-4, 1e-4, 1e-4)
"""Nearly greedy temperatures, tried until an answer is the greedy one. An untrained policy, for which all tokens are
almost equally likely, is greedy only at the last of them."""
TOKENS, DRAWS, ATTEMPTS = 48, 4, 4
FLAT_DRAWS, MAX_REPEATS, MIN_VOCABULARY = 64, 20, 1000
"""64 draws make 2,016 pairs. On average, 40 pairs are equal with 50 tokens (transformers' default top_k), and 2 with
1,000 tokens."""

Content = tuple[int, ...] | str


def check_sampling(serving: Serving, ask: Ask, prompt: Prompt, vocabulary_size: int) -> None:
    """Raise RolloutError if a server's samples do not come from the policy."""
    request = partial(_problem, model=serving.model, ask=ask, prompt=prompt, vocabulary_size=vocabulary_size)
    for url, (what, got, fix) in serving.pool.each(request):
        if what:
            raise RolloutError(what, where=url, got=got, fix=fix)


def _problem(
    client: openai.OpenAI, model: str, ask: Ask, prompt: Prompt, vocabulary_size: int
) -> tuple[str, str, str]:
    """What is wrong with a server, the evidence, and the fix; empty if nothing is wrong."""

    def answer(temperature: float, seed: int, max_tokens: int = TOKENS) -> Reply:
        return ask(client, model, prompt, **draw(temperature, seed, max_tokens))

    first = answer(0.0, 1)
    if what := prompt_problem(prompt, first):
        return "the server answers a different prompt", what, "serve the exported directory with its chat template"
    if problem := _length_problem(first, answer(0.0, 1, 1)):
        return problem, repr(first.text[:60]), "use a server that respects max_tokens and sets finish_reason=length"
    greedy = [_content(first)]
    while len(greedy) < ATTEMPTS and len(set(greedy)) == len(greedy):
        greedy.append(_content(answer(0.0, 1 + len(greedy))))
    hot = [_content(answer(HOT, seed)) for seed in range(1, DRAWS + 1)]
    if len(set(hot)) == 1:
        what = "every temperature and seed gives the greedy answer" if hot[0] in greedy else "it ignores the seed"
        fix = 'set "do_sample": true in generation_config.json of the served directory'
        return f"the server does not sample: {what}", repr(hot[0][:60]), fix
    fix = "use a server that respects the temperature of each request"
    if len(set(greedy)) == len(greedy):
        got = f"{len(greedy)} different answers at temperature 0"
        return "the server ignores the temperature", got, fix
    if not any(_content(answer(cold, seed)) in greedy for seed, cold in enumerate(COLD, start=11)):
        got = f"{len(COLD)} answers at temperatures from {COLD[0]} to {COLD[-1]}, none of them the greedy one"
        return "the server does not respect the temperature", got, fix
    repeats = _repeats(client, partial(ask, model=model, prompt=prompt)) if vocabulary_size >= MIN_VOCABULARY else 0
    if repeats > MAX_REPEATS:
        got = f"{repeats} equal pairs among {FLAT_DRAWS} tokens drawn at temperature {FLAT:.0f}"
        fix = "remove top_k, top_p and min_p from generation_config.json and from the server's options"
        return "the server samples from few tokens only", got, fix
    return "", "", ""


def _length_problem(reply: Reply, one_token: Reply) -> str:
    """What is wrong with how the server ends an answer, as far as its token counts show."""
    if (problem := length_problem(reply, TOKENS)) or (problem := length_problem(one_token, 1)):
        return problem
    number = one_token.num_tokens if one_token.tokens is None else len(one_token.tokens)
    if number == 1 and one_token.finished and one_token.ended_by is None and one_token.text.strip():
        return "the server reports an answer as finished that max_tokens has cut"
    return ""


def _repeats(client: openai.OpenAI, request: Ask) -> int:
    """Pairs of equal tokens among one-token draws at temperature ``FLAT``; 0 if a server refuses it."""
    found = []
    for seed in range(1, FLAT_DRAWS + 1):
        try:
            reply = send(partial(request, **draw(FLAT, seed, 1)), client)
        except RefusedError:
            return 0
        found.append(_content(reply))
    return equal_pairs(found)


def equal_pairs(drawn: Iterable[Content]) -> int:
    """Count pairs of equal draws, ignoring text that does not identify a single token.

    >>> equal_pairs(["a", "a", "a", "b", "b", "", ""])
    4
    """
    numbers = Counter(one for one in drawn if one and "\N{REPLACEMENT CHARACTER}" not in one)
    return sum(number * (number - 1) // 2 for number in numbers.values())


def _content(reply: Reply) -> Content:
    """What was drawn."""
    return reply.text if reply.tokens is None else reply.tokens
