"""The loop that the host tests run, in API format, made of the lab pack's nodes."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("lab_policy", Path(__file__).with_name("lab_pack") / "policy.py")
# by its file: the pack's __init__ needs a host to be imported
lab_policy = sys.modules["lab_policy"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lab_policy)
plain_loop, advantages_of, images_of = lab_policy.plain_loop, lab_policy.advantages_of, lab_policy.images_of


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def loop_graph(run: str, iterations: int, *, score: str = "LabScore", seconds: float = 0.0, when: str = "continue",
               save_every: int = 20, **train) -> dict:
    """Policy 1, start 2, rollout 3, score 4, advantages 5, train step 6, end 7, report 8."""
    return {
        "1": node("LabCreatePolicy", seed=0),
        "2": node("PTLoopStart", policy=["1", 0], run_name=run, iterations=iterations, when_run_exists=when,
                  save_every=save_every),
        "3": node("LabRollout", policy=["2", 1], iteration=["2", 2], seconds=seconds),
        "4": node(score, images=["3", 0]),
        "5": node("LabAdvantages", scores=["4", 0]),
        "6": node("LabTrainStep", policy=["2", 1], images=["3", 0], advantages=["5", 0],
                  **{"rate": 0.1, "fail_at": -1, "skip_from": -1} | train),
        "7": node("PTLoopEnd", loop=["2", 0], policy=["6", 0], images=["3", 0], samples_every=10),
        "8": node("LabReport", policy=["7", 0])}


def unrolled_graph(iterations: int) -> dict:
    """The same without a loop: the body's four nodes as often as it would run, one after the other."""
    graph, policy = {"1": node("LabCreatePolicy", seed=0)}, ["1", 0]
    for i in range(iterations):
        graph |= {f"3{i}": node("LabRollout", policy=policy, iteration=i, seconds=0.0),
                  f"4{i}": node("LabScore", images=[f"3{i}", 0]), f"5{i}": node("LabAdvantages", scores=[f"4{i}", 0]),
                  f"6{i}": node("LabTrainStep", policy=policy, images=[f"3{i}", 0], advantages=[f"5{i}", 0], rate=0.1,
                                fail_at=-1, skip_from=-1)}
        policy = [f"6{i}", 0]
    return graph | {"8": node("LabReport", policy=policy)}


def report(result, reporter: str = "8") -> tuple[int, float]:
    """(train steps, checksum of the weights) of the policy that came out."""
    assert result.event == "success", result.text
    shown = result.outputs[reporter]
    return shown["steps"][0], shown["checksum"][0]


def summary(result) -> str:
    return " ".join(text for shown in result.outputs.values() for text in shown.get("text", []))
