"""Imports go to strictly lower levels, never to a sibling; deferred and type-checking imports count."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

import fogx

PACKAGE = Path(fogx.__file__).parent

# A room is a module or a folder; the longest match counts. `fogx.storage` and `fogx.formats` only hold rooms.
ROOMS = {
    "fogx": 8,
    "fogx.cli": 7,
    "fogx.testing": 7,
    "fogx.dataset": 6,
    "fogx.viewer": 6,
    "fogx.jobs": 5,
    "fogx.reading": 4,
    "fogx.recording": 4,
    "fogx.training": 3,
    "fogx.storage.log": 3,
    "fogx.storage.tables": 2,
    "fogx.formats.rtx": 2,
    "fogx.show": 2,
    "fogx.storage.files": 1,
    "fogx.align": 1,
    "fogx.codecs": 1,
    "fogx.executors": 1,
    "fogx.stats": 1,
    "fogx.storage": 0,
    "fogx.formats": 0,
    "fogx.errors": 0,
    "fogx.feature": 0,
    "fogx.protocols": 0,
    "fogx.registry": 0,
    "fogx.settings": 0,
    "fogx.memory": 0,
    "fogx.threads": 0,
    "fogx.deprecation": 0,
    "fogx.ids": 0,
}
FOLDERS_OF_ROOMS = ("fogx", "fogx.storage", "fogx.formats")

FAR_FROM_WORKERS = {"deltalake", "pandas", "polars"}
"""They hang, panic or raise after a fork, so nothing that a training worker loads may import them."""

MAY_IMPORT_BY_NAME = ("fogx", "fogx.registry")


RUN_CODE = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
TESTING = {"hypothesis", "pytest"}
"""What `fogx.testing` may import besides: who runs its suites has them."""

PACKAGE_OF = {"PIL": "pillow", "google": "protobuf"}
"""Packages whose name on PyPI is another than the one that is imported."""


def names_of(requirements: Iterable[str]) -> set[str]:
    """Return the names of requirements, without extras, versions and markers."""
    return {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].replace("_", "-") for requirement in requirements}


CORE = names_of(PROJECT["dependencies"])
EXTRAS = names_of(r for extra, given in PROJECT["optional-dependencies"].items() if extra not in ("dev", "peers") for r in given)


def module_name(path: Path) -> str:
    parts = ["fogx", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str | None:
    """Return the room of a module, None where the map has none."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        room = ".".join(parts[:end])
        if room in ROOMS:
            return None if room in FOLDERS_OF_ROOMS and room != module else room
    return None


