"""`SECURITY.md` promises nothing that no test proves."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def named_tests() -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text("utf-8"))


def test_every_promise_names_tests_that_exist():
    tests = named_tests()
    assert len(tests) > 20
    absent = [(file, name) for file, name in tests if name not in functions(ROOT / file)]
    assert absent == []


def test_every_promise_names_a_test():
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "| ---"))]
    assert [row for row in rows if "::test_" not in row] == []


def functions(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text("utf-8"))) if path.is_file() else ()
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
