"""Alarms: what the pictures look like in numbers, and when a sentence is due."""
from __future__ import annotations

import math
import random
import re
from string import Formatter

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import ROOT, Counter, Heard
from posttrain.trainers.run import CONTINUE_CHANGED, RunPlan, Session
from posttrain.trainers.run.alarms import LOOKS, Alarm, Alarms
from posttrain.trainers.run.gallery import LOOKS as GALLERY
from posttrain.trainers.run.gallery import Changed
from posttrain.trainers.run.held_out import MovedAway
from posttrain.trainers.run.notices import SENTENCES, Notices
from posttrain.trainers.run.out_of_memory import STEPS
from posttrain.trainers.run.pictures import picture_stats
from posttrain.trainers.run.stopping import REASONS

NAMES = ["picture_brightness", "picture_contrast", "picture_colourfulness", "picture_detail", "picture_variety"]
# a noisy run in which nothing changes: mean and spread of each number from iteration to iteration
STILL = {"reward_mean": (0.7, 0.05), "picture_brightness": (0.45, 0.03), "picture_contrast": (0.2, 0.02),
         "picture_colourfulness": (50.0, 6.0), "picture_detail": (0.04, 0.005), "picture_variety": (0.2, 0.02)}


def points(number: int, seed: int, **drift) -> list[dict]:
    """A still run, with a drift per iteration added to some of its numbers."""
    draw = random.Random(seed)
    return [{"iteration": i, **{name: draw.gauss(mean, spread) + i * drift.get(name, 0.0)
                                for name, (mean, spread) in STILL.items()}} for i in range(1, number + 1)]


def alarms_of(run: list[dict]) -> list:
    alarms = Alarms()
    return [(point["iteration"], alarm) for point in run for alarm in alarms.look(point)]


def test_numbers_of_plain_pictures():
    grey = torch.full((3, 40, 24, 3), 0.25)
    assert picture_stats(grey) == pytest.approx(dict(zip(NAMES, (0.25, 0.0, 0.0, 0.0, 0.0))), abs=1e-4)
    halves = torch.zeros(2, 64, 64, 3)
    halves[:, :, 32:] = 1.0
    stats = picture_stats(halves)
    assert stats["picture_brightness"] == pytest.approx(0.5) and stats["picture_contrast"] == pytest.approx(0.5)
    # two columns beside the edge differ by a third from their 3 x 3 mean
    assert stats["picture_detail"] == pytest.approx(math.sqrt(2 / 64) / 3, rel=1e-4)


def test_variety_is_the_spread_of_thumbnails():
    black_and_white = torch.stack([torch.zeros(16, 16, 3), torch.ones(16, 16, 3)])
    assert picture_stats(black_and_white)["picture_variety"] == pytest.approx(math.sqrt(0.5))
    assert "picture_variety" not in picture_stats(black_and_white[:1])


@pytest.mark.parametrize("size", [(48, 48), (600, 200), (130, 1030)])
def test_grain_shows_as_detail_and_colour_as_colour(size):
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4), size=size, mode="bilinear").movedim(1, -1)
    plain, grainy = picture_stats(smooth), picture_stats(smooth + 0.1 * torch.randn_like(smooth))
    assert grainy["picture_detail"] > 3 * plain["picture_detail"]
    assert abs(grainy["picture_brightness"] - plain["picture_brightness"]) < 0.02
    mean = smooth.mean(-1, keepdim=True)
    louder = picture_stats(mean + 1.5 * (smooth - mean))
    assert louder["picture_colourfulness"] > 1.2 * plain["picture_colourfulness"]


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (2, 8, 8, 4), (70, 8, 8, 3), (1, 1, 1, 3)])
def test_any_batch_of_pictures_has_numbers(shape):
    stats = picture_stats(torch.rand(shape) * 3 - 1)
    assert set(stats) == set(NAMES[:4] if shape[0] == 1 else NAMES) and all(map(math.isfinite, stats.values()))


