"""Losses against loops over single pixels, however a batch is divided, and as large as they come."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segkit.config import registry
from segkit.config.compose import compose_settings
from segkit.losses import _chunks
from segkit.types import IGNORE_INDEX, Logits

CASES = 80


def build(name, num_classes, **keywords):
    return registry.build("losses", {"name": name, **keywords}, num_classes=num_classes)


def random_case(seed, *, largest=5):
    """Logits (B, K, H, W) in float64, a label with ignored pixels, K class weights."""
    draw = np.random.default_rng(seed)
    size, height, width = draw.integers(1, 4), *draw.integers(1, largest, 2)
    num_classes = int(draw.integers(1, 6))
    logits = draw.normal(0, draw.choice([0.3, 2, 8]), (size, num_classes, height, width))
    label = draw.integers(0, num_classes, (size, height, width))
    label[draw.random(label.shape) < draw.choice([0, 0.3, 0.9, 1])] = IGNORE_INDEX
    if draw.random() < 0.3:
        label[0] = IGNORE_INDEX
    weights = draw.choice([0.25, 0.5, 1, 3], num_classes).tolist()
    layout = torch.channels_last if seed % 2 else torch.contiguous_format
    return torch.from_numpy(logits).contiguous(memory_format=layout), torch.from_numpy(label), weights


def probabilities(logits):
    """The softmax of one pixel's numbers, as plain Python."""
    powers = [math.exp(value - max(logits)) for value in logits]
    return [power / sum(powers) for power in powers]


def pixels(logits, label):
    """Of each scored pixel: its image, its probabilities and its class."""
    found = []
    for image, row, column in np.ndindex(*label.shape):
        true = int(label[image, row, column])
        if true != IGNORE_INDEX:
            found.append((image, probabilities(logits[image, :, row, column].tolist()), true))
    return found


def naive_cross_entropy(logits, label, weights, *, label_smoothing=0.0, average="scored"):
    total = divisor = 0.0
    for _, p, true in pixels(logits, label):
        evenly = -sum(w * math.log(q) for w, q in zip(weights, p, strict=True)) / len(p)
        total += (1 - label_smoothing) * -weights[true] * math.log(p[true]) + label_smoothing * evenly
        divisor += weights[true]
    if average == "all":
        divisor = label.numel()
    return total / divisor if divisor else 0.0


def naive_focal(logits, label, weights, *, gamma):
    scored = pixels(logits, label)
    total = sum(-weights[t] * (1 - p[t]) ** gamma * math.log(p[t]) for _, p, t in scored)
    return total / sum(weights[t] for *_, t in scored) if scored else 0.0


