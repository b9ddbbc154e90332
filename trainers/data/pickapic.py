"""Votes as a table in the form of Pick-a-Pic, arXiv:2305.01569, whose 18 columns it has: for tools that read that data set.

jpg_0, jpg_1 hold the images' files as they are (PNG). label_0 is 1 where the first is better, 0 the second, 0.5 a tie, and
label_1 the rest; best_image_uid is "tie" there. The better image is as often the first as the second: their digests decide.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...rewards.base.files import written_whole
from ...rewards.base.words import from_group
from ...rewards.person.taste import Verdict
from .rows import Picture

ROWS = 16  # written at once
MODEL = "ComfyUI-PostTrain"


def write_pickapic(pictures: Sequence[Picture], verdicts: Sequence[Verdict], path: Path) -> int:
    """Writes the verdicts on two images -> how many rows; verdicts on one image have no place in this form.

    pictures: those that verdicts name by number. ValueError where there is no such verdict, or where pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"file: to write {path.name} the Python package 'pyarrow' is needed; install it into ComfyUI's Python "
            f"{from_group('data-sets')}. Your votes are safe in votes.jsonl, which Pairs from File reads without it"
        ) from None
    found = [v for v in verdicts if v.second is not None]
    if not found:
        raise ValueError(
            "votes: none of them compares two images, and Pick-a-Pic has no other kind; rate in the mode 'best and worst'"
        )
    schema = _schema(pyarrow)
    with written_whole(path) as beside, pyarrow.parquet.ParquetWriter(beside, schema) as writer:
        for rows in _batches(pictures, found):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return len(found)


def _schema(pyarrow):
    text, number, yes = pyarrow.string(), pyarrow.int64(), pyarrow.bool_()
    uid_url = [(f"image_{side}_{what}", text) for side in (0, 1) for what in ("uid", "url")]
    return pyarrow.schema(
        [("are_different", yes), ("best_image_uid", text), ("caption", text), ("created_at", pyarrow.timestamp("ns"))]
        + [("has_label", yes), *uid_url, ("jpg_0", pyarrow.binary()), ("jpg_1", pyarrow.binary())]
        + [("label_0", pyarrow.float64()), ("label_1", pyarrow.float64()), ("model_0", text), ("model_1", text)]
        + [("ranking_id", number), ("user_id", number), ("num_example_per_prompt", number)]
    )


def _batches(pictures: Sequence[Picture], verdicts: Sequence[Verdict]) -> Iterator[list[dict]]:
    of_prompt = Counter(v.prompt for v in verdicts)
    for start in range(0, len(verdicts), ROWS):
        part = enumerate(verdicts[start : start + ROWS], start)
        yield [_row(pictures, v, number, of_prompt[v.prompt]) for number, v in part]


def _row(pictures: Sequence[Picture], verdict: Verdict, number: int, of_prompt: int) -> dict:
    shares = {verdict.first: verdict.share, verdict.second: 1 - verdict.share}
    sides = sorted(
        ((_uid(data), data, pictures[i].name, share) for i, share in shares.items() for data in [pictures[i].read()])
    )
    row = {
        "are_different": verdict.share != 0.5,
        "has_label": True,
        "caption": verdict.prompt,
        "ranking_id": number,
        "user_id": 0,
    }
    # whole microseconds: readers without pandas know no less
    row |= {"num_example_per_prompt": of_prompt, "created_at": round(verdict.time * 1e6) * 1000 or None}
    row["best_image_uid"] = "tie" if verdict.share == 0.5 else max(sides, key=lambda side: side[3])[0]
    for side, (uid, data, name, share) in enumerate(sides):
        row |= {f"image_{side}_uid": uid, f"image_{side}_url": name, f"jpg_{side}": data, f"label_{side}": share}
        row[f"model_{side}"] = MODEL
    return row


def _uid(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()
