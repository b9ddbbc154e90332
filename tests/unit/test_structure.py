"""The house rules that a machine can hold: directions of imports, sizes, what a registry refuses, what is published."""
from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from posttrain.tools.registry_rules import DEVELOPMENT, REFUSED_PYTHON, REFUSED_SCRIPT
from posttrain.tools.tree import files as tree_files
from posttrain.tools.tree import found_on_disk, listed_by_git

ROOT = Path(__file__).resolve().parent.parent.parent
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "execution", "folder_paths", "latent_preview", "node_helpers",
                "nodes", "server"}
KNOWS_HOST = ("__init__.py", "headless.py", "nodes/", "trainers/policy/", "toy/models.py", "toy/pretrain.py", "toy/data.py",
              "toy/evaluate.py", "rewards/learned/holder.py")
MAY_IMPORT = {"nodes": {"nodes", "trainers", "rewards", "toy"}, "trainers": {"trainers", "rewards"},
              "rewards": {"rewards"}, "toy": {"toy", "rewards", "trainers"}, "ray_run": {"ray_run"}, "__init__.py": {"nodes"}}
KNOWN_SITES = {"arxiv.org", "docs.comfy.org", "github.com", "huggingface.co", "www.gnu.org", "www.w3.org", "doi.org"}
A_MACHINE_PATH = re.compile(r"""(?<![\w.~}/])/(?:work|root|home|tmp|opt|Users)/\w""")


# tests/unit mirrors the tree; these files are about more than one module, and say of what
MORE_THAN_A_MODULE = {
    "nodes/loop/test_names.py": "names at a workflow's end, before its training",
    "nodes/page/test_routes.py": "every route",
    "nodes/rewards/test_reward_nodes.py": "what every node of the room must do",
    "nodes/test_menus.py": "every node's menus",
    "nodes/test_older_workflows.py": "every node that a saved workflow may hold",
    "nodes/test_plain_words.py": "every node's words",
    "nodes/test_wrong_values.py": "every widget and socket of every node",
    "rewards/base/test_other_packs.py": "rewards that other packs bring, through the whole room",
    "rewards/learned/test_code_in_folders.py": "every reader of a model folder",
    "rewards/learned/test_damaged_folders.py": "every reader of a model folder",
    "rewards/rules/test_vocabularies.py": "GenEval's words beside the detectors'",
    "rewards/test_odd_images.py": "every reward",
    "rewards/test_reward_gradients.py": "a reward's network at the end of a policy's gradient",
    "test_golden.py": "the numbers in tests/golden",
    "test_optional_packages.py": "every import of a package that ComfyUI does not bring",
    "test_short_reprs.py": "every value that a node may be handed",
    "test_structure.py": "the tree itself",
    "test_readme.py": "tables of the README",
    "tools/test_contributing.py": "the recipes of CONTRIBUTING.md",
    "trainers/data/test_hostile_files.py": "every reader of files",
    "trainers/data/test_nothing_is_copied.py": "one iteration over all that holds data",
    "trainers/engine/test_update_numbers.py": "what an update counts, and heads that learn beside the policy",
    "trainers/losses/test_reported.py": "every loss",
    "trainers/noise/test_diffusers_steps.py": "paths and transitions beside diffusers' schedulers",
    "trainers/policy/test_cancel.py": "rollout and train step, cancelled",
    "trainers/policy/test_controlnet.py": "ControlNets from the conditioning to the gradient",
    "trainers/policy/test_diffusers_layout.py": "models as the host's loaders read them from diffusers' layout",
    "trainers/policy/test_diffusers_levels.py": "the host's schedules beside diffusers'",
    "trainers/policy/test_diffusers_networks.py": "the host's networks, with the bank and without, beside diffusers'",
    "trainers/policy/test_host_nodes.py": "every node of the host that changes a model",
    "trainers/policy/test_left_in_memory.py": "every pass that never reaches its backward",
    "trainers/policy/test_lent_weights.py": "weights that the host lends, from the layer to the bank",
    "trainers/policy/test_model_untouched.py": "every way in which a use of the policy can end",
    "trainers/policy/test_never_silently_wrong.py": "every model at hand, and every way in which a step on it can end",
    "trainers/policy/test_peft_layers.py": "the bank beside peft's layers",
    "trainers/policy/test_quantised.py": "quantised weights from the bank to the export",
    "trainers/policy/test_vae_and_clip_untouched.py": "every way in which a use of VAE and CLIP can end",
    "trainers/run/test_disk.py": "all that writes into a run folder",
    "trainers/run/test_kills.py": "every line of the run's code",
    "trainers/run/test_lost_folder.py": "all that happens to a run whose folder goes away",
    "trainers/test_preference_methods.py": "what DPO, MaPO, KTO, D3PO and SPO have in common",
    "trainers/test_prompts_with_pictures.py": "every trainer, on prompts that carry pictures",
    "trainers/test_renoising_methods.py": "what NFT, AWM, DGPO and RWR have in common",
}


