"""The sentences that the pack's server says in English, and which of them web/chinese_errors/ has in Chinese.

A sentence is a line, read from the source with its gaps numbered: f"there is no run '{run}'" is "there is no run '{1}'".
Sentences are what is raised or told to a run's user, what the modules of ANSWERS return or hold in a table, and all that is said in ELSEWHERE.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .host import ROOT

PLACE = ROOT / "web" / "chinese_errors"
FOLDERS = ("nodes", "trainers", "rewards", "toy")
# each is a file of PLACE, with the sentences of that folder of the server but for those of the rooms within it
ROOMS = ("nodes", "rewards", "toy", "trainers", "trainers/data", "trainers/policy", "trainers/run", "trainers/servers")
ANSWERS = ("trainers/run/summary.py", "trainers/run/notices.py", "trainers/run/held_out.py")
# functions, classes and tables whose words are raised by others, or fill the gaps of what is raised
ELSEWHERE = {
    "nodes/access.py": ("AddressNotAllowed", "_unreadable"),
    "nodes/demo.py": ("run",),
    "nodes/feedback/data.py": ("image",),
    "nodes/feedback/preferences.py": ("run", "failed"),
    "nodes/feedback/votes.py": ("run",),
    "nodes/guard.py": ("HOSTS", "NUMBERS"),
    "nodes/loop/runner.py": ("_failed",),
    "nodes/model/export.py": ("told", "chosen"),
    "nodes/model/policy.py": ("begun", "shown", "WITHOUT", "AS_IT_CAME"),
    "nodes/prompts.py": ("run",),
    "nodes/rewards/goal.py": ("ASKED", "what_is_missing"),
    "nodes/sampling/audit.py": ("run",),
    "rewards/base/distances.py": ("words",),
    "rewards/base/report.py": ("COUNTED", "describe", "headline"),
    "rewards/base/words.py": ("from_group",),
    "rewards/composite/calibrate.py": ("describe",),
    "rewards/composite/ensemble.py": ("notes",),
    "rewards/folders.py": ("other_images",),
    "rewards/images.py": ("UnreadableImage", "_opened"),
    "rewards/learned/clip_rewards.py": ("DESCRIPTIONS",),
    "rewards/person/agreement.py": ("report",),
    "rewards/person/taste.py": ("text",),
    "rewards/rules/objects.py": ("_no_colours",),
    "rewards/vlm/server.py": ("_post",),
    "trainers/data/again.py": ("text",),
    "trainers/data/edits.py": ("_report",),
    "trainers/data/encoded.py": ("summary",),
    "trainers/data/files.py": ("_table_rows",),
    "trainers/data/folders.py": ("_unread",),
    "trainers/data/prompt_files.py": ("_report",),
    "trainers/data/rows.py": ("LEFT_OUT", "skipped_text", "_counts"),
    "trainers/data/verdicts.py": ("summary",),
    "trainers/data/wildcards.py": ("every_reading",),
    "trainers/engine/behind.py": ("behind_words",),
    "trainers/engine/cost.py": ("words",),
    "trainers/engine/dry_run.py": ("words", "_time"),
    "trainers/engine/limits.py": ("ANY", "FROM_0", "ABOVE_0", "FROM_1", "FROM_2", "FROM_0_TO_1", "BELOW_1", "INSIDE_0_1"),
    "trainers/feedback/fits.py": ("WORDS",),
    "trainers/judges/step_reward.py": ("summary",),
    "trainers/noise/transitions.py": ("check_noise", "log_prob", "gaussian_kl"),
    "trainers/policy/bank.py": ("_nothing_found",),
    "trainers/policy/from_lora.py": ("_refused", "words"),
    "trainers/policy/kernels.py": ("in_words_of_kernels",),
    "trainers/policy/latents.py": ("from_latent_socket",),
    "trainers/policy/loading.py": ("too_large",),
    "trainers/policy/pictures.py": ("OTHERS",),
    "trainers/policy/room.py": ("FULL", "words"),
    "trainers/policy/together.py": ("_not_plain",),
    "trainers/recipes/families.py": ("family_of",),
    "trainers/run/audit.py": ("words", "verdict", "fidelity", "_obeyed"),
    "trainers/run/folder.py": ("SettingsChanged", "check_name"),
    "trainers/run/session.py": ("advance", "_summarise"),
    "trainers/run/stopping.py": ("REASONS",),
    "trainers/run/trackers.py": ("missing",),
    "trainers/sampling/evaluation.py": ("HACKED", "lines", "summary"),
    "trainers/sampling/need.py": ("words",),
    "trainers/servers/client.py": ("refusal",),
    "trainers/servers/computers.py": ("_look_at",),
    "trainers/servers/drawing.py": ("_read",),
    "trainers/servers/share.py": ("words", "_take_from_the_slow"),
}
GAP, HAN, LETTER = re.compile(r"\{\d+\}"), re.compile(r"[\u4e00-\u9fff]"), re.compile("[a-z]")
FIELD = re.compile(r"\{\w+(:[^{}]*)?\}")  # of a text that is filled later, by str.format
HOLE = "\0"
Constants = dict[str, str]


def sentences() -> dict[str, str]:
    """sentence -> the file that says it."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for words in said(tree, answers=name in ANSWERS, elsewhere=ELSEWHERE.get(name, ())):
                if LETTER.search(GAP.sub("", words)):
                    found.setdefault(words, name)
    return found


