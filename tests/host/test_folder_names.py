"""What the name of the pack's folder under custom_nodes does to the page, in a real ComfyUI."""
from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from posttrain.nodes.folder_name import unserved_characters
from posttrain.tools.host import Host

SEPARATORS = "/\\:" if Path("C:/").is_absolute() else "/"
CHARACTERS = [c for c in map(chr, range(32, 127)) if c not in SEPARATORS] + ["é", "中", "\u3000"]


def small_pack(folder: Path) -> Path:
    """A pack without nodes, and with one script."""
    (folder / "web").mkdir(parents=True)
    (folder / "web" / "a.js").write_text("1;\n")
    (folder / "__init__.py").write_text('NODE_CLASS_MAPPINGS = {}\nWEB_DIRECTORY = "./web"\n')
    return folder


def scripts(host: Host, name: str) -> list[str]:
    return [path for path in host.get("/extensions").json() if path.startswith(f"/extensions/{quote(name)}/")]


def test_a_name_that_comfyui_does_not_serve_is_said_in_the_log(tmp_path):
    """And those characters are the ones that the check knows: each is tried, in a pack of its own."""
    small = [small_pack(tmp_path / "packs" / f"pack{character}{number}") for number, character in enumerate(CHARACTERS)]
    with Host(tmp_path / "base", name="my [folder]", packs=small) as host:
        said = [line for line in host.log_text().splitlines() if "Rename the folder" in line]
        assert len(said) == 1 and "'my [folder]'" in said[0], host.log_tail()
        assert "PTRollout" in host.object_info()
        ours = scripts(host, "my [folder]")
        assert ours and not [path for path in ours if host.get(path).ok]
        assert all(scripts(host, pack.name) for pack in small)
        wrong = "".join(c for c, pack in zip(CHARACTERS, small) if not host.get(scripts(host, pack.name)[0]).ok)
    assert wrong == unserved_characters("".join(CHARACTERS)) and " " in wrong and "[" in wrong


@pytest.mark.parametrize("name", ["comfyui-posttrain", "posttrain", "ComfyUI-PostTrain-main"])
def test_other_good_names_serve_every_script(tmp_path, name):
    with Host(tmp_path / "base", name=name) as host:
        assert "Rename the folder" not in host.log_text()
        assert len(scripts(host, name)) > 5
        assert not [path for path in scripts(host, name) if not host.get(path).ok]