def naive_ohem(logits, label, weights, *, threshold, min_kept):
    least = max(1, label.numel() // 5) if min_kept is None else min_kept * len(label)
    hardest_first = sorted(pixels(logits, label), key=lambda pixel: pixel[1][pixel[2]])
    kept = [(p, t) for rank, (_, p, t) in enumerate(hardest_first) if p[t] < threshold or rank < least]
    total = sum(-weights[t] * math.log(p[t]) for p, t in kept)
    return total / sum(weights[t] for _, t in kept) if kept else 0.0


def mean_over_groups(logits, label, over, loss_of_class):
    """The mean over images, or the one of all of them, of the mean over the classes there are."""
    scored = pixels(logits, label)
    groups = [[x for x in scored if over == "batch" or x[0] == i] for i in range(len(label))]
    groups = [group for group in groups[: 1 if over == "batch" else None] if group]
    means = []
    for group in groups:
        classes = sorted({true for *_, true in group})
        losses = [loss_of_class([(p[k], true == k) for _, p, true in group]) for k in classes]
        means.append(sum(losses) / len(losses))
    return sum(means) / len(means) if means else 0.0


def naive_dice(logits, label, _weights, *, over, smooth):
    def loss(group):
        both = sum(p for p, true in group if true)
        return 1 - (2 * both + smooth) / (sum(p for p, _ in group) + sum(t for _, t in group) + smooth)

    return mean_over_groups(logits, label, over, loss)


def naive_lovasz(logits, label, _weights, *, over):
    """The Lovasz extension by its definition: sets of the k largest errors, and 1 - IoU of each set."""

    def jaccard(group, wrong):
        union = sum(true or index in wrong for index, (_, true) in enumerate(group))
        right = sum(true and index not in wrong for index, (_, true) in enumerate(group))
        return 1 - right / union

    def loss(group):
        errors = [abs(true - p) for p, true in group]
        order = sorted(range(len(group)), key=lambda index: -errors[index])
        sets = [jaccard(group, set(order[:count])) for count in range(len(group) + 1)]
        return sum(errors[index] * (sets[k + 1] - sets[k]) for k, index in enumerate(order))

    return mean_over_groups(logits, label, over, loss)


WEIGHTED = {"cross_entropy", "focal", "ohem"}
CHOICES = [
    ("cross_entropy", {}, naive_cross_entropy),
    ("cross_entropy", {"label_smoothing": 0.1}, naive_cross_entropy),
    ("cross_entropy", {"average": "all"}, naive_cross_entropy),
    ("focal", {"gamma": 2.0}, naive_focal),
    ("focal", {"gamma": 0.5}, naive_focal),
    ("ohem", {"threshold": 0.6, "min_kept": 2}, naive_ohem),
    ("ohem", {"threshold": 0.1, "min_kept": None}, naive_ohem),
    ("dice", {"over": "image", "smooth": 1.0}, naive_dice),
    ("dice", {"over": "batch", "smooth": 0.0}, naive_dice),
    ("lovasz", {"over": "image"}, naive_lovasz),
    ("lovasz", {"over": "batch"}, naive_lovasz),
]
NAMES = [f"{name}-{'-'.join(map(str, keywords.values()))}" for name, keywords, _ in CHOICES]
every_choice = pytest.mark.parametrize(("name", "keywords", "naive"), CHOICES, ids=NAMES)


@pytest.mark.medium
@every_choice
def test_loss_equals_loop_over_pixels(name, keywords, naive, monkeypatch):
    for seed in range(CASES):
        logits, label, weights = random_case(seed)
        monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", 1 + 7 * seed)  # one line at a time, some, or all
        more = {"class_weights": weights} if name in WEIGHTED else {}
        loss = build(name, logits.shape[1], aux_weight=0.5, **keywords, **more)
        parts = loss(Logits(logits, logits.flip(0)), label)
        expected = naive(logits, label, weights, **keywords)
        assert float(parts["main"]) == pytest.approx(expected, rel=1e-6, abs=1e-6), f"case {seed}"
        flipped = naive(logits.flip(0), label, weights, **keywords)
        assert float(parts["aux"]) == pytest.approx(flipped / 2, rel=1e-6, abs=1e-6), f"case {seed}"


@pytest.mark.medium
@every_choice
def test_loss_gradient_matches_finite_differences(name, keywords, naive, monkeypatch):
    monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", 8)
    for seed in range(5):
        logits, label, weights = random_case(seed, largest=4)
        more = {"class_weights": weights} if name in WEIGHTED else {}
        loss = build(name, logits.shape[1], **keywords, **more)
        logits = logits.clamp(-6, 6).requires_grad_()

        def main(value, loss=loss, label=label):
            return loss(Logits(value), label)["main"]

        assert torch.autograd.gradcheck(main, (logits,))


def value_and_gradient(logits, label, loss):
    """Value of the main part and its gradient."""
    leaf = logits.detach().clone().requires_grad_()
    value = loss(Logits(leaf), label)["main"]
    (gradient,) = torch.autograd.grad(3.0 * value, leaf)
    return value.detach(), gradient


@every_choice
def test_ignored_pixels_have_no_effect(name, keywords, naive):
    logits, label = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    label[:, 0] = IGNORE_INDEX
    loss = build(name, logits.shape[1], **keywords)
    changed = logits.clone()
    changed[:, :, 0] += torch.randn_like(changed[:, :, 0])
    assert torch.equal(loss(Logits(logits), label)["main"], loss(Logits(changed), label)["main"])
    value, gradient = value_and_gradient(changed, label, loss)
    assert value > 0
    assert not gradient[:, :, 0].any()
    value, gradient = value_and_gradient(changed, torch.full_like(label, IGNORE_INDEX), loss)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


DIVISIBLE = [c for c in CHOICES if c[0] != "ohem" and c[1].get("over") != "batch"]


@pytest.mark.parametrize(("name", "keywords", "naive"), DIVISIBLE)
def test_weighted_micro_batches_sum_to_the_batch_loss(name, keywords, naive):
    for seed in range(20):
        logits, label, weights = random_case(seed)
        more = {"class_weights": weights} if name in WEIGHTED else {}
        loss = build(name, logits.shape[1], **keywords, **more)
        whole = loss(Logits(logits), label)["main"] * loss.compute_weight(label)
        parts = [
            loss(Logits(logits[i : i + 1]), label[i : i + 1])["main"] * loss.compute_weight(label[i : i + 1])
            for i in range(len(label))
        ]
        torch.testing.assert_close(sum(parts), whole, rtol=1e-9, atol=1e-12)


MIX = {
    "cross_entropy": {"weight": 0.375, "average": "all"},
    "focal": {"weight": 2.0, "class_weights": [0.5, 1.0, 3.0]},
    "dice": {"weight": 1.125},
    "lovasz": {"weight": 0.0},
}


def test_mixed_loss_is_the_weighted_sum():
    logits, label = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    label[0, :3] = IGNORE_INDEX
    both = Logits(logits, logits.flip(1))
    found = build("mixed", 3, parts=MIX, aux_weight=0.3)(both, label)
    for head in ("main", "aux"):
        expected = 0.0
        for name, part in MIX.items():
            own = {key: value for key, value in part.items() if key != "weight"}
            expected += part["weight"] * float(build(name, 3, aux_weight=0.3, **own)(both, label)[head])
        assert float(found[head].sum()) == pytest.approx(expected, rel=1e-6)


# -- in chunks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["cross_entropy", "lovasz"])
def test_half_precision_logits_are_summed_in_float32(name, dtype):
    torch.manual_seed(0)
    logits, label = (3 * torch.randn(2, 7, 40, 50)).to(dtype), torch.randint(0, 7, (2, 40, 50))
    loss = build(name, 7)
    expected, gradient = value_and_gradient(logits.float(), label, loss)
    with torch.autocast("cpu", dtype):
        found, rounded = value_and_gradient(logits, label, loss)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(rounded, gradient.to(dtype))


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the sizes of the tensors that operations allocate."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves(args) if torch.is_tensor(t)]
        known = {t.untyped_storage().data_ptr() for t in tensors}
        for tensor in torch.utils._pytree.tree_leaves(found):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.sizes.append(tensor.numel())
        return found


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice", "lovasz", "ohem"])
def test_only_the_gradient_has_full_size(name, monkeypatch):
    monkeypatch.setattr(_chunks, "CHUNK_ELEMENTS", 2**12)
    logits, label = torch.randn(2, 50, 32, 32, requires_grad=True), torch.randint(0, 3, (2, 32, 32))
    with Largest() as made:
        build(name, 50)(Logits(logits), label)["main"].backward()
    large = [size for size in made.sizes if size > logits.numel() / 8]
    assert large == [logits.numel()]


@pytest.mark.medium
@pytest.mark.parametrize("name", ["cross_entropy", "dice"])
def test_compiled_loss_equals_eager(name):
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 6, 7), torch.randint(0, 3, (2, 6, 7))
    loss = build(name, 3)
    compiled = torch.compile(loss, backend="eager")
    found, expected = (value_and_gradient(logits, label, each) for each in (compiled, loss))
    torch.testing.assert_close(found, expected)