def said(tree: ast.Module, answers: bool = False, elsewhere: tuple[str, ...] = ()) -> Iterator[str]:
    """The sentences of a module. answers: what is returned, or a table's value, is one, too; elsewhere: see ELSEWHERE."""
    constants = _constants(tree)
    for node in ast.walk(tree):
        for each in _told(node) + (_answered(node) if answers else []):
            for words in _wordings(each, constants):
                yield from _lines(words)
        if _name(node) in elsewhere:
            for words in _inside(node, constants):
                yield from (line for line in _lines(words) if " " in GAP.sub("", line).strip())


def _lines(words: str) -> Iterator[str]:
    for line in words.split("\n"):
        if line.replace(HOLE, "").strip():
            numbers = itertools.count(1)
            yield re.sub(HOLE, lambda _, numbers=numbers: f"{{{next(numbers)}}}", line)


def _name(node: ast.AST) -> str:
    """What a definition or a table is called."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target if isinstance(node, ast.AnnAssign) else None
    return target.id if isinstance(target, ast.Name) else ""


def _inside(node: ast.AST, constants: Constants) -> Iterator[str]:
    """Every text in a definition or a table but those that say what it is."""
    for child in ast.iter_child_nodes(node):
        texts = _wordings(child, constants) if isinstance(child, (ast.Constant, ast.JoinedStr, ast.BinOp)) else []
        if any(words.strip(HOLE) for words in texts):
            yield from (FIELD.sub(HOLE, words) for words in texts)
        elif not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield from _inside(child, constants)


def _constants(tree: ast.Module) -> Constants:
    """The module's own words by name, which are a part of what says them; a name such as "ComfyUI" is none."""
    found = {_name(node): _wordings(node.value, {}) for node in tree.body if isinstance(node, ast.Assign)}
    return {name: words[0] for name, words in found.items() if name and " " in words[0] and HOLE not in words[0]}


def _told(node: ast.AST) -> list[ast.expr]:
    """What is raised, told to the user of a run, or says what a reward is; with values, a message is put together on the page
    (web/chinese.js)."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return node.exc.args[:1]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "RewardInfo":
        named = [keyword.value for keyword in node.keywords if keyword.arg == "description"]
        return named or node.args[-1:]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "message":
        return [] if "values" in {keyword.arg for keyword in node.keywords} else node.args[:1]
    return (
        node.args[1:] if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say_once" else []
    )


def _answered(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Dict):
        return node.values
    value = node.value if isinstance(node, ast.Return) else None
    return list(value.elts) if isinstance(value, ast.Tuple) else [value] if value is not None else []


def _wordings(node: ast.AST, constants: Constants) -> list[str]:
    """What an expression can say: one text, or one for each way out of an "a if b else c" or "a or b"."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return _joined(node.values, constants)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _joined([node.left, node.right], constants)
    if isinstance(node, ast.FormattedValue) and node.conversion == -1 and node.format_spec is None:
        return [HOLE if set(words) == {HOLE} else words for words in _wordings(node.value, constants)]
    if isinstance(node, ast.Name):
        return [constants.get(node.id, HOLE)]
    ways = [node.body, node.orelse] if isinstance(node, ast.IfExp) else node.values if isinstance(node, ast.BoolOp) else []
    return list(dict.fromkeys(words for way in ways for words in _wordings(way, constants))) or [HOLE]


def _joined(parts: list[ast.expr], constants: Constants) -> list[str]:
    return ["".join(words) for words in itertools.product(*(_wordings(part, constants) for part in parts))]


def room_of(name: str) -> str:
    """The room that a file of the server is in."""
    return max((room for room in ROOMS if name.startswith(f"{room}/")), key=len)


def chinese(place: Path = PLACE) -> dict[str, dict[str, str]]:
    """What the page knows: room -> sentence -> Chinese."""
    return {room: json.loads((place / f"{room}.json").read_text(encoding="utf-8")) for room in ROOMS}


def wrong(known: dict[str, dict[str, str]], there: dict[str, str]) -> list[str]:
    """Sentences that nothing says any more, of another room, with other gaps, or that are not Chinese."""
    pairs = [(room, words, text) for room, texts in known.items() for words, text in texts.items()]
    return (
        [f"nothing says: {words}" for _, words, _ in pairs if words not in there]
        + [f"not in {room}: {words}" for room, words, _ in pairs if words in there and room_of(there[words]) != room]
        + [f"other gaps: {words}" for _, words, text in pairs if not _same_gaps(words, text)]
        + [f"not Chinese: {words}" for _, words, text in pairs if not HAN.search(text)]
    )


def _same_gaps(words: str, text: str) -> bool:
    return Counter(GAP.findall(words)) == Counter(GAP.findall(text))


def report(every: bool = False) -> list[str]:
    """For develop.py docs: how many have no Chinese yet, by room; every: the sentences, too."""
    there, known = sentences(), chinese()
    lacking = [(name, words) for words, name in there.items() if words not in known[room_of(name)]]
    if not lacking:
        return ["Every sentence has its Chinese."]
    rooms = Counter(room_of(name) for name, _ in lacking)
    counts = ", ".join(f"{room} {count}" for room, count in sorted(rooms.items()))
    lines = [f"Sentences of the server without Chinese (web/chinese_errors/): {len(lacking)} of {len(there)}: {counts}."]
    return lines + ([f"  {name}: {words}" for name, words in lacking] if every else ["  --errors lists them."])
