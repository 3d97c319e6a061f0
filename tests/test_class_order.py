"""Classes are matched by name wherever a class table meets a network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import segkit
from conftest import write_image
from segkit import checkpoint, evaluation
from segkit.config import registry
from segkit.data.alignment import align_dataset
from segkit.data.label_map import Entry, LabelMap
from segkit.inference import Protocol, predictor
from segkit.models import segmenter
from segkit.training import initial_model

COLORS = {"back": (128, 128, 128), "red": (230, 30, 30), "blue": (30, 30, 230)}
MODEL = {"backbone": {"name": "resnest", "variant": "14", "width": 8}, "head": {"name": "fcn"}}


def class_table(*rows):
    return LabelMap("folder", tuple(Entry(*row) for row in rows))


NETWORK = class_table(*((k, name, color) for k, (name, color) in enumerate(COLORS.items())))


class ByColor(torch.nn.Module):
    """A network that finds the classes of ``NETWORK``, in that order, by their colors."""

    align_corners = True
    num_classes, in_channels, class_names = 3, 3, NETWORK.names

    def __init__(self):
        super().__init__()
        self.place = torch.nn.Parameter(torch.zeros(1))

    def normalize(self, image):
        return image.float()

    def forward(self, image, **_):
        centers = torch.tensor(list(COLORS.values())).float()[None, :, :, None, None]
        return segkit.types.Logits(-(image[:, None] - centers).square().sum(2), None)


def make_folder(root, rows, seed=0):
    """Write images of three colors, with masks of the ids that the rows give to the names."""
    ids = {name: identity for identity, name in rows}
    draw = np.random.default_rng(seed)
    for index in range(3):
        names = draw.choice(list(COLORS), (12, 16))
        image = np.array([COLORS[name] for name in names.ravel()], np.uint8).reshape(12, 16, 3)
        mask = np.vectorize(lambda name: ids.get(name, 0))(names).astype(np.uint8)
        write_image(root / f"images/val/{index}.png", image)
        write_image(root / f"masks/val/{index}.png", mask)
    lines = [f"{identity},{name}" for identity, name in rows]
    (root / "classes.csv").write_text("\n".join(["id,name", *lines, ""]))
    return str(root)


ORDERS = {
    "same": [(0, "back"), (1, "red"), (2, "blue")],
    "lines in another order": [(0, "back"), (2, "blue"), (1, "red")],
    "other ids": [(7, "blue"), (11, "back"), (26, "red")],
}


@pytest.mark.parametrize("rows", ORDERS.values(), ids=ORDERS)
def test_scores_do_not_depend_on_the_order_of_the_class_table(tmp_path, rows):
    dataset = registry.build(
        "data.datasets", {"name": "folder", "root": make_folder(tmp_path, rows)}, split="val"
    )
    samples = []
    found = evaluation.evaluate(
        ByColor(), dataset, Protocol(), progress=False, on_image=lambda *each: samples.append(each)
    )
    assert found.scores["mIoU"] == 1
    assert all(np.array_equal(sample.label, ids) for sample, ids in samples)
    table = align_dataset(dataset, NETWORK.names).table
    assert table.names == NETWORK.names
    assert table.decode(samples[0][1]).tolist() == np.array(Image.open(tmp_path / "masks/val/0.png")).tolist()


def test_other_class_names_are_refused_with_both_tables(tmp_path):
    root = make_folder(tmp_path, [(0, "cat"), (1, "dog"), (2, "bird")])
    dataset = registry.build("data.datasets", {"name": "folder", "root": root}, split="val")
    with pytest.raises(
        ValueError, match=r"\[0 back, 1 red, 2 blue\].*classes.csv has \[0 cat, 1 dog, 2 bird\]"
    ):
        evaluation.evaluate(ByColor(), dataset, Protocol(), progress=False)


def test_each_root_is_read_with_its_own_class_table(tmp_path, caplog):
    roots = [make_folder(tmp_path / name, ORDERS[name], seed) for seed, name in enumerate(ORDERS)]
    dataset = registry.build("data.datasets", {"name": "folder", "root": roots, "cache": "disk"}, split="val")
    assert len(dataset) == 9
    for _ in range(2):  # the second time from the cache
        found = evaluation.evaluate(ByColor(), dataset, Protocol(), progress=False)
        assert found.scores["mIoU"] == 1
    other = make_folder(tmp_path / "pets", [(0, "cat"), (1, "dog"), (2, "bird")])
    with pytest.raises(ValueError, match=r"same/classes.csv has the classes .*pets/classes.csv has \[0 cat"):
        registry.build("data.datasets", {"name": "folder", "root": [roots[0], other]}, split="val")


def write_checkpoint(path, model, table):
    about = {"settings": {"model": MODEL, "data": {"name": "folder"}}, "classes": table.to_plain()}
    checkpoint.write_checkpoint(path, {**about, "iteration": 5, "model": model.state_dict()})
    return str(path)


def test_fine_tuning_matches_class_weights_by_name(tmp_path):
    torch.manual_seed(0)
    source = segmenter.build(3, **MODEL).eval()
    file = write_checkpoint(tmp_path / "best.pt", source, NETWORK)
    other = class_table(*((k, name, (k, k, k)) for k, name in enumerate(("blue", "back", "red"))))
    model, parts = initial_model.build_model({**MODEL, "weights": file}, other)
    image = torch.randint(0, 256, (1, 3, 33, 33), dtype=torch.uint8)
    expected = source(image).main[:, [2, 0, 1]]
    torch.testing.assert_close(model.eval()(image).main, expected, rtol=0, atol=1e-6)
    assert "matched by name" in parts[-1]
    assert model.class_names == ["blue", "back", "red"]


def test_weights_without_a_run_keep_the_class_order_of_their_file(tmp_path):
    file = write_checkpoint(tmp_path / "best.pt", segmenter.build(3, **MODEL), NETWORK)
    root = make_folder(tmp_path / "data", ORDERS["other ids"])
    settings = {"checkpoint": None, "device": "cpu", "model": {**MODEL, "weights": file}}
    data = {"name": "folder", "root": root, "classes": "classes.csv"}
    trained = predictor.load_model({**settings, "data": data}, torch.device("cpu"))
    assert [(entry.id, entry.name) for entry in trained.table.classes] == [
        (11, "back"),
        (26, "red"),
        (7, "blue"),
    ]
    assert trained.model.class_names == NETWORK.names


@pytest.mark.parametrize(
    ("change", "is_refused"),
    [
        (lambda rows: rows.reverse(), True),
        (lambda rows: rows[1].__setitem__(0, 9), True),
        (lambda rows: rows[1].__setitem__(2, [1, 2, 3]), True),  # decides what masks of colors mean
        (lambda rows: rows.append([255, "void", [0, 0, 0], True, ""]), False),
    ],
    ids=["order", "id", "color", "one more that is ignored"],
)
def test_resuming_with_other_classes_is_refused_with_both_tables(change, is_refused):
    saved, now = ({"classes": NETWORK.to_plain(), "settings": {}} for _ in range(2))
    change(now["classes"]["entries"])
    if not is_refused:
        checkpoint.check_saved_settings(saved, now)
        return
    with pytest.raises(
        ValueError, match=r"checkpoint has \[0,back,#808080 \| 1,red,#e61e1e .*, the data have \["
    ):
        checkpoint.check_saved_settings(saved, now)


@pytest.mark.medium
def test_results_have_the_ids_of_the_scored_data(tmp_path, tiny_run, run_here):
    content = checkpoint.read_checkpoint(tiny_run / "best.pt")
    names = [entry[1] for entry in content["classes"]["entries"] if not entry[3]]
    scores = []
    for step in (1, 7):
        root, output = tmp_path / f"data {step}", tmp_path / f"results {step}"
        ids = [(3 + step * k) % 23 for k in range(len(names))]
        draw = np.random.default_rng(0)
        write_image(root / "images/val/a.png", draw.integers(0, 256, (40, 48, 3), np.uint8))
        write_image(root / "masks/val/a.png", np.array(ids, np.uint8)[draw.choice(10, (40, 48))])
        rows = [f"{identity},{name}" for identity, name in zip(ids, names, strict=True)]
        (root / "classes.csv").write_text("\n".join(["id,name", *(rows if step == 1 else reversed(rows))]))
        parts = [f"checkpoint={tiny_run}/best.pt", "data=folder", f"data.root='{root}'", f"output='{output}'"]
        assert run_here("test_seg", *parts, "save=[ids]", "loader.workers=0", "device=cpu") == 0
        scores.append(json.loads((output / "result.json").read_text())["class_iou"])
        assert list(scores[-1]) == names
        assert set(np.unique(np.array(Image.open(output / "ids/a.png"))).tolist()) <= set(ids)
    assert scores[0] == scores[1]
