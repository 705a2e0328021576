"""The whole loop on real text: what the first automatic retraining wins back on parcel texts.

    python -m benchmarks.loop --data CORPUS --nomenclature FILE

of ../shared/data: hs-open-corpus.csv.gz and hs2022-nomenclature.csv.gz.

The first champion is trained on the nomenclature and on search references (`uk_search_references`); the stream is of
those, then of parcel texts (`uk_extra_references`), whose known codes experts say for a share of the answers. All runs
as in `hscode loop`. Prints six-digit accuracy on parcel texts before and after the retraining, and of the peer in the
same run: the same model trained on all parcel texts of the stream besides.
"""

import argparse
import csv
import gzip
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

SOURCES = {"base": "uk_search_references", "shifted": "uk_extra_references"}


def main() -> None:
    """Cut the corpus, run the loop, print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=main.__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="CORPUS", help="csv[.gz]: description, code, source"
    )
    parser.add_argument("--nomenclature", type=Path, required=True, help="csv[.gz]: code, text")
    parser.add_argument("--home", type=Path, help="keep the loop's state there")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting of the loop")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hs-loop-") as scratch:
        files = cut(options.data, Path(scratch))
        home = options.home or Path(scratch) / "home"
        command = [sys.executable, "-m", "cli.main", "loop", "--json", "--home", str(home)]
        command += ["--data", str(files["base"]), "--shifted", str(files["shifted"])]
        command += ["--nomenclature", str(options.nomenclature.resolve())]
        # 5,600 classes take longer to train than the sample's 150.
        for one in ("loop.deadline_seconds=3600", *options.set):
            command += ["--set", one]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if not done.stdout.strip():
        sys.exit(done.returncode or 1)
    told = json.loads(done.stdout)
    if options.json:
        print(json.dumps(told, indent=1))
        sys.exit(done.returncode)
    print(f"retrainings {told['runs_started']}, promoted {told['promoted']}, corrections {told['corrections']:,}")
    for name, each in told["accuracies"].items():
        if each:
            interval = f"{100 * each['low']:.1f} - {100 * each['high']:.1f}"
            right = f"{100 * each['value']:5.1f} % right at HS{each['digits']} ({interval})"
            classes = f"{each['classes']:,} of {each['classes_known']:,} classes"
            print(f"{name:17} {right}, {each['rows']:,} rows, {classes}, {', '.join(each['source'])}")
    print(f"loss recovered against the reference: {told['loss_recovered_ratio']}")
    sys.exit(done.returncode)


def cut(corpus: Path, folder: Path) -> dict[str, Path]:
    """Write the rows of each of `SOURCES` to a csv of its own."""
    counts: Counter[str] = Counter()
    files = {name: folder / f"{source}.csv" for name, source in SOURCES.items()}
    with gzip.open(corpus, "rt", encoding="utf-8") if corpus.suffix == ".gz" else corpus.open(encoding="utf-8") as rows:
        read = list(csv.DictReader(rows))
    for name, source in SOURCES.items():
        with files[name].open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(("description", "code", "source"))
            for row in read:
                if row["source"] == source:
                    counts[source] += 1
                    writer.writerow((row["description"], row["code"], source))
    if len(counts) < len(SOURCES):
        sys.exit(f"{corpus}: needs rows of the sources {', '.join(SOURCES.values())}")
    return files


if __name__ == "__main__":
    main()
