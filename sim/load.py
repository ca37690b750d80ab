"""Where schedules come from: a name, a text file, or a function in a Python file, with settings.

interweaved synchronous=deep stride=4       a named schedule (sim/schedules.py) and its settings
mine.txt                                    a schedule as text
mine.txt conditional=low                    the same, with a pass over it (sim/compose.py)
mine.py:zigzag turns=3 micro_batches=2      a function (steps, layers, ...) -> Schedule or its text; settings that
                                            it does not take itself are passes over what it returns"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.compose import Settings, compose
from sim.schedule import Schedule, ScheduleError
from sim.schedules import SCHEDULES

if TYPE_CHECKING:
    from sim.shape import ModelShape

_SAID = ("steps", "layers", "top_k", "micro_batches", "pieces", "experts")  # what a text says of itself
_SIZES = {  # what is no setting, and where it is said
    "steps": "--steps on a command line, steps in a sweep or a search",
    "layers": "--model or --layers on a command line, model in a sweep or a search",
}


def sources(words: Sequence[str]) -> list[str]:
    """Words of a command line, as sources: settings belong to the schedule before them.

    Raises ScheduleError for a setting that nothing stands before."""
    found: list[str] = []
    for word in words:
        if "=" in word and not found:
            raise ScheduleError(f"{word!r} is a setting; write the schedule before it, as in: displaced warm_up=2")
        if "=" in word:
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def only(found: Sequence[str]) -> str:
    """The one source that is wanted.  Raises ScheduleError if there are several."""
    if len(found) > 1:
        raise ScheduleError(f"one schedule is wanted, not {len(found)}: {', '.join(found)}")
    return found[0]


def load_schedule(
    source: str, steps: int | None = None, layers: int | None = None, *, text: str | None = None, **settings: Any
) -> Schedule:
    """The schedule that `source` names, with the settings written there and in `settings` (None: not given), checked.
    `text`: what the file that it names holds, where it has been read.

    A text file says how many steps and layers it has; other sources have to be told, and not as a setting.  Raises
    ScheduleError for an unknown name, a setting that is unknown or without effect, or a file that cannot be read or
    says otherwise."""
    name, *words = source.split()
    written = dict(_pair(source, word) for word in words)
    if key := next((key for key in _SIZES if key in written), None):
        raise ScheduleError(f"{source}: {key}={written[key]} is no setting of a schedule; say {_SIZES[key]}")
    if twice := [key for key in written if settings.get(key) is not None and str(settings[key]) != written[key]]:
        raise ScheduleError(f"{source}: {twice[0]} is also given as {settings[twice[0]]}")
    settings = {**{key: value for key, value in settings.items() if value is not None}, **written}
    if name in SCHEDULES:
        return SCHEDULES[name](steps, layers, **settings)
    path, _, function = name.partition(":")
    if text is None and not Path(path).is_file():
        raise ScheduleError(f"unknown schedule {name!r}: neither a file nor one of {', '.join(SCHEDULES)}")
    if path.endswith(".py"):
        return _called(path, function, steps, layers, settings)
    return _passed(path, _read(path, text), {"steps": steps, "layers": layers, **settings})


def load_for(source: str, steps: int | None, model: ModelShape) -> Schedule:
    """`load_schedule`, for a network: with its layers, and its experts a token."""
    return load_schedule(source, steps, model.layers, top_k=model.top_k)


def _pair(source: str, word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not (key and equals and value):
        raise ScheduleError(f"{source}: {word!r} should look like warm_up=2")
    return key, value


def _read(path: str, text: str | None) -> Schedule:
    try:
        return Schedule.parse(Path(path).read_text() if text is None else text).check()
    except ScheduleError as error:
        raise ScheduleError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"{path}: cannot be read as text: {error}") from None


def _passed(source: str, schedule: Schedule, settings: dict[str, Any]) -> Schedule:
    """`schedule` with `settings` carried out; those that it already says of itself must agree."""
    rest = {}
    for key, value in settings.items():
        if key in _SAID and value is not None and (key in ("steps", "layers", "top_k") or _says(schedule, key)):
            if str(getattr(schedule, key)) != str(value):
                said = f"{key}={getattr(schedule, key)}"
                raise ScheduleError(f"{source} is a schedule with {said}, but {key}={value} was asked for")
        elif value is not None:
            rest[key] = value
    if not rest:
        return schedule
    stale = any(age for layers in schedule.staleness() for slots in layers for age in slots)
    method = "text" if stale else "sync"
    chosen = Settings.of(schedule.name, method, schedule.steps, schedule.layers, {"top_k": schedule.top_k, **rest})
    return compose(schedule, chosen)


def _says(schedule: Schedule, key: str) -> bool:
    """Whether a schedule's text is already cut, or has been given what `key` names."""
    return getattr(schedule, key) not in (1, "sharded")


def _called(path: str, function: str, steps: int | None, layers: int | None, settings: dict[str, Any]) -> Schedule:
    """What the function `function` in the file `path` returns, with the settings that it does not take as passes."""
    if steps is None or layers is None:
        raise ScheduleError(f"{path}: say how many steps and layers")
    make = _function(path, function)
    signature = inspect.signature(make)
    sizes = signature.bind_partial(steps, layers).arguments  # by whatever names it calls them
    taken = {key: parameter for key, parameter in signature.parameters.items() if key not in sizes}
    own = {key: _like(taken[key].default, value) for key, value in settings.items() if key in taken}
    try:
        made = make(steps, layers, **own)
        schedule = (Schedule.parse(made) if isinstance(made, str) else made).check()
    except ScheduleError as error:
        raise ScheduleError(f"{path}:{make.__name__}: {error}") from None
    return _passed(path, schedule, {key: value for key, value in settings.items() if key not in taken})


def _function(path: str, name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file does, it is the file that wants mending
        raise ScheduleError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    found = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
    }
    if name in found:
        return found[name]
    if not name and len(found) == 1:
        return next(iter(found.values()))
    raise ScheduleError(f"{path} has no function {name!r}; say which, as {path}:NAME: {', '.join(found) or 'none'}")


def _like(default: Any, value: Any) -> Any:
    """`value` as the type of a parameter's default, where a text was given."""
    if isinstance(value, str) and type(default) in (int, float):
        try:
            return type(default)(value)
        except ValueError:
            raise ScheduleError(f"{value!r} should be a number, as {default}") from None
    return value
