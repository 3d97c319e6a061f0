"""Your own images and masks.

Layout below --root (see docs/own_data.md):
  images/...    photographs, or any bands (data.bands, data.range)
  masks/...     the same names; ids (gray or palette PNG) or colors
  classes.csv   id,name,color,ignore

`import` makes it from the files of label tools, `classes` proposes classes.csv from what masks hold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command import Script
from tqdm import tqdm

from segkit.config.values import parse_path
from segkit.data.label_map import LabelMap
from segkit.data.pairs import MASK_SUFFIXES
from segkit.data.reading import read_mask
from segkit.runtime import files
from segkit.runtime.commands import cli_command
from segkit.runtime.text import format_count
from segkit.tools.import_labels import conversion, proposals, readers
from segkit.visualize import overlays


def import_labels(arguments: argparse.Namespace, root: Path) -> None:
    """Convert the files of a label tool to masks, images and a class table, and print a report."""
    label_files = [file for path in arguments.files for file in _list_label_files(path, arguments.kind)]
    beside = next(path if path.is_dir() else path.parent for path in arguments.files)
    images = arguments.images or (root / "images" if (root / "images").is_dir() else beside)
    if not images.is_dir():
        raise ValueError(f"--images {images}: no such folder. It must contain the labeled images")
    chosen = [label.strip() for label in arguments.classes.split(",")] if arguments.classes else ()
    empty = arguments.empty or ("background" if arguments.kind == "coco" else "left-out")
    report = conversion.import_labels(
        arguments.kind,
        label_files,
        images=images,
        root=root,
        split=arguments.split,
        classes=chosen,
        empty=empty,
        attribute=arguments.attribute,
        table=LabelMap.read(arguments.table, "folder") if arguments.table else None,
    )
    print(*report.lines(), sep="\n")
    splits = "" if arguments.split else " data.train_split=80% data.val_split=20%"
    file = root / f"import{'-' if arguments.split else ''}{arguments.split}.json"
    print(f"the full report is {file}; to train: {cli_command('train')} data=folder data.root={root}{splits}")


def _list_label_files(path: Path, kind: str) -> list[Path]:
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    suffix = ".xml" if kind == "cvat" else ".json"
    label_files = sorted(file for file in path.rglob(f"*{suffix}") if not file.name.startswith("import"))
    if not label_files:
        raise ValueError(f"{path}: contains no {suffix} file")
    return label_files


def propose_classes(arguments: argparse.Namespace, root: Path) -> None:
    """Propose a class table for the masks; with --divide, convert instance ids to classes first."""
    folder = root / arguments.masks
    masks = sorted(f for f in folder.rglob("*") if f.suffix.lower() in MASK_SUFFIXES and f.is_file())
    if not masks:
        raise ValueError(
            f"{folder}: contains no masks ({' '.join(MASK_SUFFIXES)}). Choose another folder with --masks"
        )
    output = arguments.output or root / "classes.csv"
    if output.exists():
        raise ValueError(f"{output} exists already. Choose another file with --output")
    if arguments.divide:
        target = root / f"{arguments.masks}_of_classes"
        masks = [
            _write_class_mask(mask, folder, target, arguments.divide)
            for mask in tqdm(masks, "divide", disable=None)
        ]
        print(f"class masks are in {target}: data.masks='{target.name}/*'")
    values = proposals.count_mask_values(masks)
    table = proposals.propose_label_map(values)
    files.write_text(output, table.to_csv())
    for (_, pixels), entry in zip(sorted(values.items()), table.entries, strict=True):
        print(f"{entry.id:>6} {entry.name:>12} {pixels / values.total():8.3%} of the pixels")
    print(f"{format_count(len(masks), 'mask')} read. Name the classes in {output}, then run `verify`")


def _write_class_mask(mask: Path, folder: Path, target: Path, by: int) -> Path:
    ids = read_mask(mask, "any")
    if ids.ndim != 2:
        raise ValueError(f"{mask}: contains colors. --divide is for ids")
    return overlays.save_image(
        target / mask.relative_to(folder).with_suffix(".png"), proposals.split_instance_ids(ids, by)
    )


script = Script("folder", __doc__ or "")
options = script.add_command(
    "import",
    import_labels,
    "make images/, masks/ and classes.csv from the files of a label tool, and print a report",
)
options.add_argument("--from", dest="kind", choices=sorted(readers.READERS), required=True)
options.add_argument(
    "files", type=parse_path, nargs="+", metavar="FILE", help="JSON or XML; or a folder of them"
)
options.add_argument(
    "--images", type=parse_path, metavar="DIR", help="default: images/ in the root, else beside FILE"
)
options.add_argument("--split", default="", metavar="NAME", help="write to images/NAME and masks/NAME")
options.add_argument("--classes", metavar="A,B", help="labels to keep, in this order; default: all")
options.add_argument(
    "--table",
    type=parse_path,
    metavar="FILE",
    help="class table with the ids of the labels, such as classes.csv of an export of the doctor; pixels "
    "without a shape are not scored",
)
options.add_argument(
    "--empty", choices=("background", "left-out"), help="images without labels; COCO: background"
)
options.add_argument("--attribute", metavar="NAME", help="VIA region attribute that holds the class")

options = script.add_command(
    "classes", propose_classes, "propose classes.csv from the ids or colors that the masks hold"
)
options.add_argument(
    "--masks", default="masks", metavar="FOLDER", help="below the root; default: %(default)s"
)
options.add_argument("--output", type=parse_path, metavar="FILE", help="default: classes.csv in the root")
options.add_argument("--divide", type=int, metavar="N", help="ids are class * N + instance, such as 1000")

if __name__ == "__main__":
    script.run()
