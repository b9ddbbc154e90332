"""A training whose output is kept on a storage, a folder or an object store: what one process trains, whoever goes on with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import safetensors.torch
from posttrain.ray_run.storage import below, opened
from posttrain.tests.host.headless_runs import LONGEST, difference, until
from posttrain.tests.ray.runs import processes, small
from posttrain.tools.host import free_port
from pyarrow import fs

KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "a secret", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def bucket(tmp_path):
    """The address of one in an object store of this machine that speaks S3, and how to reach it."""
    port = free_port()
    with (tmp_path / "store.log").open("w") as log, pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        places = os.environ | {"PYTHONPATH": os.environ["POSTTRAIN_STORE"]}
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)], env=places, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            until(lambda: there(f"http://127.0.0.1:{port}/moto-api/"), server)
            made = urllib.request.Request(f"http://127.0.0.1:{port}/runs", method="PUT")
            assert urllib.request.urlopen(made, timeout=30).status == 200
            yield f"s3://runs/of/one?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        finally:
            server.kill()
            server.wait()


def there(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


@pytest.fixture(params=["a folder", "an object store"])
def storage(request, shared) -> str:
    return str(shared.base / "far away") if request.param == "a folder" else request.getfixturevalue("bucket")


def names(where: str) -> list[str]:
    """Of the files in a storage."""
    files, root = opened(where)
    found = files.get_file_info(fs.FileSelector(root, recursive=True))
    return sorted(each.path.removeprefix(root).lstrip("/") for each in found if each.type == fs.FileType.File)


def fetched(where: str, to: Path) -> Path:
    """A copy of a storage."""
    files, root = opened(where)
    for name in names(where):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        with files.open_input_stream(f"{root}/{name}") as stream, (to / name).open("wb") as file:
            shutil.copyfileobj(stream, file)
    return to


def test_a_storage_has_the_run_of_processes_that_share_no_folder(alone, shared, storage, tmp_path):
    """The first process is killed, starts anew in an empty folder of its own, and goes on from the storage."""
    graph = small(**{"6.when_run_exists": "start over", "6.save_every": 1})
    process = shared.start(graph, first=("ray",), options=("--workers", "2", "--storage", storage))
    until(lambda: any("/checkpoints/" in name for name in names(storage)), process, LONGEST)
    before = processes(shared)
    os.kill(before["0"], signal.SIGKILL)
    assert process.wait(LONGEST) == 0, shared.text()[-3000:]
    assert before.keys() == {"0", "1"} and processes(shared) != before
    assert not (shared.base / "output" / "posttrain").exists()
    copy = fetched(storage, tmp_path / "copy")
    (run,) = (copy / "output" / "posttrain").iterdir()
    assert run.name == "spine a" and any((copy / "ray").rglob("*"))
    assert [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    lora = safetensors.torch.load_file(copy / "loras" / "tests" / "a.safetensors")
    assert difference(alone.lora("a"), lora) < 1e-6


def test_a_bucket_that_is_not_there_is_said_before_anything_starts(shared, bucket):
    process = shared.start("{}", first=("ray",), options=("--storage", bucket.replace("s3://runs", "s3://others")))
    assert process.wait(LONGEST) == 2 and "--storage: s3://others/of/one" in shared.text(), shared.text()[-3000:]
    assert "local Ray" not in shared.text() and below(bucket, "ray").startswith("s3://runs/of/one/ray?endpoint")


def test_an_output_in_two_places_is_refused(shared):
    options = ("--storage", str(shared.base / "a"), "--output-directory", str(shared.base / "b"))
    assert shared.start("{}", first=("ray",), options=options).wait(LONGEST) == 2
    assert "--output-directory has no use" in shared.text() and not (shared.base / "a").exists()
