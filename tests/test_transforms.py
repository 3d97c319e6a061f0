"""Each preset against its plain definition: scale everything, then crop."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.stats import ks_2samp

from segkit.data import color, transforms
from segkit.data.crops import Crop, crop_image, crop_label, crop_rotated
from segkit.types import Sample

BILINEAR = Image.Resampling.BILINEAR
HEIGHT, WIDTH, CROP, BASE = 90, 120, 48, 100
ENCODING = transforms.build(crop_size=CROP, base_size=BASE)
MMSEG = transforms.build(crop_size=CROP, base_size=(160, 80), resize="opencv_linear")

# Labels that tell where a pixel came from, so that scale, place and mirror can be read off the result.
COLUMNS = np.arange(WIDTH, dtype=np.uint8)[None].repeat(HEIGHT, 0)
ROWS = np.arange(HEIGHT, dtype=np.uint8)[:, None].repeat(WIDTH, 1)


def plain(label, draw, preset):
    """What the two toolkits do, in their order: mirror, scale all of it, pad right and below, crop."""
    height, width = label.shape
    if draw.random() < 0.5:
        label = label[:, ::-1]
    if preset == "encoding":
        longest = draw.integers(int(BASE * 0.5), int(BASE * 2.0) + 1)
        size = (longest, int(height * longest / width + 0.5))
    else:
        ratio = draw.uniform(0.5, 2.0)
        zoom = min(int(160 * ratio) / width, int(80 * ratio) / height)
        size = (int(width * zoom + 0.5), int(height * zoom + 0.5))
    if preset == "encoding":
        label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    else:
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    below, right = (max(0, CROP - side) for side in label.shape)
    label = np.pad(label, ((0, below), (0, right)), constant_values=255)
    top, left = (draw.integers(side - CROP + 1) for side in label.shape)
    return label[top : top + CROP, left : left + CROP]


def read_off(columns, rows):
    """Mirrored or not, source pixels across, first source column and row of a result."""
    kept = columns[0][columns[0] < 255].astype(int)
    down = rows[:, 0][rows[:, 0] < 255].astype(int)
    return kept[0] > kept[-1], abs(kept[-1] - kept[0]), kept.min(), down[0], len(kept), len(down)


@pytest.mark.medium
@pytest.mark.parametrize(("preset", "transform"), [("encoding", ENCODING), ("mmseg", MMSEG)])
def test_preset_matches_its_definition_in_distribution(preset, transform):
    draws = 2000
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    ours = [
        read_off(*(transform(Sample(image, label, ""), seed).label for label in (COLUMNS, ROWS)))
        for seed in range(draws)
    ]
    theirs = [
        read_off(*(plain(label, np.random.default_rng(10**6 + seed), preset) for label in (COLUMNS, ROWS)))
        for seed in range(draws)
    ]
    for one, other in zip(np.transpose(ours), np.transpose(theirs), strict=True):
        assert ks_2samp(one, other).statistic < 1.95 * np.sqrt(
            2 / draws
        )  # 1 in 1000 by chance; seeds are fixed


def photograph(height, width, seed=0):
    """Smooth noise with some edges; steep enough to tell a shift by half a pixel."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.float32), (0, 0), 1.5)
    image = (image - 127) * 4 + 127
    image[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def resize_by_columns_then_rows(image, size, way):
    """As every Pillow before 13 did."""
    return image.resize((size[0], image.height), way).resize(size, way)


@pytest.mark.parametrize(("resize", "way"), [("pil_bilinear", "BILINEAR"), ("pil_bicubic", "BICUBIC")])
@pytest.mark.parametrize("mirrored", [False, True])
def test_crop_of_resize_equals_resize_of_crop(resize, way, mirrored):
    """On noise. PIL holds places as float32, so each pass rounds some halves the other way."""
    rng = np.random.default_rng(1)
    differing = count = 0
    for turn in range(60):
        height, width = rng.integers(20, 260, 2)
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        label = rng.integers(0, 150, (height, width)).astype(np.uint8)
        scale = rng.uniform(0.38, 2.0) if turn else 0.38
        size = max(1, round(height * scale)), max(1, round(width * scale))
        crop = [int(rng.integers(1, side + 1)) for side in size]
        top, left = (int(rng.integers(side - part + 1)) for side, part in zip(size, crop, strict=True))
        here = np.s_[top : top + crop[0], left : left + crop[1]]
        whole, whole_label = Image.fromarray(image), Image.fromarray(label)
        if mirrored:
            whole, whole_label = ImageOps.mirror(whole), ImageOps.mirror(whole_label)
        whole = np.asarray(resize_by_columns_then_rows(whole, size[::-1], Image.Resampling[way]))
        whole_label = np.asarray(whole_label.resize(size[::-1], Image.Resampling.NEAREST))
        window = Crop(size, top, left, *crop, mirrored)
        apart = np.abs(crop_image(image, window, resize).astype(int) - whole[here])
        assert apart.max() <= 2
        differing, count = differing + np.count_nonzero(apart), count + apart.size
        np.testing.assert_array_equal(crop_label(label, window, resize), whole_label[here])
    assert differing / count < 0.01


def find_crop(transform, image, label, seed):
    """The window that was drawn, read off a call of the transform."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "crop_image", lambda *a: (seen.append(a[1]), crop_image(*a))[1])
        transform(Sample(image, label, ""), seed)
    return seen[0]


@pytest.mark.parametrize("mirrored", [False, True])
def test_mmseg_crop_equals_opencv_resize_of_the_full_image(mirrored):
    """Scale all of it, crop, mirror: equal to the bit, and the label as OpenCV's nearest has it."""
    rng = np.random.default_rng(2)
    for turn in range(40):
        height, width = rng.integers(60, 260, 2)
        image = photograph(height, width, turn)
        label = rng.integers(0, 150, (height, width)).astype(np.uint8)
        size = tuple(
            max(1, round(side * s)) for side, s in zip((height, width), rng.uniform(0.3, 2.2, 2), strict=True)
        )
        crop = [int(rng.integers(1, side + 1)) for side in size]
        top, left = (int(rng.integers(side - part + 1)) for side, part in zip(size, crop, strict=True))
        here = np.s_[top : top + crop[0], left : left + crop[1]]
        whole = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)[here]
        whole_label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)[here]
        if mirrored:
            whole, whole_label = whole[:, ::-1], whole_label[:, ::-1]
        window = Crop(size, top, left, *crop, mirrored)
        np.testing.assert_array_equal(crop_image(image, window, "opencv_linear"), whole)
        np.testing.assert_array_equal(crop_label(label, window, "opencv_linear"), whole_label)


