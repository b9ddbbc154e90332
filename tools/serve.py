"""develop.py serve: ComfyUI with the pack in it, ready to use."""
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .host import Host, HostError, free_port


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="develop.py serve", description="Opens ComfyUI with the pack in it. Arguments "
                                     "that are not listed here go to ComfyUI.")
    parser.add_argument("--base", type=Path, default=Path(os.environ["POSTTRAIN_CACHE"]) / "base",
                        help="ComfyUI's base directory: models, input, output (default: in the cache folder)")
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI use the GPU")
    chosen, rest = parser.parse_known_args(arguments)
    print("Starting ComfyUI ...", flush=True)
    with Host(chosen.base.resolve(), *rest, port=chosen.port or free_port(), cpu=not chosen.gpu) as host:
        print(f"Open {host.url}\nModels, runs and LoRAs are in {host.base}\nThe log is {host.log}\nCtrl-C stops it.",
              flush=True)
        code = host.process.wait()
    print(f"ComfyUI ended with exit code {code}.\n{host.log_tail()}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nStopped.")
    except HostError as error:
        sys.exit(f"\n{error}")
