"""Audio, time series and tables."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.zoo.entry import Entry, from_config, written


class KeywordSpotter(nn.Sequential):
    """DS-CNN (Zhang et al. 2017): a convolution, four separable ones, a mean."""

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, width, (10, 4), 2, (4, 1)), nn.BatchNorm2d(width), nn.ReLU()]
        for _ in range(4):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, groups=width),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 12))


class TemporalBlock(nn.Module):
    """A causal dilated convolution with a residual path (Bai et al. 2018)."""

    def __init__(self, before: int, after: int, dilation: int) -> None:
        super().__init__()
        self.left = 2 * dilation
        self.conv = torch.nn.utils.parametrizations.weight_norm(
            nn.Conv1d(before, after, 3, dilation=dilation)
        )
        self.skip = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(nn.functional.pad(x, (self.left, 0)))) + self.skip(x)


class TemporalNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            TemporalBlock(6, 24, 1), TemporalBlock(24, 24, 2), TemporalBlock(24, 32, 4)
        )
        self.head = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x)[:, :, -1])


class PatchForecaster(nn.Module):
    """PatchTST-like (Nie et al. 2023): overlapping patches of each channel, one encoder for all."""

    def __init__(self, length: int = 64, patch: int = 16, stride: int = 8, width: int = 32) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        count = (length - patch) // stride + 1
        self.embed, self.place = nn.Linear(patch, width), nn.Parameter(torch.randn(count, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 64, batch_first=True, norm_first=True, dropout=0.0)
        self.layers = nn.ModuleList([layer, nn.TransformerEncoderLayer(width, 4, 64, batch_first=True)])
        self.head = nn.Linear(count * width, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, _ = x.shape
        x = x.unfold(-1, self.patch, self.stride)  # [B, C, patches, patch]
        x = (self.embed(x) + self.place).flatten(0, 1)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.flatten(1)).unflatten(0, (b, c))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 16)
        self.cell = kind(16, 24, num_layers=1, batch_first=True)
        self.hidden, self.head = nn.Linear(24, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found, _ = self.cell(torch.relu(self.enter(x)))
        return self.head(torch.relu(self.hidden(found[:, -1])))


class Columns(nn.Module):
    """A table: embeddings of the categories beside the numbers, then an MLP with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (7, 5, 12)
        self.embeddings = nn.ModuleList(nn.Embedding(size, 6) for size in self.sizes)
        self.body = nn.Sequential(
            nn.Linear(3 * 6 + 8, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(64, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 2)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        found = [embedding(categories[:, at]) for at, embedding in enumerate(self.embeddings)]
        return self.head(self.body(torch.cat([*found, numbers], dim=1)))


class FeatureTokenizer(nn.Module):
    """FT-Transformer (Gorishniy et al. 2021): every column becomes a token."""

    def __init__(self, numbers: int = 8, width: int = 32) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.randn(numbers, width) * 0.2) for _ in range(2))
        self.offsets: torch.Tensor
        self.register_buffer("offsets", torch.tensor([0, 7, 12]))
        self.table, self.first = nn.Embedding(24, width), nn.Parameter(torch.randn(1, 1, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 64, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        found = [
            self.first.expand(numbers.shape[0], -1, -1),
            numbers[:, :, None] * self.weight + self.bias,
            self.table(categories + self.offsets),
        ]
        x = torch.cat(found, dim=1)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x[:, 0]))


def _table() -> dict[str, torch.Tensor]:
    return {"numbers": torch.randn(2, 8), "categories": torch.randint(0, 5, (2, 3))}


ENTRIES: tuple[Entry, ...] = (
    from_config(
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        lambda: {"input_values": torch.randn(2, 1600)},
        vocab_size=32,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        conv_dim=(32, 32, 32),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=16,
        num_labels=3,
    ).named("Wav2Vec2"),
    from_config(
        "WhisperForAudioClassification",
        "WhisperConfig",
        lambda: {"input_features": torch.randn(2, 16, 40)},
        vocab_size=97,
        num_mel_bins=16,
        d_model=48,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_source_positions=20,
        max_target_positions=16,
        classifier_proj_size=16,
        num_labels=3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    ).named("Whisper encoder"),
    written("DS-CNN", KeywordSpotter, lambda: torch.randn(2, 1, 49, 10)),
    written("Temporal CNN", TemporalNetwork, lambda: torch.randn(2, 6, 32)),
    written("PatchTST-like", PatchForecaster, lambda: torch.randn(2, 3, 64)),
    written("LSTM", lambda: Recurrent(nn.LSTM), lambda: torch.randn(2, 10, 6)),
    written("GRU", lambda: Recurrent(nn.GRU), lambda: torch.randn(2, 10, 6)),
    written("MLP with embeddings", Columns, _table),
    written("FT-Transformer", FeatureTokenizer, _table),
)
