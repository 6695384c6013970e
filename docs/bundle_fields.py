"""The page of config.json's fields, which the site has, from the schema: types and limits, defaults and comments."""

from __future__ import annotations

import ast
import inspect

import msgspec.inspect as types
from msgspec import NODEFAULT

from im2sp.bundle import config

HEAD = """# config.json of a bundle

Fields of the config of [a bundle](bundle.md). Unknown fields are errors, so that no spelling mistake is a setting.
"""


def comments_of(cls: type) -> dict[str, str]:
    """Return the comment behind each field of a class and its bases."""
    found = comments_of(cls.__bases__[0]) if cls.__bases__[0].__module__ == config.__name__ else {}
    source = inspect.getsource(cls)
    lines = source.splitlines()
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.end_lineno:
            found[item.target.id] = lines[item.end_lineno - 1].partition("  # ")[2]
    return found


def described(kind: types.Type) -> str:
    """Return a type and its limits in words."""
    if isinstance(kind, types.UnionType):
        return described(next(each for each in kind.types if not isinstance(each, types.NoneType)))
    if isinstance(kind, types.LiteralType):
        return ", ".join(map(repr, kind.values))
    if isinstance(kind, types.TupleType):
        return f"{len(kind.item_types)} of {described(kind.item_types[0])}"
    if isinstance(kind, types.ListType | types.VarTupleType):
        return f"list of {described(kind.item_type)}" + (f", \u2264{kind.max_length:,}" if kind.max_length else "")
    limits = {name: getattr(kind, name, None) for name in ("ge", "gt", "le", "lt")}
    signs = {"ge": "\u2265", "gt": ">", "le": "\u2264", "lt": "<"}
    name = type(kind).__name__.removesuffix("Type").lower()
    if limits["ge"] is not None and limits["le"] is not None:
        return f"{name} {limits['ge']:,}..{limits['le']:,}"
    return ", ".join([name, *(f"{signs[key]}{limit:,}" for key, limit in limits.items() if limit is not None)])


def default(field: types.Field) -> str:
    """Return the default of a field in words, if it has one."""
    if field.required:
        return ""
    return "; optional" if field.default in (None, (), NODEFAULT) else f"; default {field.default}"


def sections(cls: type, name: str = "", optional: str = "") -> str:
    """Return the section of a class and those of the classes in its fields."""
    comments, rows, inner = comments_of(cls), "", ""
    info = types.type_info(cls)
    assert isinstance(info, types.StructType)
    for field in info.fields:
        parts = field.type.types if isinstance(field.type, types.UnionType) else (field.type,)
        struct = next((part.cls for part in parts if isinstance(part, types.StructType)), None)
        if struct:
            inner += sections(struct, f"{name}.{field.name}".lstrip("."), default(field).replace(";", ","))
        else:
            rows += f"- `{field.name}` ({described(field.type)}{default(field)}): {comments[field.name]}\n"
    summary = (inspect.getdoc(cls) or "").splitlines()[0]
    return (f"\n## {name}{optional}\n\n{summary}\n" if name else "") + f"\n{rows}{inner}"


def page() -> str:
    """Return the page."""
    return HEAD + sections(config.BundleConfig)
