"""What an exported file says about itself, so that nobody needs the checkpoint to use it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segkit.export.interfaces import ExportKind
from segkit.inference.protocol import Protocol

if TYPE_CHECKING:
    from segkit.inference.predictor import LoadedModel

FORMAT = 1


def build_metadata(
    trained: LoadedModel, kind: ExportKind, settings: Mapping[str, Any], protocol: Protocol
) -> dict[str, Any]:
    """Plain values: interface, classes with their colors, normalization, protocol, settings and licenses."""
    model, table = trained.model, trained.table
    own = {key: copy.deepcopy(settings[key]) for key in ("model", "data", "sizes") if key in settings}
    for part in (own["model"], own["model"]["backbone"]):
        part.pop("weights", None)  # they are in the file
    about = {
        "segkit": FORMAT,
        "interface": kind.interface,
        "image_size": kind.image_size,
        "precision": kind.precision,
        "names": table.names,
        "colors": table.colors.tolist(),
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "align_corners": model.align_corners,
        "protocol": protocol.as_dict(),
        "classes": table.to_plain(),
        "settings": own,
        "licenses": dict(trained.licenses),
    }
    return json.loads(json.dumps(about))
