"""`python -m tests.fuzz TARGET SECONDS`: runs one fuzzer from the corpus; a finding is printed and kept.

Findings belong into tests/fuzz/corpus once they are mended, so that every test run replays them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["services.policy", "axoneme.lib.policy", "axoneme.lib.dns"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.dnsmessages import messages

ROOT = Path(__file__).parents[2]
SEEDS = (
    ROOT / "tests" / "fuzz" / "corpus",
    ROOT / "examples" / "policies",
    ROOT / "tests" / "data" / "examples",
)

DNS_SEEDS = 2_000


def main() -> None:
    """Run until the time is over or something is found."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    findings = ROOT / "build" / "fuzz" / name
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed in (one for seeds in SEEDS if seeds.is_dir() for one in seeds.rglob("*") if one.is_file()):
            shutil.copy(seed, Path(folder) / seed.name)
        if name.startswith("dns_"):
            for number, message in enumerate(messages(DNS_SEEDS)):
                (Path(folder) / f"dns-{number}").write_bytes(message)
        options = [
            f"-max_total_time={seconds}",
            "-max_len=8192",
            "-timeout=20",
            "-rss_limit_mb=4096",
            f"-artifact_prefix={findings}/",
        ]
        atheris.Setup([sys.argv[0], *options, folder], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
