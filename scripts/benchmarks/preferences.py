# SPDX-License-Identifier: Apache-2.0
"""A file of preferences to measure with where no real one is: lengths like those of Nectar, and something to learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

VOCABULARY = 2000
"""Different words; each becomes about one token of a tokenizer that is trained on the file."""
SPREAD = 0.5
"""Standard deviation of the lengths' logarithm."""


def write_preferences(path: Path, num_prompts: int, prompt_words: int, answer_words: int, seed: int = 0) -> Path:
    """``num_prompts`` lines of the format ``jsonl`` with seven ranked answers each.

    Lengths are log-normal around the given means. The better an answer is ranked, the more of its words are from the
    first half of the vocabulary.
    """
    random = np.random.default_rng(seed)
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    syllables = [first + second for first in consonants for second in vowels]
    words = [one + two for one in syllables for two in syllables][:VOCABULARY]

    def text(mean: int, share_of_first_half: float) -> str:
        count = max(4, int(random.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD)))
        first_half = random.random(count) < share_of_first_half
        places = random.integers(0, VOCABULARY // 2, count) + np.where(first_half, 0, VOCABULARY // 2)
        return " ".join(words[place] for place in places)

    with open(path, "w", encoding="utf-8") as file:
        for _ in range(num_prompts):
            responses = [{"text": text(answer_words, 0.8 - 0.1 * rank), "rank": rank + 1} for rank in range(7)]
            file.write(json.dumps({"prompt": text(prompt_words, 0.5), "responses": responses}) + "\n")
    return path
