"""Figures as tables in Markdown."""

from statistics import median


def scenario(title, rounds, stolen):
    """A table of a scenario, the cheapest first; ratios are to rgunicorn, or to the cheapest where it is missing."""
    runs = {name: figures for name, figures in rounds.items() if figures}
    if not runs:
        return f"\n### {title}\n\nnothing could be measured\n"
    cost = {name: median(run.microseconds for run in figures) for name, figures in runs.items()}
    order = sorted(runs, key=cost.get)
    base = "rgunicorn" if "rgunicorn" in runs else order[0]
    lines = [f"\n### {title}", "", f"| server | CPU µs/request: median (min) | × {base}: median (of minima) | requests/s "
             "| p50 ms | p99 ms | errors |", "|---|---|---|---|---|---|---|"]
    for name in order:
        figures = runs[name]
        least = min(run.microseconds for run in figures)
        # Runs of the same round were neighbours in time: their ratio is free of what the machine did meanwhile.
        ratio = median(run.microseconds / other.microseconds for run, other in zip(figures, runs[base]))
        floor = least / min(run.microseconds for run in runs[base])
        lines.append(
            f"| {name} | {cost[name]:.1f} ({least:.1f}) | {ratio:.2f} ({floor:.2f}) "
            f"| {median(run.rate for run in figures):,.0f} | {median(run.p50 for run in figures):.2f} "
            f"| {median(run.p99 for run in figures):.2f} | {sum(run.errors for run in figures)} |")
    lines += ["", f"{len(runs[base])} runs each; the host took {stolen:.0f} % of the machine meanwhile"]
    return "\n".join(lines) + "\n"


def rows(title, figures):
    """A table of a module's figures: by server, then by column."""
    if not figures:
        return f"\n### {title}\n\nnothing could be measured\n"
    columns = list(next(iter(figures.values())))
    lines = [f"\n### {title}", "", f"| server | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in figures.items():
        lines.append(f"| {name} | {' | '.join(_number(value) for value in row.values())} |")
    return "\n".join(lines) + "\n"


def _number(value):
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if value >= 1 else f"{value:.2f}"
