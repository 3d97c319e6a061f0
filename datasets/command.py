"""Command line of the data set scripts, and unpacking of archives."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the scripts are run as files
import segkit.runtime.interrupt  # noqa: F401 - first: Ctrl-C while the rest is imported

# isort: split

import numpy as np
from tqdm import tqdm

from segkit.config import compose, registry
from segkit.config.compose import Reader
from segkit.config.values import parse_path
from segkit.data import choosing, overlap, statistics, transforms, verify
from segkit.runtime.commands import cli_command
from segkit.runtime.errors import report_user_errors
from segkit.runtime.text import first_line, format_count
from segkit.tools import doctor
from segkit.tools.doctor import export
from segkit.types import Bands
from segkit.visualize import overlays

Work = Callable[[argparse.Namespace, Path], None]


class Script:
    """Command line ``python datasets/NAME.py prepare|verify|doctor|stats|show --root DIR``.

    Args:
        name: of the data set.
        about: license, source and layout, for ``--help``.
        official: number of images of each published split.
    """

    def __init__(self, name: str, about: str, official: Mapping[str, int] | None = None):
        self.name, self.official = name, official or {}
        self.parser = argparse.ArgumentParser(
            prog=cli_command("data", name),
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.commands = self.parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        check = self._add(
            "verify", self._verify, "check every file and list all problems; exit status 1 if there are any"
        )
        check.add_argument("--json", action="store_true", help="print the findings as JSON")
        counts = self._add(
            "stats", self._stats, "pixels and images per class, sizes, mean and standard deviation"
        )
        counts.add_argument(
            "--weights", type=parse_path, metavar="FILE", help="write class weights for loss.class_weights"
        )
        counts.add_argument("--method", choices=sorted(statistics.WEIGHTS), default="median_frequency")
        examine = self._add(
            "doctor",
            self._doctor,
            "find copies, leaks, masks that do not fit, hopeless classes and wrong labels; "
            "exit status 1 if something serious was found",
        )
        examine.add_argument(
            "--output",
            type=parse_path,
            default=Path(f"doctor-{name}"),
            metavar="DIR",
            help="folder of doctor.html, doctor.json and exclude.txt; default: %(default)s",
        )
        examine.add_argument(
            "--checkpoint",
            metavar="FILE",
            help="file of a trained model, which ranks the images by how likely their labels are wrong",
        )
        examine.add_argument(
            "--export",
            nargs="+",
            choices=sorted(export.TOOLS),
            default=[],
            help="write the first images of the ranking for label tools",
        )
        examine.add_argument(
            "--count", type=int, default=24, help="images to show and export; default: %(default)s"
        )
        show = self._add(
            "show", self._show, "write a contact sheet: image and overlay, before and after augmentation"
        )
        show.add_argument(
            "--output", type=parse_path, default=Path(f"{name}.png"), help="default: %(default)s"
        )
        show.add_argument("--samples", nargs="+", metavar="NAME", help="names of samples; default: random")
        show.add_argument("--count", type=int, default=6)
        show.add_argument("--seed", type=int, default=0, help="of the random samples and augmentations")
        for parser in (check, counts, examine, show):
            text = "default: both" if parser in (check, examine) else "default: train"
            parser.add_argument("--split", choices=("train", "val"), help=text)

    def _add(
        self, name: str, work: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser:
        parser = self.commands.add_parser(name, help=text, description=text)
        parser.add_argument("--root", help=f"default: data.root of conf/data/{self.name}.yaml")
        parser.set_defaults(work=work)
        return parser

    def add_command(self, name: str, work: Work, text: str) -> argparse.ArgumentParser:
        """Add a command, a function of the arguments and the root, and return the parser of its options."""
        return self._add(name, lambda arguments: work(arguments, self._root(arguments)), text)

    def add_prepare(self, prepare: Work, text: str) -> argparse.ArgumentParser:
        """Add the command ``prepare``, which suggests to verify the files."""

        def work(arguments: argparse.Namespace, root: Path) -> None:
            prepare(arguments, root)
            verify = f"{cli_command('data', self.name)} verify --root {root}"
            print(f"{self.name} is ready in {root}; check every file with `{verify}`")

        return self.add_command("prepare", work, text)

    def run(self) -> None:
        """Run the command on the command line."""
        arguments, arguments.settings = self.parser.parse_known_args()
        if unknown := [word for word in arguments.settings if word.startswith("-") or "=" not in word]:
            self.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        report_user_errors(lambda: arguments.work(arguments))

    def _root(self, arguments: argparse.Namespace) -> Path:
        return Path(self._settings(arguments)["data"]["root"]).expanduser()

    def _settings(self, arguments: argparse.Namespace, choose: Reader | None = None) -> dict[str, Any]:
        overrides = [f"data={self.name}", "run_name=none", *arguments.settings]
        if arguments.root:
            quoted = arguments.root.replace("\\", "\\\\").replace("'", "\\'")
            overrides.append(f"data.root='{quoted}'")
        return compose.compose_settings("train", overrides, choose=choose)

    def _splits(self, settings: Mapping[str, Any], split: str | None) -> dict[str, Any]:
        """Return the data sets to check, by split."""
        data = settings["data"] | {"on_error": "skip", "cache": "none"}
        splits = [split] if split else ["train", "val"]
        return {split: registry.build("data.datasets", data, split=split) for split in splits}

    def _verify(self, arguments: argparse.Namespace) -> None:
        settings = self._settings(arguments)
        datasets, problems = self._splits(settings, arguments.split), []
        for split, dataset in datasets.items():
            expected = self.official.get(str(settings["data"].get(f"{split}_split")))
            problems += verify.verify_dataset(dataset, expected=expected)
        total = sum(map(len, datasets.values()))
        shared = overlap.describe_overlap(*datasets.values()) if len(datasets) == 2 else ""
        counts = Counter(problem.kind for problem in problems)
        if arguments.json:
            report = {"pairs": total, "counts": counts, "problems": [one._asdict() for one in problems]}
            print(json.dumps(report | {"warnings": [shared] if shared else []}, indent=1))
        else:
            for kind, number in counts.most_common():
                print(f"{kind}: {number}")
                print(*(f"  {p}" for p in problems if p.kind == kind), sep="\n")
            if shared:
                print(f"warning: {shared}")
            print(f"{format_count(total, 'pair')} read, {format_count(len(problems), 'problem')}")
        sys.exit(bool(problems))

    def _doctor(self, arguments: argparse.Namespace) -> None:
        settings = self._settings(arguments)
        findings, lines = doctor.examine_dataset(
            self._splits(settings, arguments.split),
            folder=arguments.output,
            checkpoint=arguments.checkpoint,
            plugins=settings["plugins"],
            count=arguments.count,
            tools=arguments.export,
        )
        print(*lines, sep="\n")
        sys.exit(any(finding.severity == "serious" for finding in findings))

    def _stats(self, arguments: argparse.Namespace) -> None:
        data = self._settings(arguments)["data"]
        dataset = registry.build("data.datasets", data, split=arguments.split or "train")
        counts = statistics.compute_statistics(dataset)
        print(*format_statistics(counts, dataset.bands), sep="\n")
        if arguments.weights:
            weights = statistics.WEIGHTS[arguments.method](counts)
            arguments.weights.write_text("".join(f"{weight:.6g}\n" for weight in weights))
            print(f"{arguments.method} weights: loss.class_weights={arguments.weights}")

    def _show(self, arguments: argparse.Namespace) -> None:
        settings = self._settings(arguments, choosing.choose_settings)
        dataset = registry.build("data.datasets", settings["data"], split=arguments.split or "train")
        transform = transforms.build(**settings["augment"])
        chosen = choose_samples(dataset.names, arguments)
        colors, rows, labels = dataset.table.colors, [], []
        for place, index in enumerate(chosen):
            sample = dataset.read(index)
            drawn = transform(sample, arguments.seed + place)
            images = [(overlays.to_display_rgb(s.image, s.bands), s.label) for s in (sample, drawn)]
            rows.append([p for i, label in images for p in (i, overlays.draw_overlay(i, label, colors))])
            labels.append(sample.label)
        titles = ("image", "label", "augmented", "its label")
        grid = overlays.draw_grid(rows, titles=titles, height=200)
        overlays.save_image(arguments.output, overlays.add_legend(grid, labels, dataset.table.names, colors))
        print(f"{len(chosen)} of {format_count(len(dataset), 'sample')} are in {arguments.output}")


def format_statistics(counts: statistics.Statistics, settings: Bands) -> list[str]:
    """Return lines with pixels and images by class, sizes, and values of the bands, also as settings."""
    bands, scored = counts.bands, int(counts.pixels.sum())
    ranges = bands.value_ranges(settings)
    mean, std = (values.round(4).tolist() for values in bands.normalization(ranges))
    images, ignored = counts.sizes.total(), counts.ignored / max(1, scored + counts.ignored)
    lines = [
        f"{format_count(images, 'image')}; {ignored:.2%} of the pixels are ignored",
        f"mean {mean}, standard deviation {std} (of values scaled to 0..1)",
    ]
    if not settings.is_photograph:
        values = {"data.range": ranges, "model.mean": mean, "model.std": std}
        words = [f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in values.items()]
        lines += [
            f"values as stored: {bands.least.tolist()} .. {bands.most.tolist()}; percentiles 0.5 and 99.5: "
            f"{bands.low.tolist()} .. {bands.high.tolist()}",
            f"as settings: {' '.join(words)}",
        ]
    sizes = [f"{width}x{height} ({count})" for (width, height), count in counts.sizes.most_common(6)]
    lines.append(f"sizes: {', '.join(sizes)}")
    for name, pixels, images in zip(counts.table.names, counts.pixels, counts.images, strict=True):
        share = pixels / max(1, scored)
        lines.append(f"{name:>24} {share:8.3%} of pixels, in {format_count(int(images), 'image')}")
    return lines


def choose_samples(names: list[str], arguments: argparse.Namespace) -> list[int]:
    """Return the indices of the requested samples, or of random ones."""
    if not arguments.samples:
        return np.random.default_rng(arguments.seed).permutation(len(names))[: arguments.count].tolist()
    if missing := set(arguments.samples) - set(names):
        raise ValueError(
            f"--samples: unknown {', '.join(sorted(missing))}. A name is, for example, {names[0]}"
        )
    return [names.index(name) for name in arguments.samples]


def unpack(archive: Path, root: Path, map_member: Callable[[PurePosixPath], PurePosixPath | None]) -> int:
    """Unpack the files of a zip or tar archive that do not exist yet, and return their number.

    The filters of ``tarfile`` are not used: Python 3.11.2, which Debian 12 has, does not know them.

    Args:
        archive: the file.
        root: target folder.
        map_member: maps a path in the archive to the path below the root; ``None`` skips the member.

    Raises:
        ValueError: the archive is damaged, or a member would leave the root.
    """
    count = 0
    try:
        for name, size, open_member in tqdm(_list_files(archive), "unpack", disable=None):
            target = map_member(PurePosixPath(name))
            if target is None:
                continue
            if target.is_absolute() or ".." in target.parts:
                raise ValueError(f"{archive}: {name} would leave {root}; this is not the official archive")
            path = root / target
            if path.is_file() and path.stat().st_size == size:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            with open_member() as source, part.open("wb") as file:
                shutil.copyfileobj(source, file)
            part.replace(path)
            count += 1
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{archive}: {first_line(error)}. Download it again, then run `prepare` again to continue"
        ) from error
    return count


def _list_files(archive: Path) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Yield path, size and a function that opens each regular file of an archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if not member.is_dir():
                    yield member.filename, member.file_size, partial(opened.open, member)
        return
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile():
                yield member.name, member.size, partial(opened.extractfile, member)


def is_complete(root: Path, folders: Iterable[str], official: Mapping[str, int]) -> bool:
    """Return whether the folders have the official number of images in each split."""
    return all(
        sum(file.is_file() for file in (root / folder / split).rglob("*.[jp][pn]g")) == count
        for folder in folders
        for split, count in official.items()
    )
