"""Refreshes what is written by the program: settings in the help pages, the list of modules; lists what has no Chinese yet.

python develop.py docs [--errors]
"""

from __future__ import annotations

import sys

from . import chinese, make_docs, make_map, sentences
from .pack import module


def main() -> None:
    make_docs.main()
    make_map.main()
    lacking = chinese.missing(module("nodes", host=True).NODE_CLASS_MAPPINGS, chinese.texts())
    print(
        "\n".join(
            ["No Chinese yet (locales/zh/nodeDefs.json):", *(f"  {line}" for line in lacking)]
            if lacking
            else ["Every node has its Chinese texts."]
        )
    )
    print("\n".join(sentences.report(every="--errors" in sys.argv[1:])))


if __name__ == "__main__":
    main()
