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
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from segkit.tools.doctor.findings import Case, Key, Record, list_images

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


def find_copies(records: Sequence[Record], read_gray: ReadGray) -> Iterator[Case]:
    """Yield cases of copies within and between splits, and of videos that both splits share."""
    if not records:
        return
    matches = find_matches(np.stack([record.descriptor for record in records]))
    copies = _match_equal_files(records) + confirm_copies(matches, records, read_gray)
    mirrored = {place for match in copies for place in match[:2] if match.is_mirrored}
    for group in _group_matches(copies, len(records)):
        members = [records[place] for place in group]
        keys = tuple(record.key for record in members)
        text = list_images(keys)
        if mirrored.intersection(group):
            text += " (mirrored)"
        if len({key.split for key in keys}) > 1:
            yield Case("copies in both splits", keys, text)
        else:
            yield Case("copies in one split", keys, text)
        images = {record.image_digest for record in members}
        if len({(record.image_digest, record.mask_digest) for record in members}) > len(images):
            yield Case("copies with different masks", keys, text)
    known = {match[:2] for match in copies}
    frames = [match for match in matches if match[:2] not in known and not match.is_mirrored]
    yield from _find_sequences(frames, records)


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


def _find_sequences(frames: Sequence[Match], records: Sequence[Record]) -> Iterator[Case]:
    """Yield videos in both splits: with nearly equal frames, or neighbors by their numbers."""
    leaks: dict[tuple[str, ...], list[Match]] = defaultdict(list)
    for match in frames:
        pair = records[match.one].key, records[match.other].key
        if pair[0].split != pair[1].split:
            leaks[tuple(sorted({split_name(key.name)[0] for key in pair}))].append(match)
    for names, found in sorted(leaks.items(), key=lambda item: -len(item[1])):
        best = max(found, key=lambda match: match.similarity)
        splits = Counter(records[place].key.split for place in {p for match in found for p in match[:2]})
        counts = " and ".join(f"{number} of {split}" for split, number in sorted(splits.items()))
        text = f"{' and '.join(names) or 'numbers'}: {counts}, correlation up to {best.similarity:.3f}"
        yield Case("sequences in both splits", (records[best.one].key, records[best.other].key), text)
    sequences: dict[str, list[tuple[int, int]]] = defaultdict(list)  # number in the name, place
    for place, record in enumerate(records):
        sequence, number = split_name(record.key.name)
        sequences[sequence].append((number, place))
    for sequence, members in sorted(sequences.items()):
        ordered = [records[place] for _, place in sorted(members)]
        neighbors = [(a.key, b.key) for a, b in itertools.pairwise(ordered) if a.key.split != b.key.split]
        if neighbors and (sequence,) not in leaks and _is_video(ordered):
            yield Case("videos in both splits", neighbors[0], list_images(neighbors[0]))


def _is_video(ordered: Sequence[Record]) -> bool:
    """Return whether consecutive images are similar."""
    descriptors = np.stack([record.descriptor for record in ordered])
    return len(ordered) > 2 and np.median((descriptors[:-1] * descriptors[1:]).sum(1)) >= VIDEO
