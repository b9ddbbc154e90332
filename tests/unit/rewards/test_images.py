"""One reader for rewards and trainers: every kind of picture has the same, right pixels for both."""
from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from posttrain.rewards.base.reward import RewardInfo
from posttrain.rewards.images import UnreadableImage, decoded, read_image
from posttrain.trainers.data.images import Frame, checked_image, pixels
from posttrain.trainers.data.on_disk import ImageStore
from posttrain.trainers.data.rows import BadRow, Picture

pytestmark = pytest.mark.usefixtures("opened")

W, H = 8, 6
WHITE, RED, PINK, GREY = (255, 255, 255), (255, 0, 0), (255, 127, 127), (128, 128, 128)


def palette(alpha=None):
    image = Image.new("P", (W, H), 1)
    image.putpalette([0, 0, 0, *RED])
    return image, {} if alpha is None else {"transparency": bytes([255, alpha])}


def deep(level, mode="I;16"):
    return Image.fromarray(np.full((H, W), level, np.uint16 if mode == "I;16" else np.int32))


def turned():
    image = Image.new("RGB", (H, W), RED)  # 6 wide, 8 high, to be turned on its side
    image.paste(WHITE, (0, 0, H, 2))
    exif = image.getexif()
    exif[274] = 6
    return image, {"exif": exif, "quality": 100, "subsampling": 0}


def moving():
    return Image.new("RGB", (W, H), RED), {"save_all": True, "append_images": [Image.new("RGB", (W, H), "blue")]}


# name -> (picture and how to save it, format, the colour of its left edge)
TABLE = {
    "RGB": ((Image.new("RGB", (W, H), RED), {}), "PNG", RED),
    "clear": ((Image.new("RGBA", (W, H), (0, 0, 0, 0)), {}), "PNG", WHITE),
    "half clear": ((Image.new("RGBA", (W, H), (255, 0, 0, 128)), {}), "PNG", PINK),
    "half clear WebP": ((Image.new("RGBA", (W, H), (255, 0, 0, 128)), {"lossless": True}), "WEBP", PINK),
    "RGB with a clear colour": ((Image.new("RGB", (W, H), RED), {"transparency": RED}), "PNG", WHITE),
    "palette": (palette(), "PNG", RED),
    "clear palette": (palette(0), "PNG", WHITE),
    "half clear palette": (palette(128), "PNG", PINK),
    "grey": ((Image.new("L", (W, H), 128), {}), "PNG", GREY),
    "grey with a clear level": ((Image.new("L", (W, H), 128), {"transparency": 128}), "PNG", WHITE),
    "LA": ((Image.new("LA", (W, H), (0, 0)), {}), "PNG", WHITE),
    "half LA": ((Image.new("LA", (W, H), (0, 127)), {}), "PNG", GREY),
    "1 bit": ((Image.new("1", (W, H), 1), {}), "PNG", WHITE),
    "16 bit grey, middle": ((deep(32896), {}), "PNG", GREY),
    "16 bit grey, white": ((deep(65535), {}), "PNG", WHITE),
    "16 bit grey, dark": ((deep(257), {}), "PNG", (1, 1, 1)),
    "16 bit grey with a clear level": ((deep(32896), {"transparency": 32896}), "PNG", WHITE),
    "whole numbers (I)": ((deep(32896, "I"), {}), "TIFF", GREY),
    "CMYK": ((Image.new("CMYK", (W, H), (0, 255, 255, 0)), {"quality": 100}), "JPEG", RED),
    "turned by EXIF": (turned(), "JPEG", RED),
    "animated PNG": (moving(), "PNG", RED),
    "animated GIF": (moving(), "GIF", RED),
    "animated WebP": ((moving()[0], moving()[1] | {"lossless": True}), "WEBP", RED),
}


def written(name):
    (image, how), form, colour = TABLE[name]
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue(), colour


