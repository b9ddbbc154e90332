"""Preference data from folders and files: every layout, every kind of bad row."""
from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from posttrain.trainers.data.files import read_file
from posttrain.trainers.data.folders import fingerprint, read_folder
from posttrain.trainers.data.images import Frame, pixels
from posttrain.trainers.data.rows import BadRow, Picture

RED, BLUE, GREEN = (200, 20, 20), (20, 20, 200), (20, 200, 20)


def image(path, colour, size=(24, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def two_folders(root, count=3):
    for i in range(count):
        image(root / "win" / f"{i}.png", (200, i, 20))
        image(root / "lose" / f"{i}.jpg", (20, i, 200))
        (root / "win" / f"{i}.txt").write_text(f"a red ball {i}\n", encoding="utf-8")
    return root


def test_two_folders_with_captions_beside_the_winners(tmp_path):
    data = read_folder(two_folders(tmp_path), 100)
    assert [row.prompt for row in data.rows] == ["a red ball 0", "a red ball 1", "a red ball 2"] and not data.skipped
    assert [(row.winner.name, row.loser.name) for row in data.rows][1] == ("win/1.png", "lose/1.jpg")
    assert data.kind == "pairs" and data.summary() == f"3 pairs from folder {tmp_path}"
    assert len(read_folder(tmp_path, 2).rows) == 2


@pytest.mark.parametrize("where", ["win/a.txt", "lose/a.txt", "a.txt"])
def test_a_caption_may_lie_beside_either_image_or_above(tmp_path, where):
    image(tmp_path / "win" / "a.png", RED), image(tmp_path / "lose" / "a.png", BLUE)
    (tmp_path / where).write_text("a ball")
    assert read_folder(tmp_path, 9).rows[0].prompt == "a ball"


def test_files_side_by_side(tmp_path):
    for name, colour in (("0001_w", RED), ("0001_l", BLUE), ("b_W", RED), ("b_L", GREEN)):
        image(tmp_path / f"{name}.png", colour)
    (tmp_path / "0001.txt").write_text("one")
    (tmp_path / "b_w.txt").write_text("two")
    rows = read_folder(tmp_path, 9).rows
    assert [(r.prompt, r.winner.path.stem, r.loser.path.stem) for r in rows] == [("one", "0001_w", "0001_l"),
                                                                              ("two", "b_W", "b_L")]


def test_liked_and_disliked_images_are_thumbs(tmp_path):
    for name, colour in (("like/a", RED), ("like/b", GREEN), ("dislike/a", BLUE)):
        path = image(tmp_path / f"{name}.webp", colour)
        path.with_suffix(".txt").write_text(name)
    data = read_folder(tmp_path, 9)
    assert [(row.prompt, row.good) for row in data.rows] == [("like/a", True), ("like/b", True), ("dislike/a", False)]
    assert data.kind == "thumbs" and data.summary().startswith("2 thumbs up and 1 down")


@pytest.mark.parametrize("better, worse", [("win/{}", "lose/{}"), ("like/{}", "dislike/{}"), ("{}_w", "{}_l")])
def test_a_folder_source_beside_any_layout_holds_what_the_captions_change(tmp_path, better, worse):
    for name in "abc":
        for side, colour in ((better, RED), (worse, BLUE)):
            image(tmp_path / f"{side.format(name)}.png", colour).with_suffix(".txt").write_text("paint it")
    image(tmp_path / "source" / "a.jpg", GREEN), image(tmp_path / "source" / "b.png", (0, 0, 0))
    (tmp_path / "source" / "b.txt").write_text("words of nothing")
    (tmp_path / "source" / "c.png").write_text("no picture")
    (tmp_path / "source" / "c.tiff").write_bytes(b"")
    data = read_folder(tmp_path, 9)
    assert {(row.prompt, row.source.name) for row in data.rows} == {("paint it", "a.jpg"), ("paint it", "b.png")}
    assert data.carries_pictures and len({row.source for row in data.rows}) == 2
    assert all(abs(row.source.read() * 255 - torch.tensor(GREEN)).max() < 4 for row in data.rows if row.source.name == "a.jpg")
    assert any("its picture c.png cannot be read" in line for line in data.skipped)
    assert any(line.startswith("source/c.tiff: ") for line in data.skipped)
    (tmp_path / "source" / "a.jpg").unlink()
    skipped = read_folder(tmp_path, 9).skipped
    assert any("there is no picture of that name in 'source'" in line for line in skipped)


def test_pairs_without_a_folder_source_carry_no_pictures(tmp_path):
    assert not read_folder(two_folders(tmp_path), 9).carries_pictures


def test_a_prompt_for_all_serves_where_there_is_no_caption(tmp_path):
    two_folders(tmp_path, 2)
    (tmp_path / "win" / "1.txt").unlink()
    assert [row.prompt for row in read_folder(tmp_path, 9, "a ball").rows] == ["a red ball 0", "a ball"]


def test_bad_rows_of_a_folder_are_left_out_counted_and_listed(tmp_path):
    two_folders(tmp_path, 8)
    (tmp_path / "win" / "0.txt").unlink()
    (tmp_path / "win" / "1.txt").write_text("  \n")
    (tmp_path / "win" / "2.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "lose" / "3.jpg").unlink()
    (tmp_path / "win" / "4.png").unlink()
    (tmp_path / "lose" / "5.jpg").write_text("no image at all")
    (tmp_path / "lose" / "6.jpg").unlink()
    (tmp_path / "lose" / "6.png").write_bytes((tmp_path / "win" / "6.png").read_bytes())
    data = read_folder(tmp_path, 99)
    assert [row.name for row in data.rows] == ["7"]
    reasons = dict(line.split(": ", 1) for line in data.skipped)
    assert reasons == {
        "0": "it has no caption", "1": "it has no caption", "2": "its caption 2.txt is not UTF-8 text",
        "3": "there is no image of that name for 'lose'", "4": "there is no image of that name for 'win'",
        "5": "lose/5.jpg is not an image that can be read", "6": "both images are the same file"}
    text = data.summary()
    assert "7 rows were left out" in text and "5: lose/5.jpg is not an image" in text


def test_only_the_first_twenty_bad_rows_are_listed(tmp_path):
    two_folders(tmp_path, 31)
    for i in range(30):
        (tmp_path / "win" / f"{i}.txt").unlink()
    lines = read_folder(tmp_path, 99).summary().splitlines()
    assert lines[1] == "30 rows were left out:" and lines[-1] == "and 10 more" and len(lines) == 23


def test_a_set_without_a_good_row_is_an_error_that_names_it(tmp_path):
    root = tmp_path / "pairs"
    with pytest.raises(ValueError, match="pairs does not exist; put it into"):
        read_folder(root, 9)
    root.mkdir()
    with pytest.raises(ValueError, match="folder .*pairs: it holds no pair"):
        read_folder(root, 9)
    image(root / "win" / "a.png", RED)
    with pytest.raises(ValueError, match="no folder 'lose' beside 'win'"):
        read_folder(root, 9)
    image(root / "lose" / "a.png", BLUE)
    with pytest.raises(ValueError, match="(?s)pairs: it holds no pair.*a: it has no caption"):
        read_folder(root, 9)


def test_a_changed_folder_has_another_fingerprint(tmp_path):
    two_folders(tmp_path)
    before = fingerprint(tmp_path)
    assert before == fingerprint(tmp_path) and fingerprint(tmp_path / "none") == "missing"
    (tmp_path / "win" / "new.txt").write_text("x")
    assert fingerprint(tmp_path) != before


def jsonl(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
    return path


def test_lines_with_pairs(tmp_path):
    for name, colour in (("a", RED), ("b", BLUE), ("c", GREEN)):
        image(tmp_path / "img" / f"{name}.png", colour)
    good = {"prompt": "a ball", "chosen": "img/a.png", "rejected": "img/b.png"}
    path = jsonl(tmp_path / "p.jsonl", good, "", {**good, "prompt": ""}, "{not json", "[1]", {**good, "rejected": "img/x.png"},
                 {"prompt": "x", "chosen": "img/a.png"}, {**good, "rejected": "img/a.png"},
                 {"prompt": "x", "image": "img/a.png", "label": 1}, {**good, "chosen": str(tmp_path / "img" / "c.png")})
    data = read_file(path, 99)
    assert [row.name for row in data.rows] == ["line 1", "line 10"] and data.rows[1].winner.path.name == "c.png"
    assert [line.split(": ", 1)[1] for line in data.skipped] == [
        "it has no caption", "it is not JSON", "it is not a JSON object", "the image img/x.png does not exist",
        "it has no \"rejected\"", "both images are the same file", "it is a thumb among pairs"]
    assert read_file(path, 99, "any ball").rows[1].prompt == "any ball"


def test_lines_with_thumbs(tmp_path):
    image(tmp_path / "a.png", RED)
    labels = (True, False, 1, 0, "up", "Down", -1, 2, None, "maybe")
    path = jsonl(tmp_path / "t.jsonl", *({"prompt": "x", "image": "a.png", "label": label} for label in labels))
    data = read_file(path, 99)
    assert [row.good for row in data.rows] == [True, False, True, False, True, False, False] and len(data.skipped) == 3
    assert "neither 1 (up) nor 0 (down)" in data.skipped[0]


def test_files_that_are_no_data_are_named(tmp_path):
    with pytest.raises(ValueError, match="none.jsonl does not exist"):
        read_file(tmp_path / "none.jsonl", 9)
    (tmp_path / "t.csv").write_text("a")
    with pytest.raises(ValueError, match="t.csv is neither .jsonl nor .parquet"):
        read_file(tmp_path / "t.csv", 9)
    (tmp_path / "l.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(ValueError, match="l.jsonl is not UTF-8"):
        read_file(tmp_path / "l.jsonl", 9)
    (tmp_path / "e.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="e.jsonl: it holds no pair"):
        read_file(tmp_path / "e.jsonl", 9)


def png(tmp_path, colour):
    return image(tmp_path / "x.png", colour).read_bytes()


def test_parquet_in_the_form_of_pick_a_pic(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet
    red, blue = png(tmp_path, RED), png(tmp_path, BLUE)
    table = {"jpg_0": [red, red, red, red, None, red, b"junk"], "jpg_1": [blue, blue, blue, red, blue, blue, blue],
             "label_0": [1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0], "caption": ["a", "b", "c", "d", "e", None, "g"],
             "model_0": ["m"] * 7}
    parquet.write_table(pyarrow.table(table), tmp_path / "p.parquet")
    data = read_file(tmp_path / "p.parquet", 99)
    assert [(row.prompt, row.winner.read() == red) for row in data.rows] == [("a", True), ("b", False)]
    assert [line.split(": ", 1)[1] for line in data.skipped] == [
        "it is a tie", "both images are the same file", "jpg_0 of row 5 is missing", "it has no caption",
        "jpg_0 of row 7 is not an image that can be read"]
    held = {**table, "jpg_0": [{"bytes": b, "path": None} for b in table["jpg_0"]]}
    parquet.write_table(pyarrow.table(held), tmp_path / "h.parquet")
    assert len(read_file(tmp_path / "h.parquet", 99).rows) == 2


def test_a_parquet_file_of_another_form_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet
    parquet.write_table(pyarrow.table({"jpg_0": [b""], "caption": ["x"]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="p.parquet has no column jpg_1, label_0"):
        read_file(tmp_path / "p.parquet", 9)
    (tmp_path / "q.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="q.parquet is not a parquet file"):
        read_file(tmp_path / "q.parquet", 9)


def test_without_pyarrow_the_message_says_what_to_do(tmp_path, monkeypatch):
    import sys
    (tmp_path / "p.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="'pyarrow' is needed; install it"):
        read_file(tmp_path / "p.parquet", 9)


def picture(path):
    return Picture(path.name, path)


def test_images_are_cut_to_the_frame_and_not_squeezed(tmp_path):
    wide = Image.new("RGB", (60, 20), BLUE)
    wide.paste(RED, (20, 0, 40, 20))
    wide.save(tmp_path / "wide.png")
    (out,) = pixels((picture(tmp_path / "wide.png"),), Frame(10, 10))
    assert out.shape == (10, 10, 3) and out[5, 5].tolist() == pytest.approx([c / 255 for c in RED], abs=0.01)
    assert float(out[:, 1:-1, 0].min()) > 0.7, "only the middle third is left, in its own proportions"


def test_images_of_the_wrong_size_are_refused_where_asked(tmp_path):
    small, large = (picture(image(tmp_path / f"{n}.png", RED, (n, n))) for n in (24, 32))
    assert pixels((small, large), Frame(24, 24)).shape == (2, 24, 24, 3)
    with pytest.raises(BadRow, match="24 x 24 and 32 x 32, not 24 x 24"):
        pixels((small, large), Frame(24, 24, "must have this size"))
    with pytest.raises(ValueError, match="size rule"):
        Frame(24, 24, "squeeze")
    with pytest.raises(ValueError, match="0 x 24"):
        Frame(0, 24)


@pytest.mark.parametrize("mode, colour", [("RGBA", (255, 0, 0, 128)), ("L", 128), ("P", 1), ("CMYK", (0, 255, 255, 0)),
                                          ("I;16", 32768), ("1", 1)])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode, colour):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new(mode, (8, 8), colour).save(path)
    out = pixels((picture(path),), Frame(8, 8))
    assert out.shape == (1, 8, 8, 3) and out.dtype == torch.float32
    if mode in ("L", "I;16"):
        assert float(out.mean()) == pytest.approx(0.5, abs=0.01)


def test_rotation_in_the_file_is_honoured(tmp_path):
    photo = Image.new("RGB", (20, 10), BLUE)
    exif = photo.getexif()
    exif[274] = 6
    photo.save(tmp_path / "r.jpg", exif=exif)
    with pytest.raises(BadRow, match="10 x 20"):
        pixels((picture(tmp_path / "r.jpg"),), Frame(20, 10, "must have this size"))


def test_a_file_cut_short_is_bad_and_not_a_crash(tmp_path):
    noise = torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(tmp_path / "x.png")
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(BadRow, match="x.png is damaged"):
        pixels((picture(tmp_path / "x.png"),), Frame(64, 64))
    (tmp_path / "x.png").unlink()
    with pytest.raises(BadRow, match="cannot be read"):
        pixels((picture(tmp_path / "x.png"),), Frame(64, 64))