def imports(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if is_package(module) else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = ".".join(filter(None, (package, node.module))) if node.level else node.module or ""
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield node.lineno, name if name in SOURCES else base
        elif isinstance(node, ast.Call) and calls_importer(node) and (start := literal_start(node)):
            yield node.lineno, start.rstrip(".")


def is_package(module: str) -> bool:
    return (PACKAGE.parent / module.replace(".", "/") / "__init__.py").is_file()


def violations(module: str, source: str) -> list[str]:
    """Return what is wrong with the imports of one module."""
    room = room_of(module)
    if room is None:
        return [f"{module} is in no room; give it a level in ROOMS."]
    found = []
    for line, name in imports(module, source):
        top, where = name.partition(".")[0], f"{module}:{line} imports {name}"
        if top == "fogx" and module != "fogx":
            target = room_of(name)
            if target is None:
                found.append(f"{where}, which is in no room.")
            elif target != room and ROOMS[target] >= ROOMS[room] and not 0 == ROOMS[target] == ROOMS[room]:
                found.append(f"{where}: level {ROOMS[room]} may import lower levels only, that is level {ROOMS[target]}.")
        if top == "deltalake" and room != "fogx.storage.log":
            found.append(f"{where}: only fogx.storage.log knows deltalake.")
        elif top in FAR_FROM_WORKERS and (ROOMS[room] < 3 or room == "fogx.training"):
            found.append(f"{where}, which no training worker may load.")
    return found


def calls_importer(call: ast.Call) -> bool:
    function = call.func
    name = function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    return name in ("import_module", "__import__")


def literal_start(call: ast.Call) -> str:
    """Return what the first argument says in the source: a string, or an f-string up to its first value."""
    argument: ast.expr | None = call.args[0] if call.args else None
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else ""


def by_name(module: str, source: str) -> list[str]:
    """Return imports by a string that the walk cannot follow, or that name a module of fogx."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and calls_importer(node)]
    return [f"{module}:{c.lineno} {ast.unparse(c)}" for c in calls if literal_start(c).partition(".")[0] in ("", "fogx")]


def code_from_data(module: str, source: str) -> list[str]:
    """Return what could run code that stands in a file of data."""
    nodes = list(ast.walk(ast.parse(source)))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    found = [f"imports {name}" for _, name in imports(module, source) if name.partition(".")[0] in RUN_CODE]
    found += [f"calls {c.func.id}" for c in calls if isinstance(c.func, ast.Name) and c.func.id in ("eval", "exec", "compile")]
    switches = {"allow_pickle": False, "weights_only": True}
    found += [
        f"passes {keyword.arg}={ast.unparse(keyword.value)}"
        for call in calls
        for keyword in call.keywords
        if keyword.arg in switches
        and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is switches[keyword.arg])
    ]
    return found


def may_miss(node: ast.AST) -> TypeGuard[ast.stmt]:
    """Whether imports below this statement run late, never, or with an answer to their absence."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    if isinstance(node, ast.Try):
        return any(handler.type is not None and ast.unparse(handler.type) == "ImportError" for handler in node.handlers)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def undeclared(module: str, source: str) -> list[str]:
    """Return third-party packages that are imported though pyproject.toml does not say that they are there."""
    optional = {
        inner
        for node in ast.walk(ast.parse(source))
        if may_miss(node)
        for inner in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    found = []
    for line, name in imports(module, source):
        top = name.partition(".")[0]
        if top != "fogx" and top not in sys.stdlib_module_names:
            package = PACKAGE_OF.get(top, top.replace("_", "-"))
            also = TESTING if room_of(module) == "fogx.testing" else set()
            if package not in (CORE | also | EXTRAS if line in optional else CORE | also):
                found.append(f"{module}:{line} imports {name}")
    return found


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that reach themselves."""
    reach = {module: set(targets) for module, targets in graph.items()}
    for middle in graph:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    return sorted(module for module, targets in reach.items() if module in targets)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_to_lower_levels(module: str) -> None:
    assert violations(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", [m for m in SOURCES if m not in MAY_IMPORT_BY_NAME])
def test_imports_can_be_followed(module: str) -> None:
    assert by_name(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_runs_code_from_data(module: str) -> None:
    assert code_from_data(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", SOURCES)
def test_imports_are_declared(module: str) -> None:
    """What every import of a module needs is a dependency; the rest may come with an extra."""
    assert undeclared(module, SOURCES[module]) == []


def test_no_module_imports_itself_in_a_circle() -> None:
    # The top is left out: every module lies below it, and it imports for type checkers only.
    graph = {m: {name for _, name in imports(m, text) if name in SOURCES} - {m} for m, text in SOURCES.items() if m != "fogx"}
    assert cycles(graph) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("fogx.codecs.jpeg", "def f():\n    from fogx.executors import inline", "level 1 may import lower levels only"),
        ("fogx.storage.files.paths", "from fogx import stats", "level 1 may import lower levels only"),
        ("fogx.errors", "if TYPE_CHECKING:\n    import fogx.stats", "level 0 may import lower levels only"),
        ("fogx.storage.log.rows", "from ...jobs import load", "level 3 may import lower levels only"),
        ("fogx.reading.view", "from fogx.recording.episode import Episode", "level 4 may import lower levels only"),
        ("fogx.reading.view", "from fogx import Dataset", "level 4 may import lower levels only, that is level 8"),
        ("fogx.reading.view", "import deltalake.table", "only fogx.storage.log knows deltalake"),
        ("fogx.training.items", "def f():\n    import polars as pl", "no training worker may load"),
        ("fogx.storage.tables.steps", "from pandas import DataFrame", "no training worker may load"),
        ("fogx.formats.rtx.loader", "import fogx.nowhere", "is in no room"),
        ("fogx.helpers", "", "is in no room"),
        ("fogx.formats.shared", "", "is in no room"),
    ],
)
def test_the_walk_sees(module: str, source: str, complaint: str) -> None:
    (found,) = violations(module, source)
    assert complaint in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fogx.protocols", "from fogx.feature import Feature"),
        ("fogx.storage.log.commit", "from fogx.storage.log import root\nimport deltalake"),
        ("fogx.storage.log.commit", "from fogx.storage.files.store import Store"),
        ("fogx.reading.steps", "import polars as pl"),
    ],
)
def test_the_walk_allows(module: str, source: str) -> None:
    assert violations(module, source) == []


@pytest.mark.parametrize("call", ["importlib.import_module('fogx.stats')", "__import__(name)", "import_module(f'{name}.x')"])
def test_imports_by_name_are_seen(call: str) -> None:
    assert by_name("m", call) == [f"m:1 {call}"]


def test_imports_by_name_of_other_packages_are_followed() -> None:
    assert by_name("fogx.training.items", "import_module('polars')") == []
    assert len(violations("fogx.training.items", "import_module('polars')")) == 1
    assert undeclared("fogx.m", "import_module(f'torch.{part}')") == ["fogx.m:1 imports torch"]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import pickle", "imports pickle"),
        ("from joblib import load", "imports joblib"),
        ("eval(text)", "calls eval"),
        ("np.load(file, allow_pickle=True)", "passes allow_pickle=True"),
        ("torch.load(file, weights_only=given)", "passes weights_only=given"),
    ],
)
def test_code_from_data_is_seen(source: str, complaint: str) -> None:
    assert code_from_data("fogx.reading.view", source) == [complaint]


def test_harmless_calls_are_not_taken_for_it() -> None:
    assert code_from_data("fogx.reading.view", "re.compile(text); np.load(file, allow_pickle=False)") == []


def test_undeclared_imports_are_seen() -> None:
    assert undeclared("fogx.m", "import os, numpy, scipy.linalg") == ["fogx.m:1 imports scipy.linalg"]
    assert undeclared("fogx.m", "import torch") == ["fogx.m:1 imports torch"]
    assert undeclared("fogx.m", "def f():\n    import torch, tensorflow_datasets\n    from PIL import Image") == []
    assert undeclared("fogx.m", "try:\n    import torch\nexcept ImportError:\n    raise") == []


def test_circles_are_seen() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == ["a", "b", "c"]


def test_the_facade_stays_small() -> None:
    source = SOURCES["fogx.dataset"]
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]

    assert code_lines(tree, source) <= 500
    assert {f.name: statements(f) for f in functions if statements(f) > 8} == {}
    # What Python and notebooks call by name ends in an underscore too: __len__, _repr_html_.
    assert [f.name for f in functions if f.name.startswith("_") and not f.name.endswith("_")] == []
    assert [
        ast.unparse(base)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "Dataset"
        for base in node.bases
    ] == []


def docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.stmt | None:
    return node.body[0] if ast.get_docstring(node, clean=False) is not None else None


def statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the statements of a body, nested ones too, its docstring not."""
    body = function.body[1:] if docstring(function) else function.body
    return sum(isinstance(node, ast.stmt) for statement in body for node in ast.walk(statement))


def code_lines(tree: ast.Module, source: str) -> int:
    """Count the lines that are neither blank nor part of a docstring."""
    owners = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    texts = [text for text in map(docstring, owners) if text is not None]
    left_out = {line for text in texts for line in range(text.lineno, (text.end_lineno or text.lineno) + 1)}
    return sum(bool(line.strip()) and number not in left_out for number, line in enumerate(source.splitlines(), 1))


def test_statements_and_lines_are_counted_as_said() -> None:
    source = 'def f(x):\n    """Two\n    lines."""\n\n    if x:\n        return 1\n    # why\n    return 2\n'
    tree = ast.parse(source)
    assert isinstance(tree.body[0], ast.FunctionDef)
    assert statements(tree.body[0]) == 3
    assert code_lines(tree, source) == 5
