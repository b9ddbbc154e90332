"""Preference data in a file: .jsonl that names images, or .parquet in the form of Pick-a-Pic that holds them."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ...rewards.base.words import from_group, shown
from .images import check_head, checked_image
from .on_disk import ImageStore
from .rows import (
    BadRow,
    Dataset,
    Pair,
    Picture,
    Place,
    Thumb,
    checked_pair,
    checked_prompt,
    checked_record,
    collected,
    raised,
)
from .votes import USES, holds_votes, votes_found

UP = (True, 1, "1", "up", "like", "good", "true", "yes")
DOWN = (False, 0, -1, "0", "-1", "down", "dislike", "bad", "false", "no")
PIECE = 1 << 16  # bytes of a table that are read at once
COLUMNS = ("jpg_0", "jpg_1", "label_0", "caption")
Found = Iterator[tuple[str, Callable[[], "Pair | Thumb"]]]


def read_file(path: Path, limit: int, prompt: str = "", votes: str = USES[0],
              permitted: Callable[[Path], bool] = lambda path: False) -> Dataset:
    """Pairs or thumbs of a file, in its order; prompt: for rows without one ("": left out); votes: what becomes of them;
    permitted: whether an image outside of the file's folder may be read.

    .jsonl: {"prompt", "chosen", "rejected"}, {"prompt", "image", "label"} or {"prompt", "image", "vote"} (see votes.py)
    on each line, images as paths from the file's folder. .parquet: columns jpg_0, jpg_1 (bytes of images), label_0 (1: the
    first won, 0: the second) and caption. ValueError names the file and what is wrong with it.
    """
    if not path.is_file():
        raise ValueError(f"file: {path} does not exist; put it into ComfyUI's input folder")
    if votes not in USES:
        raise ValueError(f"votes: unknown {votes!r}; use one of {', '.join(USES)}")
    readers = {".jsonl": _records, ".parquet": _table_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"file: {path.name} is neither .jsonl nor .parquet; see the node's help for their form")
    place = Place(path.parent, permitted)
    return collected(f"file {path.name}", readers[path.suffix.lower()](path, prompt, votes, place), limit)


def _records(path: Path, prompt: str, votes: str, place: Place) -> Found:
    if holds_votes(lines_of(path)):
        return votes_found(lines_of(path), place, prompt, votes)
    return ((name, partial(_record, name, line, place, prompt)) for name, line in lines_of(path))


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """(its name, its text) of each line that is not empty. Lines end with a line feed; what is no UTF-8 in one comes as
    halves of characters, so that one bad line costs itself; a first one is a file that is not UTF-8 at all."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and not _is_utf8(line):
                raise ValueError(f"file: {path.name} is not UTF-8 text (line 1); save it again as UTF-8")
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
            if text.strip():
                yield f"line {number}", text


def _is_utf8(line: bytes) -> bool:
    try:
        return "\0" not in line.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _record(name: str, line: str, place: Place, prompt: str) -> Pair | Thumb:
    record = checked_record(line)
    text = checked_prompt(record.get("prompt"), prompt)
    if "image" in record:
        return Thumb(name, text, _named(record, "image", place), _thumb_of(record.get("label")))
    return checked_pair(name, text, _named(record, "chosen", place), _named(record, "rejected", place))


def _named(record: dict, key: str, place: Place) -> Picture:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise BadRow(f"it has no \"{key}\"")
    return checked_image(Picture(value, place.file(value)))


def _thumb_of(label: object) -> bool:
    label = label.strip().lower() if isinstance(label, str) else label
    if isinstance(label, (bool, int, float, str)) and (label in UP or label in DOWN):
        return label in UP
    raise BadRow(f"its label {label!r} is neither 1 (up) nor 0 (down)")


def _table_rows(path: Path, prompt: str, _votes: str, _place: Place) -> Found:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"file: to read {path.name} the Python package 'pyarrow' is needed; install it into ComfyUI's "
                         f"Python {from_group('data-sets')}, or save the images as a folder or a .jsonl file") from None
    try:
        # column by column in small pieces: a group of rows may be the whole file
        table = pyarrow.parquet.ParquetFile(path, buffer_size=PIECE, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"file: {path.name} is not a parquet file that can be read ({error})") from None
    missing = [column for column in COLUMNS if column not in table.schema_arrow.names]
    if missing:
        raise ValueError(f"file: {path.name} has no column {', '.join(missing)}; needed are {', '.join(COLUMNS)}, as in "
                         "Pick-a-Pic")
    number, store = 0, ImageStore()
    for group in range(table.num_row_groups):  # one that is damaged costs itself
        end = number + table.metadata.row_group(group).num_rows
        try:
            for batch in table.iter_batches(batch_size=16, row_groups=[group], columns=list(COLUMNS)):
                for row in _rows_of(batch):
                    number += 1
                    yield f"row {number}", partial(_table_row, f"row {number}", row, prompt, store)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            lost = BadRow(f"they are damaged ({shown(str(error), 200)})")
            yield f"rows {number + 1} to {end}", partial(raised, lost)
            number = end


def _rows_of(batch) -> Iterator[dict | None]:
    """The rows of a batch as dicts, None for one that cannot be read, such as a text that is no UTF-8."""
    try:
        yield from batch.to_pylist()
    except (UnicodeDecodeError, ValueError):
        for at in range(batch.num_rows):
            try:
                yield batch.slice(at, 1).to_pylist()[0]
            except (UnicodeDecodeError, ValueError):
                yield None



def _table_row(name: str, row: dict | None, prompt: str, store: ImageStore) -> Pair:
    if row is None:
        raise BadRow("it is damaged, or its text is not UTF-8")
    text = checked_prompt(row["caption"], prompt)
    if row["label_0"] not in (0, 1):
        raise BadRow("it is a tie" if row["label_0"] == 0.5 else f"its label_0 is {row['label_0']}, neither 1 nor 0")
    pictures = [_held(row[column], f"{column} of {name}", store) for column in ("jpg_0", "jpg_1")]
    return checked_pair(name, text, *(pictures if row["label_0"] == 1 else pictures[::-1]))


def _held(value: object, name: str, store: ImageStore) -> Picture:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise BadRow(f"{name} is missing")
    check_head(data, name)
    return Picture(name, stored=store.put(data))
