#!/usr/bin/env python3
"""Everything a developer does with the pack, on a machine that has nothing but Python.

    python develop.py demo              train the small model in a real ComfyUI, before and after
    python develop.py serve             open ComfyUI with the pack in it
    python develop.py test [pytest's]   run the tests (all, or what pytest's own arguments choose); --transformers 4.57
                                        runs them with that older release of transformers, --comfyui PATH [--python PY]
                                        on another ComfyUI (in its own Python), --frontend RELEASE with another page,
                                        --libraries lowest (or newest) with the optional packages at their lower bounds,
                                        --generators the bad days of docs/reliability.md in full, --host-suite [folder]
                                        ComfyUI's own tests, without the pack and with it, --beside FOLDER with the
                                        packs in this folder installed as well, --browsers the page in Firefox and
                                        WebKitGTK (Safari's engine), where they are installed, --real-size [template]
                                        templates for models of one's own on files of real size, --screenshots keeps
                                        pictures of the page in build/screenshots, --sweeps runs every case of the tests
                                        of which the whole suite runs a few (CONTRIBUTING.md)
    python develop.py ray [pytest's]    all tests of a run under Ray; the whole suite has two
    python develop.py new reward NAME   write the files of a new reward, or of a new trainer
    python develop.py docs              refresh what is written by the program; list what has no Chinese yet
    python develop.py site [folder]     build the documentation as a site; a link that leads nowhere fails
    python develop.py release [folder]  build the archive for ComfyUI's registry and hold it to its rules; --install [COMFYUI ...]
                                        has ComfyUI-Manager install it in fresh hosts and runs a template in each
    python develop.py lint              ruff and mypy, against a baseline that may only shrink
    python develop.py bench [name]      measure costs, as ratios
    python develop.py gpu               what only an NVIDIA card can show, within ten minutes (docs/gpu.md); --pack FOLDER makes
                                        what a machine without network lacks, --from FOLDER uses it there
    python develop.py prove [name]      train from the shipped base and write the evidence to docs/proof.md
    python develop.py target [name]     seconds of one core until each trainer draws what the prompts say (docs/bench.md)
    python develop.py trial [method]    FDFO, not a trainer here, beside two that are (docs/proof.md)
    python develop.py scale             reckon what an iteration moves, waits for and costs on 1 to 1,024 cards (docs/scale.md)
    python develop.py behind [--write]  a training one iteration behind beside one on policy (docs/scale.md)
    python develop.py mutate [file]     change one sign, order or number at a time; list what no test notices
    python develop.py pretrain          make the shipped small models anew

The first command sets up a pinned environment in the user's cache folder; later ones start at once, offline too.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tools import beside, browser, compiler, generators, host_suite, hosts, manager, overlay, release, site
from tools.environment import ROOT, Environment, SetupError, cache_folder, environment
from tools.gpu import command

# runs a module of the repository without standing in it: relative paths in its arguments mean the user's directory
MODULE = "import runpy, sys; sys.path[0] = sys.argv.pop(1); runpy.run_module(sys.argv.pop(1), None, '__main__', True)"
# the whole suite, by two processes, file by file; in each of them the tests of a folder share a server
TWO = ("-n", "2", "--dist", "loadfile", "-m", "not rest_of_sweep")
PARTS = ((*TWO, "tests/unit", "tests/simulated"), (*TWO, "--no-loadscope-reorder", "tests/host", "tests/page"))
# what it runs under Ray, after that; all others there are develop.py ray's
UNDER_RAY = ("tests/ray/test_on_ray.py::test_a_process_that_is_killed_costs_nothing",
             "tests/ray/test_on_ray.py::test_actors_tell_the_likelihoods_that_flow_grpo_learns_from")
NO_TESTS, INTERRUPTED = 5, 2  # pytest's exit codes
HELP = {"-h", "--help"}  # neither sets up nor installs anything
HELP_HERE = ("test", "ray", "site", "docs", "release", "scale")  # commands whose modules have no help of their own
NO_PATH = ("-k", "-m", "-n", "-o", "-p", "-r", "-W", "--deselect")  # pytest's options whose value only looks like a path


def main(arguments: list[str]) -> int:
    chosen, rest = parser().parse_known_args(arguments)
    try:
        if chosen.run is gpu:
            return command.main(rest, environment)
        return chosen.run(environment(), chosen, rest)
    except (SetupError, browser.NoBrowser, compiler.NoCompiler) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="develop.py", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = top.add_subparsers(required=True, metavar="command")
    for name, run, words in commands():
        # each command reads its own arguments, inside the environment
        command = subparsers.add_parser(name, help=words, description=words, add_help=name in HELP_HERE, allow_abbrev=False)
        command.set_defaults(run=run)
        if run is test:
            command.add_argument("--transformers", metavar="RELEASE", help="with this older release of transformers, 4.57")
            command.add_argument("--comfyui", metavar="PATH", help="on this ComfyUI, a checkout or 0.3.52")
            command.add_argument("--libraries", choices=(overlay.LOWEST, overlay.NEWEST), help="of the optional packages")
            command.add_argument("--frontend", metavar="RELEASE", help="with this release of ComfyUI's page, 1.58.1")
            command.add_argument("--generators", action="store_true", help="the generators of docs/reliability.md, in full")
            command.add_argument("--host-suite", action="store_true", help="ComfyUI's own tests, without the pack and with it")
            command.add_argument("--beside", metavar="FOLDER", help="tests/host with the packs in this folder installed as well")
            command.add_argument("--browsers", action="store_true", help="the page in Firefox and WebKitGTK too, where they are")
            command.add_argument("--real-size", action="store_true", help="templates on files of real size; --at-most GB of memory")
            command.add_argument("--screenshots", action="store_true", help=f"keep pictures of the page in {browser.SCREENSHOTS}")
            command.add_argument("--sweeps", action="store_true", help="every case of the tests of which the suite runs a few")
            command.add_argument("--python", metavar="PY", help="with --comfyui: in that ComfyUI's own Python")
        if run is publish:
            command.add_argument("folder", nargs="?", default=str(ROOT / "build" / "release"))
            command.add_argument("--install", nargs="*", metavar="COMFYUI", help="in these hosts too, checkouts or 0.3.52")
    return top


def commands() -> list[tuple[str, Callable, str]]:
    """Name, what runs it, and what it does."""
    return [
        ("demo", tool("demo"), "train the small model in a real ComfyUI, before and after"),
        ("serve", tool("serve"), "open ComfyUI with the pack in it"),
        ("test", test, "run the tests; arguments go to pytest"),
        ("ray", under_ray, "run all tests of a run under Ray; the whole suite has two"),
        ("new", tool("new"), "write the files of a new reward or trainer"),
        ("docs", tool("docs"), "refresh what is written by the program; list what has no Chinese yet"),
        ("site", build_site, "build the documentation as a site; a link that leads nowhere fails"),
        ("release", publish, "build the archive for ComfyUI's registry; --install [COMFYUI ...] tries it in fresh hosts"),
        ("lint", tool("lint"), "ruff and mypy, against a baseline that may only shrink"),
        ("bench", bench, "measure costs, as ratios"),
        ("gpu", gpu, "what only an NVIDIA card can show, within ten minutes (docs/gpu.md)"),
        ("prove", tool("prove", "benchmarks.proofs"), "train from the shipped base and write docs/proof.md"),
        ("target", tool("target", "benchmarks.proofs"), "processor time until a trainer draws what the prompts say"),
        ("trial", tool("fdfo", "benchmarks.trials"), "FDFO, not a trainer here, beside two that are (docs/proof.md)"),
        ("behind", tool("behind", "benchmarks.scale"), "train one iteration behind beside on policy, into docs/scale.md"),
        ("scale", tool("page", "benchmarks.scale"), "reckon what an iteration moves on 1 to 1,024 cards, into docs/scale.md"),
        ("mutate", tool("mutate"), "change one sign, order or number at a time; list what no test notices"),
        ("pretrain", tool("pretrain"), "make the shipped small models anew"),
    ]


def gpu() -> None:
    """Stands for ``command.main``, which comes before the environment: a machine without network cannot set one up."""


def tool(name: str, package: str = "tools"):
    def run(env: Environment, _: argparse.Namespace, rest: list[str]) -> int:
        return call(env, "-c", MODULE, str(ROOT), f"{package}.{name}", *rest)

    return run


def bench(env: Environment, _: argparse.Namespace, rest: list[str]) -> int:
    names = [each for each in rest if not each.startswith("-")]
    laid = [make(env) for name, make in (("peers", overlay.peers), ("actors", overlay.ray))
            if (not names or name in names) and not HELP & {*rest}]
    extra = {"PYTHONPATH": os.pathsep.join(map(str, laid))} if laid else None
    return call(env, "-c", MODULE, str(ROOT), "benchmarks.bench", *rest, extra=extra)


def build_site(env: Environment, _: argparse.Namespace, rest: list[str]) -> int:
    return call(env, "-c", MODULE, str(ROOT), "tools.site", *rest, extra={"PYTHONPATH": str(site.builder(env))})


def publish(env: Environment, chosen: argparse.Namespace, _: list[str]) -> int:
    folder = str(Path(chosen.folder).absolute())
    code = call(env, "-c", MODULE, str(ROOT), "tools.release", folder, extra={"PYTHONPATH": str(release.packer(env))})
    if code or chosen.install is None:
        return code
    codes = []
    for host, more in manager.fresh_hosts(env, chosen.install):
        paths = os.pathsep.join(map(str, [*more, manager.installer(env)]))
        codes.append(call(host, "-c", MODULE, str(ROOT), "tools.manager", folder, extra={"PYTHONPATH": paths}))
    return max(codes)


def test(env: Environment, chosen: argparse.Namespace, rest: list[str]) -> int:
    rest = paths_from_repository(rest)
    variables = {"CI": "1", "HF_HUB_OFFLINE": "1"}
    laid = [overlay.ensure(env, chosen.transformers)] if chosen.transformers else []
    if chosen.libraries:
        laid += [overlay.libraries(env, chosen.libraries)]
    if chosen.frontend:
        laid += [hosts.frontend(env, chosen.frontend)]
    if chosen.generators:
        variables |= generators.COUNTS
        rest = [*generators.FILES, *rest]
    if chosen.beside:
        variables |= beside.variables(chosen.beside)
        rest = rest if names_a_path(rest) else [beside.TESTS, *rest]
    if chosen.browsers:
        variables |= browser.OTHERS
        rest = rest if names_a_path(rest) else [browser.TESTS_OF_OTHERS, *rest]
    if chosen.screenshots:
        variables["PAGE_SCREENSHOTS"] = str(ROOT / browser.SCREENSHOTS)
        rest = rest if names_a_path(rest) else [*browser.TESTS_OF_SCREENSHOTS, *rest]
    if chosen.comfyui or chosen.python:
        env, more = hosts.other(env, chosen.comfyui, chosen.python)
        laid += more
    elif wants("host", rest):
        hosts.say_beside()
    if laid:
        variables["PYTHONPATH"] = os.pathsep.join(map(str, laid))
    if chosen.real_size:
        return call(env, "-c", MODULE, str(ROOT), "tools.real_size", *rest, extra=variables)
    if chosen.host_suite:
        paths = [host_suite.plugins(env), *laid]
        return call(env, "-c", MODULE, str(ROOT), "tools.host_suite", str(env.host), *rest,
                    extra={"PYTHONPATH": os.pathsep.join(map(str, paths))})
    if wants("page", rest):
        variables["CHROMIUM"] = browser.ensure(env.python, env.variables())
    if chosen.sweeps:
        rest = ["-m", "", *rest]
    if not os.access(ROOT, os.W_OK):
        rest = ["-o", f"cache_dir={env.folder / 'pytest'}", *rest]
    if wants("simulated", rest):
        variables["CXX"] = compiler.ensure()
    codes, whole = [], not ("-n" in rest or names_a_path(rest))
    for part in there(PARTS) if whole else ((),):
        # -P: the repository must not be on sys.path, where its nodes/ would hide ComfyUI's nodes.py
        codes.append(call(env, "-P", "-m", "pytest", *part, *rest, extra=variables, folder=ROOT))
        if codes[-1] == INTERRUPTED:
            break
    if whole and INTERRUPTED not in codes and not (chosen.comfyui or chosen.python):
        codes += [with_ray(env, [*part, *rest]) for part in there((UNDER_RAY,))]
    return next((code for code in codes if code not in (0, NO_TESTS)), min(codes))


def under_ray(env: Environment, _: argparse.Namespace, rest: list[str]) -> int:
    """Ray is 80 MB and starts slowly, so few of its tests are part of the whole suite."""
    rest = paths_from_repository(rest)
    return with_ray(env, [*rest, *([] if names_a_path(rest) else ["tests/ray"])], POSTTRAIN_STORE=str(overlay.store(env)))


def with_ray(env: Environment, rest: list[str], **more: str) -> int:
    variables = {"CI": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(overlay.ray(env)), **more}
    return call(env, "-P", "-m", "pytest", *rest, folder=ROOT, extra=variables)


def paths_from_repository(arguments: list[str]) -> list[str]:
    return [a if before in NO_PATH else from_repository(a) for before, a in zip(["", *arguments], arguments)]


def from_repository(argument: str) -> str:
    """A path as it is seen from the repository, where pytest runs; one that is meant from there, or no path, stays."""
    path, *test = argument.split("::")
    here = Path(path).resolve()
    meant = os.path.exists(here) and (ROOT in (here, *here.parents) or not Path(ROOT, path).exists())
    return "::".join([str(here), *test]) if meant else argument


def there(parts: tuple[tuple[str, ...], ...]) -> list[list[str]]:
    """Without the tests that a copy of the repository lacks."""
    kept = [[word for word in part if not is_test(word) or Path(ROOT, word.split("::")[0]).exists()] for part in parts]
    return [part for part in kept if any(map(is_test, part))]


def is_test(word: str) -> bool:
    return word.startswith("tests/")


def names_a_path(arguments: list[str]) -> bool:
    return any(os.path.exists(Path(ROOT, a.split("::")[0])) for before, a in zip(["", *arguments], arguments)
               if before not in NO_PATH and not a.startswith("-"))


def wants(level: str, arguments: list[str]) -> bool:
    """Whether pytest's arguments may select tests of this folder: no path at all, or one that is not below other folders."""
    paths = [path for a in arguments if os.path.exists(path := Path(ROOT, a.split("::")[0]))]
    others = [folder for folder in (ROOT / "tests").iterdir() if folder.is_dir() and folder.name != level]
    return not paths or not all(any(o == p or o in p.parents for o in others) for p in paths)


def call(env: Environment, *command: str, extra: dict[str, str] | None = None, folder: Path | None = None) -> int:
    """Runs Python of the environment in ``folder`` (the current one), and lets it finish its own clean-up after Ctrl-C."""
    process = subprocess.Popen([str(env.python), *command], cwd=folder,
                               env=env.variables() | {"POSTTRAIN_CACHE": str(cache_folder())} | (extra or {}))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