def test_small_image_is_padded_right_and_below():
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    transform = transforms.build(crop_size=(80, 100), base_size=60, scales=(1, 1), hflip=0)
    result = transform(Sample(image, COLUMNS, "a"), 3)
    np.testing.assert_array_equal(result.image[:45, :60], Image.fromarray(image).resize((60, 45), BILINEAR))
    assert not result.image[45:].any()
    assert not result.image[:, 60:].any()
    assert (result.label[45:] == 255).all()
    assert (result.label[:, 60:] == 255).all()
    assert (result.label[:45, :60] < 255).all()


@pytest.mark.parametrize("rotation", [0, 30])
def test_labels_stay_aligned_with_their_pixels(rotation):
    """Black and white where the label is 0 and 4: they must part at the same place after every geometry."""
    cells = np.random.default_rng(0).choice([0, 4], (9, 12)).astype(np.uint8)
    label = cells.repeat(10, 0).repeat(10, 1)
    transform = transforms.build(crop_size=CROP, base_size=BASE, rotation=rotation)
    results = [
        transform(Sample((label * 60)[..., None].repeat(3, 2), label, ""), seed) for seed in range(100)
    ]
    wrong = [((r.image[..., 0] > 120) != (r.label == 4))[r.label < 255] for r in results]
    assert np.concatenate(wrong).mean() < 0.02
    assert set(np.unique([r.label for r in results])) == {0, 4, 255}


