# SPDX-License-Identifier: Apache-2.0
"""Win rate: two policies answer the same held-out prompts, and a judge decides which answer is better.

A tie counts half. The judge sees each pair in random order, or in both orders with ``judge.both_orders``. All work is
saved in the output directory as it is done, so an interrupted call can be continued:

    answers/policy/, answers/baseline/   sample stores (``rollouts.store``)
    verdicts/                            of a judge known by its name only; other judges share a cache
    win_rate.json                        the result
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from nemo_mcpo.algorithms.online_stages import build_judge, sample_policy
from nemo_mcpo.algorithms.run_data import open_dataset
from nemo_mcpo.algorithms.segment_data import read_prompts
from nemo_mcpo.algorithms.validation import num_validation_prompts
from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.errors import ConfigError, RolloutError
from nemo_mcpo.evaluation.intervals import Interval, rate_interval
from nemo_mcpo.judging.judgement import Judgement
from nemo_mcpo.judging.rank import rank_answers
from nemo_mcpo.judging.tally import Tally, tally, tally_text
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.rollouts.generate import Plan
from nemo_mcpo.rollouts.samples import Prompt, Sample
from nemo_mcpo.rollouts.store import read_complete
from nemo_mcpo.storage.atomic import write_json


@dataclass(frozen=True, slots=True)
class WinRate:
    """Result for the first policy.

    Attributes:
        win_rate: with its 95 % interval; a tie counts half.
        ties: comparisons without a winner, and pairs of equal answers.
        failures: pairs that lack a verdict (in either order, if both are judged); they are not counted.
        unanswered: prompts to which one of the policies has no answer; they are not counted.
        policy_tokens, baseline_tokens: mean length of an answer, in tokens.
        policy_unfinished, baseline_unfinished: answers that ``rollouts.max_tokens`` cut; they are judged as they are.
        judge: statistics of the judge.
    """

    win_rate: Interval
    wins: int
    ties: int
    losses: int
    failures: int
    unanswered: int
    policy_tokens: float
    baseline_tokens: float
    policy_unfinished: int
    baseline_unfinished: int
    judge: Tally


def compare_policies(config: OnlineRunConfig, policy: Path, baseline: Path, out: Path) -> WinRate:
    """Compare two Hugging Face directories on ``model.data.validation`` at the first of ``rollouts.temperatures``.

    Raises:
        ConfigError: there are no validation prompts.
        RolloutError: too many answers or verdicts are missing, or the judge prefers one position.
    """
    fingerprint, prompts = _held_out_prompts(config, policy)
    ours = _answers(config, policy, prompts, fingerprint, out / "answers" / "policy")
    theirs = _answers(config, baseline, prompts, fingerprint, out / "answers" / "baseline")
    pairs = {number: (ours[number], theirs[number]) for number in prompts if number in ours and number in theirs}
    different = [number for number, pair in pairs.items() if pair[0].text != pair[1].text]
    with closing(build_judge(config, out / "verdicts", out / "logs" / "judge")) as judge:
        found = rank_answers(judge, [prompts[n] for n in different], [pairs[n] for n in different], progress=True)
    result = count_outcomes(found, list(pairs.values()), len(prompts))
    models = {"policy": str(policy), "baseline": str(baseline), "both_orders": config.judge.both_orders}
    write_json(out / "win_rate.json", models | asdict(result))
    return result


def count_outcomes(
    judgements: Sequence[Judgement | None], pairs: Sequence[tuple[Sample, Sample]], num_prompts: int
) -> WinRate:
    """Count the outcomes of ``pairs`` (the policy's answer first); ``judgements`` are those of unequal pairs."""
    total = tally(judgements)
    known = [judgement for judgement in judgements if judgement is not None]
    decided = [judgement for judgement in known if not judgement.failures]
    wins = sum(judgement.order == (0, 1) for judgement in decided)
    losses = sum(judgement.order == (1, 0) for judgement in decided)
    counted = len(decided) + len(pairs) - len(judgements)
    if counted == 0:
        raise RolloutError(
            "no prompt has both answers and a verdict",
            where="model.data.validation",
            got=f"{num_prompts} prompts, {len(pairs)} answered by both policies",
            fix="check the logs of the servers, or of the engine",
        )
    ties = counted - wins - losses
    return WinRate(
        win_rate=rate_interval(wins + ties / 2, counted),
        wins=wins,
        ties=ties,
        losses=losses,
        failures=len(known) - len(decided),
        unanswered=num_prompts - len(pairs),
        policy_tokens=fmean(pair[0].num_tokens for pair in pairs),
        baseline_tokens=fmean(pair[1].num_tokens for pair in pairs),
        policy_unfinished=sum(not pair[0].finished for pair in pairs),
        baseline_unfinished=sum(not pair[1].finished for pair in pairs),
        judge=total,
    )


def _held_out_prompts(config: OnlineRunConfig, policy: Path) -> tuple[str, dict[int, Prompt]]:
    """The fingerprint of the prompts, and the prompts by id, limited by ``trainer.mcpo.limit_val_batches``."""
    path = config.model.data.validation
    if path is None:
        raise ConfigError("no held-out prompts", where="model.data.validation", fix="set it to a file")
    pretrained = open_pretrained(str(policy), config.model.data.cache_dir)
    prompts = open_dataset(config, pretrained, path, min_answers=0, drop_ranks=())
    rows = range(num_validation_prompts(config, len(prompts)))
    found = read_prompts(prompts, rows, path, config.model.data, with_text=True)
    return prompts.fingerprint, dict(found)


def _answers(
    config: OnlineRunConfig, directory: Path, prompts: Mapping[int, Prompt], fingerprint: str, store: Path
) -> dict[int, Sample]:
    """One answer per prompt, by prompt id."""
    plan = Plan(0, (config.rollouts.temperatures[0],), 1, 0)
    sample_policy(config, directory, prompts, fingerprint, plan, store, store.parent.parent / "logs" / store.name)
    return {sample.key.prompt_id: sample for sample in read_complete(store)}


def win_rate_line(result: WinRate) -> str:
    """The result in one line for the user."""
    rate = result.win_rate
    return (
        f"win rate {rate.mean:.1%} ({rate.low:.1%}–{rate.high:.1%}): {result.wins} won, {result.ties} ties, "
        f"{result.losses} lost, {result.failures} without a verdict, {result.unanswered} without an answer; "
        f"{result.policy_tokens:.0f} against {result.baseline_tokens:.0f} tokens per answer, "
        f"{result.policy_unfinished} against {result.baseline_unfinished} answers truncated; "
        f"judge: {tally_text(result.judge)}"
    )
