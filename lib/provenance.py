"""What a result depends on, as short digests: of code (comments and docstrings aside) and of files."""

import ast
import functools
import importlib
import inspect
from pathlib import Path

from lib.files import digest


@functools.cache
def code_version(*modules: str) -> str:
    """Return a digest of the code of `modules` (dotted names); formatting, comments and docstrings do not count."""
    return digest([ast.dump(_without_docstrings(ast.parse(_source(name)))) for name in modules])


@functools.cache
def definition_version(module: str, name: str) -> str:
    """Return a digest of one class or function of `module` and of all that it uses from the project's modules.

    Editing one head changes the version of that head, not of its neighbours in the same file.
    """
    seen: dict[tuple[str, str], str] = {}
    _collect(module, name, seen)
    return digest(sorted(seen.items()))


def _collect(module: str, name: str, seen: dict[tuple[str, str], str]) -> None:
    definitions, imports = _definitions(module)
    if (module, name) in seen:
        return
    if name in imports:
        _collect(*imports[name], seen)
        return
    if name not in definitions:
        return
    node = definitions[name]
    seen[module, name] = ast.dump(node)
    for used in {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}:
        if used in definitions or used in imports:
            _collect(module, used, seen)


@functools.cache
def _definitions(module: str) -> tuple[dict[str, ast.AST], dict[str, tuple[str, str]]]:
    """Return the top-level definitions of a module, and the names that it imports from the project."""
    definitions: dict[str, ast.AST] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in _without_docstrings(ast.parse(_source(module))).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            definitions.update({target.id: node for target in targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lib"):
            imports.update({alias.asname or alias.name: (node.module, alias.name) for alias in node.names})
    return definitions, imports


def _source(module: str) -> str:
    return Path(inspect.getsourcefile(importlib.import_module(module))).read_text(encoding="utf-8")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        if (
            isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            node.body = body[1:] or [ast.Pass()]
    return tree
