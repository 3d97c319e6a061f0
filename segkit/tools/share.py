"""Give a trained network to others: ``python -m segkit.tools.share runs/NAME/best.pt OUT/``.

The folder then holds the weights with settings, classes and scores (``model.safetensors``), a model card
(``README.md``) and a preview; it can be loaded as it is, or from a hub that it was put on.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit.config.values import parse_path
from segkit.licenses import NOT_STATED
from segkit.runtime import files, model_file

PREVIEW = "preview.png"
LEFT_OUT = object()
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
CARD = """---
license: {license}
library_name: segkit
pipeline_tag: image-segmentation
tags: [semantic-segmentation, pytorch]
---

# {title}

{network}, {classes} classes of `{data}`, {parameters:.1f} million parameters, after {iteration} iterations.
{preview}
## Use

```
python predict_seg.py checkpoint={place} input=PHOTOS
python test_seg.py checkpoint={place} data.root=DIR
```

```python
import segkit

ids = segkit.load("{place}").predict("photo.jpg")  # (H, W) class ids
```

`{place}` may be this folder or, once it is on the Hugging Face hub, `hf://USER/NAME`. The file holds tensors
and plain values; nothing in it is run.

## Scores

{scores}

## Classes

{names}

## License

* of the weights: {license}
* of the code: {code_license}
* of the weights that training started from: {start_license}
* of the data they were trained on: {data_license}

Settings of the training are in the header of `{file}`.
"""


def write(
    checkpoint_file: str | Path,
    folder: Path,
    *,
    license: str = "unknown",
    data_license: str | None = None,
    preview: Path | None = None,
) -> Path:
    """Write the folder.

    Args:
        checkpoint_file: of a run; the moving average is taken where there is one.
        folder: made if need be; it must not hold another network.
        license: of the weights, an identifier such as ``mit`` or ``cc-by-4.0``.
        data_license: of the training data; None takes what the checkpoint's license ledger states.
        preview: an image to show the network on; None shows none.

    Raises:
        ValueError: the checkpoint is none, or the folder holds a network already.
    """
    from segkit import checkpoint

    content = checkpoint.read_checkpoint(checkpoint_file)
    if (folder / model_file.NAME).exists():
        raise ValueError(f"{folder} holds a {model_file.NAME} already; give another folder, or take it away")
    folder.mkdir(parents=True, exist_ok=True)
    settings = strip_local_paths(content["settings"])
    settings["model"] = _from_scratch(content["settings"]["model"])
    about = {key: content.get(key) for key in ("format", "iteration", "classes", "scores", "licenses")}
    weights = content.get("average") or content["model"]
    model_file.write(folder / model_file.NAME, weights, {**about, "settings": settings})
    if preview is not None:
        _draw(folder, preview)
    card = _card(content, checkpoint_file, folder, license=license, data_license=data_license)
    with files.atomic_write(folder / "README.md") as file:
        file.write(card.encode())
    return folder


def _from_scratch(network: Mapping[str, Any]) -> dict[str, Any]:
    """A network's settings without the files that its training started from."""
    return {**network, "weights": None, "backbone": {**network["backbone"], "weights": None}}


def strip_local_paths(settings: Any) -> Any:
    """Settings without what names places of one machine: absolute paths, home folders, ``file://``."""
    if isinstance(settings, Mapping):
        kept = {key: strip_local_paths(value) for key, value in settings.items()}
        return {key: value for key, value in kept.items() if value is not LEFT_OUT}
    if isinstance(settings, list | tuple):
        found = [strip_local_paths(value) for value in settings]
        return LEFT_OUT if LEFT_OUT in found else found
    place = isinstance(settings, str) and re.match(r"[/~]|file:|[A-Za-z]:\\|\.\.?/", settings)
    return LEFT_OUT if place else settings


def _draw(folder: Path, image: Path) -> None:
    """The image, and beside it what the network says, above the classes that occur."""
    from segkit.data.pairs import read_image
    from segkit.inference import predictor
    from segkit.visualize import overlays

    trained = predictor.load(folder, device="cpu")
    seen = read_image(image)
    ids = trained.predict(seen)
    colors = trained.table.colors
    present = overlays.present_classes([ids])
    legend = overlays.legend([trained.table.names[k] for k in present], colors[present])
    painted = overlays.overlay(seen, ids, colors)
    overlays.save(folder / PREVIEW, overlays.grid([[seen, painted]], footer=legend))


def _card(
    content: Mapping[str, Any], source: str | Path, folder: Path, *, license: str, data_license: str | None
) -> str:
    settings, weights = content["settings"], content.get("average") or content["model"]
    network, ledger = settings["model"], content.get("licenses") or {}
    count = sum(t.numel() for name, t in weights.items() if not name.endswith(STATISTICS))
    backbone = " ".join(str(network["backbone"].get(key, "")) for key in ("name", "variant"))
    entries = content["classes"]["entries"]
    title = f"{network['head']['name']} on {backbone}, {settings.get('data', {}).get('name', 'own data')}"
    return CARD.format(
        license=license,
        code_license=ledger.get("code", NOT_STATED),
        start_license=ledger.get("pretrained weights", NOT_STATED),
        data_license=data_license or ledger.get("data", NOT_STATED),
        title=title,
        network=f"{network['head']['name']} on {backbone}",
        classes=len(entries),
        data=content["classes"]["name"],
        parameters=count / 1e6,
        iteration=content["iteration"],
        preview=f"\n![An image, and what the network says of it]({PREVIEW})\n" if _has(folder) else "",
        place=folder.name,
        scores="\n".join(_scores(content, source)) or "None are known.",
        names=", ".join(str(entry[1]) for entry in entries),
        file=model_file.NAME,
    )


def _has(folder: Path) -> bool:
    return (folder / PREVIEW).exists()


def _scores(content: Mapping[str, Any], source: str | Path) -> Iterator[str]:
    """A line for each score that is known: of the validation in training, and of tests beside the file."""
    from segkit.inference import presets

    if scores := content.get("scores"):
        settings = content["settings"]
        protocol = (
            presets.build_protocol(settings) if "evaluation" in settings else "its protocol is not known"
        )
        yield f"* validation in training, {protocol}: {_words(scores)}"
    for file in sorted(model_file.output_folder_for(source).glob("test-*/result.json")):
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            name, found, images = result["protocol"]["name"], result["scores"], result["images"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        yield f"* test, {images} images, protocol `{name}` ({file.parent.name}): {_words(found)}"


def _words(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {100 * value:.2f} %" for name, value in scores.items() if value is not None)


def main(arguments: Sequence[str] | None = None) -> str:
    """What the command line asks for; returns what to tell."""
    parser = argparse.ArgumentParser(prog="python -m segkit.tools.share", description=__doc__)
    parser.add_argument("checkpoint", help="of a run, such as runs/NAME/best.pt")
    parser.add_argument("folder", type=parse_path, help="to write")
    parser.add_argument("--license", default="unknown", help="of the weights, such as mit or cc-by-4.0")
    parser.add_argument("--data-license", help="of the data they were trained on")
    parser.add_argument("--preview", type=parse_path, metavar="PHOTO", help="an image to show it on")
    chosen = parser.parse_args(arguments)
    try:
        write(
            chosen.checkpoint,
            chosen.folder,
            license=chosen.license,
            data_license=chosen.data_license,
            preview=chosen.preview,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    lost = "" if chosen.preview else "; --preview PHOTO adds an image of what it does"
    return f"{chosen.folder} holds the network, its card and its scores{lost}\n"


if __name__ == "__main__":
    sys.stdout.write(main())