# -- logits at the size of the head

HEAD_LOSSES = [name for name in registry.available("losses") if name != "mixed"]
HEAD_SIZES = ((3, 5), (1, 1), (4, 1), (7, 9))
LABEL_SIZES = ((17, 23), (24, 40), (7, 9), (5, 3))  # larger, equal and smaller


@pytest.mark.medium
@pytest.mark.parametrize("name", HEAD_LOSSES)
@pytest.mark.parametrize("align_corners", [True, False])
def test_loss_of_head_logits_equals_that_of_resized_logits(name, align_corners, monkeypatch):
    torch.manual_seed(0)
    loss = registry.build("losses", {"name": name}, num_classes=4)
    for number, (cells, size) in enumerate((cells, size) for cells in HEAD_SIZES for size in LABEL_SIZES):
        monkeypatch.setattr(
            _chunks, "CHUNK_ELEMENTS", 60 * 4 ** (number % 4)
        )  # a line at a time, some, or all
        logits = torch.randn(2, 4, *cells, dtype=torch.double, requires_grad=True)
        label = torch.randint(0, 4, (2, *size), dtype=torch.uint8)
        label[0, :2] = IGNORE_INDEX
        found = loss(Logits(logits, logits.flip(0), align_corners), label)
        full = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
        expected = loss(Logits(full, full.flip(0)), label)
        for head in ("main", "aux"):
            torch.testing.assert_close(found[head], expected[head])
        (gradient,) = torch.autograd.grad(sum(found.values()), logits)
        torch.testing.assert_close(gradient, torch.autograd.grad(sum(expected.values()), logits)[0])


