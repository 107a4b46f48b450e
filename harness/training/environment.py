"""Environment variables that would change training, or make it wait for other processes.

accelerate and transformers read them silently. Everything that training depends on is an option here, so that it is
stored with the run; the processes of --gpus and --launcher get their variables from the launcher itself.
"""

import os
from collections.abc import Mapping

from harness.errors import UserError

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # processes that train together
PREFIXES = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
HARMLESS = {  # change what is printed or where a process runs, but no result
    *("ACCELERATE_LOG_LEVEL", "ACCELERATE_DEBUG_MODE", "ACCELERATE_DEBUG_RDV_FILE", "ACCELERATE_CPU_AFFINITY"),
    *("ACCELERATE_ENABLE_RICH", "ACCELERATE_DISABLE_RICH"),
}
OFF = {"", "no", "none", "false", "0"}  # values that switch a variable off
ONE_STEP = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_NUM_PROCESSES": "1"}


def check_alone(variables: Mapping[str, str] = os.environ) -> None:
    """
    Raises:
        UserError: when the environment says that this process is one of several.
    """
    for name in SIZES:
        if variables.get(name, "1").strip() != "1":
            raise _refused(name, variables[name], "says that several processes train together")
    if variables.get("LOCAL_RANK", "-1").strip() != "-1":
        raise _refused("LOCAL_RANK", variables["LOCAL_RANK"], "says that a launcher started this process")


def check_environment(variables: Mapping[str, str] = os.environ) -> None:
    """
    Raises:
        UserError: when a variable says that this process is one of several, or sets how accelerate trains.
    """
    check_alone(variables)
    for name in sorted(variables):
        value = variables[name].strip()
        if not name.startswith(PREFIXES) or name in HARMLESS or value.lower() in OFF or ONE_STEP.get(name) == value:
            continue
        raise UserError(
            f"the environment sets {name}={value!r}, which would change how accelerate trains without being stored "
            f"with the run: unset {name}, and use --set METHOD.OPTION=VALUE or the file of "
            "--launcher 'accelerate launch --config_file FILE' instead"
        )


def _refused(name: str, value: str, what: str) -> UserError:
    return UserError(
        f"the environment sets {name}={value!r}, which {what}, so training would wait for processes that do not "
        f"exist: unset {name} and start this command once, outside torchrun, accelerate launch and mpirun; for several "
        "processes give --gpus N or --launcher 'torchrun --nproc_per_node N'"
    )
