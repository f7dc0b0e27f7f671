"""Training on several images: questions, points and comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from olmo.data.datasets.disk import structs
from olmo.data.datasets.draws import SHUFFLE
from olmo.data.datasets.messages import choice
from olmo.data.datasets.pointing import PIXMO_IMAGES, asked, coordinates
from olmo.data.datasets.tables import address_name
from olmo.data.records import Flaw, LeftOut, Record

Row = dict[str, Any]
MAX_IMAGES = 5
POINT_STYLES = ["multi_image_pointing", "multi_image_point_then_count"]


def linked_images(addresses: Sequence[str]) -> list[str]:
    """Paths of the two to ``MAX_IMAGES`` images that a row links to."""
    used = 2 <= len(addresses) <= MAX_IMAGES
    LeftOut.when(not used, "another number of images than two to five")
    return [f"{PIXMO_IMAGES}/{address_name(a)}" for a in addresses]


def questions(row: Row) -> Iterator[Record]:
    """``Molmo2-MultiImageQA``: image_urls, qa_pairs (question, answer). Where a question asks for a
    count, it is one without points."""
    images = linked_images(row["image_urls"])
    for qa in structs(row["qa_pairs"]):
        message = {"question": qa["question"], "answer": qa["answer"], "style": "correction_qa"}
        yield {"image": images, "no_points": True} | message


def points(row: Row) -> Record:
    """``Molmo2-MultiImagePoint``: image_urls, label, points (of each image, in per cent)."""
    images, found = linked_images(row["image_urls"]), [coordinates(p) for p in row["points"]]
    Flaw.when(len(images) != len(found), "points of another number of images than image_urls")
    return {"image": images} | asked({"label": row["label"], "points": found}, POINT_STYLES)


def mantis(row: Row, open_ended: bool = False) -> Iterator[Record]:
    """``molmo2-mantis-instruct-{name}``: images (paths, two or more), and lists mc_question,
    choices, correct_choice_idx; ``open_ended``: oe_question, direct_answer."""
    images = row["images"]
    LeftOut.when(len(images) < 2, "fewer than two images")
    if open_ended:
        for question, answer in zip(row["oe_question"], row["direct_answer"], strict=True):
            message = {"question": question, "answer": answer, "style": "mantis_instruct_da"}
            yield {"image": images} | message
        return
    columns = (row["mc_question"], row["choices"], row["correct_choice_idx"])
    for question, options, right in zip(*columns, strict=True):
        message = choice(question, options, right, "mantis_instruct_mc")
        yield {"image": images, "draw": [SHUFFLE]} | message
