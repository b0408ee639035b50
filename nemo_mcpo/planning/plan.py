# SPDX-License-Identifier: Apache-2.0
"""A plan: the memory and time that one configuration needs on a number of GPUs of one kind."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from nemo_mcpo.config import RunConfig
from nemo_mcpo.planning.gpus import GPUS_PER_NODE
from nemo_mcpo.planning.memory import GIB, PINNED, Memory, checkpoint_host_bytes, offloaded_bytes, worst_rank
from nemo_mcpo.planning.run_time import RunTime, run_time
from nemo_mcpo.planning.workload import Layout, Question


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer to a ``Question``; ``memory`` is that of the GPU that needs the most."""

    question: Question
    layout: Layout
    memory: Memory
    time: RunTime

    @property
    def fits(self) -> bool:
        """Whether the GPU has enough memory."""
        return self.memory.peak <= self.question.gpu.gibibytes * GIB

    @property
    def hopeless(self) -> bool:
        """Whether the run does not fit even with the smallest rows."""
        return self.memory.fixed + max(self.memory.saving, self.memory.update) > self.question.gpu.gibibytes * GIB

    @property
    def gpu_hours(self) -> float:
        """Hours of the run times the number of GPUs."""
        return self.time.hours * self.layout.num_gpus

    @property
    def host_bytes(self) -> float:
        """Upper bound of a node's host memory: offloaded states, and checkpoints where they are written."""
        processes = min(GPUS_PER_NODE, self.layout.num_gpus)
        writers = min(processes, self.layout.tensor * self.layout.pipeline)
        offloaded = offloaded_bytes(self.question.architecture, self.layout)
        return processes * offloaded * PINNED + writers * checkpoint_host_bytes(self.memory)

    def as_dict(self) -> dict[str, object]:
        """Return every number for JSON, in bytes, seconds, tokens and operations."""
        return {
            "fits": self.fits,
            "gpu": asdict(self.question.gpu),
            "num_gpus": self.layout.num_gpus,
            "hfu": self.question.hfu,
            "write_gbs": self.question.write_gbs,
            "parameters": self.question.architecture.num_parameters,
            "data": asdict(self.question.data),
            "layout": asdict(self.layout),
            "memory": asdict(self.memory) | self.memory.phases | {"peak": self.memory.peak},
            "host_bytes": self.host_bytes,
            "time": asdict(self.time) | {"hours": self.time.hours, "gpu_hours": self.gpu_hours},
        }


def make_plan(config: RunConfig, question: Question, num_gpus: int) -> Plan:
    """Plan a configuration that has passed ``config.rules.check_processes`` and ``check_architecture``."""
    layout = Layout.from_config(config, num_gpus)
    memory = worst_rank(question.architecture, layout, question.data)
    return Plan(question, layout, memory, run_time(config, question, layout))
