"""Writes the files of a new reward or trainer: it works at once and passes the suite; the formula is yours to write.

python develop.py new reward "Edge Density"
python develop.py new trainer "My Method"
"""

from __future__ import annotations

import argparse
import ast
import keyword
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from string import Template

from .environment import ROOT

FILES = Path(__file__).with_name("new_files")
NODES, METHODS, WIDTH = ROOT / "nodes" / "__init__.py", ROOT / "trainers" / "methods.py", 124
# what is written where; below nodes/ a module of that folder, in web/docs/ the node's page
REWARD = {
    "reward.py": "rewards/rules/$name.py",
    "reward_node.py": "nodes/rewards/$name.py",
    "reward_test.py": "tests/unit/rewards/rules/test_$name.py",
    "reward_page.md": "web/docs/PTReward$Camel.md",
}
TRAINER = {
    "trainer_loss.py": "trainers/losses/$name.py",
    "trainer.py": "trainers/$name.py",
    "trainer_node.py": "nodes/trainers/$name.py",
    "trainer_loss_test.py": "tests/unit/trainers/losses/test_$name.py",
    "trainer_test.py": "tests/unit/trainers/test_$name.py",
    "trainer_page.md": "web/docs/PT$Camel.md",
}
LEFT = {
    "reward": "its row in docs/rewards.md",
    "trainer": "its row in trainers/README.md, and its curve in benchmarks/proofs/claims.py",
}


class Refused(Exception):
    """The name cannot be used; nothing was written."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="develop.py new", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("reward", "trainer"))
    parser.add_argument("name", help='what people call it, such as "Edge Density"')
    chosen = parser.parse_args(arguments)
    try:
        written = write(chosen.kind, chosen.name)
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    tidy([name for name in written if name.endswith(".py") and not name.endswith(("__init__.py", "methods.py"))])
    from .docs import main as refresh

    refresh()
    tests = " ".join(name for name in written if name.startswith("tests/"))
    print(
        "\n".join(
            [
                "\nWritten:",
                *(f"  {name}" for name in written),
                f"Yours to write: every TODO in them, {LEFT[chosen.kind]}, a line in CHANGELOG.md.",
                f"Try it: python develop.py test {tests} tests/unit/tools/test_make_docs.py tests/unit/test_structure.py",
            ]
        )
    )
    return 0


def write(kind: str, name: str) -> list[str]:
    """The names of the files that were written or changed. Refused where one of them exists."""
    words = words_of(name)
    table = REWARD if kind == "reward" else TRAINER
    new = {
        Template(place).substitute(words): Template((FILES / f"{file}.txt").read_text(encoding="utf-8")).substitute(words)
        for file, place in table.items()
    }
    check(words, list(new))
    for place, text in new.items():
        (ROOT / place).write_text(text, encoding="utf-8")
    NODES.write_text(with_node(NODES.read_text(encoding="utf-8"), f"{kind}s", words["name"]), encoding="utf-8")
    if kind == "trainer":
        METHODS.write_text(with_method(METHODS.read_text(encoding="utf-8"), words), encoding="utf-8")
    return [*new, "nodes/__init__.py", *(["trainers/methods.py"] if kind == "trainer" else [])]


def tidy(names: list[str]) -> None:
    """Sorts the imports, whose order depends on the name, and formats: lint finds nothing in a new file."""
    for command in (("check", "--select", "I", "--fix"), ("format",)):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", "--no-cache", *names], cwd=ROOT, check=True)


def words_of(name: str) -> dict[str, str]:
    """name: of the module; Camel: of the class; title, Title: for people."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name) if re.fullmatch(r"[A-Za-z][A-Za-z0-9 _-]*", name) else []
    if not parts:
        raise Refused(f'name: {name!r} cannot name a module; use English letters and digits, such as "Edge Density"')
    return {
        "name": "_".join(parts).lower(),
        "Camel": "".join(part[0].upper() + part[1:] for part in parts),
        "title": " ".join(parts).lower(),
        "Title": " ".join(part[0].upper() + part[1:] for part in parts),
    }


def check(words: dict[str, str], places: list[str]) -> None:
    taken = {
        item.asname or item.name
        for node in ast.walk(ast.parse(NODES.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for item in node.names
    }
    if words["name"] in taken or keyword.iskeyword(words["name"]):
        raise Refused(f"name: {words['name']} is taken; choose another one")
    for place in places:
        if (ROOT / place).exists():
            raise Refused(f"name: {place} exists already; choose another one")


def with_node(text: str, room: str, name: str) -> str:
    """nodes/__init__.py with this module of a folder imported and in MODULES."""
    (item,) = (each for each in ast.parse(text).body if isinstance(each, ast.ImportFrom) and each.module == room)
    names = sorted([*(alias.name for alias in item.names), name])
    line = f"from .{room} import {', '.join(names)}  # noqa: E402"
    if len(line) > WIDTH:
        line = "\n".join([f"from .{room} import (  # noqa: E402", *(f"    {each}," for each in names), ")"])
    lines = text.splitlines()
    lines[item.lineno - 1 : item.end_lineno] = line.splitlines()
    return re.sub(
        r"^MODULES = \((.*?)\)$",
        lambda found: modules([*re.findall(r"\w+", found[1]), name]),
        "\n".join(lines) + "\n",
        flags=re.MULTILINE | re.DOTALL,
    )


def modules(names: list[str]) -> str:
    return textwrap.fill(f"MODULES = ({', '.join(names)})", WIDTH, subsequent_indent=" " * 11)


def with_method(text: str, words: dict[str, str]) -> str:
    """trainers/methods.py with the method imported and in the table."""
    line = Template("from .$name import $Camel, train_$name").substitute(words)
    lines = text.splitlines()
    after = [number for number, each in enumerate(lines) if each.startswith("from .") and key(each) < key(line)]
    first = next(number for number, each in enumerate(lines) if each.startswith("from ."))
    lines.insert(after[-1] + 1 if after else first, line)
    end = lines.index("}", lines.index("METHODS: dict[type, Method] = {"))
    lines.insert(end, Template("    $Camel: Method(train_$name, cost=lambda s, w: w.noised(s.levels)),").substitute(words))
    return "\n".join(lines) + "\n"


def key(line: str) -> str:
    return line.split()[1].lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
