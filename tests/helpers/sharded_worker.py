"""A real worker that shards over gloo: accelerate offers FSDP on devices only, so it is told that the CPU is one."""

import os
import sys
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from harness.training import copies
from harness.training.processes import worker

make_state, whole_copy = AcceleratorState.__init__, copies.whole_copy


def make_state_of_devices(self, *args, **kwargs):
    shared = PartialState._shared_state
    if "ACCELERATE_USE_FSDP" in os.environ and shared.get("distributed_type") == DistributedType.MULTI_CPU:
        shared["distributed_type"] = DistributedType.MULTI_GPU
    make_state(self, *args, **kwargs)


def tell_whole_copy(trained, *args):
    kinds = {type(each).__name__ for each in trained.model_wrapped.parameters()}
    print("trained:", type(trained.model_wrapped).__name__, *kinds)
    return whole_copy(trained, *args)


if __name__ == "__main__":
    AcceleratorState.__init__, copies.whole_copy = make_state_of_devices, tell_whole_copy
    worker.main(Path(sys.argv[1]))
