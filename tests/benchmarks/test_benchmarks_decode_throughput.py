import importlib.util
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_every_variant_shows_the_same_pictures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    spec = importlib.util.spec_from_file_location("decode_throughput", FOLDER / "decode_throughput.py")
    decode_throughput = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(decode_throughput)
    saved = tmp_path / "decode.json"
    decode_throughput.main(
        ["--images=5", "--width=60", "--height=45", "--threads=2", "--rounds=1", "--cases", "center 224", "random 160",
         f"--json={saved}"]
    )  # fmt: skip
    records = json.loads(saved.read_text())["records"]
    names = {record["variant"] for record in records}
    assert names >= {"jdt, folder", "jdt, array_record", "threads, Pillow", "Grain, Pillow"}
    assert len(records) == 2 * len(names) - 1  # Scaled decoding is for crops.
    for record in records:
        assert record["images_per_core_second"] > 0
        assert record["largest_difference"] == 0 or record["variant"] == "threads, OpenCV"
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(records)
