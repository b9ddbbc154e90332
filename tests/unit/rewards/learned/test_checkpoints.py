from __future__ import annotations

import os
import pickle

import pytest
import torch
from posttrain.rewards.learned.checkpoints import fill, folded_linear, load_weights, renamed, with_prefix
from safetensors.torch import save_file
from torch import nn

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Bomb:
    """Unpickling this creates a file: the proof that nothing was run is that the file is not there."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt"])
def test_every_layout_loads(tmp_path, suffix):
    file = tmp_path / f"m{suffix}"
    save_file(WEIGHTS, file) if suffix == ".safetensors" else torch.save(WEIGHTS, file)
    found = load_weights(file)
    assert found.keys() == WEIGHTS.keys() and all(torch.equal(found[k], v) for k, v in WEIGHTS.items())


@pytest.mark.parametrize("wrapped", [{"state_dict": WEIGHTS, "epoch": 3}, {"model": WEIGHTS}, {"module": WEIGHTS},
                                     {f"module.{k}": v for k, v in WEIGHTS.items()}])
def test_training_wrappers_are_taken_off(tmp_path, wrapped):
    torch.save(wrapped, tmp_path / "m.pt")
    assert load_weights(tmp_path / "m.pt").keys() == WEIGHTS.keys()


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_with_code_is_refused_and_nothing_runs(tmp_path, legacy):
    proof = tmp_path / "executed"
    torch.save({"state_dict": WEIGHTS, "extra": Bomb(proof)}, tmp_path / "m.pt",
               _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="refused.*Nothing of it was run.*safetensors"):
        load_weights(tmp_path / "m.pt")
    assert not proof.exists()


def test_bare_pickle_with_code_is_refused_and_nothing_runs(tmp_path):
    proof = tmp_path / "executed"
    (tmp_path / "m.bin").write_bytes(pickle.dumps(Bomb(proof)))
    with pytest.raises(ValueError, match="refused"):
        load_weights(tmp_path / "m.bin")
    assert not proof.exists()


def test_the_bomb_would_have_gone_off(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(ValueError, match="refused"):
        load_weights(tmp_path / "m.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.98])
def test_truncated_file_says_download_again(tmp_path, suffix, keep):
    file = tmp_path / f"m{suffix}"
    big = {"w": torch.rand(64, 64)}
    save_file(big, file) if suffix == ".safetensors" else torch.save(big, file)
    file.write_bytes(file.read_bytes()[:int(file.stat().st_size * keep)])
    with pytest.raises(ValueError, match=f"m{suffix}.*(ownload|damaged)"):
        load_weights(file)


def test_not_a_model_file(tmp_path):
    (tmp_path / "m.safetensors").write_text("<html>Access denied</html>")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        load_weights(tmp_path / "m.safetensors")
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(ValueError, match="must end in"):
        load_weights(tmp_path / "m.txt")
    torch.save({"note": "hello"}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="no weights"):
        load_weights(tmp_path / "m.pt")
    torch.save([torch.ones(2)], tmp_path / "m.pt")
    with pytest.raises(ValueError, match="holds a list"):
        load_weights(tmp_path / "m.pt")


def test_fill_names_what_does_not_fit():
    def network():
        with torch.device("meta"):
            return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2)})

    with pytest.raises(ValueError, match=r"2 weights missing \(such as b.bias\)"):
        fill(network(), WEIGHTS, "m.pt")
    full = WEIGHTS | {"b.weight": torch.ones(2, 2), "b.bias": torch.ones(3), "junk": torch.ones(1)}
    with pytest.raises(ValueError, match=r"m.pt is not.*too many \(such as junk\).*b.bias is \[3\], not \[2\]"):
        fill(network(), full, "m.pt")
    good = fill(network(), full | {"b.bias": torch.ones(2)}, "m.pt", ignore=("junk",))
    assert not good.training and not any(p.requires_grad or p.is_meta for p in good.parameters())


def test_names():
    assert with_prefix({"x.a": torch.ones(1), "y": torch.ones(1)}, "x.").keys() == {"a"}
    assert renamed({"old.k": torch.ones(1)}, {"old": "new", "new.k": "n.k"}).keys() == {"n.k"}


def test_folded_layers_equal_the_chain():
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Linear(32, 16), nn.Dropout(), nn.Linear(16, 24), nn.Dropout(), nn.Linear(24, 1)).eval()
    weight, bias = folded_linear({f"layers.{k}": v for k, v in chain.state_dict().items()})
    x = torch.randn(5, 32)
    assert torch.allclose(x @ weight.T + bias, chain(x), atol=1e-6)


def test_folded_layers_are_ordered_by_number_not_by_text():
    layers = {f"h.{i}.{k}": v for i, l in ((2, nn.Linear(8, 4)), (10, nn.Linear(4, 1))) for k, v in l.state_dict().items()}
    assert folded_linear(layers)[0].shape == (1, 8)
    with pytest.raises(ValueError, match="takes 8 numbers, but the layer before gives 9"):
        folded_linear(layers | {"h.2.weight": torch.ones(9, 8), "h.2.bias": torch.ones(9), "h.3.weight":
                                torch.ones(4, 8), "h.3.bias": torch.ones(4)})
    with pytest.raises(ValueError, match="no linear layer"):
        folded_linear({})