@pytest.mark.parametrize("shape", [(8, 8, 3), (0, 8, 8, 3), (2, 8, 8, 5), (2, 0, 8, 3)])
def test_what_is_no_batch_of_pictures_has_none(shape):
    assert picture_stats(torch.zeros(shape)) == {}


def test_a_run_that_stands_still_is_quiet():
    """A hundred runs of 300 iterations: hardly a false alarm."""
    assert sum(len(alarms_of(points(300, seed))) for seed in range(100)) <= 3


@pytest.mark.parametrize("name, drift, word", [
    ("picture_brightness", 0.01, "much brighter"), ("picture_brightness", -0.01, "much darker"),
    ("picture_contrast", 0.006, "much higher in contrast"), ("picture_contrast", -0.004, "much lower in contrast"),
    ("picture_colourfulness", 2.0, "much more colourful"), ("picture_colourfulness", -1.5, "much greyer"),
    ("picture_detail", 0.002, "much busier or noisier in fine detail"),
    ("picture_detail", -0.001, "much poorer in fine detail"), ("picture_variety", -0.006, "much more alike")])
def test_each_change_of_the_look_is_told_once(name, drift, word):
    told = alarms_of(points(40, 0, **{name: drift}))
    assert [alarm.values["word"] for _, alarm in told] == [word]
    alarm = told[0][1]
    assert alarm.kind == "pictures" and word in alarm.text and alarm.values["number"] == name
    assert (alarm.values["now"] > alarm.values["first"]) == (drift > 0)


def test_more_variety_and_a_small_change_are_no_reason():
    assert alarms_of(points(60, 0, picture_variety=0.01)) == []
    assert alarms_of(points(60, 0, picture_brightness=0.001, picture_colourfulness=0.2, reward_mean=0.005)) == []


def test_a_reward_that_collapses_is_told_with_its_peak():
    run = points(60, 0, reward_mean=0.02)
    for point in run[40:]:
        point["reward_mean"] = 0.6
    (iteration, alarm), = alarms_of(run)
    assert 41 < iteration <= 46 and alarm.kind == "fall"
    assert 38 <= alarm.values["until"] <= 42 and alarm.values["now"] < 1.1 < 1.4 < alarm.values["best"]


def test_a_reward_bought_with_another_is_told():
    run = [point | {"reward/beauty": 0.5 + 0.02 * i, "reward/prompt followed": 0.8 - 0.01 * i + 0.01 * (i % 2)}
           for i, point in enumerate(points(40, 0, reward_mean=0.02))]
    (_, alarm), = alarms_of(run)
    assert alarm.kind == "part" and alarm.values["name"] == "prompt followed"
    still = [point | {"reward_mean": 0.7} for point in run]
    assert alarms_of(still) == [], "the total does not rise, so nothing is bought"


def test_missing_numbers_are_left_out():
    run = points(40, 0, picture_colourfulness=2.0)
    for point in run[::3]:
        point.update(picture_colourfulness=None, reward_mean=float("nan"), picture_detail=float("inf"))
    assert [alarm.values["word"] for _, alarm in alarms_of(run)] == ["much more colourful"]


@pytest.mark.parametrize("cut", [8, 35])
def test_a_resumed_run_knows_its_first_iterations_and_does_not_repeat_itself(cut):
    run = points(40, 0, picture_colourfulness=2.0)
    whole = alarms_of(run)
    resumed = Alarms(run[:cut])
    later = [(point["iteration"], alarm) for point in run[cut:] for alarm in resumed.look(point)]
    assert later == [(iteration, alarm) for iteration, alarm in whole if iteration > cut]


def brighter(root, iterations, settings, **plan) -> list[dict]:
    """Trains on pictures that grow brighter by 0.04 each iteration; -> the warnings."""
    heard = Heard()
    with Session(root, RunPlan("cats", iterations, **plan), Counter(), settings, heard) as session:
        while not session.done:
            noise = torch.rand(4, 8, 8, 3, generator=torch.Generator().manual_seed(session.iteration))
            session.advance(session.policy.stepped(), 0.2 * noise + 0.04 * session.iteration)
    return [message for message in heard.of("message") if message["level"] == "warning"]


