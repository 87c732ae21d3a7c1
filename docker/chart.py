"""Render the Helm chart as `kubernetes.yaml`, and check it: `python -m docker.chart [--check]`.

The manifests are those of the default values, for clusters without Helm and for tests. Each is
compared with the strict schemas of Kubernetes. Helm's engine and the schemas are large, and nothing
else needs them: both are installed in a temporary folder. With --check nothing is written, and
manifests that differ are a failure.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
CHART, MANIFESTS = FOLDER / "helm" / "bandexa", FOLDER / "kubernetes.yaml"
NEEDS = ("helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0")
RELEASE = "bandexa"
KUBERNETES = ("1.30", "1.37")  # the oldest and the newest release whose schemas are compared
# Values that leave no template out, and values that must be refused.
OTHER: dict[str, Any] = {
    "image": {"repository": "registry.example/bandexa", "tag": "1"},
    "imagePullSecrets": [{"name": "pull"}],
    "settings": {"max_body_bytes": 2_000_000, "durability": "os", "otlp_endpoint": "http://a:4318"},
    "server": {
        "replicas": 5, "nodeSelector": {"zone": "a"}, "tolerations": [{"operator": "Exists"}],
    },
    "trainer": {"replicas": 2, "tag": "gpu", "resources": {"limits": {"nvidia.com/gpu": 1}}},
}  # fmt: skip
REFUSED: tuple[dict[str, Any], ...] = (
    {"server": {"replicas": 0}}, {"server": {"replicas": 64}}, {"settings": {"standby": True}},
    {"settings": {"Durability": "os"}}, {"replicas": 3}, {"database": {"secret": "No Name"}},
)  # fmt: skip
# Runs where the requirements are; it gets lists of values and answers with what became of each.
PROGRAM = """
import json, sys, yaml
import helm_python as helm
import kubernetes_validate
given = json.load(sys.stdin)
answers = []
with helm.Chart.load(given["chart"]) as chart:
    for values in given["values"]:
        try:
            found = chart.render(values, name=given["release"], namespace="default")
        except helm.HelmError as error:
            answers.append({"refused": str(error)})
            continue
        texts = [text.strip() for _, text in sorted(found.items()) if text.strip()]
        for text in texts:
            for release in given["kubernetes"]:
                kubernetes_validate.validate(yaml.safe_load(text), release, strict=True)
        answers.append({"texts": texts})
json.dump(answers, sys.stdout)
"""


def digest() -> str:
    """Return the SHA-256 of all files of the chart, which the manifests name."""
    found = hashlib.sha256()
    for path in sorted(path for path in CHART.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(CHART).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()


def manifests(texts: list[str]) -> str:
    """Return the file of the manifests."""
    head = (
        "# The chart helm/bandexa with its default values, for clusters without Helm. Made by\n"
        "# `python -m docker.chart`; docs/scaling.md says what has to be there before.\n"
        f"# chart: {digest()}\n"
    )
    return head + "".join(f"---\n{text}\n" for text in texts)


def render(*values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what becomes of the chart with each of some values: `texts`, or `refused`.

    Raises:
        subprocess.CalledProcessError: A requirement cannot be had, or a manifest is none.
    """
    given = {
        "chart": str(CHART), "release": RELEASE, "values": values, "kubernetes": KUBERNETES,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="chart-") as folder:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--target", folder)
        subprocess.run([*pip, *NEEDS], check=True)
        done = subprocess.run(
            ["env", f"PYTHONPATH={folder}", sys.executable, "-c", PROGRAM],
            input=json.dumps(given), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def main() -> int:
    """Render, check, and write; returns the exit status."""
    usual, other, *refused = render({}, OTHER, *REFUSED)
    wrong = [f"refused: {each['refused']}" for each in (usual, other) if "refused" in each]
    taken = zip(REFUSED, refused, strict=True)
    wrong += [f"not refused: {values}" for values, answer in taken if "refused" not in answer]
    if not wrong:
        text = manifests(usual["texts"])
        if "--check" not in sys.argv[1:]:
            MANIFESTS.write_text(text, encoding="utf-8")
        elif MANIFESTS.read_text(encoding="utf-8") != text:
            wrong.append(f"{MANIFESTS.name} is not what the chart makes: run it without --check")
        kinds = [yaml.safe_load(each)["kind"] for each in other["texts"]]
        print(f"valid for Kubernetes {' and '.join(KUBERNETES)}: {', '.join(kinds)}")
    for line in wrong:
        print(f"FAILED: {line}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
