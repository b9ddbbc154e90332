"""What the server says: read from the sources with its gaps, and all of it in Chinese."""

from __future__ import annotations

import ast
import re

from posttrain.nodes.privacy import without_places
from posttrain.tools import sentences
from posttrain.tools.host import ROOT
from posttrain.trainers.recipes import table
from posttrain.trainers.recipes.words import name_of

# what a raise hands on as it came, such as a row's, a file's or another machine's error, whose words are read where it is made
HANDED_ON = {"why", "str(error)", "shown(str(error), 300)", "text", "errno.ENOSPC", "errno.ENOENT", "OTHER_SIZE",
             "f'{error}\\n{session.summary}'", "self._refusal(route, error)", "OSError(error)"}  # fmt: skip
COMMAND_LINE = "nodes/headless.py"  # which no page shows
# what nodes show as words, and where these are read
SHOWN = {
    "nodes/demo.py": {"[done]": "nodes/demo.py"},
    "nodes/edits.py": {"[report]": "trainers/data/edits.py"},
    "nodes/feedback/data.py": {"[data.summary()]": "trainers/data/rows.py", "[found.summary()]": "trainers/data/encoded.py"},
    "nodes/feedback/preferences.py": {"[text, *failed(found)]": "nodes/feedback/preferences.py"},
    "nodes/feedback/votes.py": {"[text]": "nodes/feedback/votes.py"},
    "nodes/loop/estimate.py": {"[text]": "trainers/engine/dry_run.py"},
    "nodes/loop/wired.py": {"[session.summary]": "trainers/run/session.py"},
    "nodes/model/export.py": {"[f'Saved as {shown}', *words]": "nodes/model/export.py"},
    "nodes/model/policy.py": {
        "[found.words, f'The reference: {reference}', *shown(policy)]": "trainers/policy/from_lora.py",
        "shown(policy)": "nodes/model/policy.py",
    },
    "nodes/prompts.py": {
        "['\\n'.join([f'{len(prompts):,} prompts found', *notes])]": "nodes/prompts.py",
        "[report]": "trainers/data/prompt_files.py",
    },
    "nodes/rewards/composite.py": {
        "[notes]": "rewards/composite/ensemble.py",
        "[describe(calibration)]": "rewards/composite/calibrate.py",
    },
    "nodes/rewards/score.py": {"[headline(scores), text, describe(as_reward(reward).info)]": "rewards/base/report.py"},
    "nodes/rewards/step_reward.py": {"[reward.summary()]": "trainers/judges/step_reward.py"},
    "nodes/rewards/taste.py": {"[taste.summary()]": "trainers/data/verdicts.py"},
    "nodes/rewards/tools.py": {
        "[headline(scores) + left_out(bad), text, describe(as_reward(reward).info)]": "rewards/base/report.py",
        "parts": "rewards/person/agreement.py",
    },
    "nodes/sampling/audit.py": {"[text]": "trainers/run/audit.py"},
    "nodes/sampling/computers.py": {"computers.ready()": "trainers/servers/computers.py"},
    "nodes/sampling/evaluate.py": {"[result.summary()]": "trainers/sampling/evaluation.py"},
}


def read(source: str, **options) -> list[str]:
    return list(sentences.said(ast.parse(source), **options))


def test_what_is_raised_is_read_with_its_gaps_numbered():
    source = """
raise ValueError("a plain one")
raise LookupError(f"run: {name!r} has {count:,} of " f"{MOST}")
raise RuntimeError("one " + why + f" of {n}") from error
raise KeyError(name)
raise error
raise OSError(errno.ENOSPC, "no sentence of ours")
def f():
    return "not said"
"""
    assert read(source) == ["a plain one", "run: {1} has {2} of {3}", "one {1} of {2}"]
    answers = 'def f():\n    return 5, f"kept {x}"\nT = {"a": "as a word"}\ndef g():\n    return ""'
    assert sorted(read(answers, answers=True)) == ["as a word", "kept {1}"]
    assert read(answers) == []


def test_each_way_out_is_a_sentence_and_each_line_too():
    assert read("raise E(f'{n} image{\"s\" if n > 1 else \"\"} left' + (f'; {why}' if why else '') + '\\nDone')") == [
        "{1} images left; {2}", "Done", "{1} images left", "Done", "{1} image left; {2}", "Done", "{1} image left", "Done"
    ]  # fmt: skip
    assert read("raise E(f'{x or \"nothing\"} is there')") == ["{1} is there", "nothing is there"]
    assert read("raise E(f'{rows.max() + 1} rows')") == ["{1} rows"]


def test_words_of_the_module_are_a_part_of_its_sentences_and_names_are_gaps():
    assert read("A, B = 1, 2\nREMEDY = 'do ' 'that'\nNAME = 'one'\nraise E(f'{NAME}: {REMEDY}; {B}')") == ["{1}: do that; {2}"]


def test_what_is_told_to_a_runs_user_is_read():
    source = """
self.message(f"it {x}", "warning")
self.message("put together on the page", values={"what": "x"})
say_once("what", f"once {x}")
"""
    assert read(source) == ["it {1}", "once {1}"]


def test_what_is_said_elsewhere_is_read():
    source = '''
def words(x):
    """About it."""
    return f"all {x} of it" if x else named("one")
class Lost(E):
    """Says more."""
    def __init__(self): super().__init__("it is lost")
TABLE = {"a": f"as {x} words", "b": "filled {later:.3g} on"}
def other(): return "not said"
'''
    assert read(source, elsewhere=("words", "Lost", "TABLE")) == [
        "all {1} of it",
        "it is lost",
        "as {1} words",
        "filled {1} on",
    ]


