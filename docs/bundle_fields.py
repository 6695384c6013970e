"""Write the table of config.json in docs/bundle.md from the schema: fields, types, limits and comments.

Usage: python docs/bundle_fields.py [--check]
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "src" / "im2sp" / "bundle" / "config.py"
PAGE = ROOT / "docs" / "bundle.md"
START, END = "<!-- fields: made by docs/bundle_fields.py -->\n", "<!-- end of fields -->\n"


def fields_of(schema: str) -> str:
    """Source of the schema -> one Markdown table for each class, in the order of a config."""
    lines = schema.splitlines()
    classes = {node.name: node for node in ast.parse(schema).body if isinstance(node, ast.ClassDef)}
    rows: list[str] = []

    def add(name: str, path: str) -> None:
        node = classes[name]
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                add(base.id, path)
        for item in node.body:
            if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
                continue
            kind = ast.unparse(item.annotation).replace("|", "or")
            comment = lines[item.end_lineno - 1].partition("  # ")[2] if item.end_lineno else ""
            optional = "" if item.value is None else f" (default `{ast.unparse(item.value)}`)"
            inner = next((other for other in classes if other in kind.split()), None)
            summary = (ast.get_docstring(classes[inner]) or "").splitlines()[0] if inner else comment
            rows.append(f"| `{path}{item.target.id}` | `{kind}` | {summary}{optional} |")
            if inner:
                add(inner, f"{path}{item.target.id}.")

    add("BundleConfig", "")
    return "| field | type and limits | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def main() -> None:
    """Rewrite the page, or with --check fail where it is not up to date."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2]
    made = before + START + fields_of(SCHEMA.read_text(encoding="utf-8")) + END + after
    if "--check" in sys.argv:
        raise SystemExit(0 if made == page else f"{PAGE} is not up to date: run python docs/bundle_fields.py")
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