def test_rotation_turns_about_the_center_and_fills_with_ignored():
    label = np.zeros((61, 61), np.uint8)
    label[28:33, 5:56] = 1  # a bar
    window = Crop((61, 61), 0, 0, 61, 61)
    upright = crop_rotated(label, window, 90.0, resize="pil_bilinear", fill=(255,))
    np.testing.assert_array_equal(upright, np.rot90(label))
    assert crop_rotated(label, window, 45.0, resize="pil_bilinear", fill=(255,))[0, 0] == 255
    mirrored = crop_rotated(label, window._replace(is_flipped=True), 30.0, resize="pil_bilinear", fill=(255,))
    np.testing.assert_array_equal(
        mirrored[:, ::-1], crop_rotated(label, window, 30.0, resize="pil_bilinear", fill=(255,))
    )


def test_rotated_crop_is_averaged_when_it_shrinks():
    image = photograph(300, 400)
    window = Crop((120, 160), 10, 20, 90, 120)
    turned = crop_rotated(image, window, 0.001, resize="pil_bilinear", fill=(0, 0, 0))
    straight = crop_image(image, window, "pil_bilinear")
    assert np.abs(turned.astype(int) - straight).mean() < 1


@pytest.mark.medium
def test_color_and_blur_follow_their_probability():
    image = np.random.default_rng(0).integers(60, 200, (CROP, CROP, 3)).astype(np.uint8)
    sample = Sample(image, COLUMNS[:CROP, :CROP], "")
    transform = transforms.build(crop_size=CROP, scales=(1, 1), hflip=0, blur=0.25)
    results = [transform(sample, seed) for seed in range(400)]
    changed = np.mean([(r.image != image).any() for r in results])
    assert abs(changed - 0.25 * 5 / 7) < 0.05  # a deviation below 2/7 of a pixel changes nothing
    assert all((r.label == sample.label).all() for r in results)
    jitter = transforms.build(crop_size=CROP, scales=(1, 1), hflip=0, color_jitter=0.5)
    changed = np.mean([(jitter(sample, seed).image != image).any() for seed in range(400)])
    assert abs(changed - (1 - 0.5**4)) < 0.05  # brightness, contrast, saturation, hue


class Redraws:
    """mmsegmentation's RandomCrop, transcribed, over places that are given."""

    def __init__(self, places, crop):
        self.places, self.crop = iter(places), crop

    def choose(self, label, ratio):
        place = next(self.places)
        for _ in range(10):
            part = label[place[0] : place[0] + self.crop, place[1] : place[1] + self.crop]
            labels, cnt = np.unique(part, return_counts=True)
            cnt = cnt[labels != 255]
            if len(cnt) > 1 and np.max(cnt) / np.sum(cnt) < ratio:
                break
            place = next(self.places)
        return place


def test_crops_are_resampled_like_in_mmsegmentation():
    """One class only, everything ignored, three quarters to the pixel: the window that is kept agrees."""
    rng = np.random.default_rng(3)
    cells = rng.choice([0, 1, 2, 255], (5, 6), p=[0.6, 0.1, 0.1, 0.2]).astype(np.uint8)
    label = cells.repeat(16, 0).repeat(16, 1)
    image = np.zeros((*label.shape, 3), np.uint8)
    transform = transforms.build(
        crop_size=24, scales=(1, 1), hflip=0, max_class_ratio=0.75, resize="opencv_linear"
    )
    kept = []
    for seed in range(300):
        draw = np.random.default_rng(seed)
        draw.random(), draw.uniform(1, 1)  # the mirror and the scale
        places = [draw.integers((80 - 24 + 1, 96 - 24 + 1)) for _ in range(11)]
        window = find_crop(transform, image, label, seed)
        theirs = Redraws(places, 24).choose(label, 0.75)
        assert (window.top, window.left) == tuple(theirs)
        kept.append([tuple(place) for place in places].index(tuple(theirs)))
    assert {0, 1, 10} <= set(kept)  # at once, later, and never fit


