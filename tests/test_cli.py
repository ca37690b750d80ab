"""The command line: what it prints and writes, and that bad input ends in a message, exit code 2 and no file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import cluster
from command_line import Run, mine

from sim.compose import Settings
from sim.critical import critical_path
from sim.engine import simulate
from sim.load import load_schedule
from sim.report import Around, report
from sim.routing import Routing
from sim.schedules import SCHEDULES
from sim.show import trace_labels
from sim.trace import Trace
from sim.units import readable
from sim.workload import MODELS, Workload

GOLDEN = Path(__file__).parent / "golden"


# ------------------------------------------------------------------------------------------------ help


def test_help_names_every_command_and_its_options(run: Run) -> None:
    for line in ("", "--help"):
        assert all(
            command in run(line)[1]
            for command in ("show", "check", "simulate", "trace", "picture", "report", "critical")
        )
    code, out, _ = run("simulate --help")
    assert code == 0
    assert all(option in out for option in ("--cluster", "--routing", "--wire", "--save", "--picture", "--rank"))


def test_python_dash_m_sim_is_the_same_program() -> None:
    ended = subprocess.run([sys.executable, "-m", "sim", "show", "nope"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: unknown schedule 'nope': neither a file nor one of {', '.join(SCHEDULES)}\n"


# -------------------------------------------------------------------------------------------- simulate

BASE = "simulate sync displaced interweaved --steps 4 --cluster c.yaml --model S --images 2"


def simulated(name: str, **settings: Any) -> Trace:
    """What BASE simulates, without the command line."""
    workload = {"model": MODELS["S"], "ranks": 2, "images": 2, **settings}
    return simulate(load_schedule(name, 4, 12), Workload(**workload), cluster())


def table(out: str) -> dict[str, list[str]]:
    """{first word of a line: the others}"""
    return {words[0]: words[1:] for words in map(str.split, out.splitlines()) if words}


def test_simulate_compares_with_sync(run: Run) -> None:
    code, out, err = run(BASE)
    assert (code, err) == (0, "")
    traces = {name: simulated(name) for name in ("sync", "displaced", "interweaved")}
    for name, trace in traces.items():
        whole, exposed = trace.makespan_s, float(trace.exposed_s.mean())
        busy = [float(trace.busy_s(stream).mean()) / whole for stream in ("compute", "communication")]
        assert " ".join(table(out)[name]) == (
            f"{readable('_s', whole)} {traces['sync'].makespan_s / whole:.2f} "
            f"{readable('_s', float(np.median(trace.step_s)))} {readable('_s', exposed)} {exposed / whole:.1%} "
            f"{busy[0]:.1%} {busy[1]:.1%} {trace.staleness.max()} {trace.staleness.mean():.2f}"
        )


def test_without_sync_the_first_is_what_others_are_compared_with(run: Run) -> None:
    out = run(BASE.replace("sync displaced interweaved", "interweaved displaced"))[1]
    assert "speed-up over" in out.splitlines()[0]
    assert "interweaved" in out.splitlines()[1]
    assert table(out)["interweaved"][2] == "1.00" != table(out)["displaced"][2]


def test_simulate_takes_text_files_and_tells_apart_what_has_one_name(run: Run) -> None:
    mine(name="interweaved")
    out = run("simulate mine.txt interweaved --steps 3 --cluster c.yaml --model S")[1]
    assert table(out)["mine"][:2] == table(out)["interweaved"][:2]


def test_settings_go_to_the_schedule_before_them(run: Run) -> None:
    out = run(BASE.replace("displaced", "displaced warm_up=2 dice interval=3"))[1]
    ages = {name: row[-1] for name, row in table(out).items()}
    want = {"sync": 0, "displaced+warm_up2": 0.25, "dice+interval3": 0.69, "interweaved": 0.75}
    assert {name: float(ages[name]) for name in want} == pytest.approx(want, abs=0.3)
    assert ages["displaced+warm_up2"] == "0.25"


def test_schedules_lists_every_name_and_every_setting(run: Run) -> None:
    code, out, _ = run("schedules")
    assert code == 0
    first = [line.split()[0] for line in out.splitlines() if line]
    assert first == ["schedule", *SCHEDULES, "setting", *(f.name for f in fields(Settings) if f.metadata)]


def test_kinds_say_where_the_time_goes(run: Run) -> None:
    out = run(f"{BASE} --kinds")[1]
    seconds = {kind: s for kind, s, _ in simulated("sync").table()}
    found = re.search(r"^E routed experts +([\d.]+) ms", out, re.MULTILINE)
    assert found
    assert float(found[1]) == pytest.approx(seconds["E"] * 1e3, rel=1e-3)


def test_ranks_images_wire_and_routing_reach_the_simulation(run: Run) -> None:
    counts = np.zeros((1, 1, 1, 2, 2, 8))
    counts[..., 0] = 2 * 2 * 256
    Routing(counts, "all to expert 0").save("r.npz")
    changes = {"": {}, "--images 3": {"images": 3}, "--wire int8": {"wire": "int8"},
               "--routing r.npz": {"routing": Routing.load("r.npz")}}  # fmt: skip
    makespans = {}
    for option, change in changes.items():
        assert run(f"{BASE} {option} --save {{}}.trace")[0] == 0
        makespans[option] = Trace.load("sync.trace").makespan_s
        assert makespans[option] == simulated("sync", **change).makespan_s
    assert len({*makespans.values()}) == len(changes)
    assert run(f"{BASE} --ranks 4 --save {{}}.trace")[0] == 0
    assert Trace.load("sync.trace").ranks == 4


def test_modelled_routing_reaches_the_simulation(run: Run) -> None:
    shape, tokens = MODELS["S"], 2 * 2 * 256
    for options, wanted in [("--imbalance 1.5", {"imbalance": 1.5}),
                              ("--imbalance 1.5 --keep 0.8 --routing-seed 4",
                               {"imbalance": 1.5, "keep": 0.8, "seed": 4})]:  # fmt: skip
        assert run(f"{BASE} {options} --save {{}}.trace")[0] == 0
        routing = Routing.skewed(shape, 2, tokens, 4, **wanted)
        assert str(Trace.load("sync.trace")) == str(simulated("sync", routing=routing))
        assert Trace.load("sync.trace").about["routing"].startswith("modelled: imbalance 1.5, keep")


def test_reports_and_critical_paths_follow_the_comparison(run: Run) -> None:
    plain = run(BASE)[1]
    code, out, err = run(f"{BASE} --report --critical --start-up 2s --decode 10ms --json r.json")
    assert (code, err) == (0, "")
    assert out.startswith(plain)
    assert [line for line in out.splitlines() if line in ("sync:", "displaced:", "interweaved:")] == [
        f"{name}:" for name in ("sync", "displaced", "interweaved") * 2
    ]
    reports = json.loads(Path("r.json").read_text())
    assert [made["schedule"].split()[0] for made in reports] == ["sync", "displaced", "interweaved"]
    assert reports[0] == report(simulated("sync"), Workload(MODELS["S"], 2, 2), Around(2.0, 0.01))
    (gain,) = re.findall(r"^E routed experts +all +(.+?)  +", out, re.MULTILINE)[:1]
    on_path = critical_path(simulated("sync")).seconds(lambda segment: segment.kind)
    assert gain == readable("_s", on_path["E"])


def test_saved_traces_are_reported_like_simulated_ones(run: Run) -> None:
    simulated("sync").save("a.trace")
    lines = run(f"{ONE.replace('--steps 3', '--steps 4')} --critical")[1].splitlines()
    assert run("critical a.trace")[1].splitlines() == ["", "a.trace:", *lines[lines.index("sync:") + 1 :]]
    half = run("critical a.trace --faster 50")[1]
    assert "gain if 50% faster" in half
    code, out, _ = run("report a.trace --json a.json")
    assert code == 0
    assert "images a GPU-hour" in out
    assert json.loads(Path("a.json").read_text()) == [report(simulated("sync"))]


def test_memory_says_what_for_and_whether_it_fits(run: Run) -> None:
    code, out, _ = run("memory displaced interweaved distrifusion --steps 4 --model G --images 8 --memory 24GiB")
    rows = {line[:20].strip(): line[20:].split() for line in out.splitlines()}
    assert code == 0
    assert rows["fits"] == ["yes", "yes", "NO"]
    assert (
        int(rows["most images a rank"][1])
        > int(rows["most images a rank"][0])
        > int(rows["most images a rank"][2])
        == 0
    )
    more = run("memory displaced --steps 4 --model G --images 8 --memory 24GiB --vae 30GB")[1]
    assert "VAE decoding" in more
    assert "NO" in more


def test_rivals_are_shown_beside_what_was_asked_for(run: Run) -> None:
    code, out, _ = run("rivals dice --steps 6 --model S --images 2 --cluster 8x-rtx4090")
    assert code == 0
    for sort in ("asked for", "exact", "caching", "fewer bytes", "as long as dice", "data_parallel"):
        assert sort in out


def test_rivals_run_with_the_routing_and_the_mesh_that_are_asked_for(run: Run) -> None:
    words = "rivals dice --steps 4 --model S --images 4 --cluster 8x-h100"
    balanced, skewed, split = (run(f"{words} {more}")[1] for more in ("", "--imbalance 2", "--mesh data=8"))
    assert len({balanced, skewed, split}) == 3
    recorded = Routing.skewed(MODELS["S"], 8, 2 * 4 * 256, 1, imbalance=2.0, seed=0)
    Routing(recorded.counts, recorded.source).save("r.npz")
    assert run(f"{words} --routing r.npz")[1] == skewed
    assert "--imbalance cannot change a recorded --routing" in run(f"{words} --routing r.npz --imbalance 2")[2]


def test_a_seed_draws_jitter(run: Run) -> None:
    cluster(jitter={"A": 0.1}).save("c.yaml")
    outs = [run(f"{BASE} {seed}")[1] for seed in ("", "--seed 1", "--seed 1", "--seed 2")]
    assert outs[1] == outs[2]
    assert len({*outs}) == 3


def test_simulate_saves_traces_a_perfetto_file_and_a_picture(run: Run) -> None:
    code, _, err = run(f"{BASE} --save {{}}.trace --trace all.json --picture all.svg --step 3 --rank 1")
    assert (code, err) == (0, "")
    for name in ("sync", "displaced", "interweaved"):
        assert str(Trace.load(f"{name}.trace")) == str(simulated(name))
    names = {
        event["args"]["name"] for event in json.loads(Path("all.json").read_text())["traceEvents"] if event["ph"] == "M"
    }
    assert {f"simulated {name}/rank{rank}" for name in ("sync", "displaced", "interweaved") for rank in (0, 1)} < names
    assert Path("all.svg").read_text().rstrip().endswith("</svg>")
    assert Path("all.json").stat().st_mode & 0o777 == Path("c.yaml").stat().st_mode & 0o777
    assert {path.name for path in Path().iterdir()} == {
        "c.yaml",
        "all.json",
        "all.svg",
        *(f"{n}.trace" for n in ("sync", "displaced", "interweaved")),
    }


def test_saved_traces_are_converted_and_drawn(run: Run) -> None:
    run(f"{BASE} --save {{}}.trace")
    for line in (
        "trace sync.trace displaced.trace -o two.json",
        "picture sync.trace displaced.trace -o two.png --step 2",
    ):
        assert run(line) == (0, "", "")
    names = {e["args"]["name"] for e in json.loads(Path("two.json").read_text())["traceEvents"] if e["ph"] == "M"}
    assert {"simulated sync/rank0", "simulated displaced/rank1"} < names
    assert Path("two.png").read_bytes().startswith(b"\x89PNG")


def test_traces_have_the_shortest_names_that_differ() -> None:
    sync, late = simulated("sync"), simulated("displaced")
    assert trace_labels([sync, replace(sync, origin="measured")]) == ["simulated", "measured"]
    assert trace_labels([sync, late]) == ["simulated sync", "simulated displaced"]
    assert trace_labels([sync, sync]) == ["simulated sync 1", "simulated sync 2"]
    assert trace_labels([sync, sync], ["a", "b"]) == ["a", "b"]
    for labels in (["a"], ["a", "a"], []):
        with pytest.raises(ValueError, match="2 traces need as many different labels"):
            trace_labels([sync, sync], labels)


# ------------------------------------------------------------------------------------------- bad input

ONE = "simulate sync --steps 3 --cluster c.yaml --model S --images 2"
BAD = {
    "show nope": "unknown schedule 'nope': neither a file nor one of sync",
    "show interweaved": "interweaved: say how many steps and layers",
    "show sync --steps 3": "sync: say how many layers",
    "show sync --steps 0 --layers 2": "steps=0 should be at least 1",
    "show sync steps=3 --layers 2": "steps=3 is no setting of a schedule; say --steps on a command line",
    "show sync warm_up=1 --steps 3 --layers 2": "sync: warm_up=1 has no effect",
    "show displaced warm_up=3 --steps 3 --layers 2": "warm_up=3 should be at most 2",
    "show warm_up=3 displaced --steps 3 --layers 2": "'warm_up=3' is a setting; write the schedule before it",
    "show sync displaced --steps 3 --layers 2": "one schedule is wanted, not 2: sync, displaced",
    "show sync --steps three --layers 2": "--steps",
    "show mine.txt --steps 4": "mine.txt is a schedule with steps=3, but steps=4",
    "show mine.txt warm_up=1": "warm_up=1 has no effect",
    "show binary": "binary: cannot be read as text",
    "show .": "unknown schedule '.'",
    "show": "Missing argument",
    "check nope.txt": "unknown schedule 'nope.txt'",
    "check c.yaml": "c.yaml: line 1: cannot read the header",
    "nope": "No such command",
    "simulate sync --steps 3": "--cluster",
    "simulate --cluster c.yaml": "Missing argument",
    "simulate sync --cluster c.yaml": "sync: say how many steps",
    "simulate sync sync --steps 3 --cluster c.yaml": "the same schedule twice: sync, sync",
    "simulate mine.txt --cluster c.yaml": "mine.txt is a schedule with layers=12, but layers=28",
    f"{ONE} --nope": "No such option",
    f"{ONE} --model nope": f"unknown model 'nope'; the models are {', '.join(MODELS)}",
    f"{ONE} --cluster nope.yaml": "nope.yaml",
    f"{ONE} --cluster binary": "binary",
    f"{ONE} --cluster mine.txt": "mine.txt: ",
    f"{ONE} --ranks 3": "8 experts cannot be spread evenly over 3 ranks",
    f"{ONE} --ranks 0": "ranks=0 should be above 0",
    f"{ONE} --images 0": "images=0 should be at least 1",
    f"{ONE} --wire int4": "unknown wire 'int4'; known: float64, float32, bfloat16, float16, float8, int8",
    f"{ONE} --seed 1": "seed has no effect",
    "memory sync --steps 3": "say how much memory a GPU has: --cluster with a GPU, or --memory",
    "memory sync --steps 3 --memory 24 --cluster 8x-h100": "both say how much memory a GPU has",
    "memory sync --steps 3 --cluster c.yaml": "has measured rates, not a GPU: say --memory instead",
    "memory sync --steps 3 --memory 24MHz": "unknown unit 'MHz' in '24MHz'",
    "memory sync --steps 3 --memory 9e9 --vae 2s": "vae_bytes: unknown unit 's' in '2s'",
    "rivals dice --cluster 9x-h100": "no cluster is called 9x-h100, and no file; the names are 2x8-h100",
    "rivals dyce --cluster 8x-h100": "unknown schedule 'dyce'",
    f"{ONE} --step 1": "--step and --rank have no effect without --picture",
    f"{ONE} --rank 1 --trace a.json": "--step and --rank have no effect without --picture",
    f"{ONE} --picture a.png --step 3": "simulated sync has steps 0 to 2, not 3",
    f"{ONE} --picture a.png --rank 2 --save a.trace": "simulated sync has ranks 0 to 1, not 2",
    f"{ONE} --picture a.gif": "a.gif: the name of a picture ends in one of .pdf, .png, .svg",
    f"{ONE} --routing nope.npz": "nope.npz: No such file",
    f"{ONE} --routing binary": "binary: not an .npz file",
    f"{ONE} --routing other.npz": "other.npz: lacks counts and source; it has a",
    f"{ONE} --imbalance 9": "imbalance=9 should be 1 (balanced) to less than 4",
    f"{ONE} --imbalance 1": "--imbalance without effect: at --imbalance 1, tokens matter only to schedules with a",
    f"{ONE} --keep 0.9": "--keep without effect",
    f"{ONE} --routing-seed 1": "--routing-seed without effect",
    f"{ONE} --routing counts.npz --imbalance 2": "--imbalance cannot change a recorded --routing",
    f"{ONE} --trace no/a.json": "no/a.json: its directory does not exist",
    f"{ONE} --trace .": ".: is not a regular file",
    f"{ONE} --trace /dev/null": "/dev/null: is not a regular file",
    f"{ONE} --trace /proc/a.json": "/proc/a.json: cannot be written",
    f"{ONE} --trace mine.txt/a.json": "mine.txt/a.json: its directory does not exist",
    f"{ONE} --trace a --save a": "a is named twice",
    "simulate sync displaced --steps 3 --cluster c.yaml --save a": "--save a is one file for 2 traces; write {}",
    f"{ONE} --start-up 1s": "--start-up and --decode have no effect without --report or --json",
    f"{ONE} --report --decode 1kg": "decode_s: unknown unit 'kg'",
    f"{ONE} --report --decode -1s": "decode_s=-1.0 should be at least 0",
    f"{ONE} --json no/a.json": "no/a.json: its directory does not exist",
    f"{ONE} --json a --save a": "a is named twice",
    "report good.trace --json good.trace": "good.trace is named twice",
    "report mine.txt": "mine.txt: not a trace",
    "critical nope.trace": "nope.trace: No such file",
    "critical good.trace --faster 0": "ops can take a share of 0 to 1 less time, not 0",
    "critical good.trace --faster 101": "ops can take a share of 0 to 1 less time, not 1.01",
    "trace nope.trace -o a.json": "nope.trace: No such file",
    "trace mine.txt -o a.json": "mine.txt: not a trace",
    "trace binary -o a.json": "binary: not a trace",
    "trace good.trace": "--output",
    "trace good.trace -o good.trace": "good.trace is named twice",
    "trace good.trace -o no/a.json": "no/a.json: its directory does not exist",
    "picture good.trace -o a.jpg": "a.jpg: the name of a picture ends in",
    "picture good.trace -o a.png --step 4": "simulated has steps 0 to 3, not 4",
    "picture good.trace -o a.png --step -1": "simulated has steps 0 to 3, not -1",
    "picture good.trace -o a.png --rank 7": "simulated has ranks 0 to 1, not 7",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_named_and_nothing_is_written(line: str, run: Run) -> None:
    mine()
    Path("binary").write_bytes(bytes(range(255, 0, -1)))
    np.savez("other.npz", a=1)
    Routing(np.full((1, 1, 1, 2, 2, 8), 128)).save("counts.npz")
    if "good.trace" in line:
        simulated("sync").save("good.trace")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert BAD[line] in " ".join(err.split())
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_outputs_are_refused_before_the_simulation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.engine.simulate", lambda *_: pytest.fail("simulated in vain"))
    assert run(f"{ONE} --trace no/a.json")[0] == 2


def test_a_write_that_fails_leaves_the_old_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(trace: Trace, path: Path) -> None:
        path.write_text("half a tra")
        raise OSError(28, "No space left on device", str(path))

    Path("a.trace").write_text("old")
    monkeypatch.setattr(Trace, "save", full)
    code, _, err = run(f"{ONE} --save a.trace")
    assert code == 2
    assert "No space left on device" in err
    assert {path.name for path in Path().iterdir()} == {"c.yaml", "a.trace"}
    assert Path("a.trace").read_text() == "old"


def test_a_file_is_replaced_through_its_link(run: Run) -> None:
    Path("real.trace").write_text("old")
    Path("link.trace").symlink_to("real.trace")
    assert run(f"{ONE} --save link.trace")[0] == 0
    assert Path("link.trace").is_symlink()
    assert Trace.load("real.trace").schedule.name == "sync"


def test_without_matplotlib_a_picture_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib" or name == "sim.timeline"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run(f"{ONE} --picture a.png")
    assert (code, err) == (2, "error: a picture needs matplotlib: pip install 'dice-sim[plot]'\n")
