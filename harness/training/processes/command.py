"""Commands that start several processes for one training, torchrun and accelerate launch: what they ask for, and
whether that came. accelerate falls back to less without a word.
"""

import os
import re
import shlex
from argparse import ArgumentError, ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError

WORKER = "harness.training.processes.worker"
LONGEST_PATH = 1000  # characters
EXAMPLE = "--launcher 'torchrun --nproc_per_node 2' or --launcher 'accelerate launch --config_file FILE'"


@dataclass(frozen=True)
class LaunchCommand:
    """A command that starts processes.

    text: the command as it was given. options: what follows its name.
    processes: how many it is asked for, None where it chooses. strategy: a DistributedType of accelerate that it is
        asked for, None where it is any.
    """

    text: str
    options: tuple[str, ...]
    module: str
    processes: int | None
    strategy: str | None = None

    def check_came(self, processes: int, strategy: str | None = None) -> None:
        """
        Raises:
            UserError: when other processes, or another strategy (where it is known), came than were asked for.
        """
        if self.processes not in (None, processes):
            asked, came = f"{self.processes} processes", str(processes)
        elif None not in (self.strategy, strategy) and self.strategy != strategy:
            asked, came = self.strategy, strategy
        else:
            return
        raise UserError(
            f"the launcher {self.text!r} asks for {asked}, and what came is {came}: accelerate spreads a training over "
            f"GPUs alone; on the CPU give --launcher 'torchrun --nproc_per_node {self.processes or 2}'"
        )


def _default_configurations() -> list[str]:
    """Where accelerate looks for its configuration when it is given none."""
    cache = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    return [str((cache / "accelerate" / f"default_config.{kind}").expanduser()) for kind in ("yaml", "json")]


def _texts(file: str) -> list[str]:
    """The words of a file that could be names of files."""
    try:
        words = re.findall(r"[^\s\"',:{}\[\]]+", Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [each for each in words if "." in each and len(each) < LONGEST_PATH]


def parse(text: str, device: str = "auto") -> LaunchCommand:
    """Reads a command as its own program does.

    Raises:
        UserError: when it is no launcher known here, or its options are not right.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"launcher {text!r} is not understood ({error}): give {EXAMPLE}") from None
    if words[:1] == ["torchrun"]:
        module, options, read = "torch.distributed.run", tuple(words[1:]), _torchrun
    elif words[:2] == ["accelerate", "launch"]:
        module, options, read = "accelerate.commands.launch", tuple(words[2:]), _accelerate
    else:
        raise UserError(f"launcher {text!r} is not known: give {EXAMPLE}")
    processes, strategy = read(options, text)
    if strategy == "MULTI_GPU" and device == "cpu":
        strategy = "MULTI_CPU"  # the way to have it: accelerate starts one process where it is told --cpu
    return LaunchCommand(text, options, module, processes, strategy)


def _torchrun(options: tuple[str, ...], text: str) -> tuple[int | None, None]:
    from torch.distributed.run import determine_local_world_size, get_args_parser

    args = _read(get_args_parser(), options, text)
    _one_machine(args.nnodes not in ("1", "1:1"), text)
    try:
        return determine_local_world_size(args.nproc_per_node), None
    except ValueError as error:
        raise UserError(f"launcher {text!r}: {error}") from None


def _accelerate(options: tuple[str, ...], text: str) -> tuple[int | None, str | None]:
    from accelerate import DistributedType
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    args = _read(launch_command_parser(), options, text)
    config = Path(args.config_file or default_config_file)
    found = None
    if args.config_file or (config.is_file() and not args.cpu):
        try:
            found = load_config_from_file(str(config))
        except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise UserError(
                f"{config}: no configuration of accelerate ({error}): 'accelerate config' makes one"
            ) from None
    _one_machine((args.num_machines or getattr(found, "num_machines", 1)) > 1, text)
    flags = {"use_deepspeed": "DEEPSPEED", "use_fsdp": "FSDP", "multi_gpu": "MULTI_GPU"}
    strategy = next((strategy for flag, strategy in flags.items() if getattr(args, flag)), None)
    if found is None:
        return args.num_processes, strategy
    return args.num_processes or found.num_processes, strategy or DistributedType(found.distributed_type).value


def _read(parser: ArgumentParser, options: tuple[str, ...], text: str) -> Namespace:
    """The options as the launcher's own parser reads them, with our module behind them."""

    def refuse(message: str) -> None:
        raise UserError(f"launcher {text!r}: {message}")

    parser.error, parser.exit_on_error = refuse, False
    try:
        args = parser.parse_args([*options, "-m", WORKER, "JOB"])
    except ArgumentError as error:
        raise UserError(f"launcher {text!r}: {error}") from None
    if args.training_script != WORKER or not args.module:
        raise UserError(f"launcher {text!r} names what to run: give its options only, such as {EXAMPLE}")
    return args


def _one_machine(more: bool, text: str) -> None:
    if more:
        raise UserError(
            f"launcher {text!r}: a training runs on one machine here, so it must start no processes elsewhere"
        )
