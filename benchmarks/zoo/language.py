"""Text models: encoders, decoders, and a mixture of experts."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.zoo.entry import Entry, from_config, tokens, written

WORDS = 97
_TEXT = tokens(12, WORDS)


class Experts(nn.Module):
    """A mixture of experts as one batched product: all run, the router's best two are weighed in."""

    def __init__(self, width: int, hidden: int, count: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, count, bias=False)
        self.enter = nn.Parameter(torch.randn(count, width, hidden) * width**-0.5)
        self.leave = nn.Parameter(torch.randn(count, hidden, width) * hidden**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.router(x)
        best = scores.topk(2, dim=-1).values[..., -1:]
        weights = torch.softmax(scores.masked_fill(scores < best, float("-inf")), dim=-1)
        hidden = torch.nn.functional.silu(torch.einsum("bsw,ewh->besh", x, self.enter))
        return torch.einsum("besh,ehw,bse->bsw", hidden, self.leave, weights)


class Mixture(nn.Module):
    def __init__(self, width: int = 48, layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.experts = nn.ModuleList(Experts(width, 64, 4) for _ in range(layers))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x)
        for norm, experts in zip(self.norms, self.experts, strict=True):
            x = x + experts(norm(x))
        return self.head(x.mean(dim=1))


_ENCODER = {
    "vocab_size": WORDS,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 32,
    "num_labels": 3,
}
_DECODER = {
    "vocab_size": WORDS,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 32,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ENTRIES: tuple[Entry, ...] = (
    from_config("BertForSequenceClassification", "BertConfig", _TEXT, **_ENCODER).named("BERT"),
    from_config(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        _TEXT,
        vocab_size=WORDS,
        dim=48,
        n_layers=2,
        n_heads=4,
        hidden_dim=96,
        max_position_embeddings=32,
        num_labels=3,
    ).named("DistilBERT"),
    from_config("RobertaForSequenceClassification", "RobertaConfig", _TEXT, **_ENCODER, pad_token_id=1).named(
        "RoBERTa"
    ),
    from_config(
        "AlbertForSequenceClassification", "AlbertConfig", _TEXT, **_ENCODER, embedding_size=24
    ).named("ALBERT"),
    from_config(
        "T5ForTokenClassification",
        "T5Config",
        _TEXT,
        vocab_size=WORDS,
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        num_labels=3,
    ).named("T5 encoder"),
    from_config(
        "GPT2LMHeadModel",
        "GPT2Config",
        _TEXT,
        vocab_size=WORDS,
        n_positions=32,
        n_embd=48,
        n_layer=2,
        n_head=4,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
    ).named("GPT-2"),
    from_config("LlamaForCausalLM", "LlamaConfig", _TEXT, **_DECODER, num_key_value_heads=2).named("Llama"),
    from_config(
        "Qwen3ForCausalLM", "Qwen3Config", _TEXT, **_DECODER, num_key_value_heads=2, head_dim=12
    ).named("Qwen3"),
    from_config("MistralForCausalLM", "MistralConfig", _TEXT, **_DECODER, num_key_value_heads=2).named(
        "Mistral"
    ),
    from_config("PhiForCausalLM", "PhiConfig", _TEXT, **_DECODER, partial_rotary_factor=0.5).named("Phi"),
    from_config("GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT, **_DECODER).named("GPT-NeoX"),
    from_config(
        "FalconForCausalLM",
        "FalconConfig",
        _TEXT,
        vocab_size=WORDS,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        multi_query=True,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
    ).named("Falcon"),
    written("Mixture of experts", Mixture, lambda: torch.randint(0, WORDS, (2, 12))),
)
