"""Where a class registers its submodules, as far as its source says: an assignment, an argument, a line of a loop.

Nothing is run and nothing is imported: a file is parsed once, and of its classes those are read that a model has.

    class Net(nn.Module):
        def __init__(self):
            self.fc = nn.Linear(4, 8)               # named["fc"]
            self.body = nn.Sequential(              # named["body"]; what stands in it: `children_of` it, listed[0], [1]
                nn.Linear(8, 8),
                nn.ReLU(),
            )
            self.blocks = nn.ModuleList()           # named["blocks"]
            for _ in range(4):
                self.blocks.append(Block())         # inside["blocks"].listed[0], repeated

A function's local names are read in the same way as the attributes of `self`.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Key: TypeAlias = Callable[[ast.expr], str | None]
_ANYTHING = re.compile("")
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp)


class Scope(NamedTuple):
    """Whose names an expression uses: a function's, and in a method those of its class."""

    function: Function
    owner: ast.ClassDef | None = None

    @property
    def me(self) -> str:
        """What the method calls its object; "" in a function."""
        arguments = [*self.function.args.posonlyargs, *self.function.args.args]
        return arguments[0].arg if self.owner is not None and arguments else ""

    def attribute(self, target: ast.expr) -> str | None:
        """``x`` of ``self.x``."""
        own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == self.me
        return target.attr if own and isinstance(target, ast.Attribute) else None


class Maker(NamedTuple):
    """An expression that makes a child.

    Attributes:
        line: Where it stands.
        value: The expression; None where it cannot be told.
        scope: Where its names are looked up.
        repeated: It makes any number of children: it stands in a loop, a branch or a comprehension.
    """

    line: int
    value: ast.expr | None
    scope: Scope
    repeated: bool = False

    def calls(self, class_name: str) -> bool:
        """Whether it calls what has that name, as ``nn.Linear(2, 3)`` does "Linear"."""
        return isinstance(self.value, ast.Call) and last_name(self.value.func) == class_name


class Children:
    """What is written about the children of one module.

    Attributes:
        named: By name; several where it is assigned more than once.
        patterns: The same where the name is put together in the code.
        listed: In the order of a list.
        inside: Of a child: what is added to it after it was made.
    """

    __slots__ = ("inside", "listed", "named", "patterns")

    def __init__(self) -> None:
        self.named: dict[str, list[Maker]] = {}
        self.patterns: list[tuple[re.Pattern[str], Maker]] = []
        self.listed: list[Maker] = []
        self.inside: dict[str, Children] = {}

    def maker(self, name: str, position: int, total: int, class_name: str) -> Maker | None:
        """What makes the child `name`, of a class of that name, at `position` of `total`."""
        fitting = self.named.get(name) or [maker for pattern, maker in self.patterns if pattern.fullmatch(name)]
        if fitting:
            return _likeliest(fitting, class_name)
        if name.isdigit() and self.listed:
            return _at(self.listed, position, total, class_name)
        return next((maker for pattern, maker in self.patterns if pattern is _ANYTHING), None)

    def add(self, name: ast.expr, maker: Maker) -> None:
        """Notes `maker` under a name that stands there, or is put together."""
        if isinstance(name, ast.Constant):
            self.named.setdefault(str(name.value), []).append(maker)
        elif isinstance(name, ast.JoinedStr):
            parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in name.values]
            self.patterns.append((re.compile("".join(parts), re.DOTALL), maker))
        else:
            self.patterns.append((_ANYTHING, maker))

    def take(self, other: "Children") -> None:
        """Takes in what was added elsewhere."""
        for name, makers in other.named.items():
            self.named.setdefault(name, []).extend(makers)
        self.patterns += other.patterns
        self.listed += other.listed

    def of(self, name: str) -> "Children":
        """What is added to a child after it was made."""
        return self.inside.setdefault(name, Children())


def _likeliest(makers: Sequence[Maker], class_name: str) -> Maker:
    """Of several the one that calls the child's class; else the first that is no placeholder."""
    calling = (maker for maker in makers if maker.calls(class_name))
    return next(calling, None) or next((m for m in makers if not isinstance(m.value, ast.Constant)), makers[0])


def _at(listed: Sequence[Maker], position: int, total: int, class_name: str) -> Maker | None:
    """The entry at `position`, counted from the start and from the end as far as each entry makes one child."""
    loose = [i for i, maker in enumerate(listed) if maker.repeated]
    if position < (loose[0] if loose else len(listed)):
        return listed[position]
    if not loose:
        return None
    if position >= total - (len(listed) - 1 - loose[-1]):
        return listed[position - total]
    return _likeliest(listed[loose[0] : loose[-1] + 1], class_name)


# ---------------------------------------------------------------- statements


def statements(body: Iterable[ast.AST], loose: bool) -> Iterator[tuple[ast.stmt, bool]]:
    """The simple statements of a function, and whether each stands in a loop or a branch."""
    for node in body:
        if isinstance(node, ast.With | ast.AsyncWith):
            yield from statements(node.body, loose)
        elif isinstance(node, ast.For | ast.AsyncFor | ast.While | ast.If | ast.Try | ast.TryStar | ast.Match):
            yield from statements(ast.iter_child_nodes(node), True)
        elif isinstance(node, ast.ExceptHandler | ast.match_case):
            yield from statements(node.body, True)
        elif isinstance(node, ast.stmt):
            yield node, loose