@pytest.mark.parametrize("name", TABLE)
def test_a_picture_is_the_same_for_reward_and_trainer(name):
    data, colour = written(name)
    reward, trainer = read_image(io.BytesIO(data)), pixels((Picture(name, stored=ImageStore().put(data)),), Frame(W, H))
    assert reward.shape == trainer.shape == (1, H, W, 3) and reward.dtype == trainer.dtype == torch.float32
    assert torch.equal(reward, trainer)
    assert (reward[0, :, 0] * 255 - torch.tensor(colour)).abs().max() <= (3 if TABLE[name][1] == "JPEG" else 1)


def test_the_table_holds_what_its_names_say():
    modes = {Image.open(io.BytesIO(written(name)[0])).mode for name in TABLE}
    assert {"RGB", "RGBA", "P", "L", "LA", "1", "I;16", "I", "CMYK"} <= modes
    for name in TABLE:
        assert getattr(Image.open(io.BytesIO(written(name)[0])), "n_frames", 1) == (2 if name.startswith("animated") else 1)


def test_exif_turns_the_picture_the_right_way():
    image = read_image(io.BytesIO(written("turned by EXIF")[0]))
    assert (image[0, 2, -1] > 0.95).all() and image[0, 2, 0, 1] < 0.05, "the strip at the top goes to the right"


@pytest.mark.parametrize("name", TABLE)
def test_wherever_a_file_is_cut_it_is_whole_or_refused_by_name(name):
    data, _ = written(name)
    whole, refused = np.asarray(decoded(io.BytesIO(data))), 0
    for length in range(0, len(data), max(1, len(data) // 60)):
        try:
            image = decoded(io.BytesIO(data[:length]), "the file")
        except UnreadableImage as error:
            assert "the file cannot be read as an image" in str(error)
            refused += 1
        else:
            assert np.array_equal(np.asarray(image), whole), f"cut at {length} of {len(data)} it is another picture"
    assert refused > 5


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"<svg/>"])
def test_what_is_no_image_is_refused_by_name(data, tmp_path):
    (tmp_path / "odd.png").write_bytes(data)
    with pytest.raises(UnreadableImage, match="odd.png cannot be read as an image"):
        read_image(tmp_path / "odd.png")
    with pytest.raises(BadRow, match="odd.png is not an image that can be read"):
        checked_image(Picture("odd.png", tmp_path / "odd.png"))


@pytest.mark.parametrize("image, why", [(deep(-1, "I"), "from -1"), (deep(65536, "I"), "to 65536"),
                                        (Image.new("F", (W, H), 0.5), "unknown range")])
def test_grey_levels_without_a_known_range_are_refused(image, why):
    file = io.BytesIO()
    image.save(file, "TIFF")
    with pytest.raises(UnreadableImage, match=f"deep.tif cannot be read.*{why}"):
        read_image(io.BytesIO(file.getvalue()), "deep.tif")


class Bright:
    info = RewardInfo("bright", 0, 1, True, False, "")

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))


def test_score_folder_leaves_out_what_cannot_be_read_and_names_it(tmp_path):
    from posttrain.nodes.rewards.tools import PTScoreFolder
    whole, _ = written("RGB")
    (tmp_path / "a cut.png").write_bytes(whole[:40])
    with pytest.raises(ValueError, match="(?s)none of the 1 images.*a cut.png"):
        PTScoreFolder().run(str(tmp_path), Bright(), "x", 10)
    (tmp_path / "b.png").write_bytes(whole)
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "d.png").write_bytes(written("clear")[0])
    found = PTScoreFolder().run(str(tmp_path), Bright(), "x", 10)
    scores, _, table, best, _ = found["result"]
    assert [line.split("\t")[0] for line in table.splitlines()[1:]] == ["b.png", "d.png"]
    assert scores.values.tolist() == pytest.approx([1 / 3, 1]) and len(best) == 2
    head = found["ui"]["text"][0]
    assert "2 images were left out" in head and "a cut.png" in head and "c.png" in head and "d.png" not in head
