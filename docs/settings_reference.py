"""Write the settings reference and the help of the commands as Markdown, from the schema and ``conf/``.

The site includes both (docs/conf.py). ``python docs/settings_reference.py`` prints the settings.
"""

from __future__ import annotations

import ast
import contextlib
import re
import sys
import textwrap
import types as python_types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from annotated_types import Interval

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone

from segkit.config import cli, registry, schema, values
from segkit.config.dotted import flat, value_of

ROOT = Path(__file__).resolve().parent.parent

TITLES = {
    "data": "Data sets",
    "model": "Model",
    "model.backbone": "Backbones",
    "model.head": "Heads",
    "loss": "Losses",
    "augment": "Augmentation",
    "evaluation": "Evaluation protocol",
    "schedule": "Schedule",
    "schedule.optimizer": "Optimizers",
    "schedule.lr_schedule": "Learning-rate schedules",
    "checkpoint": "Checkpoints",
    "runtime": "Runtime",
    "evaluation.evaluators": "Evaluators",
    "writers": "Writers",
}
NAMED_TYPES = [  # annotations with a shorter description than their parts
    (values.PathStr, "path"),
    (values.Device, "`auto`, `cpu`, `cuda`, `cuda:N`, `mps`"),
    (values.Size, "integer from 1 to 16384, or [height, width]"),
    (values.Size | None, "integer from 1 to 16384, or [height, width], or null"),
    (values.InputSource, "path, list of paths or null"),
]
WORDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
    dict: "section",
}


class Setting(NamedTuple):
    """One row of the reference."""

    key: str
    kind: str  # type and range
    default: str
    meaning: str


