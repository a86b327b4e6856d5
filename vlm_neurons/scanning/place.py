"""Which of several processes this is: torchrun's variables, SLURM's, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping

# SLURM_NTASKS is set in a batch script too, which is one process; SLURM_STEP_NUM_TASKS only in what srun started.
_VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))


def place(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """This process's number and the number of processes.

    Raises:
        ValueError: one of the two variables is missing or no whole number, or the number is not below the number of
            processes.

    >>> place({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8"})
    (2, 8)
    """
    environment = os.environ if environment is None else environment
    for rank_name, world_name in _VARIABLES:
        found = {name: environment[name] for name in (rank_name, world_name) if name in environment}
        if world_name not in found and (rank_name not in found or rank_name.startswith("SLURM")):
            continue  # a SLURM batch script has SLURM_PROCID=0, and is one process
        for name in (rank_name, world_name):
            if not found.get(name, "").strip().isdecimal():
                is_now = f"is {found[name]!r}" if name in found else "is not set"
                raise ValueError(
                    f"{name} {is_now} in the environment, which has {found}: every process needs {rank_name}=0, 1 ... "
                    f"and the common {world_name}; torchrun and srun set both. For one process unset both"
                )
        rank, world = int(found[rank_name]), int(found[world_name])
        if not 0 <= rank < world:
            raise ValueError(
                f"{rank_name}={rank} with {world_name}={world} in the environment: {rank_name} has to be 0 to "
                f"{world - 1}"
            )
        return rank, world
    return 0, 1
