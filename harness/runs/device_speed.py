"""The speed of one device with a model: from a GPU's data sheet with assumed utilisation, or of a finished run."""

from dataclasses import dataclass
from pathlib import Path

from harness.budget import Ledger, Spending
from harness.errors import UserError, unknown_name
from harness.files import store
from harness.files.folders import RunFolder
from harness.models.folder import model_folder
from harness.models.weights import parameter_count
from harness.results.folder import read_experiment
from harness.runs.run import arms_of
from harness.work import FORWARD_FLOPS, TRAIN_FLOPS

GPUS = {  # dense 16-bit FLOP/s, bytes/s of memory, GiB: the makers' data sheets
    "h100": (989e12, 3.35e12, 80),
    "h200": (989e12, 4.8e12, 141),
    "a100": (312e12, 2.04e12, 80),
    "l40s": (362e12, 0.864e12, 48),
}
TRAINING, READING, BANDWIDTH = 0.4, 0.5, 0.6  # assumed shares of these that are achieved
GIB = 2**30
FLOAT = 4  # bytes per parameter in training and in checkpoints
WEIGHT = 2  # bytes per parameter in generation, on a GPU or in bfloat16


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a model.

    inner: width of its MLPs.
    kv_bytes: bytes of a token in the key-value cache, with numbers of WEIGHT bytes.
    """

    parameters: int
    layers: int
    hidden: int
    inner: int
    kv_bytes: int


@dataclass(frozen=True)
class Speed:
    """The speed of one device.

    name: the device, or the run in which it was measured. train, read: FLOP/s.
    token: seconds per generated token, beside `step`.
    memory: GiB; None where it is unknown.
    step: seconds of each pass that generates, however many sequences it continues; 0 where `token` has them divided by
        the sequences of a full batch.
    """

    name: str
    train: float
    read: float
    token: float
    memory: float | None = None
    step: float = 0.0

    def seconds(
        self, parameters: int, read: float = 0.0, sampled: float = 0.0, trained: float = 0.0, passes: float = 0.0
    ) -> float:
        """Seconds to read, sample (in so many passes) and train these numbers of tokens."""
        reading, training = read * FORWARD_FLOPS * parameters, trained * TRAIN_FLOPS * parameters
        return reading / self.read + sampled * self.token + passes * self.step + training / self.train


def of_gpu(name: str, shape: ModelSizes, batch: int, context: float) -> Speed:
    """The speed of a model on a GPU.

    Args:
        batch: sequences that are generated at once. context: tokens of each, halfway through.

    Raises:
        UserError: when the GPU is not in the table.
    """
    if name not in GPUS:
        raise unknown_name("GPU", name, GPUS)
    peak, bandwidth, memory = GPUS[name]
    moved = WEIGHT * shape.parameters + batch * context * shape.kv_bytes
    step = max(moved / (BANDWIDTH * bandwidth), FORWARD_FLOPS * shape.parameters * batch / (READING * peak))
    return Speed(name, TRAINING * peak, READING * peak, step / batch, memory)


def measured(run: Path) -> Speed:
    """The speed of a finished run, from its ledgers.

    Raises:
        UserError: when none of its arms trained, read and generated.
    """
    experiment = read_experiment(run)
    parameters = parameter_count(model_folder(experiment.model))
    spent = Ledger()
    for arm in arms_of(experiment, RunFolder(run)):
        spent.add(Ledger.from_dict(store.read_json(arm.folder.ledger)))
    train, reference, generate = (spent.roles.get(role, Spending()) for role in ("train", "reference", "generate"))
    if not (train.seconds and reference.seconds and generate.seconds):
        raise UserError(f"{run} has no method that samples, has a reference and trains, such as sso or pbaa")
    read = FORWARD_FLOPS * parameters * reference.prompt_tokens / reference.seconds
    reading = FORWARD_FLOPS * parameters * generate.prompt_tokens / read
    token = max(0.0, generate.seconds - reading) / generate.generated_tokens
    return Speed(str(run), TRAIN_FLOPS * parameters * train.trained_tokens / train.seconds, read, token)
