"""What a run remembers of its graph, and what it was trained with where it has no word of it."""

from __future__ import annotations

from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.nodes.loop.settings import defaults_of
from posttrain.nodes.trainers.flow_grpo import PTFlowGRPO


class Lists:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"menu": (["a", "b"],), "chosen": (["a", "b"], {"default": "b"}), "model": ("MODEL",)},
            "optional": {"share": ("FLOAT", {"default": 0.5}), "text": ("STRING", {})},
            "hidden": {"id": "UNIQUE_ID"},
        }


def test_each_node_that_is_named_has_the_defaults_of_its_widgets():
    settings = {"Lists.chosen": "a", "Lists #2.menu": "b", "OfAPackThatIsGone.x": 1}
    expected = {"menu": "a", "chosen": "b", "share": 0.5}
    assert defaults_of(settings, {"Lists": Lists}) == {
        f"{name}.{key}": value for name in ("Lists", "Lists #2") for key, value in expected.items()
    }


def test_every_node_of_the_pack_can_be_asked():
    found = defaults_of({f"{name}.x": 1 for name in NODE_CLASS_MAPPINGS}, NODE_CLASS_MAPPINGS)
    assert {key.partition(".")[0] for key in found} > {"PTFlowGRPO", "PTSampling", "PTCreatePolicy"}
    widgets = PTFlowGRPO.INPUT_TYPES()
    assert found["PTFlowGRPO.learning_rate"] == widgets["required"]["learning_rate"][1]["default"]
