"""Stop When: rules that end a training before its iterations are done."""

from __future__ import annotations

from ..sockets import MENU, STOP
from ..widgets import CHOICE, filled


class PTStopWhen:
    DESCRIPTION = (
        "Ends a training early: when it has gone too far from your model, when nothing improves any more, when time is up. "
        "Connect it to Loop Start or Train; several are put together by 'others', and the first that applies ends the run. "
        "What was learned is kept, and why it ended is said on the page, in the run's folder and in the LoRA."
    )
    CATEGORY, FUNCTION = f"{MENU}/7 Loop", "run"
    RETURN_TYPES, RETURN_NAMES = (STOP,), ("stop",)
    OUTPUT_TOOLTIPS = ("For Loop Start, Train, or another Stop When.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.run.stopping import StopRule

        return {
            "required": filled(
                {
                    "when": (
                        CHOICE,
                        {
                            "tooltip": "What ends the training. All but minutes, images, alarms and held-out prompts look at "
                            "the mean of the newest 5 iterations."
                        },
                    ),
                    "value": (
                        "FLOAT",
                        {
                            "min": -1e9,
                            "max": 1e9,
                            "step": 0.001,
                            "round": 1e-6,
                            "tooltip": "The KL, the reward, the minutes or the number of images. For 'no longer rises' the "
                            "gain that counts as rising; an alarm and 'falls' need none.",
                        },
                    ),
                    "patience": (
                        "INT",
                        {
                            "min": 1,
                            "max": 100_000,
                            "tooltip": "Only for 'no longer rises': iterations without a new best.",
                        },
                    ),
                },
                StopRule,
            ),
            "optional": {
                "others": (STOP, {"tooltip": "Further rules, from another Stop When: any of them ends the training."})
            },
        }

    def run(self, when, value, patience, others=()):
        from ...trainers.run import StopRule

        return ((StopRule(when, value, patience), *others),)


NODES = {"PTStopWhen": PTStopWhen}
NAMES = {"PTStopWhen": "Stop When"}
