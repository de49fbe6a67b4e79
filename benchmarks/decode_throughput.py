"""How many JPEG images a second does one core decode and cut: jdt's reader beside plain threads, Grain and OpenCV.

Every round runs every variant once, in turn, on the same files and crops; figures are medians of rounds. `a core` is
images by processor seconds of all threads, which other work on the machine disturbs less than seconds by the clock.

    python benchmarks/decode_throughput.py --json benchmarks/results/decode-DEVICE.json
    python benchmarks/decode_throughput.py --width 1600 --height 1200 --images 48     # what scaled decoding saves
"""

import argparse
import concurrent.futures
import contextlib
import functools
import io
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from machine import aligned, device_name, note, versions
from PIL import Image

import jdt
from jdt.data import Look, View, crop_key, read_chunks
from jdt.data.decode import decode_crop
from jdt.data.views import Box, crop_draws

CENTER, RANDOM = View("center", keep=224 / 256), View("random-resized")
CASES = {"center 224": (CENTER, 224), "random 160": (RANDOM, 160), "random 192": (RANDOM, 192)}
KEY = crop_key(0, 0)


def picture(width: int, height: int, seed: int) -> np.ndarray:
    """Structure of many scales and noise, which at quality 90 takes as many bytes as photographs do."""
    draw, out = np.random.default_rng(seed), np.zeros((height, width, 3))
    for cells in (4, 8, 16, 32, 64, 128):
        coarse = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        scaled = coarse.resize((width, height), Image.Resampling.BICUBIC)
        out += (np.asarray(scaled, float) - 128) / np.sqrt(cells)
    return np.clip(out + draw.normal(128, 14, out.shape), 0, 255).astype(np.uint8)


def write_folder(root: pathlib.Path, count: int, width: int, height: int) -> list[pathlib.Path]:
    """So many JPEG files in two classes."""
    paths = []
    for i in range(count):
        path = root / "train" / "ab"[i % 2] / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(width, height, i)).save(path, quality=90)
        paths.append(path)
    return sorted(paths)


def write_records(root: pathlib.Path, paths: list[pathlib.Path]) -> None:
    """The same files as a TFDS dataset in array_record."""
    import tensorflow_datasets as tfds

    class Jpegs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """The files of a folder."""

        VERSION = tfds.core.Version("1.0.0")
        url_infos = None  # There is nothing to download.

        def _info(self) -> Any:
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            del dl_manager
            images = ({"image": io.BytesIO(path.read_bytes()), "label": path.parent.name} for path in paths)
            return {"train": enumerate(images)}

        def _generate_examples(self) -> Any:
            raise AssertionError("the split is given as an iterator")

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        Jpegs(data_dir=root, file_format="array_record").download_and_prepare()


def box_of(view: View, number: int, width: int, height: int) -> Box:
    """Where an image is cut: the same for every variant."""
    return view.box(width, height, crop_draws(KEY, number) if view == RANDOM else None)


def pillow(path: pathlib.Path, number: int, view: View, size: int) -> np.ndarray:
    """What everybody writes: decode, crop, resize."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        cut = image.crop(box_of(view, number, *image.size))
        return np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))


def opencv(path: pathlib.Path, number: int, view: View, size: int) -> np.ndarray:
    """The same with OpenCV, whose INTER_AREA is what FFCV uses (without antialiasing where it enlarges)."""
    import cv2

    image: Any = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    left, top, right, bottom = box_of(view, number, image.shape[1], image.shape[0])
    return cv2.resize(image[top:bottom, left:right], (size, size), interpolation=cv2.INTER_AREA)


def undrafted(path: pathlib.Path, number: int, view: View, size: int) -> np.ndarray:
    """The crop of jdt without scaled decoding."""
    draws = crop_draws(KEY, number)
    return decode_crop(path.read_bytes(), "", mode="RGB", size=size, view=view, draws=draws, draft=False)


Transform = Callable[[pathlib.Path, int, View, int], np.ndarray]


def by_threads(transform: Transform, paths: list[pathlib.Path], threads: int, view: View, size: int) -> np.ndarray:
    """A pool of threads, one image at a time, into one array."""
    out = np.empty((len(paths), size, size, 3), np.uint8)

    def one(number: int) -> None:
        out[number] = transform(paths[number], number, view, size)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(len(paths))))
    return out


def by_grain(paths: list[pathlib.Path], threads: int, view: View, size: int) -> np.ndarray:
    """Grain's MapDataset with the same transform in its threads."""
    import grain

    def one(numbered: tuple[int, pathlib.Path]) -> np.ndarray:
        return pillow(numbered[1], numbered[0], view, size)

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(64, threads))
    dataset: Any = grain.MapDataset.source(list(enumerate(paths))).map(one)
    return np.stack(list(dataset.to_iter_dataset(options)))


