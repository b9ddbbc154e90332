from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from posttrain.nodes.rewards import composite, judges, learned, rules, score, simple, taste, tools
from posttrain.rewards.base.reward import Prompt, RewardInfo
from posttrain.trainers.data import verdicts


class NeedsRule:
    info = RewardInfo("rule", 0, 1, True, False, "")

    def __call__(self, images, prompts):
        return torch.tensor([1.0 if p.spec else 0.0 for p in prompts])


def test_score_reads_a_rollout():
    rollout = SimpleNamespace(images=torch.rand(4, 8, 8, 3), index=torch.tensor([0, 0, 1, 1]), groups=torch.tensor([0, 0, 1, 1]),
                              prompts=SimpleNamespace(prompts=(Prompt("a", {"x": 1}), Prompt("b"))))
    scores, mean = score.PTScore().run(rollout, NeedsRule())
    assert scores.values.tolist() == [1, 1, 0, 0] and mean == 0.5


def test_score_images_shows_numbers_and_finds_rules_by_text():
    prompts = SimpleNamespace(prompts=(Prompt("two cats", {"n": 2}), Prompt("a dog", {"n": 1})))
    found = score.PTScoreImages().run(torch.rand(2, 8, 8, 3), NeedsRule(), " two cats\n", score.ONE_PROMPT, prompts)
    scores, mean, table = found["result"]
    assert mean == 1.0 and scores.groups.tolist() == [0, 0] and found["ui"]["text"][1] == table
    lines = score.PTScoreImages().run(torch.rand(2, 8, 8, 3), NeedsRule(), "a fox\na dog", score.LINE_EACH, prompts)
    assert lines["result"][0].values.tolist() == [0, 1] and lines["result"][0].groups.tolist() == [0, 1]


def test_line_per_image_needs_as_many_lines():
    with pytest.raises(ValueError, match="needs 3 lines for 3 images, got 2"):
        score.prompts_for("a\nb", score.LINE_EACH, 3)


def test_simple_reward_nodes_make_working_rewards():
    jpeg, = simple.PTRewardJPEG().run(simple.PTRewardJPEG.SMALL, "kB", 95)
    colour, = simple.PTRewardColour().run("brightness", "less", 0.0, 1.0)
    total, = simple.PTRewardSum().run(reward_2=jpeg, weight_2=0.5, reward_4=colour)
    images = torch.rand(2, 8, 8, 3)
    expected = 0.5 * jpeg(images, []) + colour(images, [])
    assert torch.allclose(total(images, [Prompt("")] * 2), expected.double())
    with pytest.raises(ValueError, match="at least one reward"):
        simple.PTRewardSum().run()


MODULES = (score, simple, learned, rules, judges, composite, tools, taste)
ALL = {name: node for module in MODULES for name, node in module.NODES.items()}


@pytest.mark.parametrize("name", ALL)
def test_every_input_has_a_tooltip_and_every_output_a_name(name, models):
    node = ALL[name]
    inputs = node.INPUT_TYPES()
    for entry in [*inputs.get("required", {}).items(), *inputs.get("optional", {}).items()]:
        assert entry[1][1]["tooltip"], entry
        assert not isinstance(entry[1][0], tuple), f"{entry[0]}: the host only checks menus that are lists"
        assert not isinstance(entry[1][0], list) or entry[1][0], f"{entry[0]}: a menu must not be empty"
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == len(node.OUTPUT_TOOLTIPS)
    assert node.DESCRIPTION and node.CATEGORY.startswith("PostTrain/")
    assert any(module.NAMES.get(name) for module in MODULES)


