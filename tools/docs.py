"""Refreshes what is written by the program: settings in the help pages, the list of modules; lists what has no Chinese yet.

python develop.py docs [--errors]
"""

from __future__ import annotations

import sys

from . import chinese, chinese_pages, make_docs, make_map, sentences, template_words
from .pack import module


def main() -> None:
    make_docs.main()
    chinese_pages.main()
    make_map.main()
    nodes = module("nodes", host=True).NODE_CLASS_MAPPINGS
    lacking = chinese.missing(nodes, chinese.texts())
    lacking += [f"{name}: its help page" for name, node in nodes.items()
                if not make_docs.internal(node) and not chinese_pages.place(name).is_file()]  # fmt: skip
    lacking += template_words.lacking()
    print(
        "\n".join(
            [
                "No Chinese yet (locales/zh/nodeDefs.json, web/docs/<node>/zh.md, web/chinese_templates.json):",
                *(f"  {line}" for line in lacking),
            ]
            if lacking
            else ["Every node, help page and template has its Chinese."]
        )
    )
    print("\n".join(sentences.report(every="--errors" in sys.argv[1:])))


if __name__ == "__main__":
    main()