files = cache(tree_files)


def python_files(published: bool = True) -> list[str]:
    return [f for f in files() if f.endswith(".py") and not (published and f.startswith(DEVELOPMENT))]


def scripts() -> list[str]:
    return [f for f in files() if f.endswith(".js") and "/lib/" not in f]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(read(name), name)


def imports(name: str) -> list[tuple[int, str]]:
    """(line, absolute module) of every import; the pack's own begin with "posttrain"."""
    package = ["posttrain", *Path(name).parts[:-1]]
    found = []
    for item in ast.walk(tree(name)):
        if isinstance(item, ast.Import):
            found += [(item.lineno, alias.name) for alias in item.names]
        elif isinstance(item, ast.ImportFrom):
            base = package[: len(package) - item.level + 1] if item.level else []
            start = ".".join([*base, *([item.module] if item.module else [])])
            found += [(item.lineno, f"{start}.{alias.name}") for alias in item.names]
    return found


def part(name: str) -> str:
    return name.split("/")[0]


def test_every_file_is_listed_with_git_and_without():
    """The rules below are about something, in an unpacked archive too."""
    assert {"__init__.py", "develop.py", ".ci/run", "nodes/loop/wired.py", "web/api.js"} <= set(files()) and len(files()) > 400
    assert not [name for name in found_on_disk() if "__pycache__" in name or name.startswith(".git/")]
    by_git = listed_by_git() if (ROOT / ".git").exists() else None
    assert {name for name in by_git or () if (ROOT / name).is_file()} <= set(found_on_disk())


def test_imports_point_one_way():
    faults = []
    for name in python_files():
        for line, module in imports(name):
            if module.startswith("posttrain."):
                target = module.split(".")[1]
                if target not in MAY_IMPORT.get(part(name), set()):
                    faults.append(f"{name}:{line} imports {module}")
    assert not faults


# each room may import those that stand before it, and itself; policy/ uses a reward's half-precision helper, nothing else of ours
FLOORS = ("recipes", "noise", "losses", "policy", "sampling", "servers", "feedback", "engine", "judges")
REWARD_FLOORS = (("base",), ("learned", "composite"), ("rules", "vlm", "person"))


def test_no_arrow_runs_back_up_in_the_trainers():
    """Between rooms; data/ and run/ stand beside them: data/ may use what lies below engine/, run/ nothing."""
    allowed = {room: {*FLOORS[:number], room} for number, room in enumerate(FLOORS)}
    allowed |= {"losses": {"losses", "noise"}, "data": {"data", *FLOORS[:7]}, "run": {"run"}}
    faults = []
    for name in python_files():
        here = Path(name).parts
        if here[0] == "trainers" and len(here) > 2:
            rooms = {module.split(".")[2] for _, module in imports(name) if module.startswith("posttrain.trainers.")}
            # prompts.py is a value that every room is handed
            faults += [f"{name} imports trainers/{room}" for room in rooms - allowed[here[1]] - {"prompts"}]
    assert not faults


