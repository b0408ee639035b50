# SPDX-License-Identifier: Apache-2.0
"""All tests run offline; tests for hardware that this machine lacks are skipped with the reason."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

# Set before any test imports a library that reads them; child processes inherit them.
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false")


def _missing_hardware(marker: str) -> str:
    """Return why tests with this marker cannot run here; empty if they can."""
    if marker == "gpu":
        import torch

        return "" if torch.cuda.is_available() else "with an NVIDIA GPU: bash scripts/test.sh -m gpu"
    if marker == "container":
        if not shutil.which("buildah"):
            return "no buildah on this machine (Debian: buildah)"
        mounts = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
        return "" if os.geteuid() == 0 and mounts else "building an image needs root, and the right to mount"
    programs = ("sbatch", "slurmctld", "slurmd", "munged")
    missing = [name for name in programs if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    return f"no {', '.join(missing)} on this machine (Debian: slurmctld slurmd slurm-client munge)" if missing else ""


def pytest_configure(config: pytest.Config) -> None:
    """Run all tests except those marked gpu on the CPU, even if there is a GPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker in ("gpu", "slurm", "container"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = _missing_hardware(marker) if marked else ""
        for item in marked if reason else ():
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a small model and of preference data for it."""
    from tests.support.launch import write_inputs

    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def one_process():
    """megatron-core's groups for a single process."""
    from megatron.core import parallel_state

    from nemo_mcpo.platform.distributed import initialize_parallel, shut_down

    if parallel_state.model_parallel_is_initialized():
        yield
        return
    initialize_parallel(tensor_parallel=1, pipeline_parallel=1, virtual_pipeline_parallel=None, seed=1)
    yield
    shut_down()


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small Llama with two layers and a vocabulary of 300, which is padded to 384."""
    from tests.support.models import save_model

    directory = tmp_path_factory.mktemp("small") / "llama"
    save_model(directory, "llama")
    return directory


@pytest.fixture
def llama(llama_directory: Path, tmp_path: Path) -> Path:
    """A copy of that directory, for a test to change."""
    return shutil.copytree(llama_directory, tmp_path / "llama")


def _cluster(plugin: Path | None = None):
    from tests.support.slurm import Slurm

    with tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp") as root:
        cluster = Slurm(Path(root), plugin=plugin)
        yield cluster
        cluster.stop()


@pytest.fixture(scope="module")
def slurm():
    """A real Slurm cluster of two nodes."""
    yield from _cluster()


@pytest.fixture(scope="module")
def with_pyxis(tmp_path_factory: pytest.TempPathFactory):
    """A real Slurm cluster whose srun takes the options of pyxis."""
    from tests.support.slurm import PLUGIN

    if not shutil.which("gcc") or not Path("/usr/include/slurm/spank.h").exists():
        pytest.skip("no C compiler, or no headers for Slurm plugins (Debian: gcc libc6-dev libslurm-dev)")
    library = tmp_path_factory.mktemp("plugin") / "fakepyxis.so"
    subprocess.run(["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, PLUGIN], check=True)
    yield from _cluster(library)
