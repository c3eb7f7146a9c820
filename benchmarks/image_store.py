"""Pictures a second through the image store: opened, checked, decoded and named by their pixels.

    python benchmarks/image_store.py [--pictures 5000] [--side 512] [--workers 2] [--folder FOLDER]

Line drawings without noise are made first, half of them JPEG and half PNG, in a temporary folder or in FOLDER (where
they stay, for the next call). Three passes over a fresh store each: one thread, the threads asked for, and the files
again with nothing changed. Besides: how much memory a known file costs. The line to hold: 5,000 pictures of 512 pixels
in under 60 s on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import tracemalloc
from pathlib import Path

from PIL import Image, ImageDraw

from lmm_r1.data.images import ImageStore
from lmm_r1.errors import DataError


def drawing(number: int, side: int) -> Image.Image:
    """A figure of a few lines and arcs, another one for each number."""
    picture = Image.new("RGB", (side, side), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    for stroke in range(12):
        at = [(number * (7 + 3 * k) + stroke * (131 + 17 * k)) % side for k in range(4)]
        ink = ((number + 40 * stroke) % 200, (3 * number) % 200, (90 * stroke) % 200)
        pen.line((at[0], at[1], at[2], at[3]), fill=ink, width=3)
        pen.ellipse((at[0], at[1], at[0] + side // 8, at[1] + side // 8), outline=ink)
    pen.text((side // 2, side // 2), str(number), fill=(0, 0, 0))
    return picture


def make(folder: Path, count: int, side: int) -> list[Path]:
    """Paths of the drawings; those that are there already are not drawn again."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}_{side}.{'jpg' if number % 2 else 'png'}" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            drawing(number, side).save(path)
    return paths


def seconds(store: ImageStore, paths: list[Path], workers: int) -> float:
    """Wall time to take all files in; stops at the first bad one."""
    started = time.perf_counter()
    for found in store.put_files(paths, workers=workers):
        if isinstance(found, DataError):
            raise found
    return time.perf_counter() - started


def main() -> None:
    """Make the pictures, time the passes, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        paths = make(asked.folder or Path(temporary), asked.pictures, asked.side)
        print(f"{len(paths)} pictures of {asked.side} px, load {os.getloadavg()[0]:.2f}, {os.cpu_count()} cores")
        one = seconds(ImageStore(), paths, 1)
        store = ImageStore()
        several = seconds(store, paths, asked.workers)
        again = seconds(store, paths, asked.workers)
        tracemalloc.start()
        few = ImageStore(cache=0)
        seconds(few, paths[:1000], 1)
        held = tracemalloc.get_traced_memory()[0] / len(paths[:1000])
    for name, wall in (("1 thread", one), (f"{asked.workers} threads", several), ("known already", again)):
        print(f"{name:14} {wall:7.2f} s  {len(paths) / wall:9.0f} pictures/s")
    print(f"kept of a file {held:7.0f} bytes, its path of {len(str(paths[0]))} letters included")


if __name__ == "__main__":
    main()
