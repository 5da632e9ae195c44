"""Shows a run as a markdown table with a line per row.

A line has this project's number, each peer's with the ratio, and what shows that both did the same work.
"""

from __future__ import annotations

from typing import Any

NAMES = {
    "aemodels-bfloat16": "in bfloat16",
    "example": "example loop",
    "loop": "example loop",
    "plain": "plain loop",
    "lightning": "Lightning",
    "optuna": "Optuna loop",
    "imagefolder": "torchvision ImageFolder",
    "resident": "in memory",
}
HEAD = "| measured | aemodels | others, and how many times faster aemodels is | what both came to |\n|---|---|---|---|"


def markdown(result: dict[str, Any]) -> str:
    """Returns the table, with a line on the machine below it."""
    rows = {name: row for name, row in result["rows"].items() if row["summary"] and name != "matmul"}
    lines = [line for name, row in rows.items() for line in (_start_up(row) if name == "start-up" else [_line(row)])]
    return "\n".join([HEAD, *lines, "", _foot(result)])


def short(measured: dict[str, Any]) -> str:
    """Returns a measurement in one line, for a person who waits."""
    parts = [f"{measured['images_per_second']:,.0f} images/s"] if "images_per_second" in measured else []
    parts += [f"{measured['seconds']:.2f} s"] if measured.get("seconds") else []
    parts += [f"{measured['flops_per_second'] / 1e9:,.0f} GFLOP/s"] if "flops_per_second" in measured else []
    parts += [f"{sum(measured['epoch_walls']):.1f} s to {measured['curve'][-1]:.2f}"] if "curve" in measured else []
    known = {"test_bound": "bound {:.2f}", "test_squared_error": "squared error {:.4f}", "best": "best {:.5f}"}
    known |= {"sample_distance": "samples {:.3f}"}
    parts += [text.format(measured[key]) for key, text in known.items() if key in measured]
    return ", ".join(parts)


def gist(message: str) -> str:
    """Returns the line of a traceback that says what happened."""
    lines = [line for line in message.splitlines() if line and not line.startswith(" ")]
    return lines[-1] if lines else message


def _line(row: dict[str, Any]) -> str:
    """Returns one row of the table."""
    if "share" in row["findings"]:
        return _share_line(row)
    ours, *variants = row["ours"]
    own = [_number(row, ours), *(f"{NAMES[name]} {_number(row, name)}" for name in variants)]
    others = [
        f"{NAMES.get(peer, peer)} {_number(row, peer)}{_ratio(row, peer)}"
        for peer in row["summary"]
        if peer not in row["ours"]
    ]
    return f"| {row['title']} | {', '.join(own)} | {', '.join(others)} | {_note(row['findings'])} |"


def _number(row: dict[str, Any], name: str) -> str:
    if name not in row["summary"]:
        return "–"
    value = row["summary"][name]["median"]
    return f"{value:,.0f} images/s" if row["unit"] == "images/s" else f"{value:.3g} s"


def _ratio(row: dict[str, Any], peer: str) -> str:
    found = {name: row["ratios"].get(name, {}).get(peer) for name in row["ours"]}
    parts = [f"{NAMES.get(name, '')} {_spread(ratio)}".strip() for name, ratio in found.items() if ratio]
    return f" ({', '.join(parts)})" if parts else ""


def _spread(ratio: dict[str, float]) -> str:
    """Returns the median of the turns' ratios, with the smallest and the largest."""
    low, middle, high = (f"{ratio[key]:.2f}" for key in ("min", "median", "max"))
    return f"{middle}x" if low == high else f"{middle}x, {low} to {high}"


def _note(findings: dict[str, Any]) -> str:
    """Returns what shows that all did the same work."""
    parts = []
    for key, text in {
        "test_bound": "test bound {} nats",
        "test_squared_error": "test squared error {}",
        "sample_distance": "Frechet distance of the samples' 4 x 4 means {}",
        "final_bound": "final bound {} nats",
        "best": "best objective {}",
    }.items():
        if key in findings:
            digits = 2 if "bound" in key else 5
            parts.append(text.format(" / ".join(f"{v['median']:.{digits}f}" for v in findings[key].values())))
    if "turns" in findings and findings["turns_reached"] < findings["turns"]:
        parts.append(f"reached in {findings['turns_reached']} of {findings['turns']} turns")
    if "difference" in findings:
        parts.append(_agreement(findings))
    if "pruned" in findings:
        counts = [f"{found['median']:.0f}" for found in findings["pruned"].values()]
        parts.append(f"pruned {' / '.join(counts)}")
    if "share_of_peak" in findings:
        parts.append(f"{next(iter(findings['share_of_peak'].values())):.0%} of the matrix product's peak")
    return "; ".join(parts)


def _agreement(findings: dict[str, Any]) -> str:
    """Says whether two searches came to the same objectives."""
    apart = [
        f"{NAMES.get(name, '')} {found['root_mean_square']:.1%} ({found['mean']:+.1%} on average)".strip()
        for name, found in findings["difference"].items()
    ]
    text = f"objectives differ by {', '.join(apart)}"
    if "seed_difference" not in findings:
        return f"{text}; one turn does not tell the noise of seeds"
    within = "within" if all(findings["within_seed_noise"].values()) else "**not** within"
    noise = findings["seed_difference"]["root_mean_square"]
    return f"{text}, those of two seeds of the other by {noise:.1%}: {within} twice the noise of seeds"


def _share_line(row: dict[str, Any]) -> str:
    share, waiting = (
        {name: f"{found['median']:.1%}" for name, found in row["findings"][key].items()}
        for key in ("share", "waiting_share")
    )
    others = f"as a flow, with servers of MLflow and Prefect beside it: {share['served']}" if "served" in share else ""
    note = f"the epochs waited {' / '.join(waiting.values())} of the training for it"
    return f"| {row['title']} | {share.get('tracked', '–')} of {_number(row, 'bare')} | {others} | {note} |"


def _start_up(row: dict[str, Any]) -> list[str]:
    """Returns a line for each command, the first of which shows the imports of libraries too."""
    own = [name for name in row["summary"] if not name.startswith("import")]
    imports = ", ".join(f"`{name}` {_number(row, name)}" for name in row["summary"] if name not in own)
    return [
        f"| start-up: `{name}` | {_number(row, name)} | {imports if i == 0 else ''} | |" for i, name in enumerate(own)
    ]


def _foot(result: dict[str, Any]) -> str:
    """Returns the line below the table: machine, versions, and how far the numbers of a row lie apart."""
    hardware, versions = result["hardware"], result["versions"]
    parts = [hardware["gpu"]] if "gpu" in hardware else []
    parts += [f"{hardware['cpu']}, {result['threads']} threads"]
    parts += [f"{name} {found}" for name, found in versions.items() if found != "not installed"]
    runs = [n for row in result["rows"].values() for n in row["summary"].values()]
    apart = max(((n["max"] - n["min"]) / n["median"] for n in runs), default=0.0)
    quick = "**Small sizes (--quick): these numbers mean little.** " if result["quick"] else ""
    peak = result["rows"].get("matmul", {}).get("summary", {}).get("matmul")
    precision = "TF32" if result["device"] == "cuda" else "float32"
    product = f" Matrix product of 2048: {peak['max'] / 1e9:,.0f} GFLOP/s in {precision}." if peak else ""
    when = result["started"][:10]
    return f"{quick}{when}: {', '.join(parts)}. Medians; turns lie at most {apart:.0%} apart.{product}"
