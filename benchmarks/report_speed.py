"""How long the report takes for many rows, and how large it gets: ``python benchmarks/report_speed.py [--rows N]``.

Rows are made up and harmless; thoughts have 2,000 to 4,000 tokens' worth of words. The last line is JSON: ``rows``,
``seconds`` (wall clock, from the folder on the disk to the file), ``cpu_seconds``, ``mb`` (10^6 bytes), ``shown`` (rows
in the file) and ``peak_rss_mb``.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]

from report_tools import Elements, made_up_folder  # noqa: E402

from axolotl_safety.commands.report.page import write_report  # noqa: E402


@click.command()
@click.option("--rows", default=40_000, show_default=True)
@click.option("--words", default=1_800, show_default=True, help="Words of a thought; a word is 1.3 tokens or so.")
def main(rows: int, words: int) -> None:
    """Time one report."""
    with tempfile.TemporaryDirectory() as folder:
        work_dir = Path(folder)
        made_up_folder(work_dir, rows, words)
        table = next(work_dir.glob("datasets/*/rows.parquet"))
        click.echo(f"{rows} rows, {table.stat().st_size / 1e6:.0f} MB of rows.parquet (compressed)")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, cpu = time.perf_counter(), time.process_time()
        report = write_report(work_dir)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        size = report.stat().st_size
        shown = len(Elements(report.read_text(encoding="utf-8")).data["rows"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    click.echo(f"peak memory {before / 1e3:.0f} MB before, {peak / 1e3:.0f} MB after")
    figures = {"rows": rows, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "mb": round(size / 1e6, 3)}
    click.echo(json.dumps(figures | {"shown": shown, "peak_rss_mb": round(peak / 1e3)}))


if __name__ == "__main__":
    main()
