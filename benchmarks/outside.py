"""An outside check: LingBot-Video MoE 30B-A3B on 2 x H100, predicted beside what others measured.

    python benchmarks/outside.py

Measured (sgl-project/sglang, pull request 37357): 81 frames of 480 x 480, 40 steps, bf16; latency and peak of device
memory, with patches shared by both ranks and all experts on each, and with experts spread over the two.  The model's
shapes are those of the public configuration (examples/lingbot-video.yaml), the machine is the preset 8x-h100 cut to two
ranks.  Nothing is fitted to these numbers.  Writes benchmarks/results/outside.json, with every assumption, and what it
would change if one were otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calibration.samples import machine
from sim import Cluster, ModelShape, Schedule, Workload, simulate
from sim.kernels import parameters
from sim.memory import Memory, Reserve, memory
from sim.mesh import Mesh
from sim.models import load_model

HERE = Path(__file__).parent
GIB = 2**30
STEPS, CAPTION = 40, 1000  # tokens that a structured caption may have
MEASURED = {  # experts -> seconds, GiB
    "replicated": (36.71, 76.0),
    "sharded": (41.52, 50.2),
}
TEXT_ENCODER_BYTES = 2 * 4.44e9  # Qwen3-VL-4B in bf16 (modelscope/DiffSynth-Studio, pull request 1545)
ASSUMED = [
    "guidance is on (the served default), and its two halves go through the network one after the other",
    "a caption's tokens are not counted, since the prompt is not published",
    "routing is balanced; every row travels once for each of its eight experts, without padding",
    "keys and values are gathered by both ranks, which moves as many bytes as exchanging heads does between two ranks",
    "experts run in one grouped kernel, which reaches what matrix products of the same size reach; other kernels are "
    "PyTorch's, one by one",
    "the text encoder (4.44 billion parameters, public) stays on each GPU",
]
NOT_COUNTED = [
    "text encoding, VAE decoding and writing the video, if the measured latency has them",
    "modulation and norms in fp32 for every token, as the public code has them: 1.4 GB a layer, forward and rank, "
    "and a product in fp32 a forward, together 2 to 3 s",
    "padding to a fixed capacity, if the measured dispatch has it: it sends equal splits of static shapes",
    "what compilation fuses, if it was on",
    "the VAE's weights and its peak of memory",
]


@dataclass(frozen=True)
class Case:
    """What may be otherwise than assumed."""

    text_tokens: int = 0
    guidance: bool = True
    together: bool = False  # both halves in one forward
    grouped: bool = True


CASES = {
    "as assumed": Case(),
    f"{CAPTION} tokens of caption": Case(text_tokens=CAPTION),
    "both halves in one forward": Case(together=True),
    "experts one after the other": Case(grouped=False),
    "without guidance": Case(guidance=False),
}


def schedule(model: ModelShape, experts: str, parts: str) -> Schedule:
    """Synchronous, patches shared out, each micro-batch through the whole network before the next."""
    sharded = experts == "sharded"

    def layer(s: int, l: int, p: str) -> str:  # noqa: E741
        at = f"{s}.{l}{p}"
        routed = f"D{at} S{at} E{at} C{at}" if sharded else f"S{at} E{at}"
        return f"Q{at} K{at} A{at}<{s} {routed} R{at}<{s}"

    def step(s: int) -> str:
        return " ".join([f"P{s}", *(layer(s, l, p) for p in parts or [""] for l in range(model.layers)), f"F{s} Z{s}"])  # noqa: E741

    sizes = f"steps={STEPS} layers={model.layers} top_k={model.top_k} micro_batches={len(parts) or 1}"
    text = f"{experts} {sizes} experts={experts} patches=sharded\n" + "\n".join(map(step, range(STEPS)))
    return Schedule.parse(text).check()


def predict(case: Case, experts: str) -> tuple[float, Memory]:
    """Seconds of sampling and the peak of memory: one video, shared by two ranks.

    Without guidance, the seconds are half of what both halves take in one forward."""
    model = replace(load_model(str(HERE.parent / "examples" / "lingbot-video.yaml")), text_tokens=case.text_tokens)
    halves = case.guidance and not case.together
    plan = schedule(model, experts, "ab" if halves else "")
    # Two ranks with one image each and no second half have as many rows as one video with two halves.
    workload = Workload(model, 2, 1, guidance=False, mesh=Mesh(patch=2), grouped=case.grouped)
    cluster = replace(Cluster.load("8x-h100"), ranks=2)
    seconds = simulate(plan, workload, cluster).makespan_s
    return (seconds if case.guidance else seconds / 2), memory(plan, workload, reserve=Reserve(channels=32))


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def row(name: str, case: Case) -> dict[str, Any]:
    """Predicted seconds and GiB by where experts are, and ratios."""
    found = {experts: predict(case, experts) for experts in MEASURED}
    seconds = {experts: each[0] for experts, each in found.items()}
    gib = {experts: (each[1].peak_bytes + TEXT_ENCODER_BYTES) / GIB for experts, each in found.items()}
    return {
        "case": name,
        "seconds": {experts: rounded(s) for experts, s in seconds.items()},
        "seconds_error": {e: rounded(s / MEASURED[e][0] - 1) for e, s in seconds.items()},
        "sharded_over_replicated": rounded(seconds["sharded"] / seconds["replicated"]),
        "gib": {experts: rounded(g) for experts, g in gib.items()},
        "gib_error": {e: rounded(g / MEASURED[e][1] - 1) for e, g in gib.items()},
        "gib_saved": rounded(gib["replicated"] - gib["sharded"]),
        "gib_of": {e: {what: rounded(b / GIB) for what, b in each[1].bytes_of.items()} for e, each in found.items()},
    }


def measured() -> dict[str, Any]:
    (whole_s, whole_gib), (sharded_s, sharded_gib) = MEASURED["replicated"], MEASURED["sharded"]
    return {
        "case": "measured",
        "seconds": {experts: each[0] for experts, each in MEASURED.items()},
        "sharded_over_replicated": rounded(sharded_s / whole_s),
        "gib": {experts: each[1] for experts, each in MEASURED.items()},
        "gib_saved": rounded(whole_gib - sharded_gib),
    }


def main(tell: Callable[[str], None] = print) -> None:
    rows = [measured(), *(row(name, case) for name, case in CASES.items())]
    for each in rows:
        s, g = each["seconds"], each["gib"]
        tell(f"{each['case']:30} {s['replicated']:6.2f} s {s['sharded']:6.2f} s {each['sharded_over_replicated']:6.3f} "
             f"{g['replicated']:6.1f} GiB {g['sharded']:6.1f} GiB {each['gib_saved']:6.1f} GiB saved")  # fmt: skip
    model = load_model(str(HERE.parent / "examples" / "lingbot-video.yaml"))
    about = {"parameters": parameters(model), "published_parameters": 30.1e9, "source": "sgl-project/sglang 37357"}
    result = {"meta": machine(), **about, "assumed": ASSUMED, "not_counted": NOT_COUNTED, "rows": rows}
    (HERE / "results" / "outside.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