def test_session_tells_and_records(tmp_path):
    told = brighter(tmp_path, 14, {"a": 1})
    assert [(message["alarm"], message["values"]["word"]) for message in told] == [("pictures", "much brighter")]
    assert brighter(tmp_path, 18, {"a": 1}) == [], "said before"
    line = (tmp_path / "cats" / "metrics.jsonl").read_text().splitlines()[-1]
    assert all(name in line for name in NAMES)


def test_changed_settings_begin_anew(tmp_path):
    """With another reward or other prompts the pictures may look different."""
    assert brighter(tmp_path, 6, {"a": 1}) == []
    assert brighter(tmp_path, 11, {"a": 2}, when_exists=CONTINUE_CHANGED) == [], "only five since the change"
    assert len(brighter(tmp_path, 20, {"a": 2})) == 1


def test_the_page_knows_each_alarm_in_chinese():
    text = (ROOT / "web" / "chinese.js").read_text(encoding="utf-8")
    known = {word for look in LOOKS.values() for word in (look.more, look.less) if word} | {look.word for look in GALLERY.values()}
    looks = set(re.findall(r'"([a-z, -]+)": "', re.search(r"looks: \{\n(.*?)\n  \}", text, re.DOTALL)[1]))
    assert looks == known
    forms = re.search(r"alarms: \{(.*?)\n  \}", text, re.DOTALL)[1]
    kinds = {alarm.kind: alarm for alarm in seen_alarms()}
    assert set(re.findall(r"^    (\w+):", forms, re.MULTILINE)) == set(kinds)
    for kind, alarm in kinds.items():
        form = re.search(rf"^    {kind}:(.*?)(?=^    \w+:|\Z)", forms, re.MULTILINE | re.DOTALL)[1]
        assert set(re.findall(r"\{(\w+)\}", form)) <= set(alarm.values)


def forms(name: str) -> dict[str, str]:
    """What a list of the Chinese words holds: key -> its lines."""
    text = (ROOT / "web" / "chinese.js").read_text(encoding="utf-8")
    block = re.search(rf"^  {name}: \{{\n(.*?)^  \}},", text, re.DOTALL | re.MULTILINE)[1]
    found = re.split(r'^    (?:"([^"\n]+)"|(\w+)):', block, flags=re.MULTILINE)[1:]
    return {quoted or plain: form for quoted, plain, form in zip(*[iter(found)] * 3)}


def test_the_page_knows_each_reason_to_stop_and_each_step_against_full_memory_in_chinese():
    for name, sentences in (("reasons", REASONS | {"you": ""}), ("steps", STEPS)):
        known = forms(name)
        assert set(known) == set(sentences)
        for key, sentence in sentences.items():
            gaps = {gap for _, gap, _, _ in Formatter().parse(sentence) if gap}
            assert set(re.findall(r"\{(\w+)\}", known[key])) == gaps, key
    assert {"memory is full", "ends", "no number"} <= set(forms("said"))


def seen_alarms() -> list:
    rising = [point | {"reward/a": -0.1 * i + 0.01 * (i % 2)} for i, point in enumerate(points(60, 0, reward_mean=0.02))]
    for point in rising[50:]:
        point["reward_mean"] = 0.1
    notices = Notices()
    told = [notice for i in range(1, 11) for notice in notices.look({"iteration": i} | dict.fromkeys(SENTENCES, 0.2))]
    by_heart = points(40, 0, reward_mean=0.02)
    for point in by_heart[4::5]:
        point |= {"held_out_reward": -point["iteration"], "held_out_gain": -point["iteration"], "held_out_error": 0.1}
    series = (rising, points(40, 0, picture_brightness=0.01), by_heart)
    look = Changed("burnt", 0.1, 0.5)
    told += [Alarm(each.alarm, each.text, each.values) for each in (look, MovedAway("FID", 10.0, 12.0))]
    return told + [alarm for each in series for _, alarm in alarms_of(each)]
