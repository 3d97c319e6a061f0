"""Share a trained network: ``python -m segkit.tools.share runs/NAME/best.pt OUT/ --license cc-by-4.0``.

Writes a folder with the weights (``model.safetensors``), its settings (``config.json``) and a model card
(``README.md``); ``--push USER/NAME`` uploads the same to the Hugging Face Hub.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segkit import checkpoint
from segkit.config.values import parse_path
from segkit.data.label_map import LabelMap
from segkit.inference import predictor, presets
from segkit.licenses import NOT_STATED
from segkit.models.segmenter import remove_weights
from segkit.runtime import files, model_file
from segkit.runtime.errors import report_user_errors
from segkit.runtime.text import first_line
from segkit.visualize import overlays

try:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin
except ImportError as missing:
    kind = SystemExit if __name__ == "__main__" else ImportError
    raise kind(
        "segkit.tools.share: huggingface_hub is not installed. Run pip install 'segkit[hub]'"
    ) from missing

PREVIEW = "preview.png"
LOCAL_PATH = re.compile(r"[/~]|file:|[A-Za-z]:\\|\.\.?/")
METRIC_TYPES = {"mIoU": "mean_iou", "pixAcc": "accuracy"}  # the Hub's names
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
CARD = """---
{{ card_data }}
---

# {{ title }}

{{ network }}, {{ "%.1f" % millions }} million parameters.
Trained on `{{ dataset }}` for {{ iteration }} iterations.
{% if preview %}
![Image and prediction]({{ preview }})
{% endif %}
## Use

```
pip install 'segkit[hub]'
python predict_seg.py checkpoint={{ source }} input=PHOTOS
python test_seg.py checkpoint={{ source }} data.root=DIR
```

```python
import segkit

ids = segkit.load("{{ source }}").predict("photo.jpg")  # (H, W) class ids
```

The files hold tensors and JSON. Loading them runs no code.

## Scores
{% for result in results %}
* {{ result.metric_name }} {{ "%.2f" % (100 * result.metric_value) }} % ({{ result.metric_config }})
{%- else %}
Not evaluated.
{%- endfor %}

## Classes

{{ classes | join(", ") }}

## License
{% for subject, license in licenses.items() %}
* {{ subject }}: {{ license }}
{%- endfor %}
"""


class SharedModel(ModelHubMixin):
    """A trained network to save with ``save_pretrained`` and to upload with ``push_to_hub``.

    Args:
        checkpoint_file: checkpoint of a run, or a shared network; EMA weights are used if it has them.
        license: license of these weights, such as ``mit``; None keeps what the checkpoint states.
        data_license: license of the training data; None keeps what the checkpoint states.
        preview: image to show with its prediction on the model card.
    """

    def __init__(
        self,
        checkpoint_file: str | Path,
        *,
        license: str | None = None,
        data_license: str | None = None,
        preview: Path | None = None,
    ) -> None:
        content = checkpoint.read_checkpoint(checkpoint_file)
        settings = strip_local_paths(content["settings"])
        settings["model"] = remove_weights(content["settings"]["model"])
        stored = content.get("licenses") or {}
        self.licenses = {
            "weights": license or stored.get("weights", "unknown"),
            "code": stored.get("code", NOT_STATED),
            "pretrained weights": stored.get("pretrained weights", NOT_STATED),
            "data": data_license or stored.get("data", NOT_STATED),
        }
        self.weights = content.get("average") or content["model"]
        kept = {key: content.get(key) for key in ("format", "iteration", "classes", "scores")}
        self.metadata: dict[str, Any] = kept | {"settings": settings, "licenses": self.licenses}
        self.results = _read_results(content, model_file.output_folder_for(checkpoint_file))
        self.preview = preview

    def _save_pretrained(self, save_directory: Path) -> None:
        model_file.write_model_file(save_directory / model_file.NAME, self.weights, self.metadata)
        files.write_json(save_directory / "config.json", self.metadata)
        if self.preview is not None:
            _draw_preview(save_directory, self.preview)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> SharedModel:
        if Path(model_id).is_dir():
            return cls(model_id)
        return cls(model_file.download(model_id, **options))

    def generate_model_card(self, *, source: str = "hf://USER/NAME", **_: Any) -> ModelCard:
        """Return the model card: use, scores with their protocols, classes and licenses.

        ``source`` is the address of the network in the commands of the card.
        """
        model, table = self.metadata["settings"]["model"], LabelMap.from_plain(self.metadata["classes"])
        backbone = " ".join(str(model["backbone"].get(key, "")) for key in ("name", "variant"))
        network = f"{model['head']['name']} on {backbone}".rstrip()
        title = f"{network}, {table.name}"
        data = ModelCardData(
            license=self.licenses["weights"],
            library_name="segkit",
            pipeline_tag="image-segmentation",
            tags=["semantic-segmentation", "pytorch", "model_hub_mixin"],
            model_name=title,
            eval_results=self.results or None,
        )
        sizes = [t.numel() for name, t in self.weights.items() if not name.endswith(STATISTICS)]
        return ModelCard.from_template(
            data,
            template_str=CARD,
            title=title,
            network=network,
            millions=sum(sizes) / 1e6,
            dataset=table.name,
            iteration=self.metadata["iteration"],
            preview=PREVIEW if self.preview is not None else None,
            source=source,
            results=self.results,
            classes=table.names,
            licenses=self.licenses,
        )


def strip_local_paths(settings: Any) -> Any:
    """Return settings without values that name places on this machine (absolute paths, ``~``, ``file:``)."""
    if isinstance(settings, Mapping):
        return {k: strip_local_paths(value) for k, value in settings.items() if not _has_local_path(value)}
    if isinstance(settings, list | tuple):
        return [strip_local_paths(value) for value in settings]
    return settings


def _has_local_path(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_local_path, value))
    return isinstance(value, str) and LOCAL_PATH.match(value) is not None


def _read_results(content: Mapping[str, Any], folder: Path) -> list[EvalResult]:
    """Return the scores of the last validation, and those of tests in the checkpoint's folder."""
    settings, dataset = content["settings"], content["classes"]["name"]
    protocol = "not stored"
    if "evaluation" in settings:
        protocol = str(presets.build_protocol(settings))
    scores: Mapping[str, Any] = content.get("scores") or {}
    measured = [(f"validation in training, protocol {protocol}", scores)]
    for file in sorted(folder.glob("test-*/result.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # unfinished
            result = json.loads(file.read_text(encoding="utf-8"))
            how = f"test on {result['images']} images, protocol {result['protocol']['name']}"
            measured.append((how, result["scores"]))
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=METRIC_TYPES.get(name, name),
            metric_name=name,
            metric_config=how,
            metric_value=value,
        )
        for how, scores in measured
        for name, value in scores.items()
        if value is not None
    ]


