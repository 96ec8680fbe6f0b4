"""How fast litgpt 0.5.12 pretrains: `litgpt.pretrain.setup` as published, on random tokens.

The time is read whenever the loop asks for a micro-batch. What is counted lies between the first micro-batch after the
warm-up, of one step unless the plan says otherwise, and the end of the last step. `TORCHDYNAMO_DISABLE=1` in the
environment takes compilation away.

The script runs in the environment of `peers.LITGPT_INSTALLS` and closes its output with one line of JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from litgpt import Config
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import DataModule
from litgpt.pretrain import setup
from torch.utils.data import DataLoader, Dataset


class RandomTokens(Dataset):
    """Random sequences; notes when each is asked for."""

    def __init__(self, vocab_size: int, length: int, count: int) -> None:
        """Draw [count, length + 1] token ids."""
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(vocab_size, (count, length + 1), generator=generator)
        self.asked: list[tuple[float, float]] = []
        """Processor time and clock."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.tokens)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Note the time and return a sequence."""
        self.asked.append((time.process_time(), time.perf_counter()))
        return self.tokens[index]


class Text(DataModule):
    """Random tokens as litgpt takes its data."""

    def __init__(self, train: RandomTokens, heldout: RandomTokens) -> None:
        """Keep both splits."""
        self.train, self.heldout, self.batch_size = train, heldout, 1

    def connect(self, tokenizer: object, batch_size: int, max_seq_length: int) -> None:
        """Take the micro-batch."""
        del tokenizer, max_seq_length
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        """Return micro-batches in order."""
        return DataLoader(self.train, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader:
        """Return the two micro-batches that litgpt checks its settings with."""
        return DataLoader(self.heldout, batch_size=self.batch_size)


def main() -> None:
    """Train and write the line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("plan", help="JSON: sizes in Hugging Face's words, length, micro_batch, accumulation, steps")
    plan = json.loads(parser.parse_args().plan)
    torch.set_num_threads(1)
    config = Config(
        name="benchmark",
        block_size=plan["length"],
        vocab_size=plan["vocab_size"],
        padded_vocab_size=plan["vocab_size"],
        n_embd=plan["hidden_size"],
        n_layer=plan["num_hidden_layers"],
        n_head=plan["num_attention_heads"],
        n_query_groups=plan["num_key_value_heads"],
        intermediate_size=plan["intermediate_size"],
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        parallel_residual=False,
        bias=False,
        rotary_percentage=1.0,
    )
    micro, accumulation, steps = plan["micro_batch"], plan["accumulation"], plan["steps"]
    data = RandomTokens(plan["vocab_size"], plan["length"], micro * (accumulation * steps + 1))
    with tempfile.TemporaryDirectory() as folder:
        setup(
            model_name="benchmark",
            model_config=config,
            out_dir=Path(folder),
            precision=plan.get("precision", "32-true"),
            data=Text(data, RandomTokens(plan["vocab_size"], plan["length"], 2 * micro)),
            train=TrainArgs(
                save_interval=None,
                log_interval=1,
                global_batch_size=micro * accumulation,
                micro_batch_size=micro,
                max_tokens=micro * accumulation * steps * plan["length"],
                max_norm=1.0,
                lr_warmup_steps=1,
                tie_embeddings=plan.get("tied", True),
            ),
            eval=EvalArgs(interval=10**9, max_iters=1, final_validation=False),
            devices=1,
            logger_name="csv",
        )
    warm = plan.get("warm", 1)
    begun, ended = data.asked[warm * accumulation * micro], data.asked[steps * accumulation * micro]
    tokens = (steps - warm) * accumulation * micro * plan["length"]
    worked, passed = (end - begin for begin, end in zip(begun, ended, strict=True))
    speeds = {"tokens_per_cpu_second": tokens / worked, "tokens_per_second": tokens / passed}
    result = {"versions": {name: version(name) for name in ("litgpt", "torch")}}
    sys.stdout.write("\n" + json.dumps(result | speeds) + "\n")


if __name__ == "__main__":
    main()
