"""Write the tables of docs/models.md. Nothing is downloaded.

python docs/models.py            write the tables, with the speeds last measured: a minute
python docs/models.py speed      measure images/s of every backbone: two minutes on two idle cores
python docs/models.py image      plot speed against published accuracy
"""

from __future__ import annotations

import csv
import functools
import importlib
import statistics
import sys
import time
import typing
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone

from segkit.config import registry
from segkit.models import segmenter, summary

PAGE = Path(__file__).with_suffix(".md")
SPEEDS = Path(__file__).with_name("speeds.csv")
IMAGE = Path(__file__).with_name("images") / "speed.png"
START, END = "<!-- tables -->\n", "<!-- end of tables -->"

TOP1 = {  # published, in percent, at the crop of the source
    ("resnest", "14"): 75.75,
    ("resnest", "26"): 78.68,
    ("resnest", "50"): 81.03,
    ("resnest", "101"): 82.83,
    ("resnest", "200"): 83.84,
    ("resnest", "269"): 84.54,
    ("resnest", "50_fast_1s1x64d"): 80.33,
    ("resnest", "50_fast_2s1x64d"): 80.53,
    ("resnest", "50_fast_4s1x64d"): 80.76,
    ("resnest", "50_fast_1s2x40d"): 80.59,
    ("resnest", "50_fast_2s2x40d"): 80.61,
    ("resnest", "50_fast_4s2x40d"): 81.14,
    ("resnest", "50_fast_1s4x24d"): 80.99,
    ("resnet", "50"): 76.38,
    ("resnet", "101"): 78.20,
    ("resnet", "se_50"): 77.18,
    ("resnet", "se_101"): 78.47,
    ("resnet", "sk_50"): 77.54,
    ("resnet", "sk_101"): 78.79,
    ("resnet", "sknet_50"): 79.21,
    ("resnet", "sknet_101"): 79.81,
    ("resnet", "sge_50"): 77.58,
    ("resnet", "sge_101"): 78.80,
}
SIDE = 224  # of the image that speed is measured with
AUXILIARY = {"name": "fcn", "stage": 3}


def list_backbones() -> list[tuple[str, str]]:
    """Return name and variant of each backbone, in the order of the files."""
    found = []
    for name in registry.available("models.backbones"):
        build = importlib.import_module(f"segkit.models.backbones.{name}").build
        found += [(name, variant) for variant in typing.get_args(typing.get_type_hints(build)["variant"])]
    return found


def format_gmacs(call: typing.Callable[[], object]) -> str:
    """Return the multiply-accumulate operations of a call in units of 10^9."""
    return f"{summary.count_flops(call) / 2e9:.2f}"


def build_model(backbone: dict[str, object], head: str = "deeplabv3") -> segmenter.Segmenter:
    """Return a segmenter with 150 classes on the meta device."""
    with torch.device("meta"):
        return segmenter.build(150, backbone=backbone, head={"name": head}, auxiliary=AUXILIARY).eval()


def backbone_row(name: str, variant: str) -> str:
    """Return the table row of a backbone: as a classifier, then with DeepLabV3."""
    settings: dict[str, object] = {"name": name, "variant": variant}
    with torch.device("meta"):
        classifier = registry.build(
            "models.backbones", {**settings, "output_stride": 32}, num_classes=1000
        ).eval()
        small, crop = torch.empty(1, 3, 224, 224), torch.empty(1, 3, 480, 480)
        large = torch.empty(1, 3, 800, 1333)
    cells = [
        f"{name} {variant}",
        f"{summary.count_parameters(classifier):,}",
        format_gmacs(lambda: classifier(small)),
        format_gmacs(lambda: classifier(large)),
        f"{read_speeds()[name, variant]:.1f}" if (name, variant) in read_speeds() else "-",
        f"{TOP1[name, variant]:.2f}" if (name, variant) in TOP1 else "-",
    ]
    whole = build_model({**settings, "output_stride": 8})
    cells.append(format_gmacs(lambda: whole(crop)))
    return f"| {' | '.join(cells)} |\n"


