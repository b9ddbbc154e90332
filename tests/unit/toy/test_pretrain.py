"""The recipe of the tiny models runs from start to end, and is the one that the shipped files name."""
from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("comfy.sd", reason="needs COMFYUI_DIR")

from posttrain.toy import initial, models, pretrain  # noqa: E402

TINY = {"steps": 2, "batch": 4, "pictures": 64}
NEVER = 1e9  # minutes between reports
# of a stage's plan, what decides the weights
DECIDING = ("batch", "matrix_rate", "other_rate", "wrong_share", "seed", "pictures", "ema", "decay_from", "warm_up")


@pytest.mark.parametrize("kind", pretrain.PLANS)
def test_all_stages_run_and_repeat_bit_for_bit(kind, tmp_path):
    plans = tuple(replace(plan, **TINY) for plan in pretrain.PLANS[kind])
    paths = [tmp_path / f"{n}.safetensors" for n in "ab"]
    records = [pretrain.run_stages(plans, None, path, NEVER, images=10) for path in paths]
    first, again = (models.load_model(kind, path).model.diffusion_model.state_dict() for path in paths)
    assert all(torch.equal(first[key], again[key]) for key in first)
    record = models.training_record(paths[0])
    assert json.dumps(record) == json.dumps(records[0]) and record["steps_done"] == 2
    assert record["held_out"]["images"] == 10 and 0 <= record["held_out"]["strict"] <= 1
    assert bool(record["before"]) == (len(plans) > 1), "a later stage names what it started from"


def test_the_command_writes_all_files_where_it_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "PLANS", {kind: tuple(replace(plan, **TINY) for plan in plans)
                                            for kind, plans in pretrain.PLANS.items()})
    monkeypatch.setattr(pretrain, "JUDGE", replace(pretrain.JUDGE, steps=2, batch=4, pictures=40))
    for rate in ("pass_rate", "edit_pass_rate"):
        monkeypatch.setattr(pretrain.evaluate, rate, lambda *_, images, **__: {"strict": 0.0, "images": images})
    before = {path.name: path.stat().st_mtime_ns for path in models.WEIGHTS.iterdir()}
    assert pretrain.main(["--out", str(tmp_path / "made")]) == 0
    assert {path.name for path in (tmp_path / "made").iterdir()} == set(before)
    assert before == {path.name: path.stat().st_mtime_ns for path in models.WEIGHTS.iterdir()}
    assert capsys.readouterr().out.count('"held_out"') >= 3, "the pass rate is printed"


def test_the_shipped_text_encoder_is_what_the_recipe_makes(tmp_path):
    initial.make_text_encoder(tmp_path / "text.safetensors")
    assert (tmp_path / "text.safetensors").read_bytes() == models.TEXT_FILE.read_bytes()


@pytest.mark.parametrize("kind", pretrain.PLANS)
def test_the_shipped_files_were_made_with_these_numbers(kind):
    record, found = models.training_record(models.FILES[kind]), []
    while record:
        found.append({name: record[name] for name in DECIDING} | {"steps": record["steps_done"]})
        record = record.get("before")
    plans = [{name: getattr(plan, name) for name in DECIDING} | {"steps": plan.steps} for plan in pretrain.PLANS[kind]]
    if kind == "eps":
        assert found[0].pop("steps") == plans[0].pop("steps") + 3  # it ran by the clock then
    assert found[::-1] == plans