class LikeNumpy:
    """``numpy.random`` as the published code calls it, drawn from a generator."""

    def __init__(self, generator):
        self.generator, self.uniform = generator, generator.uniform

    def randint(self, low, high=None):
        return int(self.generator.random() < 0.5) if high is None else self.generator.integers(low, high)


def photometric_distortion(img, random):
    """PhotoMetricDistortion of mmsegmentation, transcribed; BGR in and out."""

    def convert(img, alpha=1, beta=0):
        return np.clip(img.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    def contrast(img):
        return convert(img, alpha=random.uniform(0.5, 1.5)) if random.randint(2) else img

    if random.randint(2):
        img = convert(img, beta=random.uniform(-32, 32))
    mode = random.randint(2)
    if mode == 1:
        img = contrast(img)
    if random.randint(2):
        img = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
        img[:, :, 1] = convert(img[:, :, 1], alpha=random.uniform(0.5, 1.5))
        img = cv2.cvtColor(img, cv2.COLOR_HSV2BGR)
    if random.randint(2):
        img = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
        img[:, :, 0] = (img[:, :, 0].astype(int) + random.randint(-18, 18)) % 180
        img = cv2.cvtColor(img, cv2.COLOR_HSV2BGR)
    return contrast(img) if mode == 0 else img


def test_color_jitter_equals_mmsegmentation():
    image = photograph(40, 50)
    for seed in range(200):
        expected = photometric_distortion(image[..., ::-1], LikeNumpy(np.random.default_rng(seed)))
        ours = color.distort(image, np.random.default_rng(seed), 0.5)
        np.testing.assert_array_equal(ours, expected[..., ::-1])


def test_mean_padding_is_zero_after_normalization():
    sample = Sample(np.full((8, 8, 3), 200, np.uint8), np.zeros((8, 8), np.uint8), "")
    settings = {"crop_size": 12, "scales": (1, 1), "hflip": 0}
    outside = transforms.build(**settings, padding="mean")(sample, 0).image[8:].reshape(-1, 3) / 255
    normalized = (outside - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.abs(normalized).max() < 0.5 / 255 / 0.224
    assert not transforms.build(**settings)(sample, 0).image[8:].any()


def test_smallest_allowed_sizes_give_an_image():
    sample = Sample(photograph(50, 2), np.zeros((50, 2), np.uint8), "")
    for base_size in (16, (16, 16), None):
        result = transforms.build(crop_size=4, base_size=base_size, scales=(0.01, 0.01))(sample, 0)
        assert result.image.shape == (4, 4, 3)


def test_equal_seeds_give_equal_samples_in_any_order_and_once_pickled():
    image = photograph(HEIGHT, WIDTH)
    geometry = {"crop_size": CROP, "base_size": BASE, "rotation": 5, "class_uniform_crop": 0.5}
    transform = transforms.build(**geometry, color_jitter=0.5, blur=0.5)
    first = [transform(Sample(image, COLUMNS, ""), seed) for seed in range(20)]
    pickled = pickle.loads(pickle.dumps(transform))
    again = [pickled(Sample(image, COLUMNS, ""), seed) for seed in reversed(range(20))][::-1]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
    assert len({sample.image.tobytes() for sample in first}) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": (2.0, 0.5)}, r"augment.scales=\[2.0, 0.5\]: must be \[lowest, highest\]"),
        (
            {"base_size": 16384, "scales": (1.0, 4.0)},
            r"base_size=16384 at augment.scales=.* to 65536 pixels; at most 32767",
        ),
    ],
)
def test_contradictory_scales_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        transforms.build(crop_size=8, **settings)