def head_row(name: str) -> str:
    """Return the table row of a head on ResNeSt-101."""
    whole = build_model({"name": "resnest", "variant": "101"}, name)
    crop = torch.empty(1, 3, 480, 480, device="meta")
    parameters = f"{summary.count_parameters(whole.head) / 1e6:.2f}"
    return f"| {name} | {parameters} | {format_gmacs(lambda: whole(crop))} |\n"


@functools.cache
def read_speeds() -> dict[tuple[str, str], float]:
    """Return the images/s last measured."""
    with SPEEDS.open(newline="", encoding="utf-8") as file:
        return {(row["backbone"], row["variant"]): float(row["images/s"]) for row in csv.DictReader(file)}


def measure_speeds(rounds: int = 3) -> None:
    """Measure every undilated backbone with one image at a time, and store the median of the rounds.

    One thread and processor time make the result robust against other work on the machine.
    """
    torch.set_num_threads(1)
    image = torch.randn(1, 3, SIDE, SIDE)
    with SPEEDS.open("w", newline="", encoding="utf-8") as file, torch.inference_mode():
        write = csv.writer(file, lineterminator="\n").writerow
        write(["backbone", "variant", "images/s"])
        for name, variant in list_backbones():
            settings = {"name": name, "variant": variant, "output_stride": 32}
            network = registry.build("models.backbones", settings).eval()
            seconds = []
            for _ in range(rounds + 1):
                start = time.process_time()
                network(image)
                seconds.append(time.process_time() - start)
            write([name, variant, f"{1 / statistics.median(seconds[1:]):.2f}"])  # the first is a warm-up
            file.flush()


def plot_speeds() -> None:
    """Plot published accuracy against measured speed, one line per family."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    families: dict[str, list[tuple[float, float, str]]] = {}
    for (name, variant), top1 in TOP1.items():
        unit, _, rest = variant.rpartition("_")
        family = f"{unit.upper()}-ResNet".replace("SKNET-ResNet", "SKNet") if unit else "ResNet"
        if name == "resnest":
            family, rest = ("ResNeSt-50 fast", variant) if "fast" in variant else ("ResNeSt", variant)
        families.setdefault(family, []).append((read_speeds()[name, variant], top1, rest))
    figure, axes = pyplot.subplots(figsize=(9, 5.5), dpi=110, layout="constrained")
    for family, points in families.items():
        x, y, names = zip(*points, strict=True)
        axes.plot(x, y, "o" if "fast" in family else "o-", label=family, markersize=5)
        for point in zip(x, y, names, strict=True):
            if "fast" not in family:  # these points overlap; the table has their names
                axes.annotate(point[2], point[:2], (5, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel(f"images/s of the backbone on one core, {SIDE} x {SIDE}; measured, see docs/models.md")
    axes.set_ylabel("ImageNet top-1 in %, as published")
    axes.set_xscale("log")
    axes.set_xticks([1.5, 2, 3, 4, 5, 6, 8, 10, 12], labels=["1.5", "2", "3", "4", "5", "6", "8", "10", "12"])
    axes.minorticks_off()
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(IMAGE)


def write_tables() -> None:
    """Replace the tables between the two marks on the page."""
    columns = ["backbone", "parameters (1000 classes)", "GMACs @224", "@1333x800"]
    columns += [f"images/s @{SIDE}", "top-1, published", "GMACs with DeepLabV3 @480"]
    tables = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    tables += "".join(backbone_row(*backbone) for backbone in list_backbones())
    tables += "\n| head on ResNeSt-101 | M parameters | GMACs with backbone @480 |\n|---|---|---|\n"
    tables += "".join(head_row(name) for name in registry.available("models.heads"))
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    PAGE.write_text(f"{before}{START}\n{tables}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    {"speed": measure_speeds, "image": plot_speeds, "tables": write_tables}[(sys.argv[1:] or ["tables"])[0]]()
