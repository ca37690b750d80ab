"""Search over settings by Optuna: what a trial is, how it goes on after a stop, and which trials nothing beats.

Every trial is one point of the file's axes, evaluated like a point of a sweep (sim/sweeps/rows.py).  Trials are kept in
a journal as they are asked and told.  What is asked next follows from the seed and what has been told alone: stopped at
any moment, the same command asks again what had not been told, and goes on as if it had never stopped.  It knows
trials; it refuses to know what a point comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.search.check import bare
from sim.search.combinations import nearest, possible
from sim.search.file import SettingsSearch
from sim.search.folder import digest
from sim.search.limits import excess, missed
from sim.sweeps.points import Chunk
from sim.sweeps.rows import rows_of
from sim.sweeps.sweep import Axis

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

Row = dict[str, Any]


def evaluated(search: SettingsSearch, settings: Mapping[str, Any]) -> Row:
    """The row of one point, as in a sweep's results."""
    row: Row = rows_of(Chunk(0, 1, settings, {}, search.sweep.kinds), search.sweep.sources).to_pylist()[0]
    return row


def opened(search: SettingsSearch, journal: Path) -> Study:
    """The study in `journal`, which begins if there is none.  Raises ValueError if it is another search's."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    name = digest(search)
    if others := [other for other in optuna.get_all_study_names(storage) if other != name]:
        raise ValueError(f"{journal}: holds the trials of another search ({others[0]}); say another --out")
    more, less = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    directions = [more if goal.startswith("-") else less for goal in search.minimize]
    return optuna.create_study(directions=directions, storage=storage, study_name=name, load_if_exists=True)


def _sampler(search: SettingsSearch, done: int) -> BaseSampler:
    """What asks for the next trial: new for each, so that it holds nothing that a stop would lose."""
    from optuna.samplers import NSGAIISampler, TPESampler

    class InOrder(NSGAIISampler):
        """Parents in the order in which Optuna reads them back, also when they have just been chosen."""

        def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
            return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)

    seed = int(np.random.SeedSequence([search.seed, done]).generate_state(1)[0])
    return InOrder(seed=seed) if len(search.minimize) > 1 else TPESampler(seed=seed)


def go_on(search: SettingsSearch, study: Study, tell: Callable[[int], None] = lambda done: None) -> None:
    """Asks and tells until all trials are told; one that a stop interrupted is asked again."""
    from optuna.trial import TrialState

    for lost in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(lost.number, state=TrialState.FAIL)
    known: dict[str, Row] = {}
    while len(ended := told(study)) < to_try(search):
        tell(len(ended))
        trial, chosen = _asked(search, study, ended)
        settings = {**search.sweep.base, **dict(zip((axis.key for axis in search.sweep.axes), chosen, strict=True))}
        if (key := repr(settings)) not in known:
            known[key] = evaluated(search, settings)
        _tell(search, study, trial, known[key])


def to_try(search: SettingsSearch) -> int:
    """How many trials there can be: as many as the file says, or all settings that are possible, once each."""
    every = possible(search.sweep.axes)
    return search.trials if every is None else min(search.trials, every)


def _asked(search: SettingsSearch, study: Study, ended: Sequence[FrozenTrial]) -> tuple[Trial, tuple[Any, ...]]:
    """The next trial and the values of its axes.  Where these can be counted, a combination that was tried gives way to
    one beside it that was not: the one asked for twice then ends without an error, and does not count."""
    from optuna.trial import TrialState

    axes = search.sweep.axes
    study.sampler = _sampler(search, len(ended))
    trial = study.ask()
    chosen = tuple(_suggested(trial, axis) for axis in axes)
    tried = {_values(search, each) for each in ended}
    if possible(axes) is None or chosen not in tried:
        return trial, chosen
    study.tell(trial, state=TrialState.FAIL)
    other = nearest(chosen, axes, tried, Random(f"{search.seed} {len(ended)}"))
    assert other is not None  # or the search had ended
    study.enqueue_trial({axis.key: value for axis, value in zip(axes, other, strict=True)})
    trial = study.ask()
    return trial, tuple(_suggested(trial, axis) for axis in axes)


def _values(search: SettingsSearch, trial: FrozenTrial) -> tuple[Any, ...]:
    return tuple(trial.params[axis.key] for axis in search.sweep.axes)


def told(study: Study) -> list[FrozenTrial]:
    """Trials that came to an end by themselves, in order; those that could not be run have an error."""
    ended = (trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished())
    return [trial for trial in ended if trial.values is not None or "error" in trial.user_attrs]


def _suggested(trial: Trial, axis: Axis) -> Any:
    if axis.values:
        return trial.suggest_categorical(axis.key, [*axis.values])
    if axis.whole:
        return trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)


def _tell(search: SettingsSearch, study: Study, trial: Trial, row: Row) -> None:
    from optuna.trial import TrialState

    goals = [bare(goal) for goal in search.minimize]
    values = [math.nan if row.get(goal) is None else float(row[goal]) for goal in goals]
    if row["error"] is not None or not np.isfinite(values).all():
        trial.set_user_attr("error", row["error"] or f"of {', '.join(goals)} one is not known")
        study.tell(trial, state=TrialState.FAIL)
        return
    for limit in search.limits:
        trial.set_constraint(limit, excess(limit, row))
    trial.set_user_attr("row", {key: value for key, value in row.items() if value is not None})
    study.tell(trial, values)


def unbeaten_trials(study: Study) -> list[FrozenTrial]:
    """Within all limits, and beaten by none in all goals; of equal ones the first; the best of the first goal first."""
    first: dict[tuple[float, ...], FrozenTrial] = {}
    for trial in study.best_trials:
        first.setdefault(tuple(trial.values), trial)
    falls = study.directions[0].name == "MAXIMIZE"
    return [first[values] for values in sorted(first, key=lambda each: (-each[0] if falls else each[0], each[1:]))]


def found_rows(search: SettingsSearch, study: Study) -> list[Row]:
    """A row for each trial that nothing beats: its place among all, its settings, its goals."""
    places = {trial.number: place for place, trial in enumerate(told(study))}
    return [
        {"trial": places[trial.number], **{axis.key: trial.params[axis.key] for axis in search.sweep.axes},
         **dict(zip(map(bare, search.minimize), trial.values, strict=True))}
        for trial in unbeaten_trials(study)
    ]  # fmt: skip


def how_many(search: SettingsSearch, study: Study) -> str:
    """How many settings were tried, of how many that are possible."""
    ended, every = told(study), possible(search.sweep.axes)
    different = len({_values(search, trial) for trial in ended})
    failed = sum("error" in trial.user_attrs for trial in ended)
    refused = f"; {failed} of them could not be run" if failed else ""
    if every is None:
        return f"{different} different settings were tried{refused}"
    if different < every:
        return f"{different} different settings of {every} possible ones were tried{refused}"
    return f"all {every} possible settings were tried{refused}: nothing better is left"


def why_nothing(search: SettingsSearch, study: Study) -> list[str]:
    """Where nothing is within the limits: the trial that comes nearest and what it misses, or why none could be run."""
    trials = told(study)
    rows = {place: trial.user_attrs["row"] for place, trial in enumerate(trials) if trial.values is not None}
    if not rows:
        reasons = dict.fromkeys(trial.user_attrs["error"] for trial in trials)
        return [f"none of {len(trials)} trials could be run", *(f"  {reason}" for reason in [*reasons][:5])]
    place = min(rows, key=lambda each: sum(excess(limit, rows[each]) for limit in search.limits))
    chosen = " ".join(f"{key}={value}" for key, value in trials[place].params.items())
    return [f"nothing is within the limits; trial {place} comes nearest: {chosen}",
            *(f"  misses {limit}" for limit in missed(search.limits, rows[place]))]  # fmt: skip
