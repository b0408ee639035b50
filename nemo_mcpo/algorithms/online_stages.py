# SPDX-License-Identifier: Apache-2.0
"""The stages of a segment, each a function of the run and the segment number, safe to kill and run again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from nemo_mcpo.algorithms.configuration import initial_model
from nemo_mcpo.algorithms.onmcpo import STAGES, Exported, Finished, OnlineRun
from nemo_mcpo.algorithms.segment_data import open_prompts, prompts_of, read_prompts, segment_data, segment_of
from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.data.tokenization import load_chat_tokenizer
from nemo_mcpo.errors import CheckpointError, RolloutError
from nemo_mcpo.judging.judgement import Judge
from nemo_mcpo.judging.judges import JUDGES
from nemo_mcpo.judging.rank import rank_answers, write_ranked
from nemo_mcpo.judging.tally import Ranked
from nemo_mcpo.models.checkpoint_files import newest_checkpoint, saved_step
from nemo_mcpo.models.huggingface.checkpoint import hash_weights
from nemo_mcpo.models.pretrained import open_pretrained
from nemo_mcpo.platform.stopping import StopRequest
from nemo_mcpo.records import Trained
from nemo_mcpo.rollouts.engines import ENGINES
from nemo_mcpo.rollouts.generate import Plan, generate_samples
from nemo_mcpo.rollouts.samples import Generated, Prompt, Sample, Sampling
from nemo_mcpo.rollouts.store import SampleStore, read_complete, read_manifest
from nemo_mcpo.variant import bind

PROMPTS = "prompts"
"""Name of the prompts' fingerprint in a manifest of samples."""


def run_stage(config: OnlineRunConfig, segment: int, stage: str, stop: StopRequest) -> Finished:
    """Run one stage of one segment unless it is finished; every process of the launch must call this."""
    run = OnlineRun(config)
    if STAGES[stage].launch != "all":  # these save every piece of work as it finishes
        stop.leave_at_once()
    return run.run(segment, stage, lambda: WORK[stage](run, segment, stop))


def export_policy(run: OnlineRun, segment: int, stop: StopRequest) -> Exported:
    """Export the weights at the segment's start: the initial model's, or those at the end of the previous segment.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    from nemo_mcpo.models.export_checkpoint import export_pretrained

    source = initial_model(run.config)
    if segment:
        first_step = segment_of(run.config, open_prompts(run.config, source), segment).first_step
        newest = newest_checkpoint(run.directory)
        if newest is None or saved_step(newest) != first_step:
            raise CheckpointError(
                f"the checkpoint that segment {segment} starts from is missing",
                where=str(run.directory / "checkpoints"),
                got=newest and f"newest complete checkpoint at step {saved_step(newest)}",
                expected=f"a checkpoint at step {first_step}",
                fix=f"restore it, or delete segments/{segment - 1}/train.json to train its last steps again",
            )
        source = open_pretrained(str(newest), run.config.model.data.cache_dir)
    export_pretrained(source, run.files(segment).policy)
    return Exported()


def generate_answers(run: OnlineRun, segment: int, stop: StopRequest) -> Generated:
    """Sample answers from the segment's policy."""
    rollouts, files = run.config.rollouts, run.files(segment)
    fingerprint, prompts = segment_prompts(run, segment, with_text=ENGINES[rollouts.engine.name].needs_text)
    plan = Plan(segment, tuple(rollouts.temperatures), rollouts.samples, rollouts.redraws)
    logs = files.logs / "generate"
    generated = sample_policy(run.config, files.policy, dict(prompts), fingerprint, plan, files.samples, logs)
    return replace(generated, prompts=len(prompts))  # a prompt that occurs twice in the data counts twice


