"""Search over settings by Optuna: what a trial is, how it goes on after a stop, and which trials nothing beats.

Every trial is one point of the file's axes, evaluated like a point of a sweep (sim/sweeps/rows.py).  Trials are kept in
a journal as they are asked and told: stopped at any moment, the same command asks again what had not been told.  It
knows trials; it refuses to know what a point comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.search.file import IMAGE_COST, SettingsSearch
from sim.sweeps.formula import Formula
from sim.sweeps.point import build_model, build_schedule
from sim.sweeps.points import Chunk
from sim.sweeps.rows import rows_of
from sim.sweeps.sweep import Axis
from sim.vulnerability import quality_cost

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

Row = dict[str, Any]


def evaluated(search: SettingsSearch, settings: Mapping[str, Any]) -> Row:
    """The row of one point, as in a sweep's results, and its image_cost if a vulnerability is given."""
    sweep = search.sweep
    row: Row = rows_of(Chunk(0, 1, settings, {}, sweep.kinds), sweep.sources).to_pylist()[0]
    if search.vulnerability is None or row["error"] is not None:
        return row
    try:
        model = build_model(settings, sweep.sources)
        row[IMAGE_COST] = quality_cost(build_schedule(settings, model, sweep.sources), search.vulnerability)
    except ValueError as error:
        row["error"] = str(error)
    return row


def opened(search: SettingsSearch, journal: Path) -> Study:
    """The study in `journal`, which begins if there is none.  Raises ValueError if it is another search's."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    name = f"{search.sweep.digest} {' '.join(search.minimize)} {' and '.join(search.limits)}".strip()
    if others := [other for other in optuna.get_all_study_names(storage) if other != name]:
        raise ValueError(f"{journal}: holds the trials of another search ({others[0]}); give another folder")
    study = optuna.create_study(
        directions=["minimize" for _ in search.minimize], storage=storage, study_name=name, load_if_exists=True
    )
    many = len(search.minimize) > 1
    sampler = optuna.samplers.NSGAIISampler if many else optuna.samplers.TPESampler
    study.sampler = sampler(seed=(search.seed + 7919 * len(study.trials)) % 2**32)  # not the same draws after a stop
    return study


def go_on(search: SettingsSearch, study: Study, tell: Callable[[int], None] = lambda done: None) -> None:
    """Asks and tells until all trials are told; those that a stop interrupted first."""
    from optuna.trial import TrialState

    for lost in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.enqueue_trial(lost.params)
        study.tell(lost.number, state=TrialState.FAIL)
    known: dict[str, Row] = {}
    while (done := told(study)) < search.trials:
        tell(done)
        trial = study.ask()
        settings = {**search.sweep.base, **{axis.key: _suggested(trial, axis) for axis in search.sweep.axes}}
        if (key := repr(settings)) not in known:
            known[key] = evaluated(search, settings)
        _tell(search, study, trial, known[key])


def told(study: Study) -> int:
    """Trials that came to an end by themselves."""
    return sum(trial.state.is_finished() and "told" in trial.user_attrs for trial in study.get_trials(deepcopy=False))


def _suggested(trial: Trial, axis: Axis) -> Any:
    if axis.values:
        return trial.suggest_categorical(axis.key, [*axis.values])
    if axis.whole:
        return trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)


def _tell(search: SettingsSearch, study: Study, trial: Trial, row: Row) -> None:
    from optuna.trial import TrialState

    trial.set_user_attr("told", True)
    values = [math.nan if row.get(goal) is None else float(row[goal]) for goal in search.minimize]
    if row["error"] is not None or not np.isfinite(values).all():
        trial.set_user_attr("error", row["error"] or f"of {', '.join(search.minimize)} one is not known")
        study.tell(trial, state=TrialState.FAIL)
        return
    columns = {key: np.array([value]) for key, value in row.items() if value is not None}
    for limit in search.limits:
        trial.set_constraint(limit, 0.0 if Formula(limit).mask(columns)[0] else 1.0)
    trial.set_user_attr("row", {key: value for key, value in row.items() if value is not None})
    study.tell(trial, values)


def unbeaten_trials(study: Study) -> list[FrozenTrial]:
    """Within all limits, and beaten by none in all goals; of equal ones the first; in order of the first goal."""
    first: dict[tuple[float, ...], FrozenTrial] = {}
    for trial in study.best_trials:
        first.setdefault(tuple(trial.values), trial)
    return [first[values] for values in sorted(first)]
