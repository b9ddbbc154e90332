"""What a workflow from anywhere may read and whom it may send to."""

from __future__ import annotations

import json
import os

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS, access
from posttrain.nodes.access import located, may_read
from posttrain.rewards.vlm.address import is_here, origin_of

OUTSIDE = [
    "../secret.txt",
    "a/../../secret.txt",
    "{root}/secret.txt",
    "~/secret.txt",
    "/etc/passwd",
    "..",
    "/",
    "a/../../input2/x",
]
NO_PATHS = ["", "  ", "a\0b", "a\nb", "a\udc80b", "x" * 5000, None, 7, ["a"]]
FOREIGN = [
    "http://judge-host/v1",
    "https://10.0.0.2:8000/v1",
    "http://192.168.1.4",
    "http://localhost." + "example",
    "http://[2001:db8::1]/v1",
    "http://127.0.0.1." + "example/v1",
    "http://2130706433/v1",
    "http://0x7f.1",
]
HERE = ["http://127.0.0.1:8000/v1", "http://localhost:1234", "https://localhost", "http://[::1]:8000/v1", "http://127.9.9.9"]
NO_ADDRESSES = [
    "",
    "judge",
    "ftp://x",
    "file:///etc/passwd",
    "http://",
    "http://a b",
    "http://user:hunter2@127.0.0.1/v1",
    "http://key@localhost",
    "http://127.0.0.1\\@judge-host",
    "http://127.0.0.1:99999",
    "http://127.0.0.1/v1?x=",
    "http://127.0.0.1/v1#",
    "http://h\nX: y",
    "http://exämple",
    "http://127.0.0.1:8188/prompt?#x",
    None,
    5,
]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    import folder_paths

    for name in ("input", "user", "output", "input2"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    (tmp_path / "secret.txt").write_text("a secret")
    return tmp_path


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_is_read_nor_looked_at(folders, name, monkeypatch):
    name = name.format(root=folders)
    monkeypatch.setattr(
        os, "stat", lambda path, *a, **k: pytest.fail(f"{path} was looked at") if "secret" in str(path) else os.lstat(path)
    )
    with pytest.raises(ValueError, match="file: .*lies outside of ComfyUI's input folder(?s:.*)posttrain.json") as error:
        located(name)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("name", NO_PATHS)
def test_what_cannot_be_a_path_is_said_in_words_that_a_log_can_hold(folders, name):
    with pytest.raises(ValueError, match="folder: .*cannot be a path") as error:
        located(name, "folder")
    assert len(str(error.value).encode("utf-8")) < 1000


def test_names_in_the_input_folder_and_full_paths_into_it_are_read(folders):
    inside = folders / "input"
    assert located("a/b.txt") == located(str(inside / "a/b.txt")) == located("a/./c/../b.txt") == inside / "a" / "b.txt"
    assert located(".") == inside and may_read(folders / "output" / "posttrain_votes" / "x" / "votes.jsonl")
    assert not may_read(folders / "output" / "x.png")


def test_only_the_user_opens_a_folder(folders, monkeypatch):
    file = folders / "user" / "posttrain.json"
    file.write_text(json.dumps({"folders": [str(folders / "input2"), "relative"]}))
    assert located(str(folders / "input2" / "x")) and not may_read(folders / "secret.txt")
    monkeypatch.setenv("POSTTRAIN_FOLDERS", os.pathsep.join([str(folders)]))
    assert located(str(folders / "secret.txt"))
    for wrong in ("{", "[]", '{"folders": "x"}', '{"folders": [1]}'):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="posttrain.json in ComfyUI's user folder cannot be read"):
            located(str(folders / "secret.txt"))


def path_inputs() -> list[tuple[str, str]]:
    """Every text input of every node that its tooltip calls a file's or a folder's."""
    found = []
    for name, node in NODE_CLASS_MAPPINGS.items():
        for inputs in node.INPUT_TYPES().values():
            for key, spec in inputs.items():
                if isinstance(spec, tuple) and spec[0] == "STRING" and key in ("file", "folder", "path", "directory"):
                    found.append((name, key))
    return found


