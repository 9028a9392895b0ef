"""Architectures of monai in their small two-dimensional forms, by the arguments that each asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.survey.subject import Built, NotBuilt, Subject

SIDE = 32
Example = Callable[[], Any]


def _image(channels: int = 1, side: int = SIDE) -> Example:
    return lambda: torch.randn(2, channels, side, side)


def _rows(width: int) -> Example:
    return lambda: torch.randn(2, width)


@dataclass(frozen=True)
class _Net:
    """name: of the class, whose arguments are `given`. example: what it takes, by default a small image."""

    name: str
    given: dict[str, Any]
    example: Example = field(default_factory=_image)


_DIMS: dict[str, Any] = {"spatial_dims": 2}
_PLANE: dict[str, Any] = {**_DIMS, "in_channels": 1, "out_channels": 2}
_STEPS: dict[str, Any] = {"channels": (16, 32, 64), "strides": (2, 2)}
_VIT: dict[str, Any] = {"hidden_size": 64, "mlp_dim": 256, "num_heads": 4}
_PATCHES: dict[str, Any] = {
    "in_channels": 1,
    "img_size": (SIDE, SIDE),
    "patch_size": (8, 8),
    "num_layers": 2,
    **_VIT,
    **_DIMS,
}
_LATENT: dict[str, Any] = {
    "channels": (16, 32),
    "num_res_blocks": (1, 1),
    "attention_levels": (False, True),
    "norm_num_groups": 8,
}
_DIFFUSION: dict[str, Any] = {**_DIMS, **_LATENT, "in_channels": 1, "num_head_channels": 8}


def _noised() -> Any:
    return {"x": torch.randn(2, 1, SIDE, SIDE), "timesteps": torch.randint(0, 100, (2,))}


_NETS = (
    _Net("AttentionUnet", {**_PLANE, **_STEPS}),
    _Net("AutoEncoder", {**_PLANE, **_STEPS, "strides": (2, 2, 1)}),
    _Net("AutoencoderKL", {**_PLANE, **_LATENT, "latent_channels": 4}),
    _Net("BasicUNet", {**_PLANE, "features": (16, 16, 32, 32, 64, 16)}),
    _Net("BasicUNetPlusPlus", {**_PLANE, "features": (16, 16, 32, 32, 64, 16)}),
    _Net("Classifier", {"in_shape": (1, SIDE, SIDE), "classes": 4, "channels": (16, 32), "strides": (2, 2)}),
    _Net("Critic", {"in_shape": (1, SIDE, SIDE), "channels": (16, 32), "strides": (2, 2)}),
    _Net(
        "DecoderOnlyTransformer",
        {
            "num_tokens": 50,
            "max_seq_len": 16,
            "attn_layers_dim": 64,
            "attn_layers_depth": 2,
            "attn_layers_heads": 4,
        },
        lambda: torch.randint(0, 50, (2, 12)),
    ),
    _Net("DenseNet", {**_PLANE, "init_features": 16, "growth_rate": 8, "block_config": (2, 2)}),
    _Net("DiffusionModelUNet", {**_DIFFUSION, "out_channels": 1}, _noised),
    _Net("Discriminator", {"in_shape": (1, SIDE, SIDE), "channels": (16, 32), "strides": (2, 2)}),
    _Net(
        "DynUNet",
        {
            **_PLANE,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [16, 32, 64],
        },
    ),
    _Net(
        "EfficientNetBN",
        {"model_name": "efficientnet-b0", "in_channels": 1, "num_classes": 4, "pretrained": False, **_DIMS},
    ),
    _Net("FlexibleUNet", {**_PLANE, "backbone": "efficientnet-b0"}, _image(side=64)),
    _Net("FullyConnectedNet", {"in_channels": 10, "out_channels": 2, "hidden_channels": [32, 64]}, _rows(10)),
    _Net(
        "Generator",
        {"latent_shape": (16,), "start_shape": (32, 4, 4), "channels": (32, 16, 1), "strides": (2, 2, 1)},
        _rows(16),
    ),
    _Net(
        "GlobalNet",
        {"image_size": [SIDE, SIDE], "in_channels": 2, "num_channel_initial": 8, **_DIMS, "depth": 2},
        _image(2),
    ),
    _Net("HighResNet", dict(_PLANE)),
    _Net(
        "LocalNet",
        {"in_channels": 2, "out_channels": 2, "num_channel_initial": 8, "extract_levels": (0, 1), **_DIMS},
        _image(2),
    ),
    _Net("MedNeXt", {**_PLANE, "init_filters": 16}, _image(side=64)),
    _Net("PatchDiscriminator", {"in_channels": 1, "channels": 16, "num_layers_d": 2, **_DIMS}),
    _Net("Quicknat", {"num_classes": 2, "num_channels": 1, "num_filters": 32}),
    _Net(
        "RegUNet",
        {"in_channels": 2, "out_channels": 2, "num_channel_initial": 8, "depth": 2, **_DIMS},
        _image(2),
    ),
    _Net(
        "Regressor", {"in_shape": (1, SIDE, SIDE), "out_shape": (2,), "channels": (16, 32), "strides": (2, 2)}
    ),
    _Net(
        "SEResNet50", {"in_channels": 1, "num_classes": 4, "layers": (1, 1, 1, 1), **_DIMS}, _image(side=64)
    ),
    _Net("SegResNet", {**_PLANE, "init_filters": 16}),
    _Net("SegResNetDS", {**_PLANE, "init_filters": 16}, _image(side=64)),
    _Net("SwinUNETR", {**_PLANE, "feature_size": 12}, _image(side=64)),
    _Net(
        "UNETR", {"in_channels": 1, "out_channels": 2, "img_size": SIDE, "feature_size": 16, **_VIT, **_DIMS}
    ),
    _Net("UNet", {**_PLANE, **_STEPS, "num_res_units": 2}),
    _Net("VNet", dict(_PLANE)),
    _Net(
        "VQVAE",
        {
            **_DIMS,
            "in_channels": 1,
            "out_channels": 1,
            "channels": (16, 32),
            "num_res_channels": (16, 32),
            "num_res_layers": 1,
            "downsample_parameters": ((2, 4, 1, 1), (2, 4, 1, 1)),
            "upsample_parameters": ((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
            "num_embeddings": 16,
            "embedding_dim": 16,
        },
    ),
    _Net(
        "VarAutoEncoder",
        {
            **_DIMS,
            "in_shape": (1, SIDE, SIDE),
            "out_channels": 1,
            "latent_size": 8,
            **_STEPS,
            "strides": (2, 2, 1),
        },
    ),
    _Net("ViT", {**_PATCHES, "classification": True, "num_classes": 4}),
    _Net("ViTAutoEnc", {**_PATCHES, "patch_size": (4, 4)}),
    _Net(
        "VoxelMorphUNet",
        {
            "in_channels": 2,
            "unet_out_channels": 8,
            "channels": (8, 8, 16, 16, 16, 16, 8, 8),
            "final_conv_channels": (8, 8),
            **_DIMS,
        },
        _image(2),
    ),
    _Net("resnet10", {"n_input_channels": 1, "num_classes": 4, **_DIMS}, _image(side=64)),
)


def subjects() -> list[Subject]:
    return [Subject(net.name, "monai", partial(_build, net)) for net in _NETS]


def _build(net: _Net) -> Built:
    """The network with an example that it takes. Raises `NotBuilt`."""
    from monai.networks import nets

    try:
        model: nn.Module = getattr(nets, net.name)(**net.given).eval()
        example = net.example()
        with torch.no_grad():
            model(**example) if isinstance(example, dict) else model(example)
    except Exception as error:  # whatever a library says
        raise NotBuilt(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return model, example