# -- settings


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"\[1, 2\]: 2 weights for 3 classes; `python datasets/NAME.py stats"),
        ([1.0, -2.0, 1.0], r"\[1, -2, 1\]: give each class a finite number of at least 0"),
        ([1.0, math.nan, 1.0], r"give each class a finite number of at least 0"),
        ([0.0, 0.0, 0.0], r"and one class a number above 0"),
        ("/dev/zero", r"/dev/zero: must be a file with .* \(.* is a folder, a device or a pipe"),
        ("nowhere.txt", r"\(No such file or directory\); `python"),
        ("words.txt", r"\(could not convert string to float: 'one'\)"),
        ("long.txt", r"has 1,200,000 bytes"),
    ],
)
def test_wrong_class_weights_are_rejected(weights, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("one\n")
    (tmp_path / "long.txt").write_text("1\n" * 600_000)
    with pytest.raises(ValueError, match=rf"^loss.class_weights=.*{message}"):
        build("cross_entropy", 3, class_weights=weights)


def test_class_weights_are_read_from_a_file(tmp_path):
    file = tmp_path / "weights.txt"
    file.write_text("1.0\n2.5\n")
    assert build("focal", 2, class_weights=str(file)).class_weights.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    "parts", [{}, {"dice": None, "focal": False}, {"dice": {"weight": 0.0}, "focal": {"weight": 0.0}}]
)
def test_mixed_loss_without_weights_is_rejected(parts):
    with pytest.raises(ValueError, match=r"all weights are 0, .* Give a loss a weight above 0"):
        build("mixed", 3, parts=parts)


def test_mixed_loss_cannot_be_nested():
    with pytest.raises(ValueError, match="a sum cannot contain a sum"):
        build("mixed", 3, parts={"mixed": {"parts": MIX}})


@pytest.mark.medium
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.parts.dice.weight=-1", r"dice.weight=-1: must be at least 0"),
        ("loss.parts.dice.smoth=1", r"did you mean loss.parts.dice.smooth"),
        ("loss.parts.dyce.weight=1", r"mean loss.parts.dice.weight=1\?"),
        ("loss.parts.dice=2", r"this is a section; set loss.parts.dice.KEY"),
        ("loss.parts=dice", r"this is a section; set each by its name"),
    ],
)
def test_settings_of_mixed_losses_are_validated(override, message):
    with pytest.raises(ValueError, match=message):
        compose_settings("train", ["run_name=x", "loss=ce_dice", override])


def test_mixed_losses_are_set_removed_and_added_by_name():
    given = ["loss.parts.dice=null", "loss.parts.focal.gamma=3", "loss.parts.ohem=true"]
    chosen = compose_settings("train", ["run_name=x", "loss=ce_dice", *given])["loss"]
    loss = registry.build("losses", chosen, num_classes=3)
    assert list(loss.losses) == ["cross_entropy", "focal", "ohem"]
    assert loss.losses["focal"].gamma == 3.0
