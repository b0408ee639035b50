# SPDX-License-Identifier: Apache-2.0
"""The prompts that a segment of an online run answers, and the data it trains on.

Prompts are ordered as in an offline run on the same file. Each segment takes those that its own steps consume, and
trains on the answers of the policy it started from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nemo_mcpo.algorithms.run_data import (
    OpenData,
    RunData,
    check_batch,
    check_budgets,
    num_training_steps,
    open_dataset,
    warn_of_few_candidates,
)
from nemo_mcpo.algorithms.segments import Segment, SegmentFiles, split_steps
from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.config.schema import Data
from nemo_mcpo.data.order import PromptStream
from nemo_mcpo.data.prepared import PreparedDataset
from nemo_mcpo.data.prompts import read_conversations
from nemo_mcpo.errors import RolloutError
from nemo_mcpo.models.pretrained import Pretrained
from nemo_mcpo.records import PromptTree
from nemo_mcpo.rollouts.samples import Prompt
from nemo_mcpo.sampling import check_chain


class SegmentTrees:
    """The ``negatives.Trees`` of a segment's answers, indexed by the numbers of their prompts in the run.

    Args:
        answers: rows in the order of ``prompts``.
        prompts: numbers of the segment's prompts.
        num_prompts: number of prompts in the run.
    """

    def __init__(self, answers: PreparedDataset, prompts: Sequence[int], num_prompts: int) -> None:
        self._answers, self._num_prompts = answers, num_prompts
        self._rows = {prompt: row for row, prompt in enumerate(prompts)}

    def __len__(self) -> int:
        return self._num_prompts

    def __getitem__(self, index: int) -> PromptTree:
        return self._answers[self._rows[index]]

    def source(self, index: int) -> str:
        return self._answers.source(index)


def open_prompts(config: OnlineRunConfig, pretrained: Pretrained) -> PreparedDataset:
    """Open the prompts of ``model.data.train``, ignoring any responses."""
    prompts = open_dataset(config, pretrained, config.model.data.train, min_answers=0, drop_ranks=())
    check_batch(config, prompts)
    return prompts


def segment_of(config: OnlineRunConfig, prompts: PreparedDataset, number: int) -> Segment:
    """The ``number``-th segment of the run."""
    return split_steps(num_training_steps(config, len(prompts)), config.onmcpo.segments)[number]


def prompts_of(config: OnlineRunConfig, prompts: PreparedDataset, segment: Segment) -> list[int]:
    """Rows of ``prompts`` that the segment's steps consume, each once, in order of first use."""
    order = PromptStream(len(prompts), config.model.seed, config.model.data.shuffle)
    size = config.model.global_batch_size
    places = order.take(segment.first_step * size, (segment.last_step - segment.first_step) * size)
    return list(dict.fromkeys(index for _, index in places))


def read_prompts(
    prompts: PreparedDataset, rows: Sequence[int], path: str, data: Data, *, with_text: bool
) -> list[tuple[int, Prompt]]:
    """Ids and prompts of some rows; with ``with_text``, also their conversations, read from the file at ``path``."""
    sources = {row: prompts.source(row) for row in rows}
    conversations = read_conversations(path, data.format, sources.values(), data.ignored_keys) if with_text else {}
    trees = [prompts[row] for row in rows]
    return [
        (tree.prompt_id, Prompt(tuple(tree.prompt_tokens.tolist()), conversations.get(sources[row], ())))
        for row, tree in zip(rows, trees, strict=True)
    ]


def segment_data(number: int, files: SegmentFiles) -> OpenData:
    """The function with which the training of a segment opens its data."""

    def open_data(config: OnlineRunConfig, pretrained: Pretrained) -> RunData:
        prompts = open_prompts(config, pretrained)
        segment = segment_of(config, prompts, number)
        rows = prompts_of(config, prompts, segment)
        answers = open_dataset(
            config,
            pretrained,
            str(files.ranked),
            data_format="tokens",
            tokenizer_dir=None,
            drop_ranks=(),
            keep_repeated=True,
        )
        _check_same_prompts(prompts, rows, answers, files)
        # Not check_candidates: a fully trained policy may give answers without any candidate, which is not an error.
        check_chain(config.model.mcpo.chain_steps, config.model.mcpo.chain_candidates, config.num_samples - 1)
        warn_of_few_candidates(config, answers)
        check_budgets(config, answers)
        return RunData(
            trees=SegmentTrees(answers, rows, len(prompts)),
            dataset=answers,
            used=range(len(answers)),
            fingerprint=prompts.fingerprint,
            num_steps=num_training_steps(config, len(prompts)),
            first_step=segment.first_step,
            last_step=segment.last_step,
        )

    return open_data


def _check_same_prompts(
    prompts: PreparedDataset, rows: Sequence[int], answers: PreparedDataset, files: SegmentFiles
) -> None:
    """Raise RolloutError unless the ranked answers have one line for each of these prompts, in order."""
    same = len(rows) == len(answers) and all(
        np.array_equal(prompts[index].prompt_tokens, answers[row].prompt_tokens) for row, index in enumerate(rows)
    )
    if not same:
        raise RolloutError(
            "the ranked answers do not belong to the prompts of this segment",
            where=str(files.ranked),
            got=f"{len(answers)} prompts",
            expected=f"{len(rows)} prompts in training order",
            fix="delete the segment's ranked.jsonl and judge.json, so that it is judged again",
        )
