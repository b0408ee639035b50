# SPDX-License-Identifier: Apache-2.0
"""What a server inherits: its own GPUs, no launcher variables, and no secrets except those given by name."""

from __future__ import annotations

import pytest

from nemo_mcpo.errors import ConfigError
from nemo_mcpo.rollouts.server_environment import is_secret, num_nodes, server_environment
from tests.support.configs import server_settings


def settings(**changes):
    return server_settings(**{"launcher": "transformers"} | changes)


LAUNCHED = ("PMIX_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_X", "SLURM_JOB_ID", "UCX_TLS", "I_MPI_FABRICS")
LAUNCHED += ("HYDRA_X", "KMP_AFFINITY", "MPICH_X", "MV2_X", "CRAY_X", "TORCHELASTIC_RUN_ID")
LAUNCHED += ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HARMLESS = {"MY_SLURM": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HOME": "/hf", "MONKEY": "1", "BYPASS": "1"}
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "aws_session")
SECRETS += ("DB_PASSWORD", "PGPASSWORD", "CLIENT_SECRET", "GITHUB_TOKEN", "SSH_AUTH_SOCK", "VLLM_API_KEY", "api_key")


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_variables_of_launchers_are_left_out(monkeypatch):
    for name in (*LAUNCHED, *HARMLESS):
        monkeypatch.setenv(name, HARMLESS.get(name, "1"))
    environment = server_environment(settings(), 0)
    assert [name for name in LAUNCHED if name in environment] == []
    assert {name: environment.get(name) for name in HARMLESS} == HARMLESS and "PATH" in environment


def test_secrets_are_left_out_but_for_those_that_are_named(monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("https_proxy", "http://me:s3cret@proxy:8080")
    monkeypatch.setenv("http_proxy", "http://proxy:8080")
    assert "s3cret" not in str(server_environment(settings(), 0))
    assert server_environment(settings(), 0)["http_proxy"] == "http://proxy:8080"
    environment = server_environment(settings(environment=["HF_TOKEN"]), 0)
    assert environment["HF_TOKEN"] == "s3cret" and not [name for name in SECRETS[1:] if name in environment]


@pytest.mark.parametrize("value", ["postgres://u:p@host/db", "https://x:y@h"])
def test_a_password_in_a_url_is_a_secret(value):
    assert is_secret("SOME_URL", value) and not is_secret("SOME_URL", "https://host:8080/x@y")


def test_a_variable_that_is_named_and_not_set(monkeypatch):
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(ConfigError) as caught:
        server_environment(settings(environment=["ABSENT"]), 0, "judge.server")
    assert (caught.value.where, caught.value.got) == ("judge.server.environment", "ABSENT")


@pytest.mark.parametrize(
    ("seen", "changes", "names"),
    [
        ("4,5,6,7", {"launcher": "trtllm", "tensor_parallel_size": 2}, ["4,5", "6,7"]),
        ("4,5,6,7", {"launcher": "vllm", "pipeline_parallel_size": 2}, ["4,5", "6,7"]),
        ("GPU-1a,MIG-2b", {"launcher": "trtllm"}, ["GPU-1a", "MIG-2b"]),
        ("0,1", {"tensor_parallel_size": 2}, ["0", "1"]),
    ],
)
def test_replicas_have_their_own_gpus(monkeypatch, seen, changes, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    chosen = settings(replicas=2, **changes)
    assert [server_environment(chosen, replica)["CUDA_VISIBLE_DEVICES"] for replica in range(2)] == names
    with pytest.raises(ConfigError, match="too few GPUs") as caught:
        server_environment(settings(replicas=3, **changes), 0)
    assert caught.value.where == "server.replicas" and caught.value.got.startswith("3 of ")


def test_without_gpus():
    """vLLM and transformers also run on CPUs."""
    for launcher in ("vllm", "transformers"):
        assert server_environment(settings(launcher=launcher), 0)["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(ConfigError, match="too few GPUs"):
        server_environment(settings(launcher="trtllm"), 0)


def test_a_server_over_several_nodes(monkeypatch):
    """Such a server gets its GPUs from Slurm."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    step = ["/repo/slurm/server_step.sh", "--nodes=2", "--mpi=pmix"]
    chosen = settings(launcher="trtllm", prefix=step, tensor_parallel_size=8)
    assert num_nodes(chosen) == 2 and num_nodes(settings(prefix=["enroot", "--nodes=2"])) == 1
    assert server_environment(chosen, 0)["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    with pytest.raises(ConfigError, match="too few GPUs") as caught:
        server_environment(settings(launcher="trtllm", prefix=step, tensor_parallel_size=16), 0)
    assert (caught.value.got, caught.value.expected) == ("1 of 16 GPUs each", "at most 8 GPUs")
