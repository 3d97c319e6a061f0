"""Every code block, command and link of README and docs.

A block runs, page by page from top to bottom, unless the comment ``<!-- needs: ... -->`` before it names what
it needs. Such a block, and every command in a sentence or table, is parsed: settings are composed,
arguments are read by the program's own parser, Python is compiled.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import io
import itertools
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.distributed.run
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

from conftest import ROOT
from segkit import checkpoint
from segkit.config import command_line, registry, schema
from segkit.config.compose import compose_settings
from segkit.inference import Protocol
from segkit.models import segmenter

sys.path.insert(0, str(ROOT / "docs"))
import figures
import record_demo

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
LANGUAGES = {"sh", "python", "yaml", "toml", "text", "csv"}
DIRECTIVES = {"{toctree}", "{include}", "{eval-rst}"}  # checked by Sphinx
COMMAND = re.compile(r"(?:python|torchrun|sbatch|make|pip|pytest|segkit-\w+|\w+_seg\.py|datasets/\w+\.py) \S")
ARGUMENTS = {  # for placeholders in sentences
    "NAME.py": "ade20k.py",
    "tools.NAME": "tools.share",
    "speed|agreement": "speed --image a.jpg",
    "ROW": "model=deeplabv3_resnest50 data=ade20k",
    "PROTOCOL": "evaluation=mmseg",
    "plugins=my_package": "plugins=shiny",
    "my_conf": "conf",
    "head=pooled": "head=sums",
}


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


class Block(NamedTuple):
    """A code block of a page."""

    page: str
    line: int
    language: str
    text: str
    needs: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@functools.cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    needs = ""
    for token in tokens(page):
        if token.type == "html_block":
            found = re.fullmatch(r"<!-- needs: (.+) -->", token.content.strip())
            needs = found[1] if found else ""
            continue
        if token.type in ("fence", "code_block"):
            language = token.info.split(" ")[0] if token.type == "fence" else "indented"
            yield Block(name(page), token.map[0] + 1, language, token.content, needs)
        needs = ""


def commands(text: str, arguments: Mapping[str, str] = ARGUMENTS) -> list[list[str]]:
    """Return the words of each command of a shell block; ``&&`` and lines separate commands."""
    for placeholder, argument in arguments.items():
        text = text.replace(placeholder, argument)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    parts = [part for line in lines for part in re.split(r"\s&&\s", line)]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def inline_commands(page: Path) -> list[str]:
    children = [child for token in tokens(page) for child in token.children or ()]
    codes = [child.content for child in children if child.type == "code_inline"]
    return [code for code in codes if COMMAND.match(code)]


BLOCKS = [block for page in PAGES for block in blocks(page)]
INLINE = sorted({(name(page), code) for page in PAGES for code in inline_commands(page)})


class ParsedError(Exception):
    """Ends a program after it has parsed its arguments."""


def parse(words: list[str]) -> None:
    """Check a command: its program, its settings, its arguments."""
    program, *rest = [word for word in words if word != "..."]
    if program in ("python", ".venv/bin/python"):
        parse(rest)
    elif program in PARSERS:
        PARSERS[program](rest)
    elif program in OTHERS:
        return
    elif found := re.fullmatch(r"(?:.*/)?(?:segkit-)?(train|test|predict|export)(?:_seg\.py)?", program):
        parse_settings(found[1], rest)
    elif program.endswith(".py"):
        parse_arguments([program, *rest])
    else:
        raise AssertionError(f"{program}: unknown program")


def parse_module(words: list[str]) -> None:
    if words[1:] and words[0].startswith("segkit."):
        parse_arguments([find_module(words[0]), *words[1:]])
    else:
        find_module(words[0])


def find_module(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name}: no such module"
    return str(spec.origin)


def parse_torchrun(words: list[str]) -> None:
    launched = torch.distributed.run.parse_args([{"N": "8"}.get(word, word) for word in words])
    parse([launched.training_script, *launched.training_script_args])


def parse_sbatch(words: list[str]) -> None:
    (script,) = [word for word in words if word.endswith(".sbatch")]
    if script.endswith("train.sbatch"):
        parse_settings("train", words[words.index(script) + 1 :])


def parse_pip(words: list[str]) -> None:
    extras = re.findall(r"segkit\[([\w,]+)\]", " ".join(words))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {e for names in extras for e in names.split(",")} <= set(project["optional-dependencies"])


PARSERS = {"-m": parse_module, "torchrun": parse_torchrun, "sbatch": parse_sbatch, "pip": parse_pip}
# what they name is checked by tests/test_repository.py
OTHERS = {"cd", "export", "git", "make", "mlflow", "pre-commit", "wandb", "pytest"}


def parse_settings(command: str, words: list[str]) -> None:
    flags, settings = command_line.parse_flags(words)
    if flags.multirun:  # the first job
        settings = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in settings]
    settings = [word for word in settings if not word.startswith("hydra")]
    folders = [f"--config-dir={folder}" for folder in flags.config_dir]
    groups = [] if command == "train" else ["model=deeplabv3_resnest50", "data=folder"]  # as of a checkpoint
    groups = [group for group in groups if not any(w.startswith(group.split("=")[0] + "=") for w in settings)]
    compose_settings(command, [*folders, *groups, *settings])


def parse_arguments(words: list[str]) -> None:
    """Run a program until its parser has read the arguments; a file without a parser has only to exist."""
    file = ROOT / words[0]
    if "argparse" not in file.read_text(encoding="utf-8"):
        return
    depth = 0

    def stop_after(method: Any) -> Any:
        def parse_and_stop(*given: Any, **named: Any) -> Any:
            nonlocal depth
            depth += 1  # subparsers parse within the parser
            found = method(*given, **named)
            depth -= 1
            if depth == 0:
                raise ParsedError
            return found

        return parse_and_stop

    printed, status = io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch:
        for method in ("parse_args", "parse_known_args"):
            patch.setattr(
                argparse.ArgumentParser, method, stop_after(getattr(argparse.ArgumentParser, method))
            )
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "path", [str(file.parent), *sys.path])
        try:
            with redirect_stderr(printed), redirect_stdout(printed):
                runpy.run_path(str(file), run_name="__main__")
        except ParsedError:
            return
        except SystemExit as end:
            status = end.code
    assert not status, f"{shlex.join(words)}: {printed.getvalue()}"


@pytest.mark.medium
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_have_a_language_and_parse(page, monkeypatch):
    monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.setattr(schema, "folders", [schema.CONF])
    monkeypatch.chdir(ROOT / "examples" / "plugin")  # for its plug-in
    for block in blocks(page):
        if block.language in DIRECTIVES and page.parent.name == "docs":
            continue
        assert block.language in LANGUAGES, f"{block}: mark the language of the block"
        try:
            parse_block(block)
        except Exception as error:
            raise AssertionError(f"{block}: {error}") from error


def parse_block(block: Block) -> None:
    if block.language == "python":
        ast.parse(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "yaml":
        parse_yaml(block.text)
    elif block.language == "sh":
        for words in commands(block.text):
            parse(words)


def parse_yaml(text: str) -> None:
    """Check settings of a loss, a copy of a file of ``conf/`` that line 1 names, or only the syntax."""
    content = yaml.safe_load(text)
    if file := re.match(r"# (conf/.*)", text):
        assert content == yaml.safe_load((ROOT / file[1]).read_text())
    elif content["name"] in registry.available("losses"):
        assert content.keys() <= schema.read_section("loss", content).accepted.keys()


@pytest.mark.medium
@pytest.mark.parametrize(("page", "code"), INLINE, ids=lambda value: value)
def test_commands_in_sentences_parse(page, code, monkeypatch):
    for words in commands(code):
        parse(words)


# Pages with blocks that run. Blocks of a page share one folder, one namespace of Python, and run in order.


RUNNING = {  # page: files that its blocks write
    "README.md": [],
    "docs/quickstart.md": ["runs/demo/test-whole/report.html"],
    "docs/own_data.md": ["my_data.png", "my_data/weights.txt", "runs/my_data/best.pt"],
    "docs/python.md": [],
    "docs/from_smp.md": [],
    "docs/scoring.md": ["changed.png"],
    "docs/using.md": ["runs/NAME/test-whole/result.json"],
    "docs/monitoring.md": ["report.html"],
    "docs/export.md": ["runs/NAME/best.xml"],
}


GIVEN = {  # page: names that its Python takes for granted
    "docs/python.md": ["array", "image", "pil_image", "label"],
    "docs/monitoring.md": ["model", "dataset", "protocol", "folder", "settings"],
}


@pytest.fixture
def folder(tiny_run, tmp_path, monkeypatch):
    """A folder like a checkout, with two runs and images."""
    monkeypatch.chdir(tmp_path)
    for item in ("conf", "segkit", "datasets", "examples", "docs", *ROOT.glob("*_seg.py")):
        (tmp_path / Path(item).name).symlink_to(ROOT / item)
    for run in ("demo", "a", "b", "NAME"):
        shutil.copytree(tiny_run, tmp_path / "runs" / run)
    other = checkpoint.read_checkpoint(tmp_path / "runs/b/best.pt")
    other["model"]["head.block.4.bias"] += torch.arange(10)  # predicts other classes
    checkpoint.write_checkpoint(tmp_path / "runs/b/best.pt", other)
    (tmp_path / "photos").mkdir()
    for file in ("photo.jpg", "a.jpg", "photos/a.jpg", "photos/b.jpg"):
        Image.fromarray(PIXELS).save(tmp_path / file)
    return tmp_path


@pytest.fixture
def names(folder):
    """Return the names that examples in Python use without defining them."""
    shapes = {"name": "shapes", "size": 32, "val_scenes": 2}
    network = {"backbone": {"name": "resnest", "variant": "14", "width": 8}, "head": {"name": "fcn"}}
    return {
        "array": PIXELS,
        "image": PIXELS,
        "pil_image": Image.fromarray(PIXELS),
        "label": np.zeros((40, 48), np.uint8),
        "model": segmenter.build(10, **network),
        "dataset": registry.build("data.datasets", shapes, split="val"),
        "protocol": Protocol(),
        "folder": folder,
        "settings": {"data": shapes},
    }


def run_page(page: str, run_here: Any, names: dict[str, Any]) -> None:
    """Run the blocks of a page that need nothing; their Python may use and define ``names``."""
    running = [block for block in BLOCKS if block.page == page and not block.needs]
    assert running
    for block in running:
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), names)
        elif block.language == "sh":
            for words in commands(block.text):
                run(words, run_here)


def run(words: list[str], run_here: Any) -> None:
    assert words[0] == "python", words
    if found := re.fullmatch(r"(\w+_seg)\.py", words[1]):
        assert run_here(found[1], *words[2:]) == 0, words
        return
    arguments = [path for word in words[1:] for path in sorted(map(str, Path().glob(word))) or [word]]
    is_module = arguments[0] == "-m"
    program = arguments[is_module]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments[is_module:])
        patch.delitem(sys.modules, program, raising=False)  # or runpy warns
        patch.setattr(sys, "path", [str(Path(program).parent), *sys.path])
        run_program = runpy.run_module if is_module else runpy.run_path
        status = None
        try:
            run_program(program, run_name="__main__")
        except SystemExit as end:
            status = end.code
    assert not status, words


@pytest.mark.medium
@pytest.mark.parametrize("page", [page for page in RUNNING if page != "docs/export.md"])
def test_page_runs(page, folder, names, run_here):
    given = {each: names[each] for each in GIVEN.get(page, ())}
    run_page(page, run_here, given)
    assert all((folder / file).stat().st_size for file in RUNNING[page])


@pytest.mark.slow
def test_export_page_runs(folder, run_here):
    run_page("docs/export.md", run_here, {})
    assert (folder / RUNNING["docs/export.md"][0]).exists()


@pytest.mark.medium
def test_head_of_the_plugins_page_passes_the_checks_and_is_composed(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.setattr(schema, "folders", [schema.CONF])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    page = [block for block in BLOCKS if block.page == "docs/plugins.md"]
    (module,) = [block.text for block in page if "def build" in block.text]
    (settings,) = [block.text for block in page if block.language == "yaml"]
    (check,) = [block.text for block in page if "check_head" in block.text]
    files = {"my_package/models/heads/pooled.py": module, "my_conf/model/head/pooled.yaml": settings}
    for file, text in {"my_package/__init__.py": "", **files}.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    exec(check, {"build": importlib.import_module("my_package.models.heads.pooled").build})
    (train,) = [block for block in page if "my_conf" in block.text and block.language == "sh"]
    for words in commands(train.text, {}):
        parse(words)


def test_every_block_runs_or_is_marked():
    blocks = [block for block in BLOCKS if block.language in ("sh", "python") and not block.needs]
    unmarked = [str(block) for block in blocks if block.page not in RUNNING]
    assert not unmarked, "no test runs these blocks; add the page to RUNNING, or <!-- needs: ... --> before"


def test_figures_show_the_shapes_of_the_published_block():
    shapes = figures.record_shapes(64, 56)
    assert shapes["conv"] == (128, 56, 56)  # radix 2
    assert shapes["fc1"] == (32, 1, 1)  # 64 * 2 / 4
    assert shapes["fc2"] == (128, 1, 1)
    assert shapes["output"] == (64, 56, 56)
    for draw in figures.FIGURES.values():
        draw().savefig(io.BytesIO())


# Links


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    stream = tokens(page)
    for opening, inline in itertools.pairwise(stream):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            number = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
            found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_exist(page):
    children = [child for token in tokens(page) for child in token.children or ()]
    targets = [child.attrs["href"] for child in children if child.type == "link_open"]
    targets += [child.attrs["src"] for child in children if child.type == "image"]
    missing = []
    for target in map(str, targets):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if "://" in target or target.startswith("mailto:"):
            continue
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            missing.append(target)
    assert not missing


def test_recorded_terminal_shows_every_line_in_order():
    lines = [(float(second), f"<line {second}>") for second in range(40)]
    picture = ElementTree.fromstring(record_demo.render(lines))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [line for _, line in lines]
    style = next(picture.iter("{http://www.w3.org/2000/svg}style")).text or ""
    shown = [float(share) for share in re.findall(r"@keyframes l\d+\{0%,([\d.]+)%", style)]
    assert shown == sorted(shown)
    assert (record_demo.IMAGES / "demo.svg").stat().st_size < 300_000
    assert f"translateY({-(40 - record_demo.ROWS) * record_demo.LINE}px)" in style