def test_no_arrow_runs_back_up_in_the_rewards():
    floor = {room: number for number, rooms in enumerate(REWARD_FLOORS) for room in rooms}
    faults = []
    for name in python_files():
        here = Path(name).parts
        if here[0] == "rewards" and len(here) > 2:
            rooms = {module.split(".")[2] for _, module in imports(name) if module.startswith("posttrain.rewards.")}
            faults += [f"{name} imports rewards/{room}" for room in rooms
                       if room != here[1] and floor.get(room, -1) >= floor[here[1]]]
    assert not faults


def test_a_method_is_one_file_that_no_other_one_needs():
    """Only the table imports methods; what two of them share lives in a room."""
    methods = {Path(name).stem for name in python_files() if Path(name).parts[:-1] == ("trainers",)} - {"__init__", "prompts"}
    faults = [f"{name} imports {module}" for name in python_files() if name.startswith("trainers/") and name != "trainers/methods.py"
              for _, module in imports(name) if module.startswith("posttrain.trainers.") and module.split(".")[2] in methods]
    assert not faults and len(methods) >= 20


def test_random_streams_have_names():
    """No generator is keyed by a bare number at the end; Stream's own numbers differ."""
    calls = [(name, call) for name in python_files() if name.startswith("trainers/") for call in ast.walk(tree(name))
             if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "generator"]
    assert not [f"{name}:{call.lineno}" for name, call in calls if isinstance(call.args[-1], ast.Constant)] and len(calls) > 15


def test_the_map_names_every_module():
    from posttrain.tools.make_map import refreshed

    page = read("docs/architecture.md")
    assert page == refreshed(page), "run python -m tools.make_map"
    assert not [name for name in python_files() if name.split("/")[0] in ("nodes", "trainers", "rewards", "toy", "ray_run")
                and not name.endswith("__init__.py") and f"`{Path(name).name}`" not in page]


def test_every_row_about_the_page_names_a_test_that_is_there():
    rows = re.findall(r"\| `(tests/[\w/]+\.py)::(test_\w+)` \|", read("docs/page.md"))
    assert len(rows) >= 15
    assert not [f"{name}::{test}" for name, test in rows if not re.search(rf"^def {test}\(", read(name), re.MULTILINE)]


