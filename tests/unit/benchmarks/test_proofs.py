"""The claims of learning as graphs, the verdicts over them, and the page that reports them."""
from __future__ import annotations

import json
import sys

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.tools.host import ROOT
from posttrain.toy.models import load_model
from posttrain.trainers.methods import settled_trainer
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.policy.recommended import family

sys.path.append(str(ROOT))  # the claims name their tools absolutely; last, so that ComfyUI's nodes.py is not hidden
from benchmarks.proofs import prove, report
from benchmarks.proofs.claim import beats_teacher, gains, keeps, keeps_skills, reaches, rises, stays
from benchmarks.proofs.claims import PROOFS
from benchmarks.proofs.person import Person
from tools.evaluate import Evaluation, Few, Group, Merged, workflow
from tools.graphs import images_seen
from tools.training import every

EACH = pytest.mark.parametrize("name", PROOFS)


@EACH
def test_a_claim_is_a_whole_workflow(name):
    graph = PROOFS[name].graph(f"{name}-1", 1, {"PTLoopStart.iterations": 7})
    kinds = {content["class_type"] for content in graph.values()}
    assert {"PTLoopStart", "PTLoopEnd", "PTSaveLora"} <= kinds and kinds & {"PTDemoWorld", "PTDemoEdits"}
    for content in graph.values():
        if node := NODE_CLASS_MAPPINGS.get(content["class_type"]):
            inputs = node.INPUT_TYPES()
            assert set(content["inputs"]) <= {*inputs["required"], *inputs.get("optional", {})}, content
        for value in content["inputs"].values():
            if isinstance(value, list):
                source = NODE_CLASS_MAPPINGS.get(graph[value[0]]["class_type"])
                assert source is None or value[1] < len(source.RETURN_TYPES), content
    settings = [content["inputs"] for content in graph.values() if content["class_type"] == "PTLoopStart"]
    assert all(one["iterations"] == 7 for one in settings) and settings[-1]["run_name"] == f"{name}-1"
    for kind, key in (("PTLoopStart", "run_name"), ("PTSaveLora", "file_name")):
        names = every(graph, kind, key)
        halves = name == "spo_again" and kind == "PTSaveLora"  # one training in two halves
        assert len(names) == len(set(names)) == len(settings) - halves, "no run and no LoRA in the place of another"


def test_a_control_deals_its_rewards_out_before_they_become_feedback():
    for name in ("flow_grpo_shuffled", "nft_shuffled"):
        graph = PROOFS[name].graph(name, 0, {})
        feedback, = (content for content in graph.values() if content["class_type"] == "PTAdvantages")
        assert graph[feedback["inputs"]["scores"][0]]["class_type"] == "ControlShuffleScores"


def evaluation(strict: tuple[float, float], **other: tuple[float, float]) -> Evaluation:
    """100 images whose score before and after has these means; the strict one is 0 or 1."""
    scores = {}
    for place, when in enumerate(("before", "after")):
        scores[when, "strict"] = [float(i < 100 * strict[place]) for i in range(100)]
        for name, means in ({"dense": strict} | other).items():
            scores[when, name] = [means[place] + 0.01 * (i % 2) for i in range(100)]
    return Evaluation([Group("a ball", scores, {})])


def test_verdicts():
    better, same = evaluation((0.5, 0.86)), evaluation((0.5, 0.5))
    assert reaches(0.85)(better)[0] and not reaches(0.87)(better)[0]
    assert gains(35)(better)[0] and not gains(37)(better)[0]
    assert rises()(better)[0] and not rises()(same)[0]
    assert stays()(same)[0] and not stays()(better)[0]
    assert beats_teacher()(better)[0] and not beats_teacher()(same)[0]
    own = evaluation((0.5, 0.1), own=(0.2, 0.9))
    assert rises("own")(own)[0] and not rises("strict")(own)[0]


