"""Holds docs/architecture.md: who may import whom, and what must not be there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "ecocore"

PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def rules() -> Iterator[tuple[str, tuple[set[str], set[str]]]]:
    """Of each room of the page's table: which rooms and values it may import, and which third-party packages."""
    table = PAGE[PAGE.index("| room | may import from ecocore |") :].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        rooms, ours, theirs = ({name.strip() for name in cell.split(",")} - {"-"} for cell in line.strip("|").split(" | "))
        yield from ((room, (ours, theirs)) for room in rooms)


RULES = dict(rules())
STANDARD = set(__import__("sys").stdlib_module_names)


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "ecocore" else [module]


SOURCES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name not in {"__init__.py", "__main__.py"} or path.parent != PACKAGE
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_its_neighbours(path: Path) -> None:
    room = room_of(path)
    assert room in RULES, f"{room} is not in the plan"
    rooms, packages = RULES[room]
    for module in imports(path):
        top, _, rest = module.partition(".")
        if top == "ecocore":
            neighbour = rest.split(".")[0]
            assert neighbour in rooms | {room, "__version__"}, f"{path.name} imports {module}"
        else:
            assert top in packages | STANDARD, f"{path.name} imports {module}"


def test_the_rules_name_no_room_that_is_gone() -> None:
    there = {room_of(path) for path in SOURCES}
    assert RULES.keys() <= there
    known = {name for ours, _ in RULES.values() for name in ours}
    assert known <= there | {"_core"}


def test_the_rules_know_no_package_that_nobody_imports() -> None:
    imported = {(room_of(path), module.partition(".")[0]) for path in SOURCES for module in imports(path)}
    assert {(room, package) for room, (_, theirs) in RULES.items() for package in theirs} <= imported


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_environment_is_read_in_config_alone(path: Path) -> None:
    if room_of(path) != "config":
        assert not re.search(r"\bos\.(environ|getenv)", path.read_text("utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unpickles_or_evaluates(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.load", "pickle.load", "pickle.loads"}, f"{path.name}: {called}"


def test_family_names_live_in_their_files() -> None:
    families = re.compile(r"llama|qwen|gemma|smollm", re.IGNORECASE)
    homes = re.compile(r"families|llama|qwen|gemma|embedded")
    for path in SOURCES:
        if homes.search(path.stem):
            continue
        code = ast.unparse(_without_docstrings(ast.parse(path.read_text("utf-8"))))
        assert not families.search(code), f"{path.relative_to(PACKAGE)} names a model family"


def test_there_are_no_drawers() -> None:
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "rust").rglob("*.rs")]:
        assert not re.fullmatch(r"utils?|helpers?|common|misc|.*_(v2|fast|legacy|new)", path.stem), path


def test_python_stays_out_of_the_core() -> None:
    for path in (ROOT / "rust" / "src").rglob("*.rs"):
        if "python" not in path.relative_to(ROOT / "rust" / "src").parts and path.name != "lib.rs":
            assert "pyo3" not in path.read_text("utf-8"), path


def test_unsafe_stands_in_named_files_with_its_reason() -> None:
    allowed = {"python/buffer.rs", "sampler/vectors.rs", "tokenizer/simd.rs"}
    for path in (ROOT / "rust" / "src").rglob("*.rs"):
        lines = path.read_text("utf-8").splitlines()
        for number, line in enumerate(lines):
            if re.search(r"\bunsafe\s*(\{|fn|impl)", line.split("//")[0]):
                assert str(path.relative_to(ROOT / "rust" / "src")) in allowed, path
                assert any("SAFETY:" in before for before in lines[max(0, number - 6) : number + 1]), f"{path}:{number + 1}"


def test_only_the_server_and_regions_speak_http() -> None:
    for path in SOURCES:
        if room_of(path) in {"server", "regions", "cli"}:
            continue
        assert not re.search(r"\bstatus_code\b|starlette|hypercorn", path.read_text("utf-8")), path


def test_only_accounts_speak_sql() -> None:
    for path in SOURCES:
        if room_of(path) != "accounts":
            assert not re.search(r"\bsqlalchemy\b|\bSELECT\b", path.read_text("utf-8")), path


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return tree
