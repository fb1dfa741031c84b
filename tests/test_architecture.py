# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports point only downward, and the pure floors stay pure."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mediamaker"

# A module may import from its own floor's folder and from the floors listed for it.
CORE = {"errors", "units", "extents"}
ALLOWED = {
    "errors": set(),
    "units": {"errors"},
    "extents": {"errors", "units"},
    "state": set(),
    "formats": CORE,
    "wimlib": CORE,
    "sources": CORE | {"formats", "wimlib"},
    "volumes": CORE | {"formats"},
    "plan": CORE | {"formats", "sources", "volumes"},
    "execute": CORE | {"state", "formats", "sources", "volumes", "plan"},
    "devices": CORE | {"formats", "sources", "volumes", "plan"},
    "vm": CORE | {"state", "formats", "sources", "volumes", "plan"},
    "wim": CORE | {"formats", "wimlib", "sources", "volumes", "plan", "execute", "devices"},
    "install": CORE
    | {"formats", "wimlib", "sources", "volumes", "plan", "execute", "devices", "wim"},
    "cli": CORE
    | {"formats", "wimlib", "sources", "volumes", "plan", "execute", "devices", "vm", "wim"}
    | {"install", "state"},
    "__main__": {"cli"},
    "__init__": set(),
}
PURE = {"errors", "units", "extents", "formats", "volumes", "plan"}
IMPURE_MODULES = {
    "os", "io", "time", "random", "secrets", "subprocess", "socket", "shutil", "tempfile",
    "pathlib", "fcntl", "ctypes", "locale", "platform", "psutil", "pycdlib", "parted", "pyudev",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "exit", "uuid1", "uuid4", "now", "utcnow", "today"}
ONLY_CLI_PRINTS = {"print", "input", "exit"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def floor_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this test can read them"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from ((name, node.lineno) for name in {node.module, *names} if name)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    floor = floor_of(path)
    wrong = []
    for name, line in imported(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "mediamaker" or len(parts) < 2 or parts[1].startswith("__"):
            continue
        if parts[1] != floor and parts[1] not in ALLOWED[floor]:
            wrong.append(f"line {line}: {name}")
    assert not wrong, f"{floor} may not import these: {wrong}"


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if floor_of(path) in PURE],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_pure_floors_reach_no_clock_randomness_environment_or_file(path):
    tree = ast.parse(path.read_text())
    wrong = [
        f"line {line}: imports {name}"
        for name, line in imported(tree)
        if name.split(".")[0] in IMPURE_MODULES
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", ""))
            if name in IMPURE_CALLS:
                wrong.append(f"line {node.lineno}: calls {name}()")
    assert not wrong


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if floor_of(path) not in {"cli", "__main__"}],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_only_the_cli_prints_and_exits(path):
    wrong = [
        f"line {node.lineno}: {node.func.id}()"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ONLY_CLI_PRINTS
    ]
    assert not wrong


def test_only_wimlib_holds_foreign_code():
    users = {
        floor_of(path)
        for path in MODULES
        for name, _ in imported(ast.parse(path.read_text()))
        if name.split(".")[0] in {"cffi", "ctypes"}
    }
    assert users <= {"wimlib"}


def test_every_floor_is_known():
    assert {floor_of(path) for path in MODULES} <= set(ALLOWED)


def test_the_check_can_fail(tmp_path):
    tree = ast.parse("from mediamaker.cli import main\nimport mediamaker.vm.machine\n")
    names = {name for name, _ in imported(tree)}
    assert {"mediamaker.cli", "mediamaker.vm.machine"} <= names
