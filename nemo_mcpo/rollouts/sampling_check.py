# SPDX-License-Identifier: Apache-2.0
"""Whether what a server draws is drawn from the policy, found out before it is trusted with a night's work.

    prompt     the server answers the prompt that training sees
    length     max_tokens is kept, and an answer that it cut is not called finished
    T = 0      gives the same answer again, and T → 0 gives that answer: the temperature is followed
    T = 2      gives different answers to different seeds
    T = 100    gives nearly every token alike: many one-token draws repeat each other only if a top_k that nobody asked
               for, from a generation_config.json or from the server's defaults, leaves few

On a GPU two greedy answers can differ where two tokens are nearly equally good, since a request that finds its prompt
in the cache is computed in another order. So two of several draws have to agree, not all of them.

A server that refuses T = 100 is not checked for a top_k: vLLM 0.32 takes at most 2, and the ``top_k`` of the requests.
Penalties for repetition and a min_p that nobody asked for cannot be seen this way: the requests and the exported
directory say that there are none, where a server listens to either.
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
"""Temperatures at which answers of 48 tokens differ unless the policy is certain of each token, and at which nearly
all tokens are equally likely."""
COLD = (0.01, 0.01, 0.001, 0.001, 1e-4, 1e-4, 1e-4, 1e-4)
"""Nearly greedy ones, tried until an answer is the greedy one. A policy without training, whose tokens are all nearly
equally good, is greedy at the last of them only."""
TOKENS, DRAWS, ATTEMPTS = 48, 4, 4
FLAT_DRAWS, MAX_REPEATS, MIN_VOCABULARY = 64, 20, 1000
"""64 draws make 2,016 pairs. Of 50 tokens, transformers' default top_k, 40 pairs are alike on average; of 1,000, 2."""

Content = tuple[int, ...] | str


def check_sampling(serving: Serving, ask: Ask, prompt: Prompt, vocabulary_size: int) -> None:
    """Raise RolloutError where a server's samples are not the policy's."""
    request = partial(_problem, model=serving.model, ask=ask, prompt=prompt, vocabulary_size=vocabulary_size)
    for url, (what, got, fix) in serving.pool.each(request):
        if what:
            raise RolloutError(what, where=url, got=got, fix=fix)


def _problem(
    client: openai.OpenAI, model: str, ask: Ask, prompt: Prompt, vocabulary_size: int
) -> tuple[str, str, str]:
    """What is wrong with a server, what it said, and the fix; nothing where all is well."""

    def answer(temperature: float, seed: int, max_tokens: int = TOKENS) -> Reply:
        return ask(client, model, prompt, **draw(temperature, seed, max_tokens))

    first = answer(0.0, 1)
    if what := prompt_problem(prompt, first):
        return "the server answers another prompt", what, "serve the exported directory, with its chat template"
    if problem := _length_problem(first, answer(0.0, 1, 1)):
        return problem, repr(first.text[:60]), "use a server that keeps max_tokens and says finish_reason=length"
    greedy = [_content(first)]
    while len(greedy) < ATTEMPTS and len(set(greedy)) == len(greedy):
        greedy.append(_content(answer(0.0, 1 + len(greedy))))
    hot = [_content(answer(HOT, seed)) for seed in range(1, DRAWS + 1)]
    if len(set(hot)) == 1:
        what = "every temperature and seed gives the greedy answer" if hot[0] in greedy else "it ignores the seed"
        fix = 'write "do_sample": true into the generation_config.json of the served directory'
        return f"the server does not sample: {what}", repr(hot[0][:60]), fix
    fix = "use a server that follows the temperature of each request"
    if len(set(greedy)) == len(greedy):
        got = f"{len(greedy)} different answers at temperature 0"
        return "the server ignores the temperature", got, fix
    if not any(_content(answer(cold, seed)) in greedy for seed, cold in enumerate(COLD, start=11)):
        got = f"{len(COLD)} answers at temperatures from {COLD[0]} to {COLD[-1]}, none of them the greedy one"
        return "the server does not follow the temperature", got, fix
    repeats = _repeats(client, partial(ask, model=model, prompt=prompt)) if vocabulary_size >= MIN_VOCABULARY else 0
    if repeats > MAX_REPEATS:
        got = f"{repeats} pairs of {FLAT_DRAWS} tokens drawn at temperature {FLAT:.0f} are alike"
        fix = "take top_k, top_p and min_p out of generation_config.json and out of the server's options"
        return "the server draws from few tokens only", got, fix
    return "", "", ""


def _length_problem(reply: Reply, one_token: Reply) -> str:
    """What is wrong with how the server ends an answer, where it says how many tokens it generated."""
    if (problem := length_problem(reply, TOKENS)) or (problem := length_problem(one_token, 1)):
        return problem
    number = one_token.num_tokens if one_token.tokens is None else len(one_token.tokens)
    if number == 1 and one_token.finished and one_token.ended_by is None and one_token.text.strip():
        return "the server calls an answer finished that max_tokens has cut"
    return ""


def _repeats(client: openai.OpenAI, request: Ask) -> int:
    """Pairs of equal tokens among one-token draws at the flat temperature; 0 where a server refuses it."""
    found = []
    for seed in range(1, FLAT_DRAWS + 1):
        try:
            reply = send(partial(request, **draw(FLAT, seed, 1)), client)
        except RefusedError:
            return 0
        found.append(_content(reply))
    return equal_pairs(found)


def equal_pairs(drawn: Iterable[Content]) -> int:
    """Pairs of equal draws; text that stands for no token, or for one of many, is left out.

    >>> equal_pairs(["a", "a", "a", "b", "b", "", ""])
    4
    """
    numbers = Counter(one for one in drawn if one and "\N{REPLACEMENT CHARACTER}" not in one)
    return sum(number * (number - 1) // 2 for number in numbers.values())


def _content(reply: Reply) -> Content:
    """What was drawn."""
    return reply.text if reply.tokens is None else reply.tokens
