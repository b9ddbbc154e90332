"""The Inception network of FID beside torch-fidelity's, and the files that are none."""

from __future__ import annotations

import pytest
import torch
from posttrain.rewards.learned.inception import CLASSES, GEOMETRY, PUBLISHED, build_inception
from posttrain.rewards.learned.preprocess import preprocess
from safetensors.torch import save_file

# mean, standard deviation and four of the 2048 features of torch-fidelity 0.4.0's network with these weights, on this picture
EXPECTED = [7.02404, 10.177937, 14.086149, 2.547447, 6.717369, 7.31715]


def weights(classes: int = CLASSES, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ones that keep activations at one size, named and shaped as in the published file, which counts no batches."""
    from torchvision.models.inception import Inception3

    shapes = Inception3(num_classes=classes, aux_logits=False, init_weights=False).state_dict()
    source = torch.Generator().manual_seed(seed)
    made = {}
    for name in sorted(each for each in shapes if not each.endswith("num_batches_tracked")):
        value = torch.randn(shapes[name].shape, generator=source)
        if value.ndim > 1:
            made[name] = value * (2 / value[0].numel()) ** 0.5
        else:
            made[name] = 1 + 0.5 * value.tanh() if name.endswith(("running_var", "bn.weight")) else 0.1 * value
    return made


def pictures(count: int = 1) -> torch.Tensor:
    bytes_ = torch.randint(256, (count, 299, 299, 3), generator=torch.Generator().manual_seed(1))
    return bytes_.float() / 255


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / PUBLISHED.save_as
    torch.save(weights(), path)
    return path


def test_it_gives_the_features_of_torch_fidelity(file):
    with torch.no_grad():
        found = build_inception(file)(preprocess(pictures(), GEOMETRY))
    assert found.shape == (1, 2048)
    shown = torch.tensor([found.mean(), found.std(), *found[0, ::512]])
    torch.testing.assert_close(shown, torch.tensor(EXPECTED), rtol=1e-4, atol=1e-4)


def test_a_file_of_safetensors_without_the_classifier_is_the_same_network(file, tmp_path):
    kept = {name: value for name, value in weights().items() if not name.startswith("fc.")}
    save_file(kept, tmp_path / "other.safetensors")
    one, other = (build_inception(path).state_dict() for path in (file, tmp_path / "other.safetensors"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_network_of_imagenet_and_damaged_files_are_refused(tmp_path):
    imagenet = tmp_path / "inception_v3_google.safetensors"
    save_file(weights(classes=1000), imagenet)
    with pytest.raises(ValueError, match="inception_v3_google.safetensors is an Inception network of 1000 classes.*1008"):
        build_inception(imagenet)
    broken = {name: value for name, value in weights().items() if "Mixed_7c" not in name}
    save_file(broken, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="part.safetensors is not a checkpoint of this model: .* weights missing"):
        build_inception(tmp_path / "part.safetensors")
