"""The whole way in a real ComfyUI: prompts, rollout, reward, train step, loop, LoRA, stock sampler."""
from __future__ import annotations

import json

import torch
from posttrain.tests.host.spine_graph import MODEL, TRAINED, latents, same, sampled, spine, weights


def done(result):
    assert result.event == "success", result.text
    return result


def test_the_exported_lora_in_the_stock_loader_gives_the_policys_images(host):
    graph = spine("export", 2, **{"5.learning_rate": 0.02})
    graph["20"] = {"class_type": "PTApplyPolicy", "inputs": {"policy": TRAINED, "strength": 1.0}}
    sampled(graph, ["20", 0], "applied", 30)
    sampled(graph, MODEL, "base", 40)
    done(host.run(graph))
    loader = {"1": graph["1"], "2": {"class_type": "LoraLoaderModelOnly", "inputs": {
        "model": MODEL, "lora_name": "tests/export.safetensors", "strength_model": 1.0}}}
    sampled(loader, ["2", 0], "loaded", 30)
    sampled(loader, MODEL, "unloaded", 40)
    done(host.run(loader))
    torch.testing.assert_close(latents(host, "loaded"), latents(host, "applied"), rtol=0, atol=1e-4)
    assert torch.equal(latents(host, "unloaded"), latents(host, "base")), "the user's model is as it was"
    assert (latents(host, "loaded") - latents(host, "base")).abs().max() > 1e-2


def test_a_stopped_and_resumed_run_is_the_run_that_never_stopped(host):
    done(host.run(spine("straight", 4)))
    done(host.run(spine("resumed", 2)))
    done(host.run(spine("resumed", 4)))
    assert same(weights(host, "straight"), weights(host, "resumed"))


def test_the_host_may_unload_the_model_in_every_iteration(host):
    graph = spine("unloaded", 3)
    graph["50"] = {"class_type": "LabUnload", "inputs": {"images": ["7", 1]}}
    graph["11"]["inputs"]["images"] = ["50", 0]
    done(host.run(graph))
    done(host.run(spine("stayed", 3)))
    assert same(weights(host, "unloaded"), weights(host, "stayed"))


def test_a_lora_is_saved_inside_the_loop_at_every_iteration(host):
    graph = spine("inside", 3)
    graph["50"] = {"class_type": "PTSaveLora", "inputs": {"policy": ["10", 0], "file_name": "tests/inside at {step}"}}
    done(host.run(graph))
    saved = [weights(host, f"inside at {step}") for step in (1, 2, 3)]
    assert not same(saved[0], saved[1]) and not same(saved[1], saved[2])
    assert same(saved[2], weights(host, "inside"))


def test_queueing_again_does_nothing_and_says_so(host):
    done(host.run(spine("again", 1)))
    first = weights(host, "again")
    result = done(host.run(spine("again", 1, **{"12.file_name": "tests/again2"})))
    lines = (host.base / "output" / "posttrain" / "spine again" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1 and same(first, weights(host, "again2"))
    texts = [t for shown in result.outputs.values() for t in shown.get("text", [])]
    assert any("nothing" in t.lower() or "finished" in t.lower() or "already" in t.lower() for t in texts), texts


def test_the_run_folder_tells_all(host):
    done(host.run(spine("folder", 2)))
    folder = host.base / "output" / "posttrain" / "spine folder"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    for name in ("reward_mean", "reward_std", "kl", "grad_norm", "clip_fraction", "zero_spread_groups"):
        assert name in lines[0], name
    assert list((folder / "samples").glob("*.webp")) and list((folder / "checkpoints").glob("*.safetensors"))


def test_cancel_keeps_the_policy_and_leaves_the_model_alone(host):
    before = sampled({"1": spine("x")["1"]}, MODEL, "before_cancel", 30)
    done(host.run(before))
    result = host.run(spine("cancelled", 50), cancel_when=lambda m: m["type"] == "posttrain.iteration"
                      and m["data"]["iteration"] == 2)
    assert result.event == "interrupted"
    assert list((host.base / "output" / "posttrain" / "spine cancelled" / "checkpoints").glob("*.safetensors"))
    after = sampled({"1": spine("x")["1"]}, MODEL, "after_cancel", 30)
    done(host.run(after))
    assert torch.equal(latents(host, "before_cancel"), latents(host, "after_cancel"))
    done(host.run(spine("cancelled", 3)))
