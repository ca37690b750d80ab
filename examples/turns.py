"""A schedule of one's own: layers take turns.

At even steps the routed experts of even layers run, at odd steps those of odd layers; in between a layer adds the last
outputs that it has, weighed with today's router weights.  Half of the rows travel at any step, and nothing that is
added is older than one step."""


def turns(steps: int, layers: int, *, top_k: int = 2, every: int = 2) -> str:
    """Layer l runs its experts at the steps s with (s + l) mod `every` = 0, and at the first."""
    rows = [f"turns{every} steps={steps} layers={layers} top_k={top_k}"]
    for s in range(steps):
        cells = []
        for l in range(layers):  # noqa: E741
            last = max(0, s - (s + l) % every)  # the newest step at which it was this layer's turn
            if last == s:
                cells.append(f"A{s}.{l} D{s}.{l} S{s}.{l} E{s}.{l} C{s}.{l} R{s}.{l}<{s}")
            else:
                cells.append(f"A{s}.{l} S{s}.{l} R{s}.{l}<{last}@{s}")
        rows.append(f"P{s} {' '.join(cells)} F{s} Z{s}")
    return "\n".join(rows)