MISSING = {
    "PTRewardCLIP": (dict(kind="PickScore", model="auto"), "PickScore_v1.safetensors", "3.9 GB"),
    "PTRewardImageReward": (dict(model="auto", tokenizer="auto"), "ImageReward.pt", "1.8 GB"),
    "PTRewardHPSv3": (dict(model="auto", caution=0.0), "HPSv3", "16.6 GB"),
    "PTRewardAesthetic": (dict(version="LAION v2", model="auto", head="auto"), "clip-vit-large-patch14.safetensors", "1.7 GB"),
    "PTRewardTaste": (dict(votes_name="mine", tower="SigLIP", model="auto"), "siglip-so400m-patch14-384.safetensors", "3.5 GB"),
    "PTRewardNSFW": (dict(kind=learned.NSFW_MODELS[0], model="auto"), "nsfw_image_detection", "343 MB"),
    "PTRewardWatermark": (dict(model="auto"), "Watermark-Detection-SigLIP2", "372 MB"),
    "PTRewardClassifier": (dict(model="auto", label="x", wanted=True, output="probability"), "my_classifier", "343 MB"),
    "PTDetector": (dict(kind=rules.DETECTORS[1], model="auto", precision="fp32"), "owlv2-base-patch16-ensemble", "620 MB"),
    "PTVLMLocal": (dict(model="auto", megapixels=0.2, precision="fp32"), "Qwen2.5-VL-3B-Instruct", "7.5 GB"),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_file_says_name_place_size_and_source_at_once(name, models, monkeypatch):
    monkeypatch.setattr(verdicts, "votes_file", lambda folder: folder)  # there are votes
    inputs, file, size = MISSING[name]
    for choice in ("auto", "a_file_of_somebody_else.safetensors"):
        with pytest.raises(FileNotFoundError) as error:
            ALL[name]().run(**inputs | {"model": choice})
        text = str(error.value)
        assert file in text and size in text and str(models) in text and "Download" in text and "licence" in text
        assert ALL[name].VALIDATE_INPUTS.__func__.__code__.co_varnames[1] == "model"  # so that the host lets it run


def test_every_model_menu_opens_without_any_model_and_lists_what_is_there(models):
    assert learned.PTRewardCLIP.INPUT_TYPES()["required"]["model"][0] == ["auto"]
    (models / "reward_models" / "mine").mkdir(parents=True)
    (models / "reward_models" / "mine" / "model.safetensors").touch()
    (models / "reward_models" / "mine" / "config.json").touch()
    (models / "reward_models" / "readme.txt").touch()
    assert learned.PTRewardCLIP.INPUT_TYPES()["required"]["model"][0] == ["auto", "mine/model.safetensors"]
    assert learned.PTRewardClassifier.INPUT_TYPES()["required"]["model"][0] == ["auto", "mine"]


@pytest.mark.parametrize("saved_as", ["PickScore_v1.safetensors", "PickScore_v1/model.safetensors", "x/pickscore.safetensors"])
def test_auto_finds_the_published_names(models, saved_as):
    from posttrain.rewards.learned.clip_rewards import KINDS
    from posttrain.rewards.learned.holder import find_model

    file = models / "reward_models" / saved_as
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_model(KINDS["PickScore"].file, "auto") == file
    with pytest.raises(FileNotFoundError, match="../secret"):
        (models / "secret.safetensors").touch()
        find_model(KINDS["PickScore"].file, "../secret.safetensors")


@pytest.mark.parametrize("kind, names", [
    ("HPSv2.1", ["HPS_v2.1_compressed.pt", "HPS_v2.1_compressed.safetensors"]),
    ("PickScore", ["PickScore_v1.bin", "x/pickscore.safetensors"])])
def test_auto_takes_safetensors_before_a_pickle(models, kind, names):
    from posttrain.rewards.learned.clip_rewards import KINDS
    from posttrain.rewards.learned.holder import find_model

    for name in names:
        (models / "reward_models" / name).parent.mkdir(parents=True, exist_ok=True)
        (models / "reward_models" / name).touch()
    assert find_model(KINDS[kind].file, "auto").name == Path(names[1]).name
    assert find_model(KINDS[kind].file, names[0]).name == names[0]  # what the user chose is what is loaded


def test_folders_of_the_user_are_searched_too(models, tmp_path):
    """As extra_model_paths.yaml adds them, before the pack is asked; and behind a symbolic link."""
    import folder_paths
    from posttrain.rewards.learned.holder import find_model
    from posttrain.rewards.vlm.local import FOLDER

    for place in (tmp_path / "disk", models / "reward_models", models / "LLM"):
        place.mkdir(parents=True)
    folder_paths.add_model_folder_path("reward_models", str(tmp_path / "disk"))
    (tmp_path / "disk" / "theirs.safetensors").touch()
    (models / "reward_models" / "ours.safetensors").touch()
    (tmp_path / "elsewhere" / "clip").mkdir(parents=True)
    (tmp_path / "elsewhere" / "clip" / "linked.safetensors").touch()
    (models / "reward_models" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    menu = learned.PTRewardCLIP.INPUT_TYPES()["required"]["model"][0]
    assert set(menu) == {"auto", "theirs.safetensors", "ours.safetensors", "link/clip/linked.safetensors"}
    (models / "LLM" / "Qwen2.5-VL-3B").mkdir()
    (models / "LLM" / "Qwen2.5-VL-3B" / "config.json").touch()
    assert find_model(FOLDER, "auto") == models / "LLM" / "Qwen2.5-VL-3B"


def test_clip_node_end_to_end(models):
    from safetensors.torch import save_file

    from ...rewards.networks import tiny_open_clip

    (models / "reward_models").mkdir()
    save_file({k: v.contiguous() for k, v in tiny_open_clip().state_dict().items()},
              models / "reward_models" / "HPS_v2.1_compressed.safetensors")
    reward, = learned.PTRewardCLIP().run("HPSv2.1", "auto", "fp32")
    again, = learned.PTRewardCLIP().run("HPSv2.1", "auto", "fp32")
    values = reward(torch.rand(2, 40, 40, 3), [Prompt("a cat"), Prompt("a dog")])
    assert torch.isfinite(values).all() and again._holder is reward._holder


def test_ensemble_node_warns_of_a_missing_monitor():
    jpeg, = simple.PTRewardJPEG().run(simple.PTRewardJPEG.SMALL, "kB", 95)
    member, = composite.PTRewardMember().run(jpeg, "monitor", 1.0, "raw", 0.5, 0.1)
    run = composite.PTRewardEnsemble().run
    alone = run("weighted mean", 1.0, True, reward_1=jpeg, reward_3=None)
    assert "No monitor" in alone["ui"]["text"][0] and "No monitor" in alone["result"][1]
    watched = run("weighted mean", 1.0, True, reward_1=jpeg, reward_2=member)
    assert watched["result"][1] == ("weighted mean: JPEG compressibility (trained), JPEG compressibility (monitor)")
    shown = score.PTScoreImages().run(torch.rand(2, 16, 16, 3), watched["result"][0], "x", score.ONE_PROMPT)["result"][2]
    assert shown.splitlines()[0].split("\t") == [
        "image", "score", "JPEG compressibility", "JPEG compressibility 2", "JPEG compressibility (normalised)",
        "JPEG compressibility 2 (normalised)", "prompt"]


def test_formula_node():
    bright, = simple.PTRewardColour().run("brightness", "more", 0.0, 1.0)
    reward, = composite.PTRewardFormula().run("2*b + 1", b=bright, a=None)
    assert torch.allclose(reward(torch.full((1, 4, 4, 3), 0.5), [Prompt("")]), torch.tensor([2.0]).double())


def test_calibration_is_measured_once_and_kept_with_the_run(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    bright, = simple.PTRewardColour().run("brightness", "more", 0.0, 1.0)
    node = composite.PTCalibrateRewards()
    first, second = (score.PTScoreImages().run(torch.rand(10, 4, 4, 3) * scale, bright, "", score.ONE_PROMPT)["result"][0]
                     for scale in (1.0, 0.1))
    calibration = node.run(first, "my run", False)["result"][0]
    assert (tmp_path / "posttrain" / "my run" / "calibration.json").is_file()
    assert node.run(second, "my run", False)["result"][0] == calibration
    assert node.run(second, "my run", True)["result"][0] != calibration
    with pytest.raises(ValueError, match="run_name"):
        node.run(first, "../x", False)


def test_adversarial_node_trains_on():
    run = tools.PTAdversarialReward().run
    base, policy = torch.rand(6, 16, 16, 3), torch.rand(6, 16, 16, 3) * 0.5
    first, accuracy = run(base, policy, 2, 0.01, 0)
    second, _ = run(base, policy, 2, 0.01, 0, reward=first)
    assert second.images == 24 and 0 <= accuracy <= 1
    with pytest.raises(ValueError, match="only another Adversarial Reward"):
        run(base, policy, 2, 0.01, 0, reward=NeedsRule())


def test_rule_and_judge_nodes_make_rewards():
    class Nothing:
        def __call__(self, images, classes):
            return [{} for _ in classes]

    objects, = rules.PTRewardObjects().run(Nothing(), "cat: 2", "dense (partial credit)", 0.4, 0.7)
    assert objects(torch.rand(1, 4, 4, 3), [Prompt("")]).tolist() == [0]
    geneval, = rules.PTRewardGenEval().run(Nothing(), "official GenEval", 0.3, 0.7, 0.9, "none")
    assert geneval.info.needs_prompt
    vlm, = judges.PTVLMServer().run(" http://127.0.0.1:1/v1 ", "judge", 1.0, 1, 1, 64, samples=9)
    assert (vlm.url, vlm.samples, vlm.side) == ("http://127.0.0.1:1/v1", 9, 64)
    assert judges.PTRewardVLM().run(vlm, "yes or no", "", "mean")[0].info.needs_prompt
    assert judges.PTRewardVLMPairs().run(vlm, "Which is sharper? 1 or 2", 0)[0].info.needs_prompt is False
    assert rules.PTRewardOCR().run("exact")[0].info.name.startswith("text")


def test_no_reward_is_imported_by_the_nodes():
    """Registering the nodes loads the protocol and no reward."""
    import subprocess
    import sys
    from pathlib import Path

    code = ("import sys, types; p = types.ModuleType('posttrain'); p.__path__ = [sys.argv[1]]; sys.modules['posttrain'] = p\n"
            "from posttrain.nodes.rewards import score, simple, learned, rules, judges, composite, tools\n"
            "print(sorted(m for m in sys.modules if m.startswith('posttrain.rewards.')))")
    # a namespace without nodes/__init__.py, which would register the other nodes too
    code = code.replace("from posttrain.nodes", "n = types.ModuleType('posttrain.nodes'); n.__path__ = [sys.argv[1] + '/nodes']; "
                        "sys.modules['posttrain.nodes'] = n\nfrom posttrain.nodes", 1)
    found = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parents[4])], capture_output=True, text=True)
    files = ("lent", "prompt", "ranks", "report", "reward", "reweighted", "stopwatch", "untouched", "usable", "weights", "wire", "words")
    expected = ["posttrain.rewards.base", *(f"posttrain.rewards.base.{name}" for name in files)]
    assert found.stdout.strip() == str(expected), found.stdout + found.stderr
