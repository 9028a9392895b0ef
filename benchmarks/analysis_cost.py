"""`python benchmarks/analysis_cost.py`: what the analysis costs as a Llama grows; weights stay on `meta`.

Prints one line per size: parameters, units of all groups, seconds of export and of analysis, microseconds
of analysis per unit, and the resident memory that the analysis added as a share of the weights' size.
"""

from __future__ import annotations

import resource
import time
import warnings

import torch

from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse

# (width, hidden width, layers, heads, KV heads): up to Llama-3.2-1B
SIZES = (
    (256, 1024, 4, 8, 4),
    (512, 2048, 8, 8, 4),
    (1024, 4096, 8, 16, 4),
    (1024, 4096, 16, 16, 4),
    (2048, 8192, 16, 32, 8),
)
WORDS = 128_256


def main() -> None:
    import transformers

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("parameters |   units | export s | analysis s | us/unit | memory/weights")
    for width, hidden, layers, heads, shared in SIZES:
        config = transformers.LlamaConfig(
            vocab_size=WORDS,
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=shared,
            tie_word_embeddings=True,
            use_cache=False,
        )
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(config)
            example = {"input_ids": torch.zeros(2, 16, dtype=torch.int64)}
        size = sum(parameter.numel() for parameter in model.parameters())
        started = time.perf_counter()
        captured = capture(model, example)
        exported = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        coupling = analyse(captured)
        done = time.perf_counter()
        added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (4 * size)
        units = sum(group.units for group in coupling.groups)
        print(
            f"{size:>10,} | {units:>7,} | {exported - started:>8.1f} | {done - exported:>10.2f} "
            f"| {1e6 * (done - exported) / units:>7.1f} | {added:>8.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
