"""Style of all figures: one colour and marker per rule, one page size, one way of saving."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from nmnc.files.writing import replacing

DPI = 150

#: Decorator of functions that draw, so that figures do not depend on the caller's matplotlib settings.
styled = matplotlib.rc_context(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "figure.dpi": DPI,
        "figure.constrained_layout.w_pad": 0.06,
        "figure.constrained_layout.h_pad": 0.06,
    }
)


@dataclass(frozen=True)
class RuleStyle:
    """Colour (hex) and marker of one rule, the same in every figure of a study."""

    color: str
    marker: str


# Okabe & Ito (2008). The rules of most studies, grey and brown have those colours that stay apart in
# every form of colour blindness (CIELAB distance above 20, see the tests); markers differ as well.
KNOWN = {
    "backprop": RuleStyle("#000000", "o"),
    "nmnc": RuleStyle("#D55E00", "s"),
    "vnc": RuleStyle("#0072B2", "^"),
    "random_subspace": RuleStyle("#56B4E9", "D"),
    "dfa": RuleStyle("#CC79A7", "v"),
    "fa": RuleStyle("#E69F00", "P"),
    "weight_mirror": RuleStyle("#009E73", "X"),
    "kolen_pollack": RuleStyle("#882255", "<"),
    "fdfa": RuleStyle("#332288", ">"),
    "pretrained": RuleStyle("#AA4499", "p"),
    "untrained": RuleStyle("#7F7F7F", "d"),
    "pixels": RuleStyle("#A67C52", "*"),
}
# Tol's "muted" set, less those close to a colour above; markers go on where colours repeat.
OTHERS = ("#117733", "#DDAA33", "#6699CC", "#CC6677", "#44AA99", "#997700", "#AA3377", "#004488")
OTHER_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
#: Kinds that legends show last.
LAST = ("untrained", "pixels")


def palette(runs: pd.DataFrame) -> dict[str, RuleStyle]:
    """A style for every rule label of a study, in the order the legends show them.

    A label that is a known rule has that rule's fixed style; so has the only rule of a known kind
    (nmnc_d32 where no other run is of kind nmnc). The rest take the other colours in turn.

    Args:
        runs: table with columns rule and kind (tables/runs.csv).
    """
    pairs = runs[["rule", "kind"]].drop_duplicates("rule")
    pairs = pd.concat([pairs[~pairs["kind"].isin(LAST)], pairs[pairs["kind"].isin(LAST)]])
    alone = pairs["kind"].value_counts().eq(1)
    styles: dict[str, RuleStyle] = {}
    turn = 0
    for rule, kind in pairs.itertuples(index=False):
        if rule in KNOWN:
            styles[rule] = KNOWN[rule]
        elif kind in KNOWN and alone[kind] and kind not in set(pairs["rule"]):
            styles[rule] = KNOWN[kind]
        else:
            styles[rule] = RuleStyle(OTHERS[turn % len(OTHERS)], OTHER_MARKERS[turn % len(OTHER_MARKERS)])
            turn += 1
    return styles


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure with its title, caption and alternative text.

    Attributes:
        name: file name without ending; the part before the first "_" names its group.
        title, caption, alt: plain text; the caption states what is shown, n, and how intervals were made.
        benchmark: the benchmark it belongs to, empty for figures of training.
        local: shows recorded data, hence not for sharing (figures/local).
        pictures: mostly RDMs; saved with 256 colours of its own, at a third of the size.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    benchmark: str = ""
    local: bool = False
    pictures: bool = False

    def save(self, folder: Path) -> Path:
        """Write FOLDER/[local/]NAME.png, without a date or a version in it, and return its path."""
        path = (folder / "local" if self.local else folder) / f"{self.name}.png"
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        image = Image.open(buffer).convert("RGB")
        if self.pictures:
            image = image.quantize(256, dither=Image.Dither.NONE)
        with replacing(path) as temporary:
            image.save(temporary, format="png", dpi=(DPI, DPI), optimize=True)
        return path


def file_name(*parts: str) -> str:
    """The parts joined by "_", fit for a file name on any system."""
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part) for part in parts)


def plain(text: str) -> str:
    """Return text that matplotlib shows verbatim: no mathematics, no label hidden by a leading "_"."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def rule_handles(styles: dict[str, RuleStyle], rules: list[str]) -> list[Line2D]:
    """Return the legend entries of the given rules, in the palette's order."""
    shown = [rule for rule in styles if rule in rules]
    return [Line2D([], [], color=styles[r].color, marker=styles[r].marker, markersize=5, label=plain(r)) for r in shown]


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """Draw one legend for the whole figure, under its panels, in as many columns as fit its width."""
    # At 9 points a letter takes about 0.075 inches, line and gaps of an entry about 0.6.
    entry = 0.6 + 0.075 * max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(int(figure.get_figwidth() / entry), len(handles)))
    # The panels keep their height: the figure grows by the lines beyond the first two.
    lines = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * max(0, lines - 2))
    figure.legend(handles=handles, loc="outside lower center", ncol=columns)


def panel_grid(
    n_panels: int,
    columns: int,
    panel: tuple[float, float],
    sharex: bool = False,
    sharey: bool | Literal["row"] = True,
) -> tuple[Figure, list[Axes]]:
    """A figure with n_panels axes in rows of `columns`; panel is (width, height) in inches each."""
    columns = max(1, min(columns, n_panels))
    rows = -(-n_panels // columns)
    width = max(5.5, columns * panel[0] + 0.6)
    figure = Figure(figsize=(width, rows * panel[1] + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    axes = list(grid.ravel())
    for axis in axes[:n_panels]:
        axis.tick_params(labelbottom=True)
    for unused in axes[n_panels:]:
        unused.remove()
    return figure, axes[:n_panels]
