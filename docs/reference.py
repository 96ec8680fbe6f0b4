"""Pages made from the code when the site is built: every setting, and every dataset of the catalog."""

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from budwood.parameters import ProjectParameters
from budwood.pipelines.store import TrackingSettings
from budwood.records.strict import HOW, Strict

CONF = Path(__file__).parents[1] / "conf" / "base"
_KEYS = {"sources": "<source>", "bins": "<bin>", "spaces": "<space>", "teachers": "<name>"}
"""What the keys of a mapping are called in the path of a setting."""
_TYPES = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "null": "null",
}
_BOUNDS = {
    "exclusiveMinimum": "more than",
    "minimum": "at least",
    "exclusiveMaximum": "less than",
    "maximum": "at most",
    "minItems": "entries: at least",
    "minProperties": "entries: at least",
}
_FROM_THE_KEY = ("corpus.sources.<source>", "name")
"""A field that users do not write: the key in the mapping is the name."""
_SETTINGS_HEAD = """# Settings

This page is generated from the classes that check the configuration, so it lists every setting and its true default. A
name that is not on this page is an error. Put your values into `conf/<environment>/parameters.yml`; a dot in a path is
one more level of YAML, and `<name>` is a key that you choose. The values of the quickstart are in
`conf/base/parameters.yml`, from which every other environment inherits.

A setting marked *how* decides how something runs. It never changes a result, so a change of it repeats no work.
"""
_CATALOG_HEAD = """# Catalog

Every dataset that a run writes, generated from `conf/base/catalog*.yml`. `<data>` is the environment's `data` folder
(`globals.yml`). In a notebook or in `kedro ipython`, `catalog.load("results")` returns one; names with `<bin>` and
`<space>` exist for every variant. The last column is what MLflow gets: a copy, or the path and the hash.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as the reference shows it."""

    name: str
    kind: str
    """Its type and range."""
    default: str
    meaning: str
    how: bool
    """Whether it decides only how something runs."""


@dataclass(frozen=True, slots=True)
class Section:
    """The settings of one class."""

    paths: tuple[str, ...]
    """Where they are in `parameters.yml`; the empty path is the top."""
    summary: str
    settings: tuple[Setting, ...]


def sections(root: type[BaseModel] = ProjectParameters) -> list[Section]:
    """Return all settings, by class, in the order in which the classes use each other."""
    schema = root.model_json_schema()
    models = {model.__name__: model for model in _subclasses(Strict)}
    found = []
    for name, paths in _paths(root.__name__, schema).items():
        described = schema["$defs"][name] if name in schema.get("$defs", {}) else schema
        model = models[name]
        documents = _documents(model)
        how = {field.alias or key: HOW in field.metadata for key, field in model.model_fields.items()}
        settings = tuple(
            Setting(
                name=key,
                kind=_describe(each),
                default=_default(key, each, described),
                meaning=documents.get(key, ""),
                how=how[key],
            )
            for key, each in described["properties"].items()
            if (paths[0], key) != _FROM_THE_KEY and not _is_group(each)
        )
        found.append(Section(tuple(paths), inspect.cleandoc(model.__doc__ or "").split("\n")[0], settings))
    return found


def _subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for each in model.__subclasses__():
        yield each
        yield from _subclasses(each)


