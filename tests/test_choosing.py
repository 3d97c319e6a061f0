"""Values chosen from the images of a training, printed and stored by the run."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from conftest import run_command, write_image
from segkit.config.compose import compose_settings
from segkit.data import choosing, transforms
from segkit.training.schedule import Schedule

CHOOSING = {"choose": choosing.choose_settings}


def images_of(root, sizes, split="train"):
    for index, (width, height) in enumerate(sizes):
        write_image(root / f"images/{split}/{index:03d}.png", np.zeros((height, width, 3), np.uint8))
        write_image(root / f"masks/{split}/{index:03d}.png", np.zeros((height, width), np.uint8))
    (root / "classes.csv").write_text("id,name\n0,a\n1,b\n")
    return ["data=folder", f"data.root={root}", "run_name=a"]


@pytest.mark.parametrize("seed", range(6))
def test_sizes_are_medians_and_crops_fit(tmp_path, seed):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(
        40, (700, 700)[seed % 2] if seed < 4 else 3000, (int(draw.integers(1, 12)), 2)
    ).tolist()
    settings = compose_settings("train", images_of(tmp_path, sizes), **CHOOSING)
    found = settings["sizes"]
    long, short = (int(np.median([pick(size) for size in sizes])) for pick in (max, min))
    assert (found["base"], found["bounds"]) == (long, (long, short))
    assert found["crop"] <= max(32, short)
    assert found["crop"] % 32 == 0
    assert found["crop"] == min(768 if long >= 1200 else 480, short // 32 * 32)
    assert (settings["augment"]["crop_size"], settings["augment"]["base_size"]) == (found["crop"], long)
    schedule = settings["schedule"]
    assert schedule["epochs"] is None
    assert schedule["iterations"] == 2000  # few images
    assert schedule["batch_size"] <= max(2, len(sizes))
    assert settings["evaluation"]["every"] == 100


@pytest.mark.parametrize(
    ("size", "more"),
    [
        ((20_000, 20), []),
        ((20, 20_000), ["augment=mmseg"]),
        ((9, 5), ["augment=mmseg"]),
        ((4000, 3), ["augment.scales=[0.5,16]"]),
        ((64, 48), ["schedule.accumulate=4", "schedule.patience=40"]),
    ],
)
def test_chosen_values_are_never_refused(tmp_path, size, more):
    settings = compose_settings("train", [*images_of(tmp_path, [size]), *more], **CHOOSING)
    transforms.build(**settings["augment"])
    schedule = Schedule(**settings["schedule"])
    assert schedule.batch_size == (8 if "schedule.accumulate=4" in more else 2)
    if schedule.patience:
        period = schedule.validation_period(settings["evaluation"]["every"], samples=1)
        assert schedule.length(1) > schedule.patience * period


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 6, 16, 32])
def test_chosen_batch_divides_evenly_with_two_images_each(parts):
    for images in range(1, 70):
        for published in choosing.BATCHES.values():
            batch, why = choosing.choose_batch_size(published, images=images, parts=parts)
            assert why
            assert batch % parts == 0
            assert batch // parts >= 2
            assert batch <= max(2 * parts, min(published, images))


def test_chosen_length_is_fifty_epochs_within_bounds():
    for count, expected in ((100, 2000), (6400, 20000), (200_000, 80_000)):
        chosen = choosing.ChosenSettings()
        keys = ["schedule.iterations", "evaluation.every"]
        choosing._choose_length(chosen, keys, {"schedule": {"batch_size": 16}}, count)
        assert chosen["schedule.iterations"] == expected
        assert chosen["evaluation.every"] == expected // 20


def test_values_on_the_command_line_are_kept(tmp_path):
    given = images_of(tmp_path, [(300, 200)] * 4)
    typed = ["sizes.crop=100", "sizes.base=222", "schedule.epochs=3", "schedule.batch_size=2"]
    typed += ["evaluation.every=2"]
    settings = compose_settings("train", [*given, *typed], **CHOOSING)
    assert settings["sizes"] == {"crop": 100, "base": 222, "bounds": (300, 200)}
    assert (settings["schedule"]["epochs"], settings["schedule"]["iterations"]) == (3, None)
    assert (settings["schedule"]["batch_size"], settings["evaluation"]["every"]) == (2, 2)


@pytest.mark.medium
def test_resumed_run_keeps_the_chosen_values(tmp_path):
    given = images_of(tmp_path, [(300, 200)] * 4)
    before = compose_settings("train", given, **CHOOSING)
    images_of(tmp_path, [(900, 800)] * 40)

    def never(_):
        raise AssertionError("looked again")

    again = compose_settings("train", [*given, "resume=true"], stored=lambda _: before, choose=never)
    changed = {key for key in before if before[key] != again[key]}
    assert changed == {"resume"}


def test_other_data_sets_get_default_values():
    assert compose_settings("train", ["data=folder", "run_name=a"])["sizes"]["crop"] == 480
    published = compose_settings("train", ["data=ade20k", "run_name=a"], **CHOOSING)
    assert published["sizes"]["base"] == 520
    assert published["schedule"]["batch_size"] == 16


def test_folder_without_readable_images_is_refused(tmp_path):
    words = images_of(tmp_path, [(64, 48)] * 3)
    for file in (tmp_path / "images/train").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"000.png: not an image, nor are the .*verify"):
        compose_settings("train", words, **CHOOSING)


@pytest.mark.medium
def test_missing_validation_folder_is_refused_before_values_are_chosen(tmp_path):
    words = images_of(tmp_path, [(64, 48)] * 3)
    output = run_command("train_seg.py", *words[:2], "model=deeplabv3_demo", f"run_dir={tmp_path}", status=2)
    assert "there is no folder images/val" in output.stderr
    assert "chosen from the images" not in output.stdout
    assert len(output.stderr.strip().splitlines()) == 1


def test_fine_tuning_on_other_bands_uses_their_statistics(tmp_path):
    """Its range of bytes would leave values of 16 bits all white; everything else of it stays."""
    for index in range(3):
        values = np.random.default_rng(index).integers(0, 4000, (48, 64, 3)).astype(np.uint16)
        write_image(tmp_path / f"masks/train/{index}.png", np.zeros((48, 64), np.uint8))
        (tmp_path / "images/train").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images/train/{index}.png"), values)  # Pillow writes no RGB of 16 bits
    (tmp_path / "classes.csv").write_text("id,name\n0,a\n1,b\n")
    given = ["data=folder", f"data.root={tmp_path}", "run_name=a", "data.bands=[1,2,3]"]
    given += ["data.range=minmax", "model.weights=trained.pt"]
    network = compose_settings("train", ["data=shapes", "model=deeplabv3_demo", "run_name=b"])["model"]

    def settings(network):
        return compose_settings(
            "train", given, stored=lambda _: {"model": network}, choose=choosing.choose_settings
        )["model"]

    found, fresh = (
        settings({**network, "weights": "trained.pt"}),
        compose_settings("train", given, **CHOOSING)["model"],
    )
    assert found["value_range"] == fresh["value_range"]
    assert max(high for _, high in found["value_range"]) > 3900
    assert (found["mean"], found["std"]) == (fresh["mean"], fresh["std"])
    assert found["backbone"] == network["backbone"]
    own = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0), "value_range": (0.0, 4095.0)}
    kept = settings({**network, **own, "weights": "trained.pt"})
    assert {key: kept[key] for key in own} == own


def test_images_are_not_read_if_range_mean_and_std_are_set(tmp_path):
    for name in ("images/train", "masks/train"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").touch()  # a file that cannot be read
    (tmp_path / "classes.csv").write_text("id,name\n0,a\n1,b\n")
    given = ["data=folder", f"data.root={tmp_path}", "run_name=a", "data.range=[0,4095]"]
    given += ["model.mean=[0.1,0.2,0.3]", "model.std=[1,1,1]", "sizes.base=64", "sizes.crop=64"]
    given += ["sizes.bounds=[64,64]", "schedule.batch_size=2"]
    assert compose_settings("train", given, **CHOOSING)["model"]["value_range"] == (0, 4095)
