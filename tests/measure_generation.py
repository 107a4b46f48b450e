"""Generated tokens a core-second of our engine and of transformers' generate, on the embedded model.

    python tests/measure_generation.py

Interleaved, one thread, process time; prints the median of each and the ratio. Not a test: machines differ.
"""

import statistics
import time

import torch

from harness.engines.base import Sampling
from harness.engines.transformers import TransformersEngine
from harness.testbed import MODEL_DIR
from harness.testbed.prompts import prompts

BATCHES = (1, 32, 128)
ROUNDS = 5
NEW_TOKENS = 64


def ours(engine, chats, batch):
    engine.batch_size = batch
    completions = engine.generate(chats, [str(index) for index in range(len(chats))], Sampling(NEW_TOKENS, 1.0))
    return sum(len(each.token_ids) for each in completions)


@torch.inference_mode()
def theirs(engine, chats, batch):
    total = 0
    pad = engine.tokenizer.pad_token_id
    for start in range(0, len(chats), batch):
        rows = chats[start : start + batch]
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        out = engine.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=True)
        total += int((out[:, width:] != pad).sum())
    return total


def rate(run, *arguments):
    start = time.process_time()
    return run(*arguments) / (time.process_time() - start)


def main():
    torch.set_num_threads(1)
    engine = TransformersEngine.load(MODEL_DIR, device="cpu")
    chats = [engine.encode_chat(prompt.messages) for prompt in prompts()[:512]]
    for batch in BATCHES:
        some = chats[: max(16, 4 * batch)]
        rates = {ours: [], theirs: []}
        for _ in range(ROUNDS):
            for run, seen in rates.items():
                seen.append(rate(run, engine, some, batch))
        mine, other = (statistics.median(seen) for seen in rates.values())
        print(f"batch {batch:4}: ours {mine:7.0f}, transformers {other:7.0f} tokens a core-second, {mine / other:.2f}x")


if __name__ == "__main__":
    main()
