"""The peers of sign_throughput: text to MinHash signatures of word 5-grams, each in its own fastest documented way.

    python peer_dedupe.py NAME TEXTS.jsonl ROUNDS

Prints one JSON line: documents, CPU seconds of the best round (all threads of the process). Each peer is given texts as
it reads them (Arrow for Daft, str for the rest), made before the clock starts. What each includes of normalising:

daft             its normalize (ASCII punctuation out, lower case, NFD, one space) and minhash, native runner; no bands
daft-xxhash      the same with xxhash3_64, which is faster than its default hash
daft-raw         minhash alone: tokens are what stands between spaces
gaoya            lower case; tokens are what stands between spaces; with its tables of 18 bands, which it cannot leave
                 out (vectors of ids, one thread)
datasketch       lower case and runs of letters by `re`; MinHash.generator with a faster hash than SHA-1, as its
                 documentation advises (xxh32); 18 bands
rensa            the same tokens; digest_matrix_from_token_sets (all tokens, not its sampling "rho" path), k = 128 for
                 its fast path; no bands
text-dedup       lower case and split at what is no letter, in its embed_func; xxh3_32, its fastest; 18 bands
datatrove        MinhashDedupSignature as it comes: numbers, lower case, punctuation, NFD without marks; spaCy's words;
                 14 x 8 of 64 bits, sorted signature files on disk
datatrove-split  the same with str.split for spaCy, which its users cannot choose without a class of their own
"""

import json
import re
import resource
import sys
import tempfile

GRAM, BANDS, ROWS = 5, 18, 7
WORDS = re.compile(r"\w+")


def grams(text):
    """Word 5-grams of the lower-cased text, one shingle for a short one."""
    words = WORDS.findall(text.lower())
    return [" ".join(words[i : i + GRAM]) for i in range(max(len(words) - GRAM + 1, 1))]


def daft(texts, hash_function="murmurhash3", normalised=True):
    import daft as library
    import pyarrow as pa
    from daft import functions

    if "native" not in str(library.get_or_infer_runner_type()):
        library.set_runner_native()
    table = pa.table({"text": pa.array(texts, pa.large_string())})

    def run():
        frame = library.from_arrow(table)
        column = library.col("text")
        if normalised:
            column = functions.normalize(column, remove_punct=True, lowercase=True, nfd_unicode=True, white_space=True)
        signed = functions.minhash(column, num_hashes=BANDS * ROWS, ngram_size=GRAM, hash_function=hash_function)
        assert frame.select(signed.alias("signature")).to_arrow().num_rows == len(texts)

    return run


def gaoya(texts):
    from gaoya.minhash import MinHashStringIndex

    def run():
        index = MinHashStringIndex(32, 0.8, BANDS, ROWS, None, "word", True, (GRAM, GRAM), "vec")
        for place, text in enumerate(texts):
            index.insert_document(place, text)

    return run


def datasketch(texts):
    from datasketch import MinHash
    from xxhash import xxh32_intdigest

    def run():
        shingles = ([gram.encode() for gram in grams(text)] for text in texts)
        for one in MinHash.generator(shingles, num_perm=BANDS * ROWS, hashfunc=xxh32_intdigest):
            values = one.hashvalues.byteswap()
            _keys = [values[band * ROWS : (band + 1) * ROWS].tobytes() for band in range(BANDS)]

    return run


def rensa(texts):
    from rensa import RMinHash

    def run():
        for start in range(0, len(texts), 64):
            RMinHash.digest_matrix_from_token_sets([grams(text) for text in texts[start : start + 64]], 128, 42)

    return run


def text_dedup(texts):
    import numpy as np
    from text_dedup.minhash import embed_func
    from text_dedup.utils import xxh3_32hash

    # as its main() sets them for 32 bits
    prime, mask, draw = np.uint32((1 << 32) - 5), np.uint32((1 << 32) - 1), np.random.RandomState(42)
    a = draw.randint(1, prime, size=(BANDS * ROWS,), dtype=np.uint32)
    b = draw.randint(0, prime, size=(BANDS * ROWS,), dtype=np.uint32)
    fixed = {
        "num_perm": BANDS * ROWS,
        "ngram_size": GRAM,
        "min_length": GRAM,
        "hashranges": [(band * ROWS, (band + 1) * ROWS) for band in range(BANDS)],
        "permutations": (a, b),
        "hash_func": xxh3_32hash,
        "dtype": np.uint32,
        "max_hash": mask,
        "modulo_prime": prime,
    }

    def run():
        for place, text in enumerate(texts):
            embed_func(text, place, **fixed)

    return run


def datatrove(texts, split=False):
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupSignature

    documents = [Document(text=text, id=str(place)) for place, text in enumerate(texts)]

    class Split:
        def word_tokenize(self, text):
            return text.split()

    def run():
        with tempfile.TemporaryDirectory() as folder:
            step = MinhashDedupSignature(folder)
            if split:
                step.word_tokenizer = Split()
            step.run(iter(documents))

    return run


PEERS = {
    "daft": daft,
    "daft-xxhash": lambda texts: daft(texts, "xxhash3_64"),
    "daft-raw": lambda texts: daft(texts, normalised=False),
    "gaoya": gaoya,
    "datasketch": datasketch,
    "rensa": rensa,
    "text-dedup": text_dedup,
    "datatrove": datatrove,
    "datatrove-split": lambda texts: datatrove(texts, split=True),
}


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    name, path, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(path, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    PEERS[name](texts[:2])()  # what it loads with its first text is not the work
    run = PEERS[name](texts)
    best = float("inf")
    for _ in range(rounds):
        started = cpu()
        run()
        best = min(best, cpu() - started)
    print(json.dumps({"documents": len(texts), "cpu_s": best}))


if __name__ == "__main__":
    main()