def test_the_nodes_that_read_files_are_known():
    assert path_inputs() == [
        ("PTPromptFile", "file"),
        ("PTScoreFolder", "folder"),
        ("PTPairsFolder", "folder"),
        ("PTPairsFile", "file"),
        ("PTPictureDistance", "folder"),
    ]


@pytest.mark.parametrize("name, key", path_inputs())
def test_every_node_that_reads_files_asks(folders, name, key):
    """With what a path could reach: the node refuses, and IS_CHANGED neither raises nor tells whether it exists."""
    node = NODE_CLASS_MAPPINGS[name]
    others = {"network": "demo world", "model": "auto", "limit": 3, "prompt": ""}
    others |= {"reward": lambda images, prompts: images.mean((1, 2, 3))}
    wanted = {each for kind in ("required",) for each in node.INPUT_TYPES()[kind]} - {key}
    arguments = {each: others[each] for each in wanted if each in others} | ({"shown": 1} if "shown" in wanted else {})
    for path in (str(folders / "secret.txt"), str(folders / "no such file"), "../secret.txt"):
        with pytest.raises(ValueError, match=f"{key}: .*lies outside"):
            node().run(**{key: path}, **arguments)
        told = node.IS_CHANGED(**{key: path}, **arguments)
        assert told != told or str(told).startswith("nan")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hosts", "{root}/secret.png", "a\0.png", "\udc80.png", "n" * 3000])
@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "a", "chosen": "x", "rejected": "x"},
        {"prompt": "a", "image": "x", "label": 1},
        {"prompt": "a", "image": "x", "vote": 1},
    ],
)
def test_a_file_of_rows_names_no_image_outside(folders, name, line):
    from PIL import Image
    from posttrain.trainers.data.files import read_file

    Image.new("RGB", (4, 4)).save(folders / "secret.png")
    row = {key: name.format(root=folders) if value == "x" else value for key, value in line.items()}
    path = folders / "input" / "rows.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(
        ValueError, match="no pair and no thumb(?s:.*)(lies outside of the folder|cannot be a file's name|does not exist)"
    ) as error:
        read_file(path, 9, permitted=may_read)
    assert len(str(error.value).encode()) < 2000


@pytest.mark.parametrize("url", FOREIGN)
def test_a_foreign_address_is_refused_until_the_user_allows_it(folders, url, monkeypatch):
    with pytest.raises(access.AddressNotAllowed, match="another machine(?s:.*)posttrain.json"):
        access.check_address(url)
    access.allow_address(origin_of(url))
    access.check_address(url)
    kept = json.loads((folders / "user" / "posttrain.json").read_text())
    assert kept == {"addresses": [origin_of(url)]}
    with pytest.raises(access.AddressNotAllowed):
        access.check_address("https://other-host/v1")
    monkeypatch.setenv("POSTTRAIN_ADDRESSES", "https://other-host http://third-host:81")
    access.check_address("https://other-host:443/v1")
    access.check_address("http://third-host:81")


@pytest.mark.parametrize("url", HERE)
def test_this_machine_is_not_asked_about(folders, url):
    access.check_address(url)
    assert is_here(url)


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_what_is_no_plain_address_is_refused(folders, url):
    from posttrain.rewards.vlm.server import Server

    for check in (access.check_address, lambda url: Server(url, "m")):
        with pytest.raises(ValueError, match="^url") as error:
            check(url)
        assert "hunter2" not in str(error.value)


def test_the_users_other_settings_are_kept(folders):
    file = folders / "user" / "posttrain.json"
    file.write_text(json.dumps({"folders": ["/x"], "addresses": ["http://a-host:80"], "other": 1}))
    access.allow_address("http://b-host:80")
    assert json.loads(file.read_text()) == {
        "folders": ["/x"],
        "addresses": ["http://a-host:80", "http://b-host:80"],
        "other": 1,
    }


def test_the_votes_of_rate_by_hand_are_read_where_it_says_they_are(folders):
    from posttrain.nodes.rewards.person import PTRewardHuman

    _, file = PTRewardHuman().run("thumbs", "my taste", 0.0)
    assert may_read(located(file)) and file.endswith("votes.jsonl")
