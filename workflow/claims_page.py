"""The tables of docs/predictions.md from predictions and published verdicts: python -m workflow.claims_page."""

from pathlib import Path

from nmnc.files.reading import read_rows, read_yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE, PREDICTIONS = ROOT / "docs" / "predictions.md", ROOT / "docs" / "predictions.yaml"
#: Studies whose verdicts are published, below results/reference, by tier.
TIERS = {"CPU": "claims", "GPU": "claims_gpu"}
BEGIN = "<!-- Written by python -m workflow.claims_page; change docs/predictions.yaml or run the study instead. -->"
END = "<!-- end of the written part -->"


def page() -> str:
    """Return the whole page: the hand-written text, with the part between BEGIN and END generated from the tables."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{_tables()}\n{END}{after}"


def _tables() -> str:
    claims = read_yaml(PREDICTIONS)["claims"]
    published = {tier: _published(study) for tier, study in TIERS.items()}
    parts = []
    for key, claim in claims.items():
        parts += [f"## {key}: {claim['title']}", ""]
        parts += [
            "| code | prediction | supported if | tier | effect [95 % interval] | n | p (Holm) | verdict |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, prediction in claim["predictions"].items():
            side = "above" if "above" in prediction else "below"
            decides = f"`{prediction['quantity']}` {side} {prediction[side]:g}"
            for number, (tier, verdicts) in enumerate(published.items()):
                row = verdicts.get(name)
                if row is None and number > 0:
                    continue
                says = prediction["says"].replace("|", "\\|")
                start = f"| {name} | {says} | {decides} |" if number == 0 else "| | | |"
                seeds = row["n"] if row else ""
                parts.append(f"{start} {tier} | {_effect(row)} | {seeds} | {_p(row)} | {_verdict(row)} |")
        parts.append("")
    return "\n".join(parts)


def _published(study: str) -> dict[str, dict[str, str]]:
    path = ROOT / "results" / "reference" / study / "tables" / "claims.csv"
    if not path.exists():
        return {}
    return {row["prediction"]: row for row in read_rows(path, ("prediction",))[1]}


def _effect(row: dict[str, str] | None) -> str:
    if row is None or not row["effect"]:
        return ""
    interval = f" [{float(row['ci_low']):.3f}, {float(row['ci_high']):.3f}]" if row["ci_low"] else ""
    return f"{float(row['effect']):.3f}{interval}"


def _p(row: dict[str, str] | None) -> str:
    """Return p of the effect against its threshold, corrected for the number of predictions, as text."""
    if row is None or not row["p_holm"]:
        return ""
    p = float(row["p_holm"])
    return f"{p:.3f}" if p >= 0.001 else "< .001"


def _verdict(row: dict[str, str] | None) -> str:
    return f"**{row['verdict']}**" if row and row["effect"] else "not run"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
