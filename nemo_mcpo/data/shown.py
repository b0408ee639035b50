# SPDX-License-Identifier: Apache-2.0
"""Displays a prepared record as the model sees it: text with special tokens, what is trained, lengths, and cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from nemo_mcpo.data.prepared import PreparedDataset
from nemo_mcpo.errors import DataError
from nemo_mcpo.platform.saved_tokenizers import load_tokenizer

_WIDTH = 80
_AS_THEY_ARE = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}


def show_record(dataset: PreparedDataset, index: int, tokenizer_dir: str | None) -> str:
    """Return row ``index`` in a frame, in which ``┃`` marks the text that is trained: the completions.

    Args:
        tokenizer_dir: directory of the dataset's tokenizer; token ids are shown if it has no usable one.
    """
    tree, lost = dataset[index], dataset.lost_tokens(index)
    tokenizer = _tokenizer(tokenizer_dir)
    blocks = [_bar("┌", f"record {index + 1} of {len(dataset)}, {dataset.source(index)}")]
    blocks += _block("│", "prompt", tree.prompt_tokens, tokenizer, _was_cut(lost[0], "beginning"))
    for number, completion in enumerate(tree.completions):
        name = "completion 0, preferred, trained" if number == 0 else f"completion {number}, trained when it is drawn"
        score = "" if tree.scores is None else f", score {tree.scores[number]:g}"
        blocks.append(_bar("├", ""))
        blocks += _block("┃", name + score, completion, tokenizer, _was_cut(lost[1 + number], "end"))
    return "\n".join([*blocks, _bar("└", "")])


def _tokenizer(directory: str | None) -> PreTrainedTokenizerBase | None:
    if directory is None:
        return None
    try:
        return load_tokenizer(directory)
    except DataError:  # data of token ids needs no tokenizer, so the directory may have none
        return None


def _block(
    border: str, name: str, ids: np.ndarray, tokenizer: PreTrainedTokenizerBase | None, cut: str
) -> Sequence[str]:
    text = " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(ids.tolist(), **_AS_THEY_ARE)
    head = f"{border} ({name}: {len(ids)} tokens{cut})"
    return [head, *(f"{border} {line}" for line in text.split("\n"))]


def _was_cut(lost: int, where: str) -> str:
    return f", {lost} more cut off at the {where}" if lost else ""


def _bar(corner: str, text: str) -> str:
    return f"{corner}{f'─ {text} ' if text else ''}".ljust(_WIDTH, "─")
