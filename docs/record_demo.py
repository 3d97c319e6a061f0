"""Record the demo as an animated terminal, docs/images/demo.svg: ``python docs/record_demo.py``; minutes.

The picture is text in SVG with CSS animations, shown in half a minute.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
ROWS, COLUMNS = 22, 100  # visible lines, characters of a line
LINE, WIDTH = 18, 7.8  # height of a line and width of a character, in pixels
PLAY, HOLD = 25, 5  # seconds that the recording is shown in, and that its last picture stays

Recording = Sequence[tuple[float, str]]


def record(command: Sequence[str]) -> Recording:
    """Run a command and return each line that it prints with the seconds since the start."""
    start = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = [(time.monotonic() - start, line.rstrip("\n")) for line in process.stdout]
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return lines


def render(lines: Recording) -> str:
    """Return an animated SVG in which the lines appear and scroll as they were printed."""
    length = PLAY + HOLD
    shares = [100 * seconds / lines[-1][0] * PLAY / length for seconds, _ in lines]
    styles, texts = [], []
    for number, (share, (_, line)) in enumerate(zip(shares, lines, strict=True)):
        styles.append(
            f"@keyframes l{number}{{0%,{share:.2f}%{{opacity:0}}{share + 0.01:.2f}%,100%{{opacity:1}}}}"
        )
        styles.append(f"#l{number}{{animation:l{number} {length}s infinite}}")
        texts.append(f'<text id="l{number}" y="{(number + 1) * LINE}">{escape(line[:COLUMNS])}</text>')
    steps = ["0%{transform:translateY(0)}"]
    for number in range(ROWS, len(lines)):
        before, after = -(number - ROWS) * LINE, -(number - ROWS + 1) * LINE
        steps.append(f"{shares[number]:.2f}%{{transform:translateY({before}px)}}")
        steps.append(f"{shares[number] + 0.01:.2f}%{{transform:translateY({after}px)}}")
    last = -max(0, len(lines) - ROWS) * LINE
    steps.append(f"100%{{transform:translateY({last}px)}}")
    styles.append(f"@keyframes scroll{{{''.join(steps)}}}#all{{animation:scroll {length}s infinite}}")
    still = f"text{{animation:none!important}}#all{{animation:none!important;transform:translateY({last}px)}}"
    styles.append(f"@media(prefers-reduced-motion){{{still}}}")
    width, height = round(COLUMNS * WIDTH + 32), ROWS * LINE + 32
    font = "font:13px/1 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace"
    styles.append(f"text{{{font};fill:#e6e8eb;white-space:pre}}")
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    window = f'<svg x="16" y="14" width="{width - 32}" height="{ROWS * LINE + 6}">'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><title>Terminal session of the demo</title>\n'
        f"<style>{''.join(styles)}</style>\n"
        '<rect width="100%" height="100%" rx="8" fill="#14171a"/>\n'
        f'{window}<g id="all">{"".join(texts)}</g></svg></svg>\n'
    )


def main() -> None:
    """Record a run of the demo in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "train_seg.py", "experiment=demo", f"run_dir={folder}"]
        lines = [(seconds, line.replace(folder, "runs")) for seconds, line in record(command)]
    (IMAGES / "demo.svg").write_text(render([(0.0, "$ make demo"), *lines]), encoding="utf-8")


if __name__ == "__main__":
    main()