def test_a_student_is_held_against_its_teacher_in_as_few_steps():
    graph = workflow(["a ball"], "student.safetensors", "flow (tiny SD3)", 4, 1, None, Few("teacher.safetensors", 2))
    found = {}
    for when in ("base", "teacher", "before", "after"):
        sampler, loras = graph[f"sample-{when}-0"]["inputs"], []
        place = sampler["model"][0]
        while place != "world":
            loras.append(graph[place]["inputs"]["lora_name"].split(".")[0])
            place = graph[place]["inputs"]["model"][0]
        found[when] = (loras, sampler["steps"])
    assert found == {"base": ([], 15), "teacher": (["teacher"], 15), "before": (["teacher"], 2),
                     "after": (["student", "teacher"], 2)}


def test_both_are_drawn_as_the_claim_says_and_the_recipe_knows_it():
    usual, fine = PROOFS["nft"], PROOFS["nft_guided"]
    for proof, expected in ((usual, (15, 1.0)), (fine, (30, 1.5))):
        graph = workflow(["a ball"], "nft.safetensors", "flow (tiny SD3)", 4, 1, None, drawing=proof.drawing)
        samplers = [graph[f"sample-{when}-0"]["inputs"] for when in ("before", "after")]
        assert [(sampler["steps"], sampler["cfg"]) for sampler in samplers] == [expected, expected]
    assert usual.graph("a run", 0, {}) == fine.graph("a run", 0, {}) and usual.recipe() != fine.recipe()


def test_the_share_of_the_gain_that_is_kept():
    scores = {(when, "strict"): [float(i < 10 * rate) for i in range(10)]
              for when, rate in dict(base=0.4, teacher=0.9, before=0.2, after=0.8).items()}
    found = Evaluation([Group("a ball", scores, {})])
    assert found.kept() == pytest.approx(0.8)
    assert keeps(0.7)(found)[0] and not keeps(0.9)(found)[0]


def test_the_distance_is_that_of_the_predictions():
    samplers = pytest.importorskip("comfy.samplers", reason="needs COMFYUI_DIR")
    import torch
    from posttrain.toy.models import load_clip, load_model

    from benchmarks.proofs.control_pack import PredictionDistance

    before, clip = load_model("flow"), load_clip()
    after = before.clone()
    key = next(name for name in before.model.state_dict() if name.endswith("attn.qkv.weight"))
    after.add_patches({key: (0.1 * torch.randn(before.model.state_dict()[key].shape),)}, 1.0)
    known = clip.encode_from_tokens_scheduled(clip.tokenize("two red balls"))
    latent = {"samples": torch.randn(3, 3, 24, 24)}
    measure = lambda other: float(PredictionDistance().run(before, other, known, latent, 5)["ui"]["text"][0])  # noqa: E731
    assert measure(before) == 0
    found, clean, noise = [], latent["samples"], torch.randn(3, 3, 24, 24, generator=torch.manual_seed(5))
    tokens, pooled = known[0][0].expand(3, -1, -1), known[0][1]["pooled_output"].expand(3, -1)
    for parts in range(1, 5):
        sigma = float(samplers.calculate_sigmas(before.get_model_object("model_sampling"), "simple", parts)[-2])
        x, answers = (1 - sigma) * clean + sigma * noise, []
        for model in (before, after):
            model.patch_model()
            with torch.no_grad():
                answers.append(model.model.apply_model(x, torch.full((3,), sigma), c_crossattn=tokens, y=pooled))
            model.unpatch_model()
        found.append(float((((answers[0] - answers[1]) / sigma) ** 2).mean()))
    assert measure(after) == pytest.approx(sum(found) / 4, rel=0.02) and found[0] > 0


def test_images_made_once_count_once():
    online, once, pairs = (PROOFS[name].graph(name, 0, {}) for name in ("awm", "lcm", "dpo_folder"))
    assert (images_seen(online, 3), images_seen(once, 3), images_seen(pairs, 3)) == (3 * 16 * 16, 64 * 4, 3 * 64 * 2)


def outcome(name: str, seed: int, reached: bool, *own: str) -> dict:
    scores = ("strict", "dense", *own)
    return dict(name=name, seed=seed, iterations=3, minutes=2.0, images=306, before={s: (0.5, 0.02) for s in scores},
                after={s: (0.8 + 0.1 * seed, 0.02) for s in scores}, gain={s: (0.3 + 0.1 * seed, 0.03) for s in scores},
                goal="25 points or more", reached=reached, rewards=[0.5, 0.6, 0.8], seen=768, evaluations=10**6, kl=2e-3,
                diversity=(0.2, 0.1), recipe=PROOFS[name].recipe())


