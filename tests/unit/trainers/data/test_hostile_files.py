"""Every reader of files against every kind of file cut, hostile or huge: refused in words, or left out, and said; good files
beside bad ones are read."""

from __future__ import annotations

import io
import json
import os
import random
import time
import zlib
from itertools import chain

import pytest
from PIL import Image
from posttrain.nodes.feedback.data import PTPairsFile, PTPairsFolder
from posttrain.nodes.prompts import PTPromptFile
from posttrain.nodes.rewards.tools import PTScoreFolder
from posttrain.rewards.base.reward import RewardInfo

pytestmark = pytest.mark.usefixtures("opened")
MOST = 4000  # bytes of an error
FILES = int(
    os.environ.get("POSTTRAIN_FILES", "250")
)  # different contents at least; beyond those that are listed, damaged at random


class Bright:
    info = RewardInfo("bright", 0, 1, False, False, "")

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))


def saved(kind: str, size=(12, 8), colour=(90, 200, 30), **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    head = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


GOOD_IMAGES = {kind: saved(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")}
TEXTS = [
    "a cat\na dog",
    '{"prompt": "a cat"}\n{"prompt": "a dog"}',
    '[{"prompt": "a cat"}]',
    '["a cat"]',
    "prompt,seed\na cat,1",
    "prompt\tseed\na cat\t1",
    "- a cat\n- a dog",
    "",
    "\n\n",
    "{",
    "[" * 50_000,
    '{"prompt": 5}',
    '{"prompt": "\\ud800"}',
    '{"prompt": null}',
    "null",
    "5",
    '"a\nb',
    "a\u2028b\u2029c\u0085d",
    "x" * 3_000_000,
    "a 猫",
    "\x1b[2J",
    "=cmd|x",
    '{"prompt": "' + "y" * 200_000 + '"}',
]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030", "latin-1"]


def hostile() -> dict[str, bytes]:
    """A name -> content: texts in every encoding, images cut at every eighth and with flipped bytes, and what is neither."""
    choose, found = random.Random(0), {}
    for number, text in enumerate(TEXTS):
        for encoding in ENCODINGS:
            found[f"text {number} {encoding}"] = text.encode(
                encoding, "ignore" if encoding == "latin-1" else "surrogatepass" if "utf" in encoding else "strict"
            )
    for kind, data in GOOD_IMAGES.items():
        for eighth in range(8):
            found[f"{kind} cut {eighth}"] = data[: len(data) * eighth // 8]
        for number in range(4):
            changed = bytearray(data)
            for _ in range(3):
                changed[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
            found[f"{kind} flipped {number}"] = bytes(changed)
    found |= {
        "bomb": bomb(),
        "zip": b"PK\x03\x04" + bytes(100),
        "html": b"<html>404</html>",
        "noise": random.Random(1).randbytes(5000),
        "zeros": bytes(5000),
        "lfs": b"version https://git-lfs\noid sha256:0\nsize 5\n",
        "mac": b"\x00\x05\x16\x07" + bytes(60),
    }
    sound = [*GOOD_IMAGES.values(), *(text.encode() for text in TEXTS[:7])]
    different = set(found.values())  # some texts are the same in several encodings
    while len(different) < FILES:
        found[f"damaged {len(found)}"] = damaged(choose.choice(sound), choose)
        different.add(found[f"damaged {len(found) - 1}"])
    return found


def damaged(data: bytes, choose: random.Random) -> bytes:
    """Cut, doubled, with a piece of noise, with bytes changed, or all of it."""
    changed = bytearray(data)
    for how in choose.sample(("cut", "double", "noise", "change"), choose.randint(1, 4)):
        at, length = choose.randrange(len(changed) or 1), choose.randint(1, 40)
        if how == "cut":
            del changed[at : at + length]
        elif how == "double":
            changed[at:at] = changed[at : at + length]
        elif how == "noise":
            changed[at : at + length] = choose.randbytes(length)
        else:
            for place in choose.sample(range(len(changed)), min(len(changed), 4)):
                changed[place] = choose.randrange(256)
    return bytes(changed)


HOSTILE = hostile()
SUFFIXES = {
    "prompts": [".txt", ".jsonl", ".json", ".csv", ".tsv", ".yaml", ".md", "", ".png"],
    "rows": [".jsonl", ".parquet", ".csv", ".json"],
}


def said(run, *arguments) -> str:
    """What a node's run says: its error in words, or its texts. Anything but a ValueError or a missing image fails the test."""
    begun = time.monotonic()
    try:
        found = run(*arguments)
    except (ValueError, FileNotFoundError) as error:
        words = str(error)
        assert not isinstance(error, UnicodeError | json.JSONDecodeError), "words of a library"
    else:
        words = "\n".join(found["ui"]["text"])
        json.dumps(found["ui"]).encode("utf-8")
    assert len(words.encode("utf-8")) <= MOST and time.monotonic() - begun < 20
    return words


def test_there_are_many():
    assert len(set(HOSTILE.values())) >= max(FILES, 200) and len(HOSTILE) > 217


@pytest.mark.parametrize("suffix", SUFFIXES["prompts"])
def test_prompt_files(tmp_path, suffix):
    for name, content in HOSTILE.items():
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        words = said(PTPromptFile().run, str(path), 50)
        if suffix in (".yaml", ".png"):
            assert "of a kind that is not read here" in words
        if " utf-16" in name or name in ("noise", "zeros", "mac") or "cut 7" in name:
            assert "prompts" not in words.split(":")[0], f"{name} was read as prompts"


@pytest.mark.parametrize("suffix", SUFFIXES["rows"])
def test_files_of_rows(tmp_path, suffix):
    for content in HOSTILE.values():
        (tmp_path / f"file{suffix}").write_bytes(content)
        said(PTPairsFile().run, str(tmp_path / f"file{suffix}"), 50, "")


def test_one_bad_line_costs_itself(tmp_path):
    (tmp_path / "a.png").write_bytes(GOOD_IMAGES["PNG"])
    good = json.dumps({"prompt": "a\u2028b", "image": "a.png", "label": 1}, ensure_ascii=False).encode()
    bad = [content.replace(b"\n", b" ") for content in HOSTILE.values() if content.strip()]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(chain([good], *([each, good] for each in bad))) + b"\n")
    found = PTPairsFile().run(str(tmp_path / "rows.jsonl"), 10_000, "")
    data, words = found["result"]
    assert (
        len(data.rows) == len(bad) + 1 and {row.prompt for row in data.rows} == {"a\u2028b"} and len(data.skipped) == len(bad)
    )
    assert f"{len(bad)} rows were left out" in words and len(words.encode()) < 10_000


def test_one_bad_row_of_a_parquet_costs_itself(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")

    images = [[GOOD_IMAGES["PNG"], saved("PNG", colour=(1, 2, 3))] for _ in range(4)] + [
        [content, GOOD_IMAGES["PNG"]] for content in (bomb(), b"", b"x")
    ]
    captions = pyarrow.array([b"a cat", b"\xff\xfe", b"a dog", b"", b"b", b"c", b"d"]).view(pyarrow.string())
    table = pyarrow.table(
        {"jpg_0": [a for a, _ in images], "jpg_1": [b for _, b in images], "label_0": [1.0] * 7, "caption": captions}
    )
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet", row_group_size=3)
    data, words = PTPairsFile().run(str(tmp_path / "p.parquet"), 99, "")["result"]
    assert (
        [row.prompt for row in data.rows] == ["a cat", "a dog"]
        and "5 rows were left out" in words
        and "row 2: it is damaged" in words
    )
    whole = (tmp_path / "p.parquet").read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        (tmp_path / "p.parquet").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        said(PTPairsFile().run, str(tmp_path / "p.parquet"), 99, "")
        (tmp_path / "p.parquet").write_bytes(whole[:at])
        said(PTPairsFile().run, str(tmp_path / "p.parquet"), 99, "")


def filled(folder, good: str) -> int:
    """Every hostile content as an image and, in turn, as a caption, beside one good image. -> how many files."""
    folder.mkdir(parents=True)
    (folder / good).write_bytes(GOOD_IMAGES["PNG"])
    for number, content in enumerate(HOSTILE.values()):
        (folder / f"bad {number}.png").write_bytes(content)
        (folder / f"told {number}.png").write_bytes(GOOD_IMAGES["PNG"])
        (folder / f"told {number}.txt").write_bytes(content[:5000])
    for suffix in (".tif", ".gif", ".heic"):
        (folder / f"other{suffix}").write_bytes(GOOD_IMAGES["TIFF"])
    (folder / "._x.png").write_bytes(HOSTILE["mac"])
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.txt")
    with open(os.fsencode(folder) + b"/\xff\xfe.png", "wb") as file:
        file.write(b"x")
    (folder / "link.png").symlink_to(folder / "nowhere")
    (folder / "round").symlink_to(folder)
    return len(list(folder.iterdir()))


def test_a_folder_of_bad_images_and_captions_is_scored_all_the_same(tmp_path):
    assert filled(tmp_path / "images", "good.png") > 500
    found = PTScoreFolder().run(str(tmp_path / "images"), Bright(), "a fallback", 10_000)
    scores, _, table, best, _ = found["result"]
    words = found["ui"]["text"][0]
    assert "good.png" in table and "images were left out" in words and "pipe" not in table and "._x" not in table
    assert json.dumps(found["ui"]).encode("utf-8") and len(words.encode()) < 2 * MOST and len(scores.values) > 100


def test_a_folder_of_pairs_beside_bad_ones(tmp_path):
    filled(tmp_path / "pairs" / "win", "good.png")
    filled(tmp_path / "pairs" / "lose", "good.png")
    (tmp_path / "pairs" / "lose" / "good.png").write_bytes(saved("PNG", colour=(0, 0, 0)))
    (tmp_path / "pairs" / "win" / "good.jpg").write_bytes(GOOD_IMAGES["JPEG"])
    for name, side, text in (("differ", "win", "a cat"), ("differ", "lose", "a dog")):
        (tmp_path / "pairs" / side / f"{name}.png").write_bytes(saved("PNG", colour=(len(text), 0, len(side))))
        (tmp_path / "pairs" / side / f"{name}.txt").write_text(text)
    data, words = PTPairsFolder().run(str(tmp_path / "pairs"), 10_000, "a fallback")["result"]
    assert "good" in [row.name for row in data.rows] and "differ" not in [row.name for row in data.rows]
    left = "\n".join(data.skipped)
    for each in (
        "its captions win/differ.txt and lose/differ.txt differ",
        "win/other.tif: .tif is not read here",
        "win/other.gif: .gif is not read",
        "lose/other.heic",
        "has the same name but for its kind",
        "is not UTF-8 text",
    ):
        assert each in left, each
    assert all(len(each) <= 400 for each in data.skipped) and "rows were left out" in words
