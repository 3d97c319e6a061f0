"""Copies of images and neighboring frames, within and between splits.

An image is described by the low frequencies of the discrete cosine transform of its 32x32 gray version, as
in perceptual hashing (Zauner 2010), kept as unit vectors instead of bits: their dot product is a correlation.
Mirroring changes the sign of every second column, so mirrored copies need no second transform. Neighbors come
from scipy's k-d tree over the lowest frequencies, which is exact: a distance in fewer dimensions is smaller.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from segkit.runtime.text import format_count
from segkit.tools.doctor.findings import Case, Finding, Key, Record, count_with_verb

SIDE, FREQUENCIES = 32, 16  # of the described image, and of each axis of its transform
TREE_FREQUENCIES = 7  # u + v below this are searched in the tree
NEAR = 0.98  # correlation of nearly equal images; copies have 0.998, unrelated road scenes up to 0.9
CANDIDATE = 0.995  # copies are sought among pairs above
COPY = 0.97  # correlation of fine detail of copies; frames 1/15 s apart have at most 0.963 in CamVid
DETAIL_SIDE = 64  # pixels at which detail is compared; less for small images
NEIGHBORS = 8  # nearest images that are compared with each
VIDEO = 0.85  # median correlation of consecutive images of a video

ReadGray = Callable[[Key], np.ndarray]


class Match(NamedTuple):
    """Two similar images by their positions in the list of records."""

    one: int
    other: int
    similarity: float
    is_mirrored: bool


def describe_image(gray: np.ndarray) -> np.ndarray:
    """Return the descriptor of an image (H, W): a unit vector (255,) float32, zero for a plain image."""
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    values = cv2.dct(small)[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    length = np.linalg.norm(values)
    if length < SIDE:  # a standard deviation below one gray level
        return np.zeros_like(values)
    return values / length


def mirror_descriptor(descriptors: np.ndarray) -> np.ndarray:
    """Return the descriptors (N, 255) of the mirrored images."""
    signs = np.ones((FREQUENCIES, FREQUENCIES), np.float32)
    signs[:, 1::2] = -1
    return descriptors * signs.ravel()[1:]


def find_matches(descriptors: np.ndarray) -> list[Match]:
    """Return nearly equal pairs of images, each once, by their descriptors (N, 255)."""
    v, u = np.divmod(np.arange(1, FREQUENCIES**2), FREQUENCIES)
    lowest = u + v < TREE_FREQUENCIES
    used = np.flatnonzero(descriptors.any(1))  # plain images are all equal
    described = descriptors[used]
    if len(used) < 2:
        return []
    tree = KDTree(np.ascontiguousarray(described[:, lowest]))
    radius = float(np.sqrt(2 - 2 * NEAR))
    matches = {}
    for is_mirrored, queries in ((False, described), (True, mirror_descriptor(described))):
        count = min(NEIGHBORS + 1, len(used))
        near = tree.query(queries[:, lowest], k=count, distance_upper_bound=radius, workers=-1)[1]
        for place, others in enumerate(np.asarray(near)):
            for other in others[(others < len(used)) & (others != place)].tolist():
                similarity = float(queries[place] @ described[other])
                pair = min(used[place], used[other]), max(used[place], used[other])
                if similarity >= NEAR and (pair not in matches or matches[pair].similarity < similarity):
                    matches[pair] = Match(int(pair[0]), int(pair[1]), similarity, is_mirrored)
    return list(matches.values())


def detail_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of the fine detail of two images (H, W), -1..1."""
    side = int(np.clip(min(*one.shape, *other.shape) // 2, SIDE // 2, DETAIL_SIDE))
    details = []
    for gray in (one, other):
        small = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        detail = (small - cv2.GaussianBlur(small, (0, 0), 2)).ravel()
        details.append(detail / max(float(np.linalg.norm(detail)), 1e-6))
    return float(details[0] @ details[1])


def confirm_copies(matches: Sequence[Match], records: Sequence[Record], read_gray: ReadGray) -> list[Match]:
    """Return the matches that are copies: equal pixels, or equal in fine detail after reading them again."""
    read = functools.lru_cache(64)(lambda place: read_gray(records[place].key))
    copies = []
    for match in sorted(matches):
        if records[match.one].image_digest != records[match.other].image_digest:
            if match.similarity < CANDIDATE:
                continue
            other = read(match.other)
            if match.is_mirrored:
                other = np.ascontiguousarray(other[:, ::-1])
            if detail_correlation(read(match.one), other) < COPY:
                continue
        copies.append(match)
    return copies


def _match_equal_files(records: Sequence[Record]) -> list[Match]:
    """Return pairs that link all images with equal pixels."""
    first: dict[bytes, int] = {}
    matches = []
    for place, record in enumerate(records):
        before = first.setdefault(record.image_digest, place)
        if before != place and record.descriptor.any():  # not of plain images
            matches.append(Match(before, place, 1.0, is_mirrored=False))
    return matches


def find_copies(records: Sequence[Record], read_gray: ReadGray) -> list[Finding]:
    """Return findings on copies within and between splits, and on videos that both splits share."""
    if not records:
        return []
    matches = find_matches(np.stack([record.descriptor for record in records]))
    copies = _match_equal_files(records) + confirm_copies(matches, records, read_gray)
    taken = {match[:2] for match in copies}
    frames = [match for match in matches if match[:2] not in taken and not match.is_mirrored]
    return _describe_copies(copies, records) + _describe_sequences(frames, records)


def _describe_copies(copies: Sequence[Match], records: Sequence[Record]) -> list[Finding]:
    across, within, conflicting = [], [], []
    mirrored = {place for match in copies for place in match[:2] if match.is_mirrored}
    for group in _group_matches(copies, len(records)):
        members = [records[place] for place in group]
        text = ", ".join(f"{record.key.split}: {record.name}" for record in members[:4])
        if len(group) > 4:
            text += f" and {len(group) - 4} more"
        if mirrored.intersection(group):
            text += " (mirrored)"
        case = Case(tuple(record.key for record in members), text)
        if len({record.key.split for record in members}) > 1:
            across.append(case)
        else:
            within.append(case)
        images = {record.image_digest for record in members}
        if len({(record.image_digest, record.mask_digest) for record in members}) > len(images):
            conflicting.append(case)
    return [
        Finding(
            "copies in both splits",
            "serious",
            f"{format_count(len(across), 'group')} of images in training and in validation:"
            " scores are too high.",
            "Leave the training images out: data.exclude=exclude.txt, which is written beside this page",
            across,
        ),
        Finding(
            "copies with different masks",
            "serious",
            f"{format_count(len(conflicting), 'group')} of images with equal pixels and different masks.",
            "Keep the mask that is right",
            conflicting,
        ),
        Finding(
            "copies in one split",
            "warning",
            f"{format_count(len(within), 'group')} of images that are repeated in their split.",
            "Keep one of each; exclude.txt lists the others of the training split",
            within,
        ),
    ]


def _group_matches(matches: Sequence[Match], count: int) -> list[list[int]]:
    """Return the connected groups of matched images, the largest first."""
    ones, others = [m.one for m in matches], [m.other for m in matches]
    edges = coo_array((np.ones(len(matches)), (ones, others)), shape=(count, count))
    labels = connected_components(edges, directed=False)[1]
    groups = defaultdict(list)
    for place in sorted({*ones, *others}):
        groups[labels[place]].append(place)
    return sorted(groups.values(), key=len, reverse=True)


def split_name(name: str) -> tuple[str, int]:
    """Return the sequence of a file name and the number of the frame: its last number; -1 without one."""
    found = re.fullmatch(r"(.*?)(\d+)(\D*)", name, re.DOTALL)
    if found is None:
        return name, -1
    return found[1] + found[3], int(found[2])


def _describe_sequences(frames: Sequence[Match], records: Sequence[Record]) -> list[Finding]:
    """Return findings on videos in both splits: nearly equal frames, or neighbors by their numbers."""
    leaks: dict[tuple[str, ...], list[Match]] = defaultdict(list)
    for match in frames:
        pair = records[match.one], records[match.other]
        if pair[0].key.split != pair[1].key.split:
            leaks[tuple(sorted(split_name(record.name)[0] for record in pair))].append(match)
    leaked, shared, concerned = [], [], set()
    for names, found in sorted(leaks.items(), key=lambda item: -len(item[1])):
        best = max(found, key=lambda match: match.similarity)
        images = [records[place] for place in {place for match in found for place in match[:2]}]
        concerned |= {record.key for record in images if record.key.split == "val"}
        title = " and ".join(_format_sequence(name) for name in dict.fromkeys(names))
        numbers = " and ".join(_count_splits(images))
        text = f"{title}: {numbers} are nearly equal, correlation up to {best.similarity:.3f}"
        leaked.append(Case((records[best.one].key, records[best.other].key), text))
    sequences: dict[str, list[tuple[int, Record]]] = defaultdict(list)
    for record in records:
        sequence, number = split_name(record.name)
        sequences[sequence].append((number, record))
    for sequence, members in sorted(sequences.items()):
        ordered = sorted(members, key=lambda member: member[0])
        numbers = _count_splits([record for _, record in ordered])
        if (sequence, sequence) in leaks or len(numbers) < 2 or not _is_video(ordered):
            continue
        gaps = [pair for pair in itertools.pairwise(ordered) if pair[0][1].key.split != pair[1][1].key.split]
        (one, first), (other, second) = min(gaps, key=lambda pair: pair[1][0] - pair[0][0])
        distance = f"the closest are {other - one} apart by their numbers"
        text = f"{_format_sequence(sequence)}: {', '.join(numbers)}; {distance}"
        shared.append(Case((first.key, second.key), text))
    return [
        Finding(
            "sequences in both splits",
            "serious",
            f"{count_with_verb(len(concerned), 'validation image')} nearly equal to training images.",
            "Split by video or scene, not by image; scores are too high otherwise",
            leaked,
        ),
        Finding(
            "videos in both splits",
            "warning",
            f"{format_count(len(shared), 'video')} with images in both splits, by file names and similarity.",
            "Prefer other videos for validation: this one shares places, weather and light with training",
            shared,
        ),
    ]


def _count_splits(records: Sequence[Record]) -> list[str]:
    """Return the number of images of each split as text, such as ``["8 of train", "2 of val"]``."""
    counts = Counter(record.key.split for record in records)
    return [f"{number} of {split}" for split, number in sorted(counts.items())]


def _format_sequence(name: str) -> str:
    return f"sequence {name}" if name else "images named by numbers"


def _is_video(ordered: Sequence[tuple[int, Record]]) -> bool:
    """Return whether consecutive images, sorted by the number in their names, are similar."""
    if ordered[0][0] < 0 or len(ordered) < 3:
        return False
    descriptors = np.stack([record.descriptor for _, record in ordered])
    return float(np.median((descriptors[:-1] * descriptors[1:]).sum(1))) >= VIDEO