def describe_type(annotation: Any) -> str:
    """Format type and range of an annotation."""
    for named, words in NAMED_TYPES:
        if annotation == named:
            return words
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{_write(value)}`" for value in arguments)
    if origin is Annotated:
        limits = [_describe_limits(rule) for rule in arguments if isinstance(rule, Interval)]
        return f"{WORDS.get(arguments[0], 'any value')}{''.join(limits)}"
    if origin in (typing.Union, python_types.UnionType):
        parts = [describe_type(member) for member in arguments if member is not type(None)]
        return " or ".join(dict.fromkeys([*parts, *(["null"] if type(None) in arguments else [])]))
    if origin is list or arguments[1:] == (...,):
        return f"list of {_plural(describe_type(arguments[0]))}"
    if origin is tuple:
        return f"[{', '.join(describe_type(one) for one in arguments)}]"
    if origin is dict:
        return "components by name"
    return WORDS.get(annotation, "any value")


def _describe_limits(limits: Interval) -> str:
    """Format a range; upper bounds of a million and more only catch mistakes and are left out."""
    low = ""
    if limits.ge is not None:
        low = f" from {limits.ge:g}"
    elif limits.gt is not None:
        low = f" above {limits.gt:g}"
    if limits.lt is not None:
        return f"{low}, below {limits.lt:g}"
    if limits.le is not None and float(limits.le) < 1e6:  # type: ignore[arg-type]
        return f"{low} to {limits.le:g}"
    return low


def _plural(words: str) -> str:
    return re.sub(r"^(integer|number|path|text)", r"\1s", words)


def _write(value: Any) -> str:
    """Return a value as in a yaml file."""
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def read_comments(file: Path) -> dict[str, str]:
    """Return the comment behind each key of a yaml file, by dotted key."""
    comments: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        found = re.match(r"(?P<indent> *)(?P<key>\w+):(?P<rest>.*)", line)
        if found is None:
            continue
        indent = len(found["indent"])
        parents = [parent for parent in parents if parent[0] < indent]
        path = ".".join([*(name for _, name in parents), found["key"]])
        parents.append((indent, found["key"]))
        if " # " in found["rest"]:
            comments[path] = found["rest"].split(" # ", 1)[1].strip()
    return comments


def read_source(file: Path, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the docstring of a function or class says about its settings, and their defaults."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name)
    text = ast.get_docstring(node) or ""
    found = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    entries = re.findall(r"^(\w+): (.*(?:\n .*)*)", textwrap.dedent(found[1]), re.MULTILINE) if found else []
    meanings = {key: " ".join(text.split()).replace("``", "`") for key, text in entries}
    if isinstance(node, ast.ClassDef):
        pairs = [(ast.unparse(n.target), n.value) for n in node.body if isinstance(n, ast.AnnAssign)]
    else:
        pairs = [(a.arg, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    defaults = {}
    for key, value in pairs:
        with contextlib.suppress(ValueError):
            defaults[key] = _write(ast.literal_eval(value)) if value is not None else ""
    return meanings, defaults


def _read_yaml(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def _files_of(section: str, component: str) -> list[Path]:
    """Return the yaml files of a component; first that of its name, then those that build on it."""
    folder = schema.CONF / section.replace(".", "/")
    others = sorted(file for file in folder.glob("*.yaml") if file.stem != component)
    based = [f for f in others if f"{component}@_here_" in (_read_yaml(f).get("defaults") or [])]
    named = [f for f in others if _read_yaml(f).get("name") == component]
    own = folder / f"{component}.yaml"
    return [file for file in (own, *based, *named) if file.is_file()]


def list_settings(section: str, component: str = "") -> list[Setting]:
    """Return the settings of a section, or of one of its components."""
    place = schema.SECTIONS.get(section) or schema.LISTS[section]
    if ":" in place:
        name, prefix = place.split(":")[1], ""
        file = registry.ROOT / place.split(":")[0]
        sources = {
            "model": "model/base/segmenter",
            "augment": "augment/encoding",
            "evaluation": "evaluation/whole",
            "schedule": "schedule/default",
            "runtime": "runtime/default",
            "checkpoint": "train",
        }
        files = [schema.CONF / f"{sources[section]}.yaml"]
        if section == "checkpoint":
            prefix = "checkpoint."
    else:
        name, file = "build", registry.find_component(place, component)[1]
        files = _files_of(section, component)
        prefix = "data." if section == "data" else ""
    comments: dict[str, str] = {}
    for source in reversed(files):
        comments |= read_comments(source)
    written = _read_yaml(files[0]) if files else {}
    if prefix:
        written = written[prefix.removesuffix(".")]
    docstring, defaults = read_source(file, name)
    rows = []
    for key, annotation in schema.read_keywords(f"{file}:{name}").accepted.items():
        default = defaults.get(key, "")
        if key in written:
            default = _write(written[key])
        meaning = comments.get(f"{prefix}{key}") or docstring.get(key, "")
        inner = f"{section}.{key}"
        if section in schema.LISTS:
            inner = f"{section}.{component}.{key}"
        if inner in schema.SECTIONS or inner in schema.LISTS:
            meaning = meaning or f"see [below](#{inner.replace('.', '-')})"
            default = default if inner in schema.LISTS else ""
        rows.append(Setting(inner, describe_type(annotation), default, meaning))
    return rows


def list_command(command: str) -> list[Setting]:
    """Return the settings of a command that belong to no section."""
    file = schema.CONF / f"{command}.yaml"
    comments, written = read_comments(file), _read_yaml(file)
    rows = []
    for key, annotation in flat(schema.COMMANDS[command]).items():
        if annotation is dict or key.startswith("sizes."):
            continue
        meaning = comments.get(key, "")
        rows.append(Setting(key, describe_type(annotation), _write(value_of(written, key)), meaning))
    return rows


def list_all() -> dict[str, list[Setting]]:
    """Return every setting, by the title of its table."""
    tables = {f"{command}_seg.py": list_command(command) for command in schema.COMMANDS}
    for section in (*schema.SECTIONS, *schema.LISTS):
        if section in ("model.auxiliary", "loss.parts", "augment.extra"):
            continue  # the same components as of another section, or none
        place = schema.SECTIONS.get(section) or schema.LISTS[section]
        if ":" in place:
            tables[section] = list_settings(section)
            continue
        for component in registry.available(place):
            if rows := list_settings(section, component):
                tables[f"{section}: {component}"] = rows
    return tables


def _render_table(rows: Iterable[Setting]) -> str:
    lines = ["| setting | type and range | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        default = f"`{row.default}`" if row.default else ""
        meaning = _write_markdown(row.meaning)
        cells = (f"`{row.key}`", row.kind, default, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _write_markdown(text: str) -> str:
    """Return a comment as Markdown, with links to the pages that it names."""
    text = re.sub(r"(?<!`)([<*])", r"\\\1", text)
    return re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", text)


def render() -> str:
    """Return the reference of every setting as Markdown."""
    tables = list_all()
    parts = ["## Settings of the commands"]
    for command in schema.COMMANDS:
        parts += [f"### `{command}_seg.py`", _render_table(tables[f"{command}_seg.py"])]
    parts += ["## Image sizes: `sizes`", _render_sizes()]
    for section, title in TITLES.items():
        parts += [f"({section.replace('.', '-')})=\n## {title}: `{section}`"]
        if section in tables:
            parts.append(_render_table(tables[section]))
            continue
        parts.append(_introduce(section))
        for key, rows in tables.items():
            if key.startswith(f"{section}: "):
                parts += [f"### `{section}`: {key.split(': ')[1]}", _render_table(rows)]
    return "\n\n".join(parts) + "\n"


def _introduce(section: str) -> str:
    """Return how a component of a section is chosen."""
    place = schema.SECTIONS.get(section) or schema.LISTS[section]
    group = section.replace(".", "/")
    if section in schema.LISTS:
        names = [name for name in registry.available(place) if name != "confusion"]
        return f"`{section}.NAME=true` adds one of: {', '.join(f'`{name}`' for name in names)}."
    files = ", ".join(f"`{name}`" for name in schema.choices(group))
    text = f"`{group}=` takes {files}."
    if section == "model.head":
        text += " The auxiliary head, `model.auxiliary`, has the same settings."
    if section == "loss":
        text += " In a sum, `loss.parts.NAME` has the settings of the loss and `weight`, a number from 0."
    return text


def _render_sizes() -> str:
    """Return the table of the sizes that augmentation and evaluation refer to."""
    meanings = {
        "sizes.base": "longer side of an image at scale 1, in pixels",
        "sizes.crop": "side of the training crop, and of the windows of `evaluation=sliding` and `encoding`",
        "sizes.bounds": "size that an image is resized to fit, in the `mmseg` recipes and protocols",
    }
    names = schema.choices("data")
    sizes = {name: _read_yaml(schema.CONF / f"data/{name}.yaml")["sizes"] for name in names}
    lines = [f"| setting | type and range | {' | '.join(f'`{n}`' for n in names)} | meaning |"]
    lines.append("|---|---|" + "---|" * (len(names) + 1))
    for key, meaning in meanings.items():
        defaults = " | ".join(f"`{_write(sizes[name][key.removeprefix('sizes.')])}`" for name in names)
        lines.append(f"| `{key}` | {describe_type(value_of(schema.ALL, key))} | {defaults} | {meaning} |")
    return "Defaults depend on the data set, `data=`.\n\n" + "\n".join(lines)


def render_help(command: str) -> str:
    """Return the help of a command as a block of text."""
    tree = ast.parse((ROOT / f"{command}_seg.py").read_text(encoding="utf-8"))
    text = cli.help_text(command, ast.get_docstring(tree) or "")
    return f"```text\n{text}```"


def expand(text: str) -> str:
    """Replace ``<!-- settings -->`` and ``<!-- help COMMAND -->`` in a page."""
    if "<!-- settings -->" in text:
        text = text.replace("<!-- settings -->", render())
    return re.sub(r"<!-- help (\w+) -->", lambda found: render_help(found[1]), text)


def find_undescribed(tables: Mapping[str, Iterable[Setting]]) -> list[str]:
    """Return the settings without a meaning; a comment in their yaml file or a docstring supplies it."""
    return [f"{title}: {row.key}" for title, rows in tables.items() for row in rows if not row.meaning]


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201