@pytest.fixture
def empty_report(tmp_path, monkeypatch):
    for name, place in (("DOCS", tmp_path), ("DATA", tmp_path / "proof.json"), ("PAGE", tmp_path / "proof.md")):
        monkeypatch.setattr(report, name, place)
    report.PAGE.write_text(f"Before.\n{report.START}\nold\n{report.END}\nAfter.\n")
    return tmp_path


def test_the_report_shows_failures_too_and_keeps_the_other_claims(empty_report):
    report.write_report([outcome("nft", 1, False), outcome("nft", 0, True)], PROOFS)
    report.write_report([outcome("draft_1", 0, True, "own"), outcome("lcm", 0, True) | {"kept": 0.87}], PROOFS)
    page = report.PAGE.read_text()
    nft, draft = (next(line for line in page.splitlines() if f"(`{name}`)" in line) for name in ("nft", "draft_1"))
    assert "80.0% / 90.0%" in nft and "+30.0 ± 3.0 / +40.0 ± 3.0" in nft and "reached / **not reached**" in nft
    assert "reached; 87% of the teacher's gain kept" in next(line for line in page.splitlines() if "(`lcm`)" in line)
    assert "0.5 to 0.8 (+0.3 ± 0.03)" in draft and page.startswith("Before.") and page.rstrip().endswith("After.")
    assert set(json.loads(report.DATA.read_text())) == {"nft", "draft_1", "lcm"}
    assert {path.name for path in (empty_report / "images").iterdir()} == {
        "proof_nft.svg", "proof_draft_1.svg", "proof_lcm.svg"}


def test_seeds_come_together_run_by_run_but_never_two_recipes(empty_report):
    report.write_report([outcome("nft", 0, True)], PROOFS)
    report.write_report([outcome("nft", 2, True)], PROOFS)
    assert [run["seed"] for run in report.known_outcomes()["nft"]] == [0, 2]
    assert prove.reported() == {("nft", 0), ("nft", 2)}
    report.write_report([outcome("nft", 1, True) | {"recipe": "another"}], PROOFS)
    assert [run["seed"] for run in report.known_outcomes()["nft"]] == [1]
    assert prove.reported() == set()


def test_a_recipe_is_the_same_for_all_seeds_and_another_for_other_settings():
    import dataclasses

    proof = PROOFS["nft"]
    assert len({PROOFS[name].recipe() for name in PROOFS}) == len(PROOFS)
    assert dataclasses.replace(proof, changes=proof.changes | {"PTSampling.steps": 9}).recipe() != proof.recipe()


def test_the_simulated_person_prefers_what_the_verifier_prefers():
    from posttrain.toy.world import caption, render, split
    specs = split(held_out=False)
    wanted, other = specs[0], next(spec for spec in specs if spec["objects"] != specs[0]["objects"])
    right, wrong = (render([spec], seed=1)[0] for spec in (wanted, other))
    person, sheet = Person(0), {"prompt": caption(wanted)}
    assert person({7: wrong, 4: right}, sheet) == {4: 1, 7: -1}
    chosen = [person({1: right, 2: right, 3: wrong, 4: wrong}, sheet) for _ in range(40)]
    assert {tuple(sorted(votes.items())) for votes in chosen} == {
        ((best, 1), (worst, -1)) for best in (1, 2) for worst in (3, 4)}, "ties are broken at random"
    assert person({1: right, 2: right}, sheet) == {}


@pytest.mark.parametrize("name", [name for name, proof in PROOFS.items() if proof.trainer is not None])
def test_what_a_claim_leaves_to_its_widgets_is_what_it_was_before_they_had_recommended_numbers(name):
    """The demo's models are of no family, and the numbers of those are the methods' own defaults."""
    kind, typed = PROOFS[name].trainer["class_type"], PROOFS[name].trainer["inputs"]
    open_widgets = {key: spec[1]["default"] for key, spec in NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()["required"].items()
                    if "default" in spec[1]}
    menus = {key: spec[0][0] for key, spec in NODE_CLASS_MAPPINGS[kind].INPUT_TYPES()["required"].items()
             if isinstance(spec[0], tuple)}
    asked, = NODE_CLASS_MAPPINGS[kind]().run(**menus | open_widgets | typed)
    assert not [each for each in asked.open if each.startswith("optimizer")]
    for which in ("flow", "eps") if kind in ("PTDDPO", "PTDPOK") else ("flow",):
        policy = create_policy(load_model(which), Recipe(rank=4, targets="all linear layers"))
        assert family(policy.model).name == f"other {which}" and settled_trainer(policy, asked).settings == asked.settings


