"""Near-duplicates as datatrove's MinHash finds them (5-grams, 14 buckets of 8 hashes, 64 bits).

`documents.json`: texts made here, in families of copies with few words changed, so that two of one family share more than
nine tenths of their runs of five words and two of different families share none. `kept.json`: indices of the documents that
datatrove 0.10.1 keeps, one of each cluster. Near the knee of its curve the
outcome is chance and depends on the hash functions, so there are no documents there.
"""

import json
import random
import sys
import tempfile
from pathlib import Path


from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

sys.path.insert(0, str(Path(__file__).parent.parent))
from golden_io import write_json, write_versions

HERE = Path(__file__).parent


def documents():
    source = random.Random(8)
    syllables = ["ka", "lo", "mi", "ren", "tus", "vo", "zel", "pra", "dun", "eri", "sho", "gal"]

    def word():
        return "".join(source.choice(syllables) for _ in range(source.randint(2, 4)))

    families = []
    for family in range(40):
        words = [word() for _ in range(400)]
        members = [words]
        for _ in range(family % 4):
            copy = list(words)
            # Each changed word spoils five runs; three make 30 of 812 differ: a Jaccard similarity of 0.96.
            for _ in range(source.randint(0, 3)):
                copy[source.randrange(400)] = word()
            members.append(copy)
        for number, member in enumerate(members):
            text = " ".join(member)
            families.append({"family": family, "text": text.upper() if number == 3 else text + ("!" if number == 2 else "")})
    source.shuffle(families)
    return families


def kept(texts):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "in").mkdir()
        with (folder / "in/all.jsonl").open("w") as out:
            for index, row in enumerate(texts):
                out.write(json.dumps({"text": row["text"], "id": str(index)}) + "\n")
        config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
        reader = JsonlReader(str(folder / "in"))
        steps = [
            ([reader, MinhashDedupSignature(output_folder=str(folder / "signatures"), config=config)], 1),
            ([MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)], 14),
            ([MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=config)], 1),
            ([reader, MinhashDedupFilter(str(folder / "remove")), JsonlWriter(str(folder / "out"), compression=None)], 1),
        ]
        for number, (pipeline, tasks) in enumerate(steps):
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(folder / f"log{number}")).run()
        lines = [line for path in (folder / "out").glob("*") for line in path.read_text().splitlines()]
        return sorted(int(json.loads(line)["id"]) for line in lines)


def main():
    texts = documents()
    left = kept(texts)
    print(f"{len(texts)} documents, {len(left)} kept", file=sys.stderr)
    write_json(HERE / "documents.json", texts)
    write_json(HERE / "kept.json", left)
    write_versions(HERE, ["datatrove", "xxhash"])


if __name__ == "__main__":
    main()
