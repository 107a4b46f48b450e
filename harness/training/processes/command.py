"""Commands that start several processes for one training: parses torchrun and accelerate launch, and checks that they
were honoured (accelerate falls back silently to fewer processes or another strategy).
"""

import os
import re
import shlex
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from harness.errors import UserError

WORKER = "harness.training.processes.worker"
LONGEST_PATH = 1000  # characters
EXAMPLE = "--launcher 'torchrun --nproc_per_node 2' or --launcher 'accelerate launch --config_file FILE'"


@dataclass(frozen=True)
class LaunchCommand:
    """A command that starts processes.

    text: the command as given.
    options: the words after its name.
    module: the Python module that is the command.
    processes: how many it was asked for; None where it chooses.
    strategy: the DistributedType of accelerate that it was asked for; None for any.
    """

    text: str
    options: tuple[str, ...]
    module: str
    processes: int | None
    strategy: str | None = None

    def check_honoured(self, processes: int, strategy: str | None = None) -> None:
        """Check that what the command started is what it was asked for.

        Raises:
            UserError: when the number of processes, or the strategy (where both are known), differs.
        """
        if self.processes not in (None, processes):
            asked, started = f"{self.processes} processes", str(processes)
        elif self.strategy and strategy and self.strategy != strategy:
            asked, started = self.strategy, strategy
        else:
            return
        raise UserError(
            f"the launcher {self.text!r} was asked for {asked} but started {started}: accelerate spreads a training "
            f"over GPUs only; on the CPU give --launcher 'torchrun --nproc_per_node {self.processes or 2}'"
        )


def default_configurations() -> list[str]:
    """Where accelerate looks for its configuration when it is given none."""
    cache = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    return [str((cache / "accelerate" / f"default_config.{kind}").expanduser()) for kind in ("yaml", "json")]


def possible_files(file: str) -> list[str]:
    """The words in a file that could be names of files."""
    try:
        words = re.findall(r"[^\s\"',:{}\[\]]+", Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [word for word in words if "." in word and len(word) < LONGEST_PATH]


def parse(text: str, device: str = "auto") -> LaunchCommand:
    """Parse a command the way its own program does.

    Raises:
        UserError: when it is not a known launcher, or its options are wrong.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"launcher {text!r} is not a valid command ({error}): give {EXAMPLE}") from None
    read: Callable[[tuple[str, ...], str], tuple[int | None, str | None]]
    if words[:1] == ["torchrun"]:
        module, options, read = "torch.distributed.run", tuple(words[1:]), _torchrun
    elif words[:2] == ["accelerate", "launch"]:
        module, options, read = "accelerate.commands.launch", tuple(words[2:]), _accelerate
    else:
        raise UserError(f"launcher {text!r} is not known: give {EXAMPLE}")
    processes, strategy = read(options, text)
    if strategy == "MULTI_GPU" and device == "cpu":
        strategy = "MULTI_CPU"  # with --cpu, accelerate would start one process: --multi_gpu is how to ask for several
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
    stored = None
    if args.config_file or (config.is_file() and not args.cpu):
        try:
            stored = load_config_from_file(str(config))
        except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise UserError(
                f"{config} is not a configuration of accelerate ({error}): make one with 'accelerate config'"
            ) from None
    _one_machine((args.num_machines or (stored.num_machines if stored else 1)) > 1, text)
    flags = {"use_deepspeed": "DEEPSPEED", "use_fsdp": "FSDP", "multi_gpu": "MULTI_GPU"}
    strategy = next((strategy for flag, strategy in flags.items() if getattr(args, flag)), None)
    if stored is None:
        return args.num_processes, strategy
    return args.num_processes or stored.num_processes, strategy or DistributedType(stored.distributed_type).value


def _read(parser: ArgumentParser, options: tuple[str, ...], text: str) -> Namespace:
    """The options as the launcher's own parser reads them, followed by our module."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"launcher {text!r}: {message}")

    # exit_on_error does not cover every error of a parser (unknown arguments exit all the same)
    setattr(parser, "error", refuse)  # noqa: B010
    parser.exit_on_error = False
    try:
        args = parser.parse_args([*options, "-m", WORKER, "JOB"])
    except ArgumentError as error:
        raise UserError(f"launcher {text!r}: {error}") from None
    if args.training_script != WORKER or not args.module:
        raise UserError(f"launcher {text!r} names a script to run: give only its options, such as {EXAMPLE}")
    return args


def _one_machine(more: bool, text: str) -> None:
    if more:
        raise UserError(f"launcher {text!r}: a training runs on one machine, so it must not start processes on others")
