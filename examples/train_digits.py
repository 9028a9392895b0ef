"""Train the network of `digits.py` and write its weights: `python examples/train_digits.py`.

One thread, seeded, deterministic kernels: on one machine two runs give the same bytes. A processor
that sums in another order gives other last digits and, after training, slightly other weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from digits import BATCH, WEIGHTS, Digits, accuracy, load_split
from digits_model import DigitsNet
from numpy.typing import NDArray
from safetensors.torch import save_file


def shifted(images: torch.Tensor, generator: torch.Generator, most: int = 3) -> torch.Tensor:
    """Each image moved by up to `most` pixels in both directions, the border filled with paper."""
    size = images.shape[-1]
    padded = torch.nn.functional.pad(images, (most, most, most, most))
    moves = torch.randint(0, 2 * most + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, moves, strict=True)]
    )


def train(data: Digits, epochs: int, seed: int = 0) -> DigitsNet:
    """A network trained on `data` with AdamW and one cosine decay after a short warm-up."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DigitsNet().train()
    steps = -(-len(data.labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=epochs * steps, pct_start=0.2
    )
    for epoch in range(epochs):
        losses = []
        for rows in torch.randperm(len(data.labels), generator=generator).split(BATCH):
            logits = model(shifted(data.images[rows], generator))
            loss = torch.nn.functional.cross_entropy(logits, data.labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.4f}", flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    training, test = load_split()
    model = train(training, options.epochs)

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return model(torch.from_numpy(images)).numpy()

    save_file(model.state_dict(), options.out)
    print(f"accuracy on {len(test.labels)} test images: {accuracy(predict, test):.4f}; {options.out}")


if __name__ == "__main__":
    main()