def test_no_raise_has_its_words_from_where_nobody_reads():
    """Whoever raises what a function, class or name of elsewhere says is known to sentences.ELSEWHERE."""
    known = {name for names in sentences.ELSEWHERE.values() for name in names}
    unread, seen = [], 0
    for name in {path.relative_to(ROOT).as_posix() for folder in sentences.FOLDERS for path in (ROOT / folder).rglob("*.py")}:
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                seen += 1
                given = [ast.unparse(each) for each in node.exc.args[:1]]
                found = list(sentences.said(ast.Module([*_constants(tree), node], [])))
                whole = ast.unparse(node.exc)
                if given and not found and not known & set(re.findall(r"\w+", whole)) and not HANDED_ON & {*given, whole}:
                    unread.append(f"{name}:{node.lineno} {whole[:100]}")
    assert seen > 400 and [each for each in unread if not each.startswith(COMMAND_LINE)] == []


def _constants(tree: ast.Module) -> list[ast.stmt]:
    return [node for node in tree.body if isinstance(node, ast.Assign)]


def test_every_name_of_elsewhere_says_something():
    there = sentences.sentences()
    assert [name for name in [*sentences.ELSEWHERE, *sentences.ANSWERS] if name not in there.values()] == []
    for name, names in sentences.ELSEWHERE.items():
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        assert [each for each in names if not set(sentences.said(tree, elsewhere=(each,))) - set(sentences.said(tree))] == []


def test_what_nodes_show_as_words_is_read():
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (shown := _of_key(_of_key(node, "ui"), "text")) is not None:
                found.setdefault(path.relative_to(ROOT).as_posix(), set()).add(ast.unparse(shown))
    assert found == {name: set(words) for name, words in SHOWN.items()}
    assert {said for words in SHOWN.values() for said in words.values()} <= set(sentences.ELSEWHERE)


def _of_key(node: ast.AST | None, key: str) -> ast.expr | None:
    """What a dict that is written out has under a key."""
    entries = zip(node.keys, node.values) if isinstance(node, ast.Dict) else ()
    return next((value for name, value in entries if isinstance(name, ast.Constant) and name.value == key), None)


def test_every_head_and_number_of_a_table_has_its_chinese():
    words = (ROOT / "web" / "chinese.js").read_text(encoding="utf-8")
    said = re.findall(r'(?:"([\w ]+)"|(\w+)): "', words[words.index("  heads: {") : words.index("  looks: {")])
    heads = {quoted or plain for quoted, plain in said}
    asked = {name_of(part, field) for method in table.methods() for family in ("SD1.5", "SDXL", "SD3.5", "Flux")
             for part in table.PARTS for field in table.row(method, family).numbers.get(part, ())}  # fmt: skip
    assert len(asked) > 20 and asked - {"alpha"} | {"image", "score", "prompt", "number", "recommended", "source"} <= heads


def test_every_sentence_has_its_chinese():
    """With the same gaps, and in the file of the room that says it."""
    assert sentences.report(every=True) == ["Every sentence has its Chinese."]
    assert sentences.wrong(sentences.chinese(), sentences.sentences()) == []
    assert len(sentences.sentences()) > 600


def test_no_sentence_is_changed_on_its_way_to_the_page():
    """Of a full path only its last part is shown there; one that stands in the sentence itself would make it another."""
    assert [words for words in sentences.sentences() if without_places(words) != words] == []


def test_no_sentence_is_in_two_files_and_no_file_is_left_out():
    texts = sentences.chinese()
    assert sum(map(len, texts.values())) == len({words for room in texts.values() for words in room})
    files = {path.relative_to(sentences.PLACE).with_suffix("").as_posix() for path in sentences.PLACE.rglob("*.json")}
    listed = re.search(r"ROOMS = (\[.*?\]);", (ROOT / "web" / "said.js").read_text(encoding="utf-8"))
    assert listed and files == set(sentences.ROOMS) == set(ast.literal_eval(listed[1]))


def test_what_is_wrong_is_found():
    there = {
        "there is no run '{1}'": "nodes/x.py",
        "it is full": "trainers/data/x.py",
        "a {1} b {2}": "nodes/x.py",
        "{1} and {2}": "nodes/x.py",
    }
    known = {
        "nodes": {
            "there is no run '{1}'": "没有名为“{2}”的训练",
            "it is full": "it is full",
            "gone": "不见了",
            "a {1} b {2}": "只有{2}",
            "{1} and {2}": "{2}和{1}",
        }
    }
    assert sentences.wrong(known, there) == [
        "nothing says: gone",
        "not in nodes: it is full",
        "other gaps: there is no run '{1}'",
        "other gaps: a {1} b {2}",
        "not Chinese: it is full",
    ]


def test_what_is_lacking_is_listed(monkeypatch):
    texts = sentences.chinese()
    del texts["rewards"]["Connect at least one reward."], texts["trainers/data"]["it is a tie"]
    monkeypatch.setattr(sentences, "chinese", lambda: texts)
    first, *listed = sentences.report(every=True)
    assert f"2 of {len(sentences.sentences())}: rewards 1, trainers/data 1." in first
    assert listed == ["  trainers/data/files.py: it is a tie", "  rewards/composite/combine.py: Connect at least one reward."]
    assert sentences.report() == [first, "  --errors lists them."]