def test_what_the_suite_runs_under_ray_names_a_test_that_is_there():
    (named,) = re.findall(r"^UNDER_RAY = \((.*?)\)$", (ROOT / "develop.py").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    tests = ast.literal_eval(f"[{named}]")
    assert len(tests) > 1
    for file, test in (each.split("::") for each in tests):
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_only_the_adapters_know_the_host():
    faults = [f"{name}:{line} imports {module}" for name in python_files() if not name.startswith(KNOWS_HOST)
              for line, module in imports(name) if module.split(".")[0] in HOST_MODULES]
    assert not faults


def test_a_test_file_has_the_name_of_the_module_or_the_room_that_it_tests():
    tests = {Path(name).relative_to("tests/unit") for name in python_files(published=False)
             if name.startswith("tests/unit/") and Path(name).name.startswith("test_")}
    nameless = {path.as_posix() for path in tests if not answers_to_something(path.parent, path.stem.removeprefix("test_"))}
    assert nameless == set(MORE_THAN_A_MODULE) and len(tests) > 100


def answers_to_something(room: Path, name: str) -> bool:
    return room.name == name or (ROOT / room / f"{name}.py").is_file() or (ROOT / room / name / "__init__.py").is_file()


def test_losses_stand_alone():
    """A loss may use the transitions' types and its neighbours' pieces, and nothing else of ours."""
    allowed = ("posttrain.trainers.losses", "posttrain.trainers.noise")
    faults = [f"{name}:{line} imports {module}" for name in python_files() if name.startswith("trainers/losses/")
              for line, module in imports(name)
              if not module.startswith(allowed) and module.split(".")[0] not in ("torch", "math", "typing", "dataclasses",
                                                                                 "collections", "__future__")]
    assert not faults


def test_pack_imports_itself_relatively():
    faults = [f"{name}:{line} {module}" for name in python_files() for line, module in imports(name)
              if module.split(".")[0] in ("trainers", "rewards", "toy") or module == "posttrain"]
    assert not faults


def test_files_are_short():
    limits = {name: 80 if name.startswith("trainers/losses/") else 300
              for name in [*python_files(), *scripts(), *(f for f in files() if f == "develop.py" or
                                                          f.startswith("tools/") and f.endswith(".py"))]}
    assert not {name: n for name, limit in limits.items() if (n := len(read(name).splitlines())) > limit}


def test_functions_fit_a_screen():
    faults = [f"{name}:{item.lineno} {item.name}: {item.end_lineno - item.lineno + 1} lines"
              for name in [*python_files(), *(f for f in python_files(published=False) if f.startswith("tools/"))]
              for item in ast.walk(tree(name)) if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
              and item.end_lineno - item.lineno + 1 > 60]
    assert not faults


def test_lines_are_not_too_long():
    faults = [f"{name}:{number}" for name in python_files()
              for number, line in enumerate(read(name).splitlines(), 1) if len(line) > 130]
    assert not faults


@pytest.mark.parametrize("names, refused", [(python_files, REFUSED_PYTHON), (scripts, REFUSED_SCRIPT)])
def test_registry_finds_nothing_to_refuse(names, refused):
    faults = [f"{name}:{number} {line.strip()}" for name in names() for number, line in
              enumerate(read(name).splitlines(), 1) if refused.search(line) and not line.lstrip().startswith(("#", "//"))]
    assert not faults


def test_registry_scan_finds_what_it_looks_for():
    """The patterns themselves: a scan that finds nothing must be one that could."""
    for line in ("import subprocess", "os.system('x')", "pickle.load(f)", "eval(text)", "model.eval()", "importlib.import_module('x')",
                 "torch.load(f, weights_only=False)"):
        assert REFUSED_PYTHON.search(line)
    for line in ("f.bind(this)", "socket.send(x)", "a.innerHTML = b"):
        assert REFUSED_SCRIPT.search(line)
    for line in ("model.train(False)", "re.compile(x)", "spec.loader.exec_module(m)"):
        assert not REFUSED_PYTHON.search(line)


def test_no_machine_is_named():
    """No path of somebody's machine, and no web address but of the few places that the project points to."""
    faults = []
    for name in files():
        if name.startswith(("web/lib/", "LICENSE")) or not name.endswith((".py", ".md", ".js", ".toml", ".json", ".css",
                                                                          ".txt", ".yml", ".svg", "run")):
            continue
        for number, line in enumerate(read(name).splitlines(), 1):
            sites = set(re.findall(r"https?://([\w.-]+\.[a-z]{2,})\b", line)) - KNOWN_SITES
            if sites or A_MACHINE_PATH.search(line):
                faults.append(f"{name}:{number} {line.strip()[:100]}")
    assert not faults


def test_published_archive_holds_what_runs():
    """.comfyignore keeps development out of the registry's archive, and nothing that the pack needs."""
    ignored = [line.strip("/") for line in read(".comfyignore").split() if line and not line.startswith("#")]
    for name in DEVELOPMENT:
        assert name.strip("/") in ignored
    for needed in ("__init__.py", "nodes", "trainers", "rewards", "toy", "ray_run", "web", "workflows", "subgraphs", "locales",
                   "LICENSE", "README.md", "pyproject.toml"):
        assert needed not in ignored


def test_repository_stays_small():
    assert not {name: size for name in files() if (size := (ROOT / name).stat().st_size) > 8_000_000}