def by_jdt(data: jdt.data.Dataset, threads: int, view: View, size: int) -> np.ndarray:
    """The reader of jdt, as training uses it."""
    look = Look(size, RANDOM, KEY) if view == RANDOM else Look(size)
    ((images, _),) = read_chunks(data, [(np.arange(len(data)), look)], num_threads=threads)
    return images


def variants(
    root: pathlib.Path, paths: list[pathlib.Path], threads: int
) -> dict[str, Callable[[View, int], np.ndarray]]:
    """Name -> what is timed."""
    load = functools.partial(
        jdt.data.load, split="train", image_size=224, view=CENTER, cache_dir=root / "cache", streamed=True
    )
    folder = load(f"folder:{root / 'folder'}")
    found: dict[str, Callable[[View, int], np.ndarray]] = {"jdt, folder": functools.partial(by_jdt, folder, threads)}
    if (root / "records").exists():
        records = load("jpegs", data_dir=root / "records")
        found["jdt, array_record"] = functools.partial(by_jdt, records, threads)
    found["jdt, one thread"] = functools.partial(by_jdt, folder, 1)
    found["jdt, unscaled"] = functools.partial(by_threads, undrafted, paths, threads)
    found["threads, Pillow"] = functools.partial(by_threads, pillow, paths, threads)
    found["Grain, Pillow"] = functools.partial(by_grain, paths, threads)
    try:
        import cv2
    except ModuleNotFoundError:
        note("OpenCV is not installed: left out.")
    else:
        cv2.setNumThreads(0)  # One image is one thread's, as everywhere else here.
        found["threads, OpenCV"] = functools.partial(by_threads, opencv, paths, threads)
    return found


def measure(
    runs: dict[str, Callable[[View, int], np.ndarray]], cases: Iterable[str], rounds: int
) -> list[dict[str, Any]]:
    """Rounds of all variants in turn; medians."""
    records = []
    for case in cases:
        view, size = CASES[case]
        there = {name: run for name, run in runs.items() if view == RANDOM or name != "jdt, unscaled"}
        pixels = {name: run(view, size) for name, run in there.items()}  # Warms file caches, and is compared.
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in there}
        for number in range(rounds):
            names = list(there)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                begun, spent = time.perf_counter(), time.process_time()
                there[name](view, size)
                taken[name].append((time.perf_counter() - begun, time.process_time() - spent))
        reference = pixels["threads, Pillow"].astype(int)
        for name, times in taken.items():
            count = len(reference)
            ratios = [ours[1] / own[1] for ours, own in zip(taken["jdt, folder"], times, strict=True)]
            difference = np.abs(pixels[name] - reference)
            records.append(
                {
                    "case": case,
                    "variant": name,
                    "images_per_second": count / statistics.median(wall for wall, _ in times),
                    "images_per_core_second": count / statistics.median(cpu for _, cpu in times),
                    "ratio_to_jdt": statistics.median(ratios),
                    "mean_difference": float(difference.mean()),
                    "largest_difference": int(difference.max()),
                    "seconds": [[round(value, 4) for value in pair] for pair in times],
                }
            )
    return records


def main(argv: list[str] | None = None) -> None:
    """Make the files, measure, print a table, write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--threads", type=int, default=jdt.devices.usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--json", type=pathlib.Path, help="where the records go")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="jdt-decode-") as name:
        root = pathlib.Path(name)
        note(f"{args.images} images of {args.width}x{args.height} ...")
        paths = write_folder(root / "folder", args.images, args.width, args.height)
        write_records(root / "records", paths)
        size = statistics.mean(path.stat().st_size for path in paths)
        load = os.getloadavg()[0]
        records = measure(variants(root, paths, args.threads), args.cases, args.rounds)
    shared = {
        "width": args.width, "height": args.height, "images": args.images, "bytes_an_image": round(size),
        "threads": args.threads, "load_before": load, "device": device_name(),
        "versions": versions("jdt", "numpy", "pillow", "grain", "array-record", "opencv-python-headless"),
    }  # fmt: skip
    cells = [["case", "variant", "images/s", "images/s a core", "of jdt", "difference, mean and largest"]]
    for r in records:
        figures = [f"{r['images_per_second']:,.0f}", f"{r['images_per_core_second']:,.0f}", f"{r['ratio_to_jdt']:.2f}"]
        cells.append([r["case"], r["variant"], *figures, f"{r['mean_difference']:.2f}, {r['largest_difference']}"])
    print(f"{size / 1e3:.0f} kB an image; load {load:.1f} before the start")
    print(aligned(cells))
    if args.json:
        args.json.write_text(json.dumps({**shared, "records": records}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