def _draw_preview(folder: Path, image_file: Path) -> None:
    """Draw an image beside its overlaid prediction, above a legend of the classes that occur."""
    trained = predictor.load(folder, device="cpu")
    image = predictor.read_image(image_file, trained.bands)
    ids = trained.predict(image_file)
    colors = trained.table.colors
    shown = overlays.to_display_rgb(image, trained.bands)
    grid = overlays.draw_grid([[shown, overlays.draw_overlay(shown, ids, colors)]])
    overlays.save_image(folder / PREVIEW, overlays.add_legend(grid, [ids], trained.table.names, colors))


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the command line and return the message to print.

    Raises:
        ValueError: the checkpoint or the folder cannot be used, or the upload failed.
        OSError: a file cannot be read or written.
    """
    parser = argparse.ArgumentParser(prog="python -m segkit.tools.share", description=__doc__)
    parser.add_argument("checkpoint", help="checkpoint of a run, such as runs/NAME/best.pt")
    parser.add_argument("folder", type=parse_path, help="output folder")
    parser.add_argument("--license", help="license of the weights, such as mit or cc-by-4.0")
    parser.add_argument("--data-license", help="license of the training data")
    parser.add_argument("--preview", type=parse_path, metavar="IMAGE", help="image to show on the card")
    parser.add_argument("--push", metavar="USER/NAME", help="upload to this repository of the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    args = parser.parse_args(arguments)
    if (args.folder / model_file.NAME).exists():
        raise ValueError(f"{args.folder} has a {model_file.NAME} already. Give another folder.")
    model = SharedModel(
        args.checkpoint, license=args.license, data_license=args.data_license, preview=args.preview
    )
    model.save_pretrained(args.folder, model_card_kwargs={"source": args.folder.name})
    if args.push is None:
        return f"Saved the network and its model card in {args.folder}.\n"
    try:
        card = {"source": f"hf://{args.push}"}
        address = model.push_to_hub(args.push, private=args.private or None, model_card_kwargs=card)
    except Exception as error:  # of the Hub, its HTTP library, or the network
        raise ValueError(f"--push {args.push}: {first_line(error)}. {args.folder} is complete.") from error
    return f"Saved the network and its model card in {args.folder}, and uploaded both: {address}\n"


if __name__ == "__main__":
    report_user_errors(lambda: print(main(), end=""))  # noqa: T201
