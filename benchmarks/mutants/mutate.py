"""Find the mutants of a module: its source with one operator, comparison, condition or constant changed.

Some code is not mutated, because no test of behaviour depends on it or every test fails: annotations, docstrings and
other strings, ``assert`` (for the type checker), ``strict=`` of ``zip``, ``+`` next to a string, unions of types.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

BINARY: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
    ast.BitOr: ("|", "&"), ast.BitAnd: ("&", "|"), ast.BitXor: ("^", "&"),
}  # fmt: skip
COMPARISON: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")), ast.LtE: ("<=", ("<", ">")), ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")), ast.Eq: ("==", ("!=",)), ast.NotEq: ("!=", ("==",)), ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)), ast.In: ("in", ("not in",)), ast.NotIn: ("not in", ("in",)),
}  # fmt: skip
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}
COMPOUND = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If, ast.For, ast.AsyncFor, ast.While, ast.With,
    ast.AsyncWith, ast.Try,
)  # fmt: skip
TYPES = {"bool", "bytes", "dict", "float", "frozenset", "int", "list", "None", "set", "str", "tuple"}


@dataclass(frozen=True)
class Mutant:
    """One change of one line of a module."""

    file: str
    """Path from the repository's root."""
    function: str
    """Qualified name of the function or class around the change; empty at module level."""
    original: str
    """The line before the change, without indentation."""
    mutated: str
    """The line after the change, without indentation."""
    lines: tuple[int, ...]
    """Line numbers of the changed statement; for a compound statement those of its head, for a function all."""
    names: tuple[str, ...]
    """Names defined by the changed statement if it runs on import; empty in functions."""
    source: str
    """The module after the change."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Return the identity of the mutant, which is stable while its line, function and file are unchanged."""
        return self.file, self.function, self.original, self.mutated

    def rank(self, seed: int) -> str:
        """Return the sort key of the mutant for a seed.

        It depends only on the line and its function, so that a sample changes only where the code does.
        """
        return hashlib.sha256(repr((seed, *self.key[1:])).encode()).hexdigest()


@dataclass(frozen=True)
class _Edit:
    start: int
    end: int
    text: str
    function: str
    lines: tuple[int, ...]
    names: tuple[str, ...]


class _Finder(ast.NodeVisitor):
    """Collects the edits of a module."""

    def __init__(self, source: str) -> None:
        self.text = source.encode()
        self.starts = [0]
        for line in self.text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.functions: list[str] = []
        self.on_import = True
        self.statement: ast.stmt | None = None
        self.edits: list[_Edit] = []

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def add(self, start: int, end: int, text: str) -> None:
        assert self.statement is not None
        names = (*_defined(self.statement), *self.functions) if self.on_import else ()
        self.edits.append(_Edit(start, end, text, ".".join(self.functions), _lines(self.statement), names))

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Replace the operator between two operands."""
        first = self.text.index(old.split(maxsplit=1)[0].encode(), self.end(left), self.start(right))
        last = self.text.index(old.rsplit(maxsplit=1)[-1].encode(), first, self.start(right)) + len(
            old.rsplit(maxsplit=1)[-1]
        )
        self.add(first, last, new)

    def negate(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare | ast.UnaryOp | ast.BoolOp | ast.Constant):
            start, end = self.start(test), self.end(test)
            self.add(start, end, f"not ({self.text[start:end].decode()})")

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            outer, self.statement = self.statement, node
            super().visit(node)
            self.statement = outer
        else:
            super().visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.functions.append(node.name)
        self.generic_visit(node)
        self.functions.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.functions.append(node.name)
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.visit(node.args)
        outer, self.on_import = self.on_import, False
        for statement in node.body:
            self.visit(statement)
        self.on_import = outer
        self.functions.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name that ast.NodeVisitor looks up

    def visit_Assert(self, node: ast.Assert) -> None:
        """Skip assertions."""

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Skip formatted strings, because Python 3.11 does not report the positions of their parts."""

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *(each for each in node.kw_defaults if each is not None)):
            self.visit(default)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def generic_visit(self, node: ast.AST) -> None:
        for name, value in ast.iter_fields(node):
            if name in ("returns", "annotation"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        sides = (node.left, node.right)
        text = any(isinstance(side, ast.JoinedStr) or _is(side, str) for side in sides)
        union = isinstance(node.op, ast.BitOr) and any(_is_type(side) for side in sides)
        if type(node.op) in BINARY and not text and not union:
            self.between(node.left, node.right, *BINARY[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        old, new = BINARY[type(node.op)]
        self.between(node.target, node.value, f"{old}=", f"{new}=")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            old, changed = COMPARISON[type(operator)]
            for new in changed:
                self.between(left, right, old, new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            old, new = ("not ", "") if isinstance(node.op, ast.Not) else ("-", "+")
            self.add(self.start(node), self.start(node) + len(old), new)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.negate(node.test)
            self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    visit_While = visit_IfExp  # noqa: N815 - the name that ast.NodeVisitor looks up

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in SWAPPED:
            self.add(self.start(node.func), self.end(node.func), SWAPPED[node.func.id])
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "strict":
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        for value in _other_values(node.value):
            self.add(self.start(node), self.end(node), repr(value))


def _is(node: ast.expr, kind: type) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, kind)


def _is_type(node: ast.expr) -> bool:
    return _is(node, type(None)) or (isinstance(node, ast.Name) and (node.id in TYPES or node.id[0].isupper()))


def _other_values(value: object) -> tuple[object, ...]:
    """Return the replacements of a constant: its neighbours, or half of a float."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return (value + 1, value - 1)
    if isinstance(value, float):
        return (value / 2 if value else 1.0,)
    return ()


def _lines(statement: ast.stmt) -> tuple[int, ...]:
    """Return the lines of a statement; for a compound statement those of its head.

    A function's head holds its defaults, which the tests of its body may notice, so all of its lines count.
    """
    has_body = isinstance(statement, COMPOUND) and not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
    body = statement.body[0] if has_body else None
    last = body.lineno - 1 if body else statement.end_lineno or statement.lineno
    return tuple(range(statement.lineno, max(last, statement.lineno) + 1))


def _defined(statement: ast.stmt) -> tuple[str, ...]:
    """Return the names that an assignment defines."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return tuple(target.id for target in targets if isinstance(target, ast.Name))


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Yield all mutants of a module in source order, only the first of those with the same key.

    Args:
        file: path from the repository's root.
        source: the module.
    """
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    text, keys = finder.text, set()
    for edit in sorted(finder.edits, key=lambda each: (each.start, each.text)):
        before, after = text[: edit.start] + edit.text.encode(), text[edit.end :]
        head = text.rfind(b"\n", 0, edit.start) + 1
        mutant = Mutant(
            file=file,
            function=edit.function,
            original=text[head:].partition(b"\n")[0].decode().strip(),
            mutated=(before[head:] + after.partition(b"\n")[0]).decode().partition("\n")[0].strip(),
            lines=edit.lines,
            names=edit.names,
            source=(before + after).decode(),
        )
        if mutant.key not in keys:
            keys.add(mutant.key)
            yield mutant
