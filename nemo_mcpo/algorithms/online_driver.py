# SPDX-License-Identifier: Apache-2.0
"""Drives an online run on one machine: each stage in its own processes, restarted if they are killed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nemo_mcpo.algorithms.onmcpo import STAGES, Finished, OnlineRun
from nemo_mcpo.algorithms.preflight import check_and_report
from nemo_mcpo.config import OnlineRunConfig
from nemo_mcpo.config.rules import check_processes
from nemo_mcpo.errors import ConfigError, NemoMcpoError
from nemo_mcpo.judging.tally import Ranked, tally_text
from nemo_mcpo.platform.accelerator import count_gpus
from nemo_mcpo.platform.children import Child, start_child
from nemo_mcpo.platform.forks import preload, start_fork
from nemo_mcpo.platform.launch import run_processes
from nemo_mcpo.platform.stopping import JOB_START, STOPPED_EARLY, StoppedEarly, StopRequest, job_deadline, job_start
from nemo_mcpo.records import Trained
from nemo_mcpo.rollouts.samples import Generated
from nemo_mcpo.storage.locks import lock_for_this_process

CommandOf = Callable[[str, int], list[str]]
"""Maps a stage and a segment to ``[python, script, *arguments]``."""
STAGE_MODULES = (
    "nemo_mcpo.algorithms.online_stages",
    "nemo_mcpo.algorithms.run",
    "nemo_mcpo.models.export_checkpoint",
)
"""Modules that the stages import."""


class StageFailedError(NemoMcpoError):
    """A stage failed with an error that it has already reported."""

    def __init__(self, exit_code: int, stage: str, segment: int) -> None:
        super().__init__(
            f"segment {segment}: {stage} failed",
            got=f"exit code {exit_code}",
            fix="see the message above; then run the same command again to continue",
        )
        self.exit_code = exit_code if exit_code > 0 else 1


def drive(config: OnlineRunConfig, command_of: CommandOf, stop: StopRequest) -> None:
    """Run every unfinished stage of every segment.

    Raises:
        StoppedEarly: a stop was requested; the running stage was told and has saved its work.
    """
    os.environ[JOB_START] = str(job_start())  # inherited by the stages
    stop.deadline = job_deadline(config.exp_manager.budget_seconds)
    processes = num_processes(config)
    run = OnlineRun(config)
    check_and_report(config, gpus=None)
    lock_for_this_process(run.directory / ".driver.lock")
    done: dict[str, Finished] = {}
    for segment, stage in run.stages():
        name = f"segment {segment + 1}/{config.onmcpo.segments}: {stage}"
        finished = run.finished(segment, stage)
        if finished is None:
            print(name, flush=True)
            count = processes if STAGES[stage].launch == "all" else 1
            finished = _run_stage(run, segment, stage, command_of(stage, segment), count, stop)
        print(f"{name}, {finished.seconds:.0f} s", flush=True)
        done[stage] = finished
        if len(done) == len(STAGES):
            print(segment_line(done), flush=True)
            done = {}


def dry_run(config: OnlineRunConfig, gpus: int | None, listing: Path | None) -> None:
    """Check what the run needs, without starting it.

    Args:
        gpus: GPUs per node; None for this machine.
        listing: a file to write for a job script, with one line per unfinished stage, in order: segment number, number
            of segments, how the stage starts (``Stage.launch``), stage name. If no stage is left, nothing is checked.
    """
    if listing is None:
        check_and_report(config, gpus)
        return
    run = OnlineRun(config)
    left = [(segment, stage) for segment, stage in run.stages() if run.finished(segment, stage) is None]
    if left:
        check_and_report(config, gpus)
    rows = [f"{segment} {config.onmcpo.segments} {STAGES[stage].launch} {stage}\n" for segment, stage in left]
    listing.write_text("".join(rows))


def num_processes(config: OnlineRunConfig) -> int:
    """Training processes on this machine: one per GPU, or one model replica on a CPU."""
    if config.trainer.num_nodes > 1:
        raise ConfigError(
            "this command drives a single machine",
            where="trainer.num_nodes",
            got=config.trainer.num_nodes,
            expected=1,
            fix=f"have the scheduler start each stage: --stage {'|'.join(STAGES)} --segment N",
        )
    model = config.model
    replica = model.tensor_model_parallel_size * model.pipeline_model_parallel_size
    gpus = 0 if config.trainer.accelerator == "cpu" else count_gpus()
    count = (gpus or replica) if config.trainer.devices == "auto" else config.trainer.devices
    check_processes(config, count)
    return count


def _run_stage(
    run: OnlineRun, segment: int, stage: str, command: Sequence[str], processes: int, stop: StopRequest
) -> Finished:
    """Run a stage; restart it up to ``onmcpo.restarts`` times if it is killed although no stop was requested."""
    for _ in range(run.config.onmcpo.restarts + 1):
        code = STOPPED_EARLY if stop.reason() else run_processes(command, processes, stop, _start(run.config))
        finished = run.finished(segment, stage)
        if code == 0 and finished is not None:
            return finished
        reason = stop.reason()
        if reason is not None and (code == STOPPED_EARLY or code < 0):
            raise StoppedEarly(f"{reason}, in segment {segment}: {stage}")
        if code >= 0 and code != STOPPED_EARLY:
            break
        ending = f"was killed by signal {-code}" if code < 0 else "stopped early"
        print(f"{stage} {ending}; restarting", flush=True)
    raise StageFailedError(code, stage, segment)


def _start(config: OnlineRunConfig) -> Callable[..., Child]:
    """How to start a stage's processes: on a CPU as forks, which need not import everything again."""
    if config.trainer.accelerator != "cpu" and count_gpus():
        return start_child
    preload(STAGE_MODULES)
    return start_fork


def segment_line(done: Mapping[str, Finished]) -> str:
    """A summary of a segment's answers and of where its time went."""
    generated: Generated = done["generate"].result
    judged: Ranked = done["judge"].result
    trained: Trained = done["train"].result
    seconds = {stage: finished.seconds for stage, finished in done.items() if stage != "train"}
    seconds |= {"reference": trained.reference_seconds, "train": trained.train_seconds}
    drawn = generated.samples + generated.repeated + generated.failed + generated.redrawn
    return (
        f"  {generated.samples:.0f} answers to {generated.prompts:.0f} prompts, {generated.mean_tokens:.0f} "
        f"tokens each ({generated.tokens_per_second:.0f} tokens/s); {generated.samples / drawn:.0%} of "
        f"draws kept, {generated.repeated:.0f} repeated, {generated.failed:.0f} failed, "
        f"{generated.unfinished:.0f} truncated{_encoded_again(generated)}\n"
        f"  chosen beats the mean candidate {_share(judged.win_rate)}; {tally_text(judged)}, "
        f"{judged.without_choice:.0f} prompts without a worse answer\n"
        f"  seconds: {', '.join(f'{part} {value:.0f}' for part, value in seconds.items())}"
    )


def _encoded_again(generated: Generated) -> str:
    """How many answers came as text only; empty if the generation stage did not count them."""
    if math.isnan(generated.reencoded):
        return ""
    return f"; {generated.reencoded} returned as text only, {generated.tokens_differ} of them with another token count"


def _share(value: float) -> str:
    """A rate in percent; a dash if it is NaN."""
    return "–" if math.isnan(value) else f"{value:.1%}"
