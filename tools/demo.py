"""develop.py demo: trains the small model in a real ComfyUI and shows what it learned."""
from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from .evaluate import evaluate, picture
from .host import Host, HostError
from .training import Progress, clock, load_workflow, train

WORKFLOW = "learn_to_follow_prompts_flow_grpo"
RUN = "demo"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="develop.py demo", description="Trains the small model to draw what its "
                                     "prompts say, with Flow-GRPO, in a real ComfyUI without a page.")
    parser.add_argument("--iterations", type=int, default=70, help="default: 70, a little less than the workflow, to stay "
                        "below ten minutes on a busy machine")
    parser.add_argument("--images", type=int, default=306, help="held-out images before and after (default: 306)")
    parser.add_argument("--base", type=Path, default=Path(os.environ["POSTTRAIN_CACHE"]) / "base",
                        help="ComfyUI's base directory (default: in the cache folder)")
    chosen = parser.parse_args(arguments)
    changes = {"PTLoopStart.run_name": RUN, "PTLoopStart.when_run_exists": "start over",
               "PTLoopStart.iterations": chosen.iterations}
    graph = load_workflow(WORKFLOW, changes)
    started = time.monotonic()
    print("Starting ComfyUI ...", flush=True)
    with Host(chosen.base.resolve()) as host:
        print(f"ComfyUI runs at {host.url} (the page shows this training too). Training:", flush=True)
        training = train(host, graph, Progress())
        print(f"  trained in {clock(training.seconds)}. Now prompts that it never saw, with the LoRA in LoraLoader and "
              "KSampler:", flush=True)
        evaluation = evaluate(host, training.lora, training.which_model, chosen.images)
        drawn = host.base / "output" / "posttrain" / RUN / "before_after.png"
        picture(evaluation, drawn)
    images = len(evaluation.values("after", "strict"))
    print()
    for when in ("before", "after"):
        rate, error = evaluation.rate(when)
        print(f"  {when:>6}: {rate:6.1%} ± {error:.1%} of {images} held-out images show what the prompt says")
    gain, error = evaluation.gain()
    print(f"    gain: {100 * gain:+5.1f} ± {100 * error:.1f} points (same noise before and after)\n")
    print(f"  LoRA:    {training.lora_path}\n  picture: {drawn}\n  in all:  {clock(time.monotonic() - started)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (HostError, OSError, ValueError) as error:
        sys.exit(f"\nThe demo failed: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
