"""The body of a loop and the settings of a run, found in the prompt alone."""
from __future__ import annotations

import json
import sys
import types

import pytest
from posttrain.nodes.loop.body import Body, find_body, fresh, has_end, nodes_before
from posttrain.nodes.loop.runner import new_executor
from posttrain.nodes.loop.settings import plain, settings_of


def node(class_type, /, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def graph():
    return {
        "1": node("Load", name="base", seed=3),
        "2": node("PTLoopStart", policy=["1", 0], run_name="x", iterations=5, when_run_exists="continue", save_every=2),
        "3": node("Rollout", policy=["2", 1], iteration=["2", 2], sampler=["8", 1], steps=10),
        "4": node("Train", policy=["2", 1], rollout=["3", 0], rate=0.5),
        "5": node("PTLoopEnd", loop=["2", 0], policy=["4", 0], images=["6", 0], samples_every=4),
        "6": node("Decode", latents=["3", 1], tiles=2),
        "7": node("Save", images=["6", 0]),
        "8": node("Sampler", kind="euler"),
        "9": node("Show", policy=["5", 0]),
        "10": node("Forgotten", images=["6", 0])}


def find(prompt, end="5"):
    return find_body(prompt, end, lambda kind: kind in ("Save", "Show", "PTLoopEnd"))


def settings(prompt, end="5"):
    return settings_of(prompt, end, ("loop", "policy"))


def test_body_is_what_loop_end_and_the_shown_nodes_need():
    body = find(graph())
    assert set(body.nodes) == {"3", "4", "6", "7"}  # not "10", which nobody needs
    assert (body.start, body.shown, body.outside) == ("2", ("7",), (("8", 1),))
    assert body.results == {"policy": ("4", 0), "images": ("6", 0)}


def test_body_survives_json():
    body = find(graph())
    assert Body.from_json(body.to_json()) == body


def test_value_for_loop_end_from_before_the_loop_is_outside():
    prompt = graph()
    prompt["5"]["inputs"]["images"] = ["1", 2]
    assert ("1", 2) in find(prompt).outside


def test_copies_hold_neither_old_answers_nor_shared_inputs():
    original = {"class_type": "A", "inputs": {"x": 1}, "is_changed": [7], "_meta": {"title": "t"}, "_later": 1}
    copy = fresh(original)
    assert copy == {"class_type": "A", "inputs": {"x": 1}, "_meta": {"title": "t"}, "_later": 1}
    copy["inputs"]["x"] = 2
    assert original["inputs"]["x"] == 1


@pytest.mark.parametrize("spoil, words", [
    (lambda p: p["5"]["inputs"].update(policy=["2", 1]), "comes straight from Loop Start"),
    (lambda p: p["5"]["inputs"].update(policy=["1", 0]), "does not depend on Loop Start"),
    (lambda p: p["5"]["inputs"].update(loop=["1", 0]), "loop: connect"),
    (lambda p: p["5"]["inputs"].update(loop=["2", 1]), "loop: connect"),
    (lambda p: p["9"]["inputs"].update(other=["4", 0]), "'other' is wired to Train"),
    (lambda p: p["9"]["inputs"].update(other=["2", 2]), "'other' is wired to PTLoopStart"),
])
def test_wires_that_cannot_work_are_named(spoil, words):
    prompt = graph()
    spoil(prompt)
    with pytest.raises(ValueError, match=words):
        find(prompt)


def test_loop_start_without_an_end():
    prompt = graph()
    assert has_end(prompt, "2")
    del prompt["5"]
    assert not has_end(prompt, "2")


def renumbered(prompt):
    text = json.dumps(prompt)
    for i in sorted(map(int, prompt), reverse=True):
        text = text.replace(f'"{i}"', f'"{90 - i}:7"')
    return json.loads(text)


def test_settings_do_not_depend_on_ids_titles_or_what_only_shows():
    prompt, other = graph(), renumbered(graph())
    assert settings(prompt) == settings(other, "85:7")
    prompt["4"]["_meta"] = {"title": "My step"}
    del prompt["7"], prompt["10"], prompt["9"]
    prompt["5"]["inputs"] |= {"samples_every": 99, "images": ["3", 2]}
    prompt["2"]["inputs"] |= {"run_name": "y", "iterations": 6, "when_run_exists": "start over", "save_every": 1}
    assert settings(prompt) == settings(graph())


@pytest.mark.parametrize("spoil, name", [
    (lambda p: p["4"]["inputs"].update(rate=0.6), "Train.rate"),
    (lambda p: p["1"]["inputs"].update(name="other"), "Load.name"),
    (lambda p: p["8"]["inputs"].update(kind="heun"), "Sampler.kind"),
    (lambda p: p["3"]["inputs"].update(sampler=["8", 0]), "Rollout.sampler"),
    (lambda p: p["3"].update(class_type="OtherRollout"), "OtherRollout.steps"),
])
def test_settings_hold_all_that_shapes_the_policy(spoil, name):
    prompt, before = graph(), settings(graph())
    spoil(prompt)
    after = settings(prompt)
    assert name in {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_nodes_of_one_class_are_told_apart():
    prompt = graph()
    prompt["3"]["inputs"]["second"] = ["11", 0]
    prompt["11"] = node("Sampler", kind="heun")
    found = settings(prompt)
    assert {found["Sampler.kind"], found["Sampler #2.kind"]} == {"euler", "heun"}
    assert plain({"Sampler": "Sampling Settings"})("Sampler #2.kind") == "Sampling Settings #2, kind"


def test_iterations_of_an_earlier_loop_are_a_setting():
    prompt = graph()
    prompt["22"] = node("PTLoopStart", policy=["5", 0], run_name="z", iterations=9, save_every=3)
    prompt["24"] = node("Train", policy=["22", 1], rate=0.1)
    prompt["25"] = node("PTLoopEnd", loop=["22", 0], policy=["24", 0])
    values = settings(prompt, "25")
    assert sorted(v for k, v in values.items() if k.endswith(".iterations")) == [5]
    # but not whether it went on or started over, nor when it saved
    prompt["2"]["inputs"] |= {"when_run_exists": "start over", "save_every": 7}
    prompt["5"]["inputs"]["samples_every"] = 9
    assert settings(prompt, "25") == values
    prompt["2"]["inputs"]["run_name"] = "another"
    assert settings(prompt, "25") != values


def test_how_a_person_is_asked_can_be_changed_in_the_middle():
    prompt = graph()
    prompt["4"]["inputs"]["reward"] = ["12", 0]
    prompt["12"] = node("PTRewardHuman", mode="thumbs", votes_name="a", wait_minutes=0)
    before = settings(prompt)
    prompt["12"]["inputs"] |= {"votes_name": "b", "wait_minutes": 5}
    assert settings(prompt) == before
    prompt["12"]["inputs"]["mode"] = "best and worst"
    assert settings(prompt) != before


class Executor0364:
    def __init__(self, server, cache_type=False, cache_size=None):
        self.limits = {}


class Executor0375:
    def __init__(self, server, cache_type=False, cache_args=None):
        self.limits = {"ram": cache_args["ram"], "lru": cache_args.get("lru", 0)}


class Executor038(Executor0375):
    def __init__(self, server, cache_type=False, cache_args=None):
        super().__init__(server, cache_type, cache_args)
        self.limits["ram_inactive"] = cache_args["ram_inactive"]


@pytest.mark.parametrize("executor", [Executor0364, Executor0375, Executor038])
def test_executor_of_each_host_version_can_be_made(monkeypatch, executor):
    """Only one of these hosts can be installed here; the others' constructors are stated as their sources have them."""
    host = types.SimpleNamespace(PromptExecutor=executor, CacheType=types.SimpleNamespace(CLASSIC=0))
    monkeypatch.setitem(sys.modules, "execution", host)
    assert set(new_executor(None).limits.values()) <= {0}


def test_the_nodes_before_some_are_all_that_they_hang_on_each_once():
    graph = {
        "1": {"class_type": "A", "inputs": {"size": 2}},
        "2": {"class_type": "B", "inputs": {"a": ["1", 0], "words": ["1", "0"]}},
        "3": {"class_type": "C", "inputs": {"b": ["2", 1], "a": ["1", 0]}, "_meta": {"title": "mine"}},
        "4": {"class_type": "D", "inputs": {"c": ["3", 0]}},
    }
    found = nodes_before(graph.__getitem__, ["3"])
    assert found == {"1": graph["1"], "2": graph["2"], "3": {"class_type": "C", "inputs": graph["3"]["inputs"]}}
    assert nodes_before(graph.__getitem__, []) == {}
