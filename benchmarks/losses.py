"""Compare losses: their cost, and the scores of a training with each.

python benchmarks/losses.py cost [--shape 2 150 480 480] [--rounds 5]
python benchmarks/losses.py train [--losses A B] [--seeds 0 1 2] experiment=camvid_losses data.root=DIR

``cost``: CPU time of value and gradient, compared with PyTorch's cross-entropy in one run with alternating
sides. ``train``: a training for each loss and seed under ``run_dir``, with all further settings; complete
trainings are not repeated. Prints mean and standard deviation.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

LOSSES = ["cross_entropy", "ohem", "focal", "ce_dice", "ce_lovasz"]
SETTINGS = {  # of --losses
    "cross_entropy": {"name": "cross_entropy"},
    "ohem": {"name": "ohem"},
    "focal": {"name": "focal"},
    "ce_dice": {"name": "mixed", "parts": {"cross_entropy": {"weight": 0.375}, "dice": {"weight": 1.125}}},
    "ce_lovasz": {"name": "mixed", "parts": {"cross_entropy": {"weight": 1.0}, "lovasz": {"weight": 1.0}}},
}


def cost(shape: list[int], rounds: int) -> None:
    """Print for each loss the median CPU time and its ratio to PyTorch's cross-entropy."""
    import torch
    import torch.nn.functional as F

    from segkit.config import registry
    from segkit.types import IGNORE_INDEX, Logits

    batch, num_classes, height, width = shape
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, num_classes, (batch, height // 8 + 1, width // 8 + 1), generator=generator)
    label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]
    logits = torch.randn(shape, generator=generator, requires_grad=True)

    def make_loss(name: str) -> Callable[[], torch.Tensor]:
        loss = registry.build("losses", SETTINGS[name], num_classes=num_classes)
        return lambda: loss(Logits(logits), label)["main"].sum()

    sides = {"torch": lambda: F.cross_entropy(logits, label, ignore_index=IGNORE_INDEX)}
    sides |= {name: make_loss(name) for name in LOSSES}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for count in range(rounds + 1):
        for name, side in sides.items():
            logits.grad = None
            begin = time.process_time()
            side().backward()
            if count:  # the first round warms up
                seconds[name].append(time.process_time() - begin)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print(f"{shape}, float32, {torch.get_num_threads()} threads, {rounds} rounds, torch {torch.__version__}")
    for name, median in medians.items():
        print(f"{name:16} {median:8.3f} s  {median / medians['torch']:6.2f} x torch")


def train(losses: list[str], seeds: list[int], settings: list[str]) -> None:
    """Train with each loss and seed, and print the table after each seed."""
    overrides = dict(setting.split("=", 1) for setting in settings)
    if "experiment" not in overrides:
        sys.exit("no experiment is given. Add one, such as experiment=camvid_losses data.root=DIR")
    folder = Path(overrides.get("run_dir", "runs"))
    for seed in seeds:  # seed by seed, for an early table of all losses
        for loss in losses:
            name = f"{overrides['experiment']}-loss={loss}-seed={seed}"
            own = [f"loss={loss}", f"seed={seed}", f"run_name={name}", "resume=auto"]
            if not (folder / name / "seconds").is_file():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([sys.executable, "train_seg.py", *settings, *own], cwd=ROOT, check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                (folder / name / "seconds").write_text(f"{spent:.0f}\n")
        print(table(folder, overrides["experiment"], losses, seeds), flush=True)


def table(folder: Path, experiment: str, losses: list[str], seeds: list[int]) -> str:
    """Return a row for each loss: mean and standard deviation of the last scores, and CPU time."""
    rows = ["| loss | seeds | pixAcc | mIoU | CPU time |", "|---|---|---|---|---|"]
    for loss in losses:
        places = [folder / f"{experiment}-loss={loss}-seed={seed}" for seed in seeds]
        places = [place for place in places if (place / "seconds").is_file()]
        scores = [json.loads((place / "result.json").read_text())["scores"] for place in places]
        minutes = [float((place / "seconds").read_text()) / 60 for place in places]
        cells = [_spread([100 * score[key] for score in scores]) for key in ("pixAcc", "mIoU")]
        cells.append(f"{statistics.mean(minutes):.1f} min" if minutes else "-")
        rows.append(f"| `{loss}` | {len(places)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    costs = kinds.add_parser("cost")
    costs.add_argument("--shape", type=int, nargs=4, default=[2, 150, 480, 480], metavar=("B", "K", "H", "W"))
    costs.add_argument("--rounds", type=int, default=5)
    trains = kinds.add_parser("train")
    trains.add_argument("settings", nargs="+", metavar="KEY=VALUE")
    trains.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    trains.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    chosen = parser.parse_args()
    if chosen.kind == "cost":
        cost(chosen.shape, chosen.rounds)
    else:
        train(chosen.losses, chosen.seeds, chosen.settings)


if __name__ == "__main__":
    main()
