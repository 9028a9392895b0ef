"""`python benchmarks/analysis_cost.py`: what analysis and surgery cost as a Llama grows.

The analysis needs no weights: they stay on `meta`. One line per size: parameters, units of all groups,
seconds of export and of analysis, microseconds of analysis per unit, and the resident memory that the
analysis added as a share of the weights' size. Then one model with real weights is cut by half; what that
added at its peak is again a share of the weights' size.
"""

from __future__ import annotations

import resource
import time
import warnings

import psutil
import torch

from edgeprune.graph.capture import capture
from edgeprune.graph.coupling import analyse
from edgeprune.graph.surgery import cut

# (width, hidden width, layers, heads, KV heads): up to Llama-3.2-1B
SIZES = (
    (256, 1024, 4, 8, 4),
    (512, 2048, 8, 8, 4),
    (1024, 4096, 8, 16, 4),
    (1024, 4096, 16, 16, 4),
    (2048, 8192, 16, 32, 8),
)
WORDS = 128_256
REAL = (1024, 4096, 8, 16, 4, 65_536)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("parameters |   units | export s | analysis s | us/unit | memory/weights")
    for sizes in SIZES:
        with torch.device("meta"):
            model, example = llama(*sizes, WORDS)
        size = sum(parameter.numel() for parameter in model.parameters())
        started = time.perf_counter()
        captured = capture(model, example)
        exported = time.perf_counter()
        before = resident_bytes()
        coupling = analyse(captured)
        done = time.perf_counter()
        added = (peak_bytes() - before) / (4 * size)
        units = sum(group.units for group in coupling.groups)
        print(
            f"{size:>10,} | {units:>7,} | {exported - started:>8.1f} | {done - exported:>10.2f} "
            f"| {1e6 * (done - exported) / units:>7.1f} | {added:>8.3f}",
            flush=True,
        )
    cut_a_real_one()


def cut_a_real_one() -> None:
    model, example = llama(*REAL)
    size = sum(parameter.numel() for parameter in model.parameters())
    captured = capture(model, example)
    coupling = analyse(captured)
    kept = {group.name: range(max(group.least, group.units // 2)) for group in coupling.groups}
    before = resident_bytes()
    started = time.perf_counter()
    pruned = cut(captured, coupling, kept)
    seconds = time.perf_counter() - started
    added = (peak_bytes() - before) / (4 * size)
    left = sum(parameter.numel() for parameter in pruned.module.parameters())
    print(f"\n{size:,} real parameters cut to {left:,} in {seconds:.2f} s; memory/weights {added:.3f}")


def llama(
    width: int, hidden: int, layers: int, heads: int, shared: int, words: int
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config), {"input_ids": torch.zeros(2, 16, dtype=torch.int64)}


def resident_bytes() -> int:
    """What this process holds now; a peak since then, less this, is at least what was added."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
