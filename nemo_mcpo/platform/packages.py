# SPDX-License-Identifier: Apache-2.0
"""Reports which packages are installed and work, one row per package.

Packages are imported in a child process, so that one that is broken, or kills the interpreter, becomes a row with the
reason. Nothing heavy is loaded into the calling process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_mcpo.platform.report import Row

IMPORT_TIMEOUT_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Package:
    """A package to look for.

    Attributes:
        module: the package counts as installed if this module can be found.
        distributions: names under which its version may be recorded.
        check: statements that must run in a child process; if they set ``detail``, it is shown.
        install: the fix if the package is missing.
        repair: the fix if the package is there, but ``check`` fails.
        required: whether the base stack needs it.
    """

    name: str
    module: str
    distributions: tuple[str, ...]
    check: str
    enables: str
    install: str
    repair: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a check: ``reason`` is empty if it passed."""

    reason: str = ""
    detail: str = ""


_BASE_INSTALL = "without a GPU: bash scripts/test.sh or scripts/quickstart.sh; with a GPU: use the NeMo container"
_GPU_INSTALL = "use the NeMo container; on CPU nothing needs it"

PACKAGES = (
    Package(
        name="torch",
        module="torch",
        distributions=("torch",),
        check="import torch; detail = f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU build'",
        enables="everything",
        install=_BASE_INSTALL,
        repair="reinstall the pinned version of requirements/cpu.lock",
        required=True,
    ),
    Package(
        name="Transformer Engine",
        module="transformer_engine",
        distributions=("transformer-engine", "transformer-engine-cu12", "transformer-engine-cu13"),
        check="import transformer_engine.pytorch",
        enables="fused bf16 and FP8 layers, attention backend transformer_engine",
        install=_GPU_INSTALL,
        repair="without a GPU: pip uninstall transformer-engine (a broken one also breaks importing megatron-core)",
    ),
    Package(
        name="Apex",
        module="apex",
        distributions=("apex",),
        check="from apex.optimizers import FusedAdam; import amp_C",
        enables="fused Adam and gradient-accumulation kernels",
        install=_GPU_INSTALL,
        repair="pip uninstall apex: PyPI has an unrelated package of that name; NVIDIA's is built from source",
    ),
    Package(
        name="FlashAttention",
        module="flash_attn",
        distributions=("flash-attn", "flash_attn"),
        check="from flash_attn import flash_attn_varlen_func",
        enables="attention backend flash_attn, the first choice on a GPU",
        install=_GPU_INSTALL,
        repair="reinstall it for this torch and CUDA, or pip uninstall flash-attn",
    ),
    Package(
        name="megatron-core",
        module="megatron.core",
        distributions=("megatron-core", "megatron_core"),
        check="from megatron.core.models.gpt import GPTModel",
        enables="the model, and tensor, pipeline and data parallelism",
        install=_BASE_INSTALL,
        repair="first fix every row above that is broken (Transformer Engine is the usual cause), then reinstall it",
        required=True,
    ),
    Package(
        name="NeMo",
        module="nemo",
        distributions=("nemo-toolkit", "nemo_toolkit"),
        check="from nemo.core.classes import ModelPT; from nemo.core.config import hydra_runner;"
        "from nemo.utils.exp_manager import exp_manager",
        enables="ModelPT, exp_manager, hydra_runner",
        install=_BASE_INSTALL,
        repair="first fix every row above that is broken, then reinstall nemo-toolkit[core,common-only]",
        required=True,
    ),
    Package(
        name="transformers",
        module="transformers",
        distributions=("transformers",),
        check="from transformers import AutoConfig, AutoTokenizer; import transformers.modeling_utils",
        enables="tokenizers, reading and writing Hugging Face models",
        install=_BASE_INSTALL,
        repair="reinstall the pinned version of requirements/cpu.lock",
        required=True,
    ),
    Package(
        name="datasets",
        module="datasets",
        distributions=("datasets",),
        check="import datasets",
        enables="reading preference data",
        install=_BASE_INSTALL,
        repair="reinstall the pinned version of requirements/cpu.lock",
        required=True,
    ),
    Package(
        name="psutil",
        module="psutil",
        distributions=("psutil",),
        check="import psutil; psutil.virtual_memory()",
        enables="distributed checkpoints (saving hangs without it)",
        install="pip install psutil",
        repair="reinstall psutil",
        required=True,
    ),
)

# Runs each check in turn and prints one JSON line per check, on a descriptor that packages do not print to.
_IMPORTER = """
import json, os, sys
results = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for name, check in json.loads(sys.argv[1]).items():
    scope = {}
    try:
        exec(check, scope)
        reason = ""
    except BaseException as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(json.dumps([name, reason, str(scope.get("detail", ""))]), file=results, flush=True)
os._exit(0)
"""


def is_installed(module: str) -> bool:
    """Return whether ``module`` can be found, without importing it (its parent packages are imported)."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def installed_version(distributions: Sequence[str]) -> str:
    """Return the recorded version of the first of these distributions that has one."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "version not recorded"


def run_checks(checks: Mapping[str, str], timeout_seconds: float = IMPORT_TIMEOUT_SECONDS) -> dict[str, Outcome]:
    """Run all checks in a child process; if one kills it, record that and run the rest in another process."""
    outcomes: dict[str, Outcome] = {}
    while waiting := {name: check for name, check in checks.items() if name not in outcomes}:
        finished, ending = _run_importer(waiting, timeout_seconds)
        outcomes |= finished
        culprit = next((name for name in waiting if name not in finished), None)
        if culprit is not None:
            outcomes[culprit] = Outcome(reason=ending)
    return outcomes


def _run_importer(checks: Mapping[str, str], timeout_seconds: float) -> tuple[dict[str, Outcome], str]:
    command = [sys.executable, "-c", _IMPORTER, json.dumps(dict(checks))]
    try:
        run = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=timeout_seconds, check=False
        )
        output, ending = run.stdout, _ending(run.returncode)
    except subprocess.TimeoutExpired as error:
        output, ending = error.stdout or b"", f"importing it did not finish in {timeout_seconds:.0f} s"
    lines = [json.loads(line) for line in output.decode().splitlines()]
    return {name: Outcome(reason, detail) for name, reason, detail in lines}, ending


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"importing it killed the interpreter with {signal.Signals(-returncode).name}"
    return f"importing it ended the interpreter with exit code {returncode}"


def package_row(package: Package, installed: bool, version: str, outcome: Outcome) -> Row:
    name, enables, required = package.name, package.enables, package.required
    if not installed:
        return Row(name, "missing", "", enables, fix=package.install, required=required)
    found = f"{version} ({outcome.detail})" if outcome.detail else version
    if outcome.reason:
        return Row(name, "broken", found, enables, outcome.reason, package.repair, required)
    return Row(name, "ok", found, enables, required=required)


def package_rows(packages: Sequence[Package] = PACKAGES) -> tuple[Row, ...]:
    """Return a row for every package in the table."""
    installed = {package.name: is_installed(package.module) for package in packages}
    outcomes = run_checks({p.name: p.check for p in packages if installed[p.name]})
    return tuple(
        package_row(p, installed[p.name], installed_version(p.distributions), outcomes.get(p.name, Outcome()))
        for p in packages
    )
