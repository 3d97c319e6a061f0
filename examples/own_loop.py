"""Write your own training loop with the public functions of segkit.

    python examples/own_loop.py mine.pt 200 data.size=64 augment.crop_size=64

trains on drawn scenes for 200 iterations and writes ``mine.pt``, which ``segkit.load`` and the commands read.
Any setting of ``train_seg.py`` may follow. Set ``PYTHONPATH=.`` if segkit is not installed.
"""

from __future__ import annotations

import sys

import torch

import segkit


def main(file: str, iterations: int, *overrides: str) -> None:
    """Train, evaluate and save a model."""
    settings = segkit.compose_settings("train", ["experiment=demo", *overrides])
    train_set, val_set = (segkit.build_dataset(settings, split) for split in ("train", "val"))
    table = train_set.table
    torch.manual_seed(settings["seed"])
    model = segkit.build_model(settings, table.num_classes)
    loss = segkit.build_loss(settings, table.num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    model.train()
    for step, batch in enumerate(segkit.training_batches(settings, train_set, iterations=range(iterations))):
        parts = loss(model(batch.image), batch.label)  # by head: main, aux
        total = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        cosine.step()
        if step % 20 == 0:
            print(f"{step:5d}  loss {total.item():.4f}")
    result = segkit.evaluate(model.eval(), val_set, segkit.Protocol())
    print(f"mIoU {result.scores['mIoU']:.2%} of {result.images} images")
    segkit.save(model, file, settings=settings, table=table)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
