"""Write the tables of docs/models.md: ``python docs/models.py`` (a minute; nothing is downloaded).

python docs/models.py speed      images/s of every backbone on this machine, two minutes on two idle cores
python docs/models.py            the tables, with the speeds last measured
python docs/models.py image    speed against published accuracy (needs matplotlib)
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


def backbones() -> list[tuple[str, str]]:
    """Name and variant of each, in the order of their files."""
    found = []
    for name in registry.available("models.backbones"):
        build = importlib.import_module(f"segkit.models.backbones.{name}").build
        found += [(name, variant) for variant in typing.get_args(typing.get_type_hints(build)["variant"])]
    return found


def giga_macs(call: typing.Callable[[], object]) -> str:
    """Thousand million multiplications with their additions."""
    return f"{summary.count_flops(call) / 2e9:.2f}"


def model(backbone: dict[str, object], head: str = "deeplabv3") -> segmenter.Segmenter:
    """A segmenter of 150 classes that has shapes but no numbers."""
    with torch.device("meta"):
        return segmenter.build(150, backbone=backbone, head={"name": head}, auxiliary=AUXILIARY).eval()


def row_of_backbone(name: str, variant: str) -> str:
    """One line: as a classifier, then under DeepLabV3."""
    settings: dict[str, object] = {"name": name, "variant": variant}
    with torch.device("meta"):
        classifier = registry.build(
            "models.backbones", {**settings, "output_stride": 32}, num_classes=1000
        ).eval()
        small, crop = torch.empty(1, 3, 224, 224), torch.empty(1, 3, 480, 480)
        large = torch.empty(1, 3, 800, 1333)
    published = importlib.import_module(f"segkit.models.backbones.{name}")
    cells = [
        f"{name} {variant}",
        f"{summary.parameters(classifier):,}",
        giga_macs(lambda: classifier.classify(small)),
        f"{(summary.parameters(classifier) - summary.parameters(classifier.fc)) / 1e6:.2f}",
        giga_macs(lambda: classifier(small)),
        giga_macs(lambda: classifier(large)),
        f"{speeds()[name, variant]:.1f}" if (name, variant) in speeds() else "-",
        f"{TOP1[name, variant]:.2f}" if (name, variant) in TOP1 else "-",
        "yes" if variant in getattr(published, "PUBLISHED", {}) else "-",
    ]
    for output_stride in (8, 16):
        whole = model({**settings, "output_stride": output_stride})
        if output_stride == 8:
            cells.append(f"{summary.parameters(whole) / 1e6:.2f}")
        cells.append(giga_macs(lambda whole=whole: whole(crop)))
    return f"| {' | '.join(cells)} |\n"


def row_of_head(name: str) -> str:
    """One line: the head on ResNeSt-101."""
    whole = model({"name": "resnest", "variant": "101"}, name)
    crop = torch.empty(1, 3, 480, 480, device="meta")
    parameters = f"{summary.parameters(whole.head) / 1e6:.2f}"
    return f"| {name} | {parameters} | {giga_macs(lambda: whole(crop))} |\n"


@functools.cache
def speeds() -> dict[tuple[str, str], float]:
    """Images/s as they were last measured."""
    with SPEEDS.open(newline="", encoding="utf-8") as file:
        return {(row["backbone"], row["variant"]): float(row["images/s"]) for row in csv.DictReader(file)}


def measure(rounds: int = 3) -> None:
    """Time every backbone as it is, undilated, one image at a time; the median of the rounds counts.

    On one thread, by processor time: other work on the machine then disturbs little.
    """
    torch.set_num_threads(1)
    image = torch.randn(1, 3, SIDE, SIDE)
    with SPEEDS.open("w", newline="", encoding="utf-8") as file, torch.inference_mode():
        write = csv.writer(file, lineterminator="\n").writerow
        write(["backbone", "variant", "images/s"])
        for name, variant in backbones():
            settings = {"name": name, "variant": variant, "output_stride": 32}
            network = registry.build("models.backbones", settings).eval()
            seconds = []
            for _ in range(rounds + 1):
                start = time.process_time()
                network(image)
                seconds.append(time.process_time() - start)
            write([name, variant, f"{1 / statistics.median(seconds[1:]):.2f}"])  # the first one warms up
            file.flush()


def draw() -> None:
    """Published accuracy over measured speed, a line a family."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    families: dict[str, list[tuple[float, float, str]]] = {}
    for (name, variant), top1 in TOP1.items():
        unit, _, rest = variant.rpartition("_")
        family = f"{unit.upper()}-ResNet".replace("SKNET-ResNet", "SKNet") if unit else "ResNet"
        if name == "resnest":
            family, rest = ("ResNeSt-50 fast", variant) if "fast" in variant else ("ResNeSt", variant)
        families.setdefault(family, []).append((speeds()[name, variant], top1, rest))
    figure, axes = pyplot.subplots(figsize=(9, 5.5), dpi=110, layout="constrained")
    for family, points in families.items():
        x, y, names = zip(*points, strict=True)
        axes.plot(x, y, "o" if "fast" in family else "o-", label=family, markersize=5)
        for point in zip(x, y, names, strict=True):
            if "fast" not in family:  # those lie close together; the table tells them apart
                axes.annotate(point[2], point[:2], (5, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel(f"images/s of the backbone on one core, {SIDE} x {SIDE}; measured, see docs/models.md")
    axes.set_ylabel("ImageNet top-1 in %, as published")
    axes.set_xscale("log")
    axes.set_xticks([1.5, 2, 3, 4, 5, 6, 8, 10, 12], labels=["1.5", "2", "3", "4", "5", "6", "8", "10", "12"])
    axes.minorticks_off()
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(IMAGE)


def main() -> None:
    """Replace what stands between the marks."""
    columns = ["backbone", "parameters (1000 classes)", "GMACs @224", "M parameters without the classifier"]
    columns += ["GMACs without it @224", "@1333x800", f"images/s @{SIDE}", "top-1, published"]
    columns += ["imagenet weights"]
    columns += ["DeepLabV3, M parameters (150 classes, with auxiliary)", "GMACs @480, stride 8", "stride 16"]
    tables = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    tables += "".join(row_of_backbone(*backbone) for backbone in backbones())
    tables += "\n| head on ResNeSt-101 | M parameters | GMACs of the whole @480, stride 8 |\n|---|---|---|\n"
    tables += "".join(row_of_head(name) for name in registry.available("models.heads"))
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    PAGE.write_text(f"{before}{START}\n{tables}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    {"speed": measure, "image": draw, "tables": main}[(sys.argv[1:] or ["tables"])[0]]()
