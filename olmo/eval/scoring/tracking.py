"""Scores of tracks: F1 per frame, and HOTA (Luiten et al. 2021, arXiv 2009.07736).

The reference takes the k-th point of a frame to belong to the k-th mask, but points are those of
the objects present, and masks those of all objects, empty ones for who is absent. So an absent
object spoils the ones behind it. ``molmo2`` values are made that way, ours go by the object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from olmo.eval.scoring.points import (
    Point,
    assign,
    frame_size,
    is_inside,
    nearest,
    point_score,
    precision_recall_f1,
    read_tracks,
)
from olmo.eval.scoring.score import Metadata, Score, needed, scorer

Tracks = Mapping[int, Mapping[str, Point]]
"""Frame number to object id to point (x, y) in pixels."""

HOTA = ("HOTA", "DetA", "AssA")


@dataclass(frozen=True)
class Frame:
    """Objects and predictions of one frame.

    Attributes:
        gold, predicted: id to point.
        masks: of each gold point, [height, width]; None for one without.
        n_objects: how many there are to find, the denominator of recall.
    """

    gold: Mapping[str, Point]
    predicted: Mapping[str, Point]
    masks: Sequence[np.ndarray | None]
    n_objects: int

    def similarity(self) -> np.ndarray:
        """1 where a predicted point lies in an object's mask, else 0: [gold, predicted]."""
        points = self.predicted.values()
        hits = [[is_inside(mask, p) for p in points] for mask in self.masks]
        return np.array(hits, dtype=np.float64).reshape(len(self.gold), len(points))


@scorer("tracking")
def tracking(prediction: str, metadata: Metadata) -> Score:
    """F1 of the points per frame, with HOTA.

    ``points`` and ``masks`` map frame numbers to object ids to points (x, y), or masks; both may
    leave out who is absent. ``objects``: the ids of all objects asked for, in the order of the file
    of masks, for the ``molmo2`` values; without it, those that are seen anywhere, by number.
    """
    gold, masks, fps = needed(metadata, "points", "masks", "video_fps")
    w, h = frame_size(metadata, (mask for one in masks.values() for mask in one.values()))
    found = read_tracks(prediction, w, h, fps)
    objects = _objects(metadata, gold, masks)
    ours, theirs = [], []
    for number in sorted(found.keys() | {f for f, one in gold.items() if one}):
        present = {o: gold[number][o] for o in objects if o in gold.get(number, {})}
        shapes, predicted = masks.get(number, {}), found.get(number, {})
        mine = [shapes.get(o) for o in present]
        ours.append(Frame(present, predicted, mine, len(present)))
        first = [shapes.get(o) for o in objects[: len(present)]]
        theirs.append(Frame(present, predicted, first, len(objects) if present else 0))
    as_molmo2 = track_scores(theirs)
    named = {f"molmo2_{name}": value for name, value in as_molmo2.items() if name != "f1"}
    scores = {**track_scores(ours), "molmo2": as_molmo2["f1"], **named}
    return point_score(scores, _lists(found), _lists(gold))


def _objects(metadata: Metadata, *tracks: Mapping[int, Mapping[str, object]]) -> list[str]:
    """Those listed; then all others that are seen, which are none if the list is whole."""
    listed = list(metadata.get("objects") or ())
    seen = {o for frames in tracks for one in frames.values() for o in one}
    return [*listed, *sorted(seen - set(listed), key=lambda o: (len(o), o))]


def _lists(tracks: Tracks) -> dict[str, dict[str, list[float]]]:
    return {
        str(frame): {name: [float(v) for v in point] for name, point in one.items()}
        for frame, one in tracks.items()
    }


def track_scores(frames: Sequence[Frame]) -> dict[str, float]:
    """Means over frames of precision, recall and F1 of points matched by least distance, and HOTA
    over all. Without any frame all are 1."""
    per_frame = []
    for frame in frames:
        similarity = frame.similarity()
        pairs = nearest([*frame.gold.values()], [*frame.predicted.values()])
        hits = int(sum(similarity[g, p] for g, p in pairs))
        per_frame.append(precision_recall_f1(hits, len(frame.predicted), frame.n_objects))
    per_frame = per_frame or [precision_recall_f1(0, 0, 0)]
    means = {k: float(np.mean([one[k] for one in per_frame])) for k in per_frame[0]}
    return means | hota(frames)


def hota(frames: Sequence[Frame]) -> dict[str, float]:
    """HOTA, DetA and AssA at alpha 0.5. Without any object or prediction all three are 1."""
    gold = _numbers([frame.gold for frame in frames])
    predicted = _numbers([frame.predicted for frame in frames])
    if not gold and not predicted:
        return dict.fromkeys(HOTA, 1.0)
    n_gold, n_predicted = np.zeros(len(gold)), np.zeros(len(predicted))
    potential = np.zeros((len(gold), len(predicted)))
    seen = [
        ([gold[o] for o in frame.gold], [predicted[o] for o in frame.predicted], frame.similarity())
        for frame in frames
    ]
    for g, p, similarity in seen:
        total = similarity.sum(0) + similarity.sum(1, keepdims=True) - similarity
        potential[np.ix_(g, p)] += similarity / np.maximum(total, 1)  # of zeros and ones
        n_gold[g] += 1
        n_predicted[p] += 1
    alignment = _shared(potential, n_gold, n_predicted)
    matches = np.zeros_like(potential)
    for g, p, similarity in seen:
        for i, j in assign(-alignment[np.ix_(g, p)] * similarity):
            matches[g[i], p[j]] += similarity[i, j] >= 0.5
    n_true = matches.sum()
    detection = n_true / (n_gold.sum() + n_predicted.sum() - n_true)
    shared = _shared(matches, n_gold, n_predicted)
    association = (matches * shared).sum() / max(n_true, 1)
    values = (np.sqrt(detection * association), detection, association)
    return dict(zip(HOTA, map(float, values), strict=True))


def _numbers(frames: Sequence[Mapping[str, Point]]) -> dict[str, int]:
    """Of each id, its index."""
    return {name: i for i, name in enumerate(sorted({o for one in frames for o in one}))}


def _shared(both: np.ndarray, n_gold: np.ndarray, n_predicted: np.ndarray) -> np.ndarray:
    """What two tracks have in common of what either has: [gold, predicted]. An id stands in at
    least one frame, so no denominator is 0."""
    return both / (n_gold[:, None] + n_predicted - both)