def test_two_loops_teach_one_skill_each_and_the_last_learns_from_both():
    graph = PROOFS["opd"].graph("opd-0", 0, {})
    steps = [content["inputs"] for content in graph.values() if content["class_type"] == "PTTrainStep"]
    *teaching, student = steps
    for skill, step in zip(("number", "colours"), teaching):
        assert graph[step["trainer"][0]]["class_type"] == "PTNFT"
        scores = graph[graph[step["feedback"][0]]["inputs"]["scores"][0]]["inputs"]
        assert graph[scores["reward"][0]]["inputs"]["skill"] == skill and scores["rollout"] == step["rollout"]
    trainer = graph[student["trainer"][0]]
    assert trainer["class_type"] == "PTDiffusionOPD" and "feedback" not in student
    last = graph[trainer["inputs"]["teacher"][0]]["inputs"]
    first = graph[last["others"][0]]["inputs"]
    assert (first["words"], last["words"]) == ("two, three", "")
    ends = [name for name, content in graph.items() if content["class_type"] == "PTLoopEnd"]
    assert [first["policy"][0], last["policy"][0]] == ends[:2] and len(ends) == 3
    assert len({graph[graph[end]["inputs"]["loop"][0]]["inputs"]["run_name"] for end in ends}) == 3


def merged_evaluation(number, colours) -> Evaluation:
    """Shares of right images: of the base, the skill's own LoRA, the merged one."""
    def group(prompt, skill, shares):
        scores = {(when, skill): [1.0 if i < 100 * share else 0.9 for i in range(100)]
                  for when, share in zip(("before", f"teacher of {skill}", "after"), shares)}
        other = "colours" if skill == "number" else "number"
        return Group(prompt, scores | {(when, other): [0.0] * 100 for when in ("before", f"teacher of {other}", "after")}, {})

    groups = [group("two red balls", "number", number), group("a red ball", "colours", colours)]
    return Evaluation(groups, Merged({"number": "n", "colours": "c"}, ("two", "three")))


@pytest.mark.parametrize("number, colours, reached", [
    ((0.5, 0.8, 0.78), (0.7, 0.9, 0.95), True), ((0.5, 0.8, 0.77), (0.7, 0.9, 0.95), False),
    ((0.5, 0.8, 0.9), (0.7, 0.9, 0.87), False)])
def test_a_skill_is_kept_on_its_own_prompts(number, colours, reached):
    found = merged_evaluation(number, colours)
    assert found.skills() == {"number": pytest.approx(number), "colours": pytest.approx(colours)}
    assert keeps_skills(2)(found)[0] is reached


def test_a_merged_lora_is_measured_beside_its_teachers():
    merged = Merged({"number": "n.safetensors", "colours": "c.safetensors"}, ("two",))
    graph = workflow(["two red balls"], "m.safetensors", "flow (tiny SD3)", 2, 0, None, merged=merged)
    for skill, lora in merged.teachers.items():
        assert graph[f"teacher of {skill}"]["inputs"]["lora_name"] == lora
        scored = graph[f"{skill}-teacher of {skill}-0"]["inputs"]
        assert scored["reward"] == [skill, 5] and graph[skill]["inputs"]["score"].startswith(skill)
        assert graph[scored["images"][0]]["inputs"]["samples"] == [f"sample-teacher of {skill}-0", 0]


def test_the_report_tells_each_skill(empty_report):
    skills = {"number": (0.5, 0.8, 0.79), "colours": (0.7, 0.9, 0.91)}
    report.write_report([outcome("opd", 0, True) | {"skills": skills}], PROOFS)
    page = report.PAGE.read_text()
    assert "number right: 79.0% (80.0% with its own LoRA, 50.0% before)" in page and "colours right: 91.0%" in page
