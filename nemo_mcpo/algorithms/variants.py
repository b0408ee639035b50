# SPDX-License-Identifier: Apache-2.0
"""Checks what a configuration chooses from the tables of variants: names, parameters, and keys that they need."""

from __future__ import annotations

from nemo_mcpo.config import OnlineRunConfig, RunConfig
from nemo_mcpo.config.schema import MCPO, Data
from nemo_mcpo.data.formats import check_name
from nemo_mcpo.errors import ConfigError
from nemo_mcpo.objectives import bind_objective, run_needs
from nemo_mcpo.rollouts.launchers import LAUNCHERS
from nemo_mcpo.sampling import SAMPLERS, bind_sampler, check_chain
from nemo_mcpo.variant import Need, bind, entry


def check_variants(config: RunConfig) -> None:
    """Raise ConfigError if a run cannot provide what its objective, sampler or data format needs."""
    mcpo, data = config.model.mcpo, config.model.data
    bind_objective(mcpo.objective.name, mcpo.objective.parameters, mcpo.beta)
    bind_sampler(mcpo.sampler.name, mcpo.sampler.parameters, mcpo.sampler_keys)
    check_name(data.format)
    needs = run_needs(mcpo)
    _check_negatives(mcpo, data, needs)
    pool = min(filter(None, (data.max_candidates, mcpo.scored_candidates)), default=None)
    check_chain(mcpo.chain_steps, mcpo.chain_candidates, pool)
    if Need.SCORING not in needs:
        _check_no_scoring(mcpo)


def _check_negatives(mcpo: MCPO, data: Data, needs: frozenset[Need]) -> None:
    name = mcpo.objective.name
    if Need.NEGATIVES not in needs:
        if mcpo.num_negatives:
            raise ConfigError(
                f"the {name} objective uses no negatives",
                where="model.mcpo.num_negatives",
                got=mcpo.num_negatives,
                expected=0,
                fix="set model.mcpo.num_negatives=0",
            )
        return
    if mcpo.num_negatives < 1:
        raise ConfigError(
            f"the {name} objective needs negatives",
            where="model.mcpo.num_negatives",
            got=mcpo.num_negatives,
            expected="at least 1",
            fix="set model.mcpo.num_negatives=1",
        )
    pools = (
        ("model.data.max_candidates", data.max_candidates),
        ("model.mcpo.scored_candidates", mcpo.scored_candidates),
    )
    for key, pool in pools:
        if pool is not None and not mcpo.replacement and mcpo.num_negatives > pool + mcpo.include_preferred:
            raise ConfigError(
                "more negatives than candidates",
                where="model.mcpo.num_negatives",
                got=mcpo.num_negatives,
                expected=f"at most {key}={pool}",
                fix=f"lower num_negatives, raise {key}, or set model.mcpo.replacement=true",
            )


def _check_no_scoring(mcpo: MCPO) -> None:
    """Refuse keys of the scoring pass if there is none."""
    for key, off in (("scoring_fp8", "false"), ("reuse_scoring", "auto"), ("scored_candidates", "null")):
        if getattr(mcpo, key) not in (False, "auto", None):
            raise ConfigError(
                "there is no scoring pass",
                where=f"model.mcpo.{key}",
                got=getattr(mcpo, key),
                expected=f"{off} with sampler {mcpo.sampler.name} and objective {mcpo.objective.name}",
                fix=f"set model.mcpo.{key}={off}",
            )


def check_online_variants(config: OnlineRunConfig) -> None:
    """Raise ConfigError if an online run cannot provide what its variants need."""
    mcpo = config.model.mcpo
    needs = run_needs(mcpo)
    if Need.NEGATIVES not in needs:
        raise ConfigError(
            "an online run needs negatives: its policy cannot learn from its own answers alone",
            where="model.mcpo.objective",
            got=mcpo.objective.name,
            expected="an objective with negatives",
            fix="change model.mcpo.objective",
        )
    if Need.ORDER in needs:
        raise ConfigError(
            "the policy's own answers have no given rejected answer",
            where="model.mcpo.sampler",
            got=mcpo.sampler.name,
            expected=f"one of: {', '.join(name for name, one in SAMPLERS.items() if Need.ORDER not in one.needs)}",
            fix="set model.mcpo.sampler=mc_kernel",
        )
    _check_serving(config)


def _check_serving(config: OnlineRunConfig) -> None:
    # Imported late: they import transformers and the server client, which takes seconds.
    from nemo_mcpo.judging.judges import JUDGES
    from nemo_mcpo.rollouts.engines import ENGINES

    for section, settings in (("rollouts.server", config.rollouts.server), ("judge.server", config.judge.server)):
        launcher, where = settings.launcher, f"{section}.launcher"
        bind(entry(LAUNCHERS, launcher.name, "launcher", where).command, launcher.parameters, where)
    engine = entry(ENGINES, config.rollouts.engine.name, "engine", "rollouts.engine")
    bind(engine.build, config.rollouts.engine.parameters, "rollouts.engine")
    engine.check(config)
    judge = entry(JUDGES, config.judge.kind.name, "judge", "judge.kind")
    bind(judge.build, config.judge.kind.parameters, "judge.kind")
    judge.check(config)
    if Need.SCORES in run_needs(config.model.mcpo) and not judge.gives_scores:
        raise ConfigError(
            f"the {config.model.mcpo.objective.name} objective needs scores, and this judge compares pairs",
            where="judge.kind",
            got=config.judge.kind.name,
            expected=f"one of: {', '.join(name for name, one in JUDGES.items() if one.gives_scores)}",
            fix="choose a judge that gives scores, or an objective that reads none",
        )