def _paths(root: str, schema: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return where every class of settings is used, by its name."""
    found: dict[str, list[str]] = {root: [""]}
    waiting = [(schema, "")]
    while waiting:
        described, prefix = waiting.pop(0)
        for name, each in described["properties"].items():
            for reference, keyed in _references(each):
                path = f"{prefix}{name}" + (f".{_KEYS[name]}" if keyed else "")
                found.setdefault(reference, []).append(path)
                waiting.append((schema["$defs"][reference], f"{path}."))
    return found


def _references(described: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    for each in (described, *described.get("anyOf", ())):
        if "$ref" in each:
            yield each["$ref"].rpartition("/")[2], False
    entries = described.get("additionalProperties")
    if isinstance(entries, dict) and "$ref" in entries:
        yield entries["$ref"].rpartition("/")[2], True


def _is_group(described: Mapping[str, Any]) -> bool:
    """Whether something is only a heading for other settings, and cannot be null."""
    return bool(list(_references(described))) and "anyOf" not in described


def _describe(described: Mapping[str, Any]) -> str:
    if "anyOf" in described:
        return " or ".join(_describe(each) for each in described["anyOf"])
    if "$ref" in described:
        return "settings"
    if "enum" in described or "const" in described:
        return ", ".join(f"`{value}`" for value in described.get("enum", [described.get("const")]))
    if described.get("type") == "array":
        items = described.get("items", {}) or described.get("prefixItems", [{}])[0]
        kind = f"list of {_describe(items)}"
    elif described.get("type") == "object":
        entries = described.get("additionalProperties")
        kind = f"names with {_describe(entries) if isinstance(entries, dict) else 'values'}"
    else:
        kind = _TYPES.get(described.get("type", ""), "any value")
    return ", ".join([kind, *(f"{words} {described[key]:g}" for key, words in _BOUNDS.items() if key in described)])


def _default(name: str, described: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    if name in model.get("required", ()):
        return "required"
    value = described.get("default", {})
    if isinstance(value, dict) and list(_references(described)):
        return "default: the values below"
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"default `{text}`"


def _documents(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings under the fields of a class and its bases, by what users call a field."""
    found: dict[str, str] = {}
    for base in reversed([base for base in model.__mro__ if issubclass(base, Strict)]):
        (definition,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(definition, ast.ClassDef), "the source of a class"
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str() as document)),
                ):
                    found[model.model_fields[name].alias or name] = " ".join(document.split())
    return found


def settings_page() -> str:
    """Return the reference of all settings."""
    top, *rest = sections()
    tracking = sections(TrackingSettings)[0]
    parts = [
        _SETTINGS_HEAD,
        *(_section(f"`{each.paths[0]}`", each.paths[0], each) for each in sorted(rest, key=_place)),
    ]
    return "\n".join(
        [*parts, _section("`grid`, `ablations`", "grid", top), _section("`mlflow.yml`", "mlflow", tracking)]
    )


def _place(section: Section) -> tuple[int, str]:
    groups = list(ProjectParameters.model_fields)
    return groups.index(section.paths[0].partition(".")[0]), section.paths[0]


def _section(title: str, anchor: str, section: Section) -> str:
    others = ", ".join(f"`{path}`" for path in section.paths[1:])
    also = f" Also at {others}." if others else ""
    entries = "\n".join(_entry(anchor, setting) for setting in section.settings)
    return f"## {title} {{ #{_anchor(anchor)} }}\n\n{section.summary}{also}\n\n{entries}"


def _entry(group: str, setting: Setting) -> str:
    how = ", *how*" if setting.how else ""
    term = f"`{setting.name}`{{ #{_anchor(f'{group}.{setting.name}')} }} {setting.kind}; {setting.default}{how}"
    return f"{term}\n\n:   {setting.meaning}\n"


def _anchor(path: str) -> str:
    return path.replace("<", "").replace(">", "")


def catalog_page() -> str:
    """Return the table of all datasets."""
    rows = ["| dataset | file | kind | MLflow |", "|---|---|---|---|"]
    for file in sorted(CONF.glob("catalog*.yml")):
        for name, entry in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            place = entry["filepath"].replace("${globals:data}", "<data>").replace("{", "<").replace("}", ">")
            shown = name.replace("{", "<").replace("}", ">").replace(":d", "")
            logged = {"artifact": "copy", "fingerprint": "hash"}.get(entry["metadata"].get("mlflow", ""), "")
            rows.append(f"| `{shown}` | `{place.replace(':d', '')}` | {entry['type'].rpartition('.')[2]} | {logged} |")
    return "\n".join([_CATALOG_HEAD, *rows, ""])


PAGES = {"reference/settings.md": settings_page, "reference/catalog.md": catalog_page}


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put the generated pages in place of those that say how to make them; MkDocs calls this."""
    return PAGES[page.file.src_uri]() if page.file.src_uri in PAGES else markdown