def read(children: Children, statement: ast.stmt, scope: Scope, key: Key, loose: bool) -> None:
    """``x = …``, ``a, b = …``, ``x["name"] = …``, ``x += […]``, ``x.append(…)`` and its like, where `key` knows x."""
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            _assign(children, target, statement.value, scope, key)
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        _assign(children, statement.target, statement.value, scope, key)
    elif isinstance(statement, ast.AugAssign) and (name := key(statement.target)) is not None:
        children.of(name).listed += _loosened(elements(statement.value, scope), loose)
    elif (call := _call(statement)) is not None and isinstance(function := call.func, ast.Attribute):
        name = key(function.value)
        if name is not None:
            _extend(children.of(name), call, function.attr, scope, loose)


def _assign(children: Children, target: ast.expr, value: ast.expr | None, scope: Scope, key: Key) -> None:
    if isinstance(target, ast.Tuple | ast.List):
        parts: Sequence[ast.expr | None] = value.elts if isinstance(value, ast.Tuple | ast.List) else []
        fitting = len(parts) == len(target.elts) and not any(isinstance(part, ast.Starred) for part in parts)
        for one, part in zip(target.elts, parts if fitting else [None] * len(target.elts), strict=True):
            _assign(children, one, part, scope, key)
    elif (name := key(target)) is not None:
        children.named.setdefault(name, []).append(Maker(target.lineno, value, scope))
    elif isinstance(target, ast.Subscript) and (name := key(target.value)) is not None:
        inside = children if name == "_modules" else children.of(name)
        inside.add(target.slice, Maker(target.lineno, value, scope))


def _extend(inside: Children, call: ast.Call, verb: str, scope: Scope, loose: bool) -> None:
    """``x.append(…)``, ``x.extend(…)``, ``x.insert(…)``, ``x.update(…)``, ``x.add_module(…)``."""
    if verb in ("add_module", "register_module"):
        _add_module(inside, call, scope)
    elif verb in ("append", "insert") and call.args:
        inside.listed.append(Maker(call.lineno, call.args[-1], scope, loose or verb == "insert"))
    elif verb == "extend" and call.args:
        inside.listed += _loosened(elements(call.args[0], scope), loose)
    elif verb == "update" and call.args and isinstance(given := call.args[0], ast.Dict):
        for name, value in zip(given.keys, given.values, strict=True):
            if name is not None:
                inside.add(name, Maker(value.lineno, value, scope))


def read_own(children: Children, statement: ast.stmt, scope: Scope) -> ast.Call | None:
    """``setattr(self, …)``, ``self.add_module(…)``; what is returned is ``super().__init__(…)``."""
    call = _call(statement)
    if call is None:
        return None
    function, args = call.func, call.args
    if isinstance(function, ast.Name) and function.id == "setattr" and len(args) == 3:
        if isinstance(args[0], ast.Name) and args[0].id == scope.me:
            children.add(args[1], Maker(call.lineno, args[2], scope))
    elif isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        if function.value.id == scope.me and function.attr in ("add_module", "register_module"):
            _add_module(children, call, scope)
    elif isinstance(function, ast.Attribute) and function.attr == "__init__" and _is_super(function.value):
        return call
    return None


def _call(statement: ast.stmt) -> ast.Call | None:
    """The call that a statement consists of."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value if isinstance(value, ast.Call) else None


def _is_super(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and last_name(value.func) == "super"


def _add_module(children: Children, call: ast.Call, scope: Scope) -> None:
    given = {word.arg: word.value for word in call.keywords}
    name = call.args[0] if call.args else given.get("name")
    value = call.args[1] if len(call.args) > 1 else given.get("module")
    if name is not None:
        children.add(name, Maker(call.lineno, value, scope))


# ---------------------------------------------------------------- expressions


def elements(value: ast.expr, scope: Scope) -> list[Maker]:
    """The elements of a list as it is written; of anything else one that stands for any number."""
    if isinstance(value, ast.List | ast.Tuple | ast.Set):
        return [Maker(item.lineno, item, scope, isinstance(item, ast.Starred)) for item in value.elts]
    if isinstance(value, _COMPREHENSIONS):
        return [Maker(value.elt.lineno, value.elt, scope, repeated=True)]
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
        return [*elements(value.left, scope), *elements(value.right, scope)]
    if isinstance(value, ast.BinOp) and isinstance(value.left, ast.List):  # [layer] * n
        return _loosened(elements(value.left, scope), True)
    starred = ast.Starred(value, ast.Load(), lineno=value.lineno, col_offset=value.col_offset)
    return [Maker(value.lineno, starred, scope, repeated=True)]


def _loosened(makers: Iterable[Maker], loose: bool) -> list[Maker]:
    return [maker._replace(repeated=maker.repeated or loose) for maker in makers]


def pairs(value: ast.expr, scope: Scope) -> Children | None:
    """``[("fc", nn.Linear(2, 3)), …]``; None where it is anything else."""
    children = Children()
    for pair in value.elts if isinstance(value, ast.List | ast.Tuple) else ():
        if not (isinstance(pair, ast.Tuple) and len(pair.elts) == 2 and isinstance(pair.elts[0], ast.Constant)):
            return None
        children.add(pair.elts[0], Maker(pair.lineno, pair.elts[1], scope))
    return children if children.named else None


def local_name(target: ast.expr) -> str | None:
    """``x`` of ``x``."""
    return target.id if isinstance(target, ast.Name) else None


def last_name(function: ast.expr) -> str:
    """The last part of a name, ``Linear`` of ``nn.Linear``."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