def sample_policy(
    config: OnlineRunConfig,
    policy: Path,
    prompts: Mapping[int, Prompt],
    fingerprint: str,
    plan: Plan,
    store: Path,
    logs: Path,
) -> Generated:
    """Complete a store of a policy's answers, whose manifest says what they are made from.

    Args:
        prompts, fingerprint: prompts by id, and the fingerprint of their data.
        logs: where servers that the engine starts log.
    """
    rollouts = config.rollouts
    sampling = Sampling(rollouts.max_tokens, rollouts.top_p, config.model.seed)
    drawn = {"plan": asdict(plan), "sampling": asdict(sampling)}
    samples = SampleStore(store, {"policy": hash_weights(policy), PROMPTS: fingerprint, **drawn})
    build = bind(ENGINES[rollouts.engine.name].build, rollouts.engine.parameters, "rollouts.engine")
    with closing(build(str(policy), rollouts, sampling, logs)) as engine:
        return generate_samples(engine, samples, prompts, plan, progress=True)


def judge_answers(run: OnlineRun, segment: int, stop: StopRequest) -> Ranked:
    """Write the segment's training data: its samples, best first."""
    files = run.files(segment)
    fingerprint, prompts = segment_prompts(run, segment, with_text=True)
    _check_prompts(files.samples, fingerprint)
    answers: dict[int, list[Sample]] = defaultdict(list)
    for sample in read_complete(files.samples):
        answers[sample.key.prompt_id].append(sample)
    different = dict(prompts)  # a prompt that occurs twice in the data is judged once
    grouped = [answers[prompt_id] for prompt_id in different]
    with closing(build_judge(run.config, run.directory / "verdicts", files.logs / "judge")) as judge:
        found = rank_answers(judge, list(different.values()), grouped, progress=True)
    judgements = dict(zip(different, found, strict=True))
    return write_ranked(
        files.ranked,
        load_chat_tokenizer(str(files.policy)),
        [prompt for _, prompt in prompts],
        [answers[prompt_id] for prompt_id, _ in prompts],
        [judgements[prompt_id] for prompt_id, _ in prompts],
        gives_scores=JUDGES[run.config.judge.kind.name].gives_scores,
    )


def train_segment(run: OnlineRun, segment: int, stop: StopRequest) -> Trained:
    """Train the segment's steps."""
    from nemo_mcpo.algorithms.run import run_mcpo

    return run_mcpo(run.config, initial_model(run.config), stop, segment_data(segment, run.files(segment)))


WORK: dict[str, Callable[[OnlineRun, int, StopRequest], object]] = {
    "export": export_policy,
    "generate": generate_answers,
    "judge": judge_answers,
    "train": train_segment,
}
"""The function of each stage in ``onmcpo.STAGES``; it returns the record named there."""


def segment_prompts(run: OnlineRun, segment: int, *, with_text: bool) -> tuple[str, list[tuple[int, Prompt]]]:
    """The fingerprint of the run's prompts, and the ids and prompts that the segment consumes, in order of use."""
    config = run.config
    prompts = open_prompts(config, initial_model(config))
    rows = prompts_of(config, prompts, segment_of(config, prompts, segment))
    return prompts.fingerprint, read_prompts(
        prompts, rows, config.model.data.train, config.model.data, with_text=with_text
    )


def _check_prompts(samples: Path, fingerprint: str) -> None:
    """Raise RolloutError if the samples do not answer the prompts of this configuration."""
    known = read_manifest(samples).get(PROMPTS)
    if known != fingerprint:
        raise RolloutError(
            "the samples answer different prompts",
            where=str(samples),
            got=fingerprint,
            expected=known,
            fix="restore model.data.train and the keys that affect its tokens, or start a new run",
        )


def build_judge(config: OnlineRunConfig, own_verdicts: Path, logs: Path) -> Judge:
    """Build the judge that ``judge.kind`` names; servers that it starts log to ``logs``.

    Verdicts go to the cache that all runs share, or to ``own_verdicts`` if nothing identifies the judge's weights.
    """
    shared = Path(config.model.data.cache_dir).expanduser() / "verdicts"
    kind = config.judge.kind
    return bind(JUDGES[kind.name].build, kind.parameters, "judge.kind")(config.judge, shared, own_verdicts, logs)
