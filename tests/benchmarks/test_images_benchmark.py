"""`bandexa bench images` measures what it says, and writes it as the other benches do."""

from __future__ import annotations

import json

from benchmarks.images import main


def test_it_prints_and_writes_the_figures(tmp_path, capsys):
    file = tmp_path / "out" / "images.json"
    assert main(["--quick", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    results = report["results"]
    assert report["name"] == "images"
    assert results["encode_batch_over_pass"] == (
        results["encode_batch_ms"] / results["backbone_pass_ms"]
    )
    assert results["epoch_over_kept"] == results["epoch_s"] / results["epoch_kept_s"]
    assert results["kept_bytes_per_row"] == 256 * 4 * 4 * 2  # layer3 of a 64 x 64 image, halves
    assert "ten candidates over one pass of the backbone" in capsys.readouterr().out
