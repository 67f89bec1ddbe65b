"""Where tests find the files of the project."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
CONFIG = ROOT / "config"
