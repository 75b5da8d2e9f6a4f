"""Imports point one way: a module imports those above it in this table, and nothing below."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hoidap"
# From what knows least to what knows most; modules of one line do not import each other.
LAYERS = (
    ("errors",),
    ("tones",),
    ("text",),
    ("language", "page"),
    ("notation",),
    ("facts",),
    ("variants",),
    ("recipe",),
    ("runtime",),
    ("progress",),
    ("download",),
    ("kernels",),
    ("tokenizer",),
    ("prompt",),
    ("data",),
    ("ground",),
    ("model",),
    ("hub",),
    ("base",),
    ("check",),
    ("folder",),
    ("run",),
    ("infer",),
    ("loading",),
    ("bot",),
    ("evaluate", "export"),
    ("training",),
    ("chat", "verify"),
    ("demo", "serve"),
    ("cli",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{a.name}" for a in node.names] if node.module == "hoidap" else [node.module]
        names |= {m.split(".")[1] for m in modules if m.startswith("hoidap.")}
    return names


def test_the_table_names_every_module():
    assert {unit(path) for path in MODULES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up_the_table(path):
    if path == PACKAGE / "__init__.py":
        return  # names the public functions, imported when they are asked for
    own = unit(path)
    wrong = {name for name in imported(path) - {own} if name not in RANK or RANK[name] >= RANK[own]}
    assert not wrong, f"{own} imports {', '.join(sorted(wrong))}, which stand at its height or below it"


def test_only_the_model_touches_the_kernels():
    users = {unit(path) for path in MODULES if "kernels" in imported(path)}
    assert users <= {"kernels", "model", "infer", "bench"}


def test_modules_of_one_package_import_without_a_cycle():
    edges = {}
    for path in MODULES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        nodes = [n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.ImportFrom) and n.module]
        edges[name] = {f"{n.module}.{a.name}" for n in nodes for a in n.names} | {n.module for n in nodes}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a cycle: {' → '.join([*above, name])}"
        if name in edges and name not in done:
            for other in edges[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_files_and_functions_stay_small():
    long = []
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        if source.count("\n") > 420:
            long.append(f"{path.name}: {source.count(chr(10))} lines")
        functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        lengths = [(f, (f.end_lineno or f.lineno) - f.lineno) for f in functions]
        long += [f"{path.name}:{f.lineno} {f.name}: {lines} lines" for f, lines in lengths if lines > 64]
    assert not long
