"""A file of Python, parsed once: its classes and functions, and the children that an expression in it makes.

Of names it knows what stands in the same function, the methods of the same class and the functions of the same file.
"""

import ast
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from gradscope.registrations import (
    Children,
    Function,
    Maker,
    Scope,
    elements,
    last_name,
    local_name,
    pairs,
    read,
    read_own,
    statements,
)

LARGEST = 2_000_000  # bytes of a file that is read
MOST_FILES = 256  # that are kept
DEEPEST = 12  # expressions that refer to each other

_SIMPLE = (ast.expr, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return, ast.Import, ast.ImportFrom)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
_COLLECTIONS = (ast.List, ast.Tuple, ast.Set, ast.Dict, ast.BinOp, *_COMPREHENSIONS)
_MAKERS = frozenset({"OrderedDict", "dict", "list", "tuple", "reversed"})  # of collections that are no modules


class Source:
    """A parsed file.

    Attributes:
        classes: By qualified name; several where one is defined anew.
        functions: The same.
    """

    def __init__(self) -> None:
        self.classes: dict[str, list[ast.ClassDef]] = {}
        self.functions: dict[str, list[Function]] = {}
        self._known: dict[int, Children] = {}  # by the node's id

    def of_class(self, node: ast.ClassDef) -> Children:
        """The children that the methods of a class register, `__init__` first."""
        if id(node) not in self._known:
            children = self._known[id(node)] = Children()
            methods = [item for item in node.body if isinstance(item, Function)]
            for method in sorted(methods, key=lambda one: one.name != "__init__"):
                scope = Scope(method, node)
                for statement, loose in statements(method.body, False):
                    read(children, statement, scope, scope.attribute, loose)
                    if (call := read_own(children, statement, scope)) is not None:
                        children.take(self.children_of(Maker(call.lineno, call, scope)))
        return self._known[id(node)]

    def local(self, scope: Scope) -> Children:
        """What the local names of a function are made of."""
        if id(scope.function) not in self._known:
            children = self._known[id(scope.function)] = Children()
            for statement, loose in statements(scope.function.body, False):
                read(children, statement, scope, local_name, loose)
        return self._known[id(scope.function)]

    def children_of(self, maker: Maker, depth: int = 0) -> Children:
        """The children that are written in an expression itself, such as the arguments of an `nn.Sequential`."""
        children = Children()
        value, scope = maker.value, maker.scope
        if depth > DEEPEST:
            return children
        if isinstance(value, ast.Dict):
            for key, item in zip(value.keys, value.values, strict=True):
                if key is not None:
                    children.add(key, Maker(item.lineno, item, scope))
        elif isinstance(value, ast.DictComp):
            children.add(value.key, Maker(value.value.lineno, value.value, scope, repeated=True))
        elif isinstance(value, ast.Name):
            local = self.local(scope)
            for one in local.named.get(value.id, ()):
                if one.value is not value:
                    children.take(self.children_of(one, depth + 1))
            children.take(local.of(value.id))
        elif isinstance(value, ast.Call):
            children = self._of_call(value, scope, depth)
        elif isinstance(value, ast.IfExp):
            children = self.children_of(maker._replace(value=value.body), depth + 1)
            children.take(self.children_of(maker._replace(value=value.orelse), depth + 1))
        elif value is not None and not isinstance(value, ast.Constant | ast.Attribute):
            children.listed = elements(value, scope)
        children.listed = list(self._spread(children.listed, depth))
        return children

    def _of_call(self, call: ast.Call, scope: Scope, depth: int) -> Children:
        """Of a function of this file what it returns; else the arguments, or what the only one of them holds."""
        children = Children()
        called = self._function(call, scope)
        if called is not None:
            for returned in self.returned(called):
                if not (children.listed or children.named):
                    children = self.children_of(returned, depth + 1)
            return children
        only = call.args[0] if len(call.args) == 1 else None
        if only is not None and (listed := pairs(only, scope)) is not None:
            return listed
        if only is not None and self._holds(only, scope):
            return self.children_of(Maker(only.lineno, only, scope), depth + 1)
        for word in call.keywords:
            if word.arg is not None:
                children.add(ast.Constant(word.arg), Maker(word.value.lineno, word.value, scope))
        children.listed = [Maker(given.lineno, given, scope, isinstance(given, ast.Starred)) for given in call.args]
        return children

    def returned(self, scope: Scope) -> Iterator[Maker]:
        """What a function returns, the last first."""
        for statement, _ in reversed(list(statements(scope.function.body, False))):
            if isinstance(statement, ast.Return) and statement.value is not None:
                yield Maker(statement.lineno, statement.value, scope)

    def _holds(self, value: ast.expr, scope: Scope, depth: int = 0) -> bool:
        """Whether the only argument of a call is what holds the children, and not the only child."""
        if isinstance(value, ast.Name) and depth < DEEPEST:
            made = self.local(scope).named.get(value.id, ())
            return any(one.value is not None and self._holds(one.value, scope, depth + 1) for one in made)
        return isinstance(value, _COLLECTIONS) or (isinstance(value, ast.Call) and last_name(value.func) in _MAKERS)

    def _spread(self, listed: Iterable[Maker], depth: int) -> Iterator[Maker]:
        """For ``*layers`` the elements of `layers`, where they can be told."""
        for one in listed:
            inner = one.value.value if isinstance(one.value, ast.Starred) else None
            if isinstance(inner, ast.Call) and last_name(inner.func) not in _MAKERS:
                inner = inner if self._function(inner, one.scope) is not None else None
            if inner is None:
                yield one
            else:
                yield from self.children_of(Maker(one.line, inner, one.scope), depth + 1).listed or [one]

    def _function(self, call: ast.Call, scope: Scope) -> Scope | None:
        """The function of this file, or the method of the same class, that is called."""
        name = scope.attribute(call.func)
        if name is not None and scope.owner is not None:
            found = [item for item in scope.owner.body if isinstance(item, Function) and item.name == name]
            return Scope(found[-1], scope.owner) if found else None
        if isinstance(call.func, ast.Name) and call.func.id in self.functions:
            return Scope(self.functions[call.func.id][-1])
        return None


@lru_cache(maxsize=MOST_FILES)
def parsed(path: str, modified_ns: int, size: int) -> Source | None:
    """The file as it was at that time; None where it holds no Python that can be read."""
    if size > LARGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is to be said of the user's code was said when it was imported
            tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    source = Source()
    _index(source, tree.body, "")
    return source


def _index(source: Source, body: Iterable[ast.AST], prefix: str) -> None:
    for node in body:
        if isinstance(node, ast.ClassDef):
            source.classes.setdefault(prefix + node.name, []).append(node)
            _index(source, node.body, f"{prefix}{node.name}.")
        elif isinstance(node, Function):
            source.functions.setdefault(prefix + node.name, []).append(node)
            _index(source, node.body, f"{prefix}{node.name}.<locals>.")
        elif not isinstance(node, _SIMPLE):
            _index(source, ast.iter_child_nodes(node), prefix)
