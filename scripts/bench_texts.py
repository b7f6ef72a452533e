"""Texts with classes against the plain loop, and the memory of clients with adapters.

    python scripts/bench_texts.py CLIENTS      prints the peak memory of that many clients in GB

Not for: the command of the benchmarks (``bench.py``).
"""

import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Row, own_peak_gb, seconds, shown
from workload import plain_loop

from fedkd.experiment.build import build
from fedkd.experiment.run import execute
from fedkd.runtime.devices import deterministic
from fedkd.scenario.scenario import Scenario

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LARGE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIENTS = 20


def model_folder(folder: Path, vocabulary: int, **sizes: int) -> str:
    """Save a BERT's configuration and a tokenizer of words, and return its name.

    Args:
        folder: Where they are saved.
        vocabulary: The model's number of tokens.
        sizes: The model's.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import BertConfig, PreTrainedTokenizerFast

    from fedkd.tasks.text.scipy_docs import ScipyDocs

    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=["[UNK]", "[PAD]"], show_progress=False
    )
    words.train_from_iterator(ScipyDocs().load().texts, trainer)
    marks = {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
    inner = 4 * sizes["hidden_size"]
    BertConfig(vocab_size=vocabulary, intermediate_size=inner, **sizes).save_pretrained(folder)
    return f"hf:{folder}(pretrained=false)"


def texts(model: str, rounds: int) -> Scenario:
    """Return six clients with 100 texts each and 200 public ones, distilled as in workload W."""
    return Scenario.parse(
        {
            "name": "texts",
            "data": "scipy_docs",
            "partition": "iid",
            "clients": 6,
            "samples_per_client": 100,
            "models": [model],
            "public": {"size": 200},
            "test": {"global_size": 12, "private_size": 1},
            "strategy": "fedmd",
            "rounds": rounds,
            "train": {"batch_size": 32},
            "distill": {"batch_size": 64, "loss": "kl", "temperature": 2.0},
            "device": "cpu",
            "engine": {"name": "local", "workers": 1},
            "baseline": "none",
        }
    )


def adapted(model: str, clients: int) -> Scenario:
    """Return clients with four short texts each and adapters on one large model, one round."""
    scenario = texts(model, 1).to_dict()
    scenario |= {"clients": clients, "samples_per_client": 4, "adapters": "lora"}
    scenario |= {"public": {"size": 4}, "tokens": {"context": 16}, "strategy": "fedavg"}
    scenario["train"] = {"batch_size": 4}
    scenario["distill"] = {}
    return Scenario.parse(scenario)


def compare(turns: int) -> dict[str, list[float]]:
    """Return fedkd's CPU seconds over the plain loop's, by the model, turn by turn."""
    stop, found = threading.Event(), {}
    with tempfile.TemporaryDirectory() as folder:
        bert = model_folder(Path(folder), 4000, **SMALL)
        for name, model in (("text_transformer", "text_transformer"), ("a tiny BERT", bert)):
            ratios = []
            for _ in range(turns + 1):
                loop = plain_loop(build(texts(model, 2), stop), 2, measures=True)
                with deterministic(torch.device("cpu")):
                    of_loop = seconds(loop)[0]
                run = partial(execute, build(texts(model, 2), stop), lambda _: None, stop)
                ratios.append(seconds(run)[0] / of_loop)
            found[name] = ratios[1:]  # the first one warms up
    return found


def memory(clients: int) -> dict[str, Any]:
    """Return the peak memory in GB of a process with so many clients, and what one keeps in MB."""
    command = [sys.executable, __file__, str(clients)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3600)
    peak, kept, parameters = done.stdout.split()[-3:]
    return {"peak": float(peak), "kept": float(kept), "parameters": int(parameters)}


def run_clients(clients: int) -> None:
    """Run a round of clients with adapters, and print the memory that it took."""
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        experiment = build(adapted(model_folder(Path(folder), 30522, **LARGE), clients), stop)
        execute(experiment, lambda _: None, stop)
    state = experiment.context.store.get(0) or {}
    kept = sum(tensor.numel() * tensor.element_size() for tensor in state.values()) / 1e6
    (traits,) = experiment.context.traits.values()
    print(own_peak_gb(), kept, traits.parameters)


def rows(ratios: dict[str, list[float]], few: dict[str, Any], many: dict[str, Any]) -> list[Row]:
    """Return the rows of the table."""
    found: list[Row] = [
        (f"texts with {model}, CPU seconds, fedkd / plain loop", shown(of), "<= 1.10")
        for model, of in ratios.items()
    ]
    size, kept = many["parameters"] / 1e6, many["kept"]
    about = f"BERT of {size:.0f} M parameters, adapters of {kept:.1f} MB a client"
    found.append((f"{about}: peak memory with 1 client", f"{few['peak']:.2f} GB", ""))
    found.append((f"the same with {CLIENTS} clients", f"{many['peak']:.2f} GB", "one and adapters"))
    return found


if __name__ == "__main__":
    run_clients(int(sys.argv[1]))
