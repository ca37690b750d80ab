"""Expressions over columns, as filters and objectives are written: `images * ranks <= 64 and schedule != "sync"`.

They look like Python and are not run by it: names, numbers, texts, arithmetic, comparisons, and, or, not, in, and a
few functions.  A name may have dots ("cluster.link.latency_s"); `error == null` is true where there is no value.  The
file knows columns as arrays; it refuses to know what they mean."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
_DIVISIONS = (ast.Div, ast.FloorDiv, ast.Mod)
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": np.abs, "log2": np.log2, "sqrt": np.sqrt, "floor": np.floor,
                                             "least": np.minimum, "most": np.maximum}  # fmt: skip


class Formula:
    """One expression.  Raises ValueError that shows the text and what in it cannot be."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} cannot be read: {error.args[0] if error.args else error}") from None
        self.names = tuple(dict.fromkeys(self._names(self._tree)))

    def __call__(self, columns: Mapping[str, Array]) -> Array:
        """The value of every row.  Raises ValueError for what is no column, or values that do not go together."""
        if unknown := [name for name in self.names if name not in columns]:
            raise ValueError(f"{self.text!r}: there is no {', '.join(unknown)}; there are {', '.join(columns)}")
        rows = len(next(iter(columns.values()))) if columns else 0
        try:
            with np.errstate(all="ignore"):
                return np.broadcast_to(np.asarray(self._value(self._tree, columns)), (rows,))
        except (TypeError, np.exceptions.DTypePromotionError):
            texts = [name for name in self.names if np.asarray(columns[name]).dtype.kind in "OSU"]
            told = f": {', '.join(texts)} holds texts" if texts else ""
            raise ValueError(f"{self.text!r} does with texts what only numbers can{told}") from None
        except (ZeroDivisionError, OverflowError) as error:
            raise ValueError(f"{self.text!r}: {error}") from None

    def mask(self, columns: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Of which rows it is true.  Raises ValueError if it is no condition."""
        found = _condition(self(columns))
        if found is None:
            raise ValueError(f"{self.text!r} should be a condition, as images <= 16")
        return found

    def _names(self, node: ast.expr) -> list[str]:
        if _is_null(node):
            raise ValueError(f"{self.text!r}: null can be compared, by == or !=, and nothing else")
        if isinstance(node, ast.Name | ast.Attribute):
            return [self._dotted(node)]
        match node:
            case ast.Compare(left=left, comparators=[right], ops=[ast.Eq() | ast.NotEq()]) if _is_null(right):
                return self._names(left)
            case ast.Constant(value=bool() | int() | float() | str()):
                return []
            case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
                return self._of(parts)
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=one):
                return self._names(one)
            case ast.BinOp(left=left, right=right, op=op) if type(op) in _ARITHMETIC:
                if any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (left, right)):
                    raise ValueError(f"{self.text!r}: {ast.unparse(node)!r} does arithmetic with a text")
                if isinstance(op, _DIVISIONS) and not self._names(right) and not np.all(self._value(right, {})):
                    raise ValueError(f"{self.text!r}: {ast.unparse(node)!r} divides by 0")
                return self._of([left, right])
            case ast.Compare(left=left, comparators=rest, ops=ops):
                for compare, side in zip(ops, rest, strict=True):
                    self._check_comparison(compare, side)
                return self._of([left, *rest])
            case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]) if name in _FUNCTIONS:
                return self._of(parts)
        raise ValueError(f"{self.text!r}: {ast.unparse(node)!r} is not known here; functions: {', '.join(_FUNCTIONS)}")

    def _of(self, parts: list[ast.expr]) -> list[str]:
        return [name for part in parts for name in self._names(part)]

    def _check_comparison(self, compare: ast.cmpop, side: ast.expr) -> None:
        within = isinstance(compare, ast.In | ast.NotIn)
        if within != isinstance(side, ast.Tuple | ast.List) or (not within and type(compare) not in _COMPARISONS):
            raise ValueError(f"{self.text!r}: compare by < <= > >= == !=, or write: schedule in ('sync', 'dice')")

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        raise ValueError(f"{self.text!r}: {ast.unparse(node)!r} is no name of a column")

    def _value(self, node: ast.expr, columns: Mapping[str, Array]) -> Any:
        def of(part: ast.expr) -> Any:
            return self._value(part, columns)

        match node:
            case ast.Constant(value=value):
                return float(value) if type(value) is int else value  # so that 9**9**9 ends, and ends soon
            case ast.Name() | ast.Attribute():
                return columns[self._dotted(node)]
            case ast.Compare(left=left, comparators=[right], ops=[op]) if _is_null(right):
                return _missing(of(left)) == isinstance(op, ast.Eq)
            case ast.BoolOp(op=op, values=parts):
                join = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return join.reduce(np.broadcast_arrays(*[self._truth(part, columns) for part in parts]))
            case ast.UnaryOp(op=ast.Not(), operand=one):
                return np.logical_not(self._truth(one, columns))
            case ast.UnaryOp(op=op, operand=one):
                return -of(one) if isinstance(op, ast.USub) else of(one)
            case ast.BinOp(left=left, op=op, right=right):
                return _ARITHMETIC[type(op)](of(left), of(right))
            case ast.Call(func=func, args=parts):
                return _FUNCTIONS[self._dotted(func)](*map(of, parts))
        assert isinstance(node, ast.Compare)
        sides = [node.left, *node.comparators]
        pairs = zip(sides, node.ops, sides[1:], strict=False)
        return np.logical_and.reduce(
            np.broadcast_arrays(*[self._compared(of(a), op, b, columns) for a, op, b in pairs])
        )

    def _compared(self, left: Any, op: ast.cmpop, side: ast.expr, columns: Mapping[str, Array]) -> Any:
        if isinstance(op, ast.In | ast.NotIn):
            assert isinstance(side, ast.Tuple | ast.List)
            same = [np.equal(left, self._value(each, columns)) for each in side.elts] or [np.zeros_like(left, bool)]
            found = np.logical_or.reduce(np.broadcast_arrays(*same)).astype(bool)
            return found if isinstance(op, ast.In) else ~found
        return np.asarray(_COMPARISONS[type(op)](left, self._value(side, columns)), dtype=bool)

    def _truth(self, node: ast.expr, columns: Mapping[str, Array]) -> Array:
        found = _condition(np.asarray(self._value(node, columns)))
        if found is None:
            raise ValueError(f"{self.text!r}: {ast.unparse(node)!r} should be a condition, as images <= 16")
        return found


def _is_null(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "null"


def _missing(values: Any) -> npt.NDArray[np.bool_]:
    """Where there is no value: None, or nan."""
    cells = np.asarray(values, dtype=object)
    return np.array([cell is None or cell != cell for cell in cells.flat], dtype=bool).reshape(cells.shape)


def _condition(found: Array) -> npt.NDArray[np.bool_] | None:
    """Truth values, none of which counts as false; None if there are others."""
    if found.dtype == object and all(cell is None or isinstance(cell, bool | np.bool_) for cell in found.flat):
        return np.equal(found, True).astype(bool)
    return found if found.dtype == np.bool_ else None
